"""Plans a run on a TPU that is not present: python tools/plan_tpu.py --stage=etcl --size=paper
--topology=v5e:8x16 --batch=16384

XLA's compiler for TPUs, which the package libtpu contains, compiles the training step of
`train.py --backend=jax` from the shapes of the weights. The plan shows whether the step fits into
the memory of a chip, and the FLOPs, memory traffic and collectives of the step. The published rates
of the chip give lower bounds on the time of a step and of the stage. --config.name=value overrides
the config as in train.py; the precision is mixed_bfloat16 unless it is overridden.

Compiling large steps is slow: a step of the size `paper` takes 21 to 42 minutes on two busy CPU
cores, and 8 to 17 GiB of memory. The counts of a compiled step are cached.
"""

import functools
import json
import multiprocessing
import os
import signal
import sys
import time

from absl import flags

from tf_mural.cli import app
from tf_mural.errors import UserError
from tf_mural.experiment import config_loading

FLAGS = flags.FlagValues()
_STAGE = flags.DEFINE_string(
    "stage",
    "etcl",
    f"Stage to plan: one of {', '.join(config_loading.STAGES)}.",
    flag_values=FLAGS,
)
_SIZE = flags.DEFINE_string(
    "size",
    "paper",
    f"Size of the model and its recipe: one of {', '.join(config_loading.SIZES)}.",
    flag_values=FLAGS,
)
_CONFIG = flags.DEFINE_string(
    "config",
    None,
    "Your own Python file with get_config(stage), instead of configs/<stage>.py.",
    flag_values=FLAGS,
)
_TOPOLOGY = flags.DEFINE_string(
    "topology",
    "v5e:8x16",
    "Chip and slice, such as v6e:16x16. The error for an unknown slice lists the known slices.",
    flag_values=FLAGS,
)
_BATCH = flags.DEFINE_integer(
    "batch",
    None,
    "Number of rows of the global batch. Default: the batch size of the config.",
    lower_bound=1,
    flag_values=FLAGS,
)
_VOCABULARY_SIZE = flags.DEFINE_integer(
    "vocabulary_size",
    None,
    "Number of pieces of the vocabulary. Default: the number in the vocabulary file of the config, "
    "or 501,153 (LaBSE) if this file does not exist.",
    lower_bound=1,
    flag_values=FLAGS,
)
_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Folder of the record sets.", flag_values=FLAGS)
_CACHE = flags.DEFINE_string(
    "cache",
    os.path.join(os.path.expanduser("~"), ".cache", "tf_mural", "plans"),
    "Folder in which the counts of compiled steps are cached. An empty value disables the cache.",
    flag_values=FLAGS,
)
_OUT = flags.DEFINE_string("out", None, "JSON file to write the plan to.", flag_values=FLAGS)

_PROGRESS_SECONDS = 30


def main(argv=None):
    """Plans a run. `argv` is a list of flags; None means the command line."""
    overrides, argv = config_loading.split_overrides(app.arguments(argv))
    app.parse(FLAGS, argv, __doc__)
    import tpu_planner

    chip = tpu_planner.find_chip(_TOPOLOGY.value)
    for package in ("jax", "libtpu"):
        app.require(package, "requirements-plan.txt", "a plan")
    config, plan = run_in_child(functools.partial(_plan, chip, overrides))
    _print_plan(config, plan)
    if _OUT.value:
        os.makedirs(os.path.dirname(os.path.abspath(_OUT.value)), exist_ok=True)
        with open(_OUT.value, "w", encoding="utf-8") as file:
            json.dump(plan | {"config": config.to_dict()}, file, indent=1)
        print(f"written to {_OUT.value}")


def _plan(chip, overrides):
    """Returns (config, plan). This function is called in a child process."""
    # JAX must not use the driver in libtpu, which would look for a TPU and lock it.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    app.import_tensorflow("jax")
    import tpu_planner
    from tf_mural import experiment
    from tf_mural.backends.jax import Devices
    from tf_mural.experiment import public_encoders

    config = config_loading.load_config(_STAGE.value, _SIZE.value, _CONFIG.value)
    config.precision = "mixed_bfloat16"
    config_loading.apply_overrides(config, overrides)
    if _BATCH.value is not None:
        config.batch_size = _BATCH.value
    devices = tpu_planner.find_devices(_TOPOLOGY.value, chip)
    public_encoders.apply_backbone_settings(config)
    experiment.check_config(config, len(devices))
    traced, state_bytes = experiment.trace_step(config, Devices(devices), _vocabulary_size(config))
    counts = tpu_planner.compile_and_count(
        traced, len(devices), _TOPOLOGY.value, _CACHE.value or None
    )
    plan = tpu_planner.estimate(counts, chip, len(devices), config.batch_size, config.steps)
    return config, {"topology": _TOPOLOGY.value, **state_bytes, **plan}


def _vocabulary_size(config):
    from tf_mural import experiment
    from tf_mural.experiment import public_encoders
    from tf_mural.experiment.dry_run import LABSE_VOCABULARY_SIZE

    if _VOCABULARY_SIZE.value is not None:
        return _VOCABULARY_SIZE.value
    try:
        path = experiment.find_vocabulary(config.vocabulary, _DATA_DIR.value)
    except UserError:
        return LABSE_VOCABULARY_SIZE
    options = config.model.text.max_tokens, config.lower_case
    return public_encoders.open_tokenizer(path, *options).size


def run_in_child(function):
    """Returns the result of `function()`, called in a child process that may crash.

    Raises:
        UserError: the function raised a UserError, or the child process crashed or was killed.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_send_result, args=(function, sender), daemon=True)
    child.start()
    sender.close()
    start_time = time.perf_counter()
    while not receiver.poll(_PROGRESS_SECONDS):
        seconds = time.perf_counter() - start_time
        print(f"compiling, {seconds:.0f} s so far", file=sys.stderr)
    try:
        result, error = receiver.recv()
    except EOFError:
        child.join()
        if child.exitcode == -signal.SIGKILL:
            raise UserError(
                "the compiler was killed, probably because this machine has too little memory: the "
                "step of the paper takes 8 to 17 GiB; close other programs, or plan on a larger "
                "machine"
            ) from None
        if child.exitcode < 0:
            raise UserError(
                f"the compiler crashed ({signal.Signals(-child.exitcode).name}), an error of "
                "libtpu: try another --config.microbatch or --topology"
            ) from None
        raise RuntimeError(f"The compiler ended with exit code {child.exitcode}.") from None
    if error is not None:
        raise UserError(error)
    return result


def _send_result(function, sender):
    with app.quietly():
        try:
            message = (function(), None)
        except UserError as error:
            message = (None, str(error))
    sender.send(message)


def _print_plan(config, plan):
    fields = {field for term in config.terms.values() for field in (term.x, term.y)}
    unit = "triple" if len(fields) == 3 else "row"
    print(
        f"{config.stage}, size {config.size}, {config.precision}, batch {plan['batch']:,} on "
        f"{plan['topology']}: {plan['chips']} chips, {plan['batch'] // plan['chips']} rows each"
    )
    if plan["fits"]:
        _print_counts(plan, unit)
    else:
        _print_advice(config, plan)


def _print_advice(config, plan):
    import tpu_planner

    gib, memory = tpu_planner.GIB, plan["memory"]
    excess = memory["used"] - memory["capacity"]
    print(
        f"\nthe step does not fit: it needs {memory['used'] / gib:.2f} GiB, and a chip has "
        f"{memory['capacity'] / gib:.2f} GiB ({excess / gib:.2f} GiB less). Possible changes:"
    )
    print("\n".join(f"  {line}" for line in tpu_planner.advice(plan, config)))


def _print_counts(plan, unit):
    import tpu_planner
    from tf_mural import reports

    gib = tpu_planner.GIB
    rows = [[name, f"{size / gib:.2f}"] for name, size in plan["memory"].items()]
    rows += [
        None,
        ["used", f"{plan['used'] / gib:.2f}"],
        ["available", f"{plan['capacity'] / gib:.2f}"],
    ]
    print("\n" + reports.table(rows, ["memory of a chip", "GiB"]))
    print("the step fits")
    compiler = plan["compiler"]
    rows = [
        ["TFLOP of matrix products and convolutions", format_number(plan["flops"] / 1e12)],
        [f"GFLOP per {unit}", format_number(plan["flops_per_row"] / 1e9)],
        ["TFLOP according to the compiler", format_number(compiler["flops"] / 1e12)],
        ["GB read from and written to HBM", format_number(plan["hbm_bytes"] / 1e9)],
        ["GB according to the compiler", format_number(compiler["bytes accessed"] / 1e9)],
        ["host calls", str(len(plan["host_calls"]))],
    ]
    print("\n" + reports.table(rows, ["per chip and step", ""]))
    print("The compiler counts a loop body only once, and also counts memory inside of the core.")
    rows = [
        [c["kind"], c["count"], format_number(c["bytes"] / 1e6), c["group"]]
        for c in plan["collectives"]
    ]
    print("\n" + reports.table(rows, ["collectives of a step", "count", "MB each", "chips"]))
    rows = [[name, format_number(1e3 * seconds)] for name, seconds in plan["roofline"].items()]
    print("\n" + reports.table(rows, ["lower bounds of a step", "ms"]))
    print(
        f"bound by {plan['bound']}; at best {plan['rows_per_second']:,.0f} rows per second, "
        f"{format_number(plan['hours'])} hours and {format_number(plan['chip_hours'])} chip-hours "
        f"for {plan['steps']:,} steps (rates: {plan['source']})"
    )


def format_number(value):
    """Formats a number with at least three significant digits if it is 0.1 or more."""
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 4}f}"
