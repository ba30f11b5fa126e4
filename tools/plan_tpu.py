"""Plans a run on a TPU that is not there: python tools/plan_tpu.py --stage=etcl --size=paper
--topology=v5e:8x16 --batch=16384

The training step of `train.py --backend=jax` is compiled by XLA's compiler for TPUs, which comes as
the package libtpu and needs no TPU, from the shapes of the weights alone. Shown are: whether it
fits into the memory of a chip, FLOPs, bytes and collectives of a step, and how long step and stage
take at least, at the rates that the chips' maker publishes. Values of the config are overridden as
in train.py, by --config.name=value; precision is mixed_bfloat16 unless it is among them.

Large steps compile for long (the paper's took 21 to 42 minutes on two cores that other work
shared, in 8 to 17 GiB); counts are kept, so that the same step is compiled once.
"""

import functools
import json
import multiprocessing
import os
import signal
import sys
import time

import common
import options
from absl import flags

from tf_mural.errors import UserError

_STAGE = flags.DEFINE_string("stage", "etcl", f"One of {', '.join(options.STAGES)}.")
_SIZE = flags.DEFINE_string("size", "paper", f"One of {', '.join(options.SIZES)}.")
_CONFIG = flags.DEFINE_string("config", None, "A file of your own with get_config(stage).")
_TOPOLOGY = flags.DEFINE_string(
    "topology", "v5e:8x16", "Chip and slice, such as v6e:16x16; an unknown one lists those known."
)
_BATCH = flags.DEFINE_integer("batch", 0, "Rows of the global batch. 0: the config's.")
_VOCABULARY_SIZE = flags.DEFINE_integer(
    "vocabulary_size",
    0,
    "Pieces of the vocabulary. 0: those of the config's file, or LaBSE's 501,153 where it is not "
    "there.",
)
_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Folder of the record sets.")
_CACHE = flags.DEFINE_string(
    "cache",
    os.path.join(os.path.expanduser("~"), ".cache", "tf_mural", "plans"),
    "Folder for what was counted, by the hash of the step. Empty: off.",
)
_OUT = flags.DEFINE_string("out", None, "JSON file to write the plan to.")
_EVERY = 30  # seconds between two signs of life


def main():
    import tpu_planner

    chip = tpu_planner.find_chip(_TOPOLOGY.value)
    for package in ("jax", "libtpu"):
        common.require(package, "requirements-plan.txt", "a plan")
    config, found = in_child(functools.partial(plan, chip))
    show(config, found)
    if _OUT.value:
        os.makedirs(os.path.dirname(os.path.abspath(_OUT.value)), exist_ok=True)
        with open(_OUT.value, "w", encoding="utf-8") as file:
            json.dump(found | {"config": config.to_dict()}, file, indent=1)
        print(f"written to {_OUT.value}")


def plan(chip):
    """The config as the flags ask for it, and the plan of its step; in a process of its own."""
    # The compiler comes along with a driver, which would look for a TPU, and want it for itself.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    common.import_tensorflow("jax")
    import tpu_planner

    from tf_mural import experiment
    from tf_mural.backends.jax import Devices

    config = options.load_config(_STAGE.value, _SIZE.value, _CONFIG.value)
    config.precision = "mixed_bfloat16"
    options.override(config, OVERRIDES)
    if _BATCH.value:
        config.batch_size = _BATCH.value
    devices = tpu_planner.find_devices(_TOPOLOGY.value, chip)
    experiment.check(config, len(devices))
    traced, held = experiment.trace(config, Devices(devices), vocabulary_size(config))
    counts = tpu_planner.counts(traced, len(devices), _TOPOLOGY.value, _CACHE.value or None)
    found = tpu_planner.plan(counts, chip, len(devices), config.batch_size, config.steps)
    return config, {"topology": _TOPOLOGY.value, **held, **found}


def vocabulary_size(config):
    from tf_mural import experiment
    from tf_mural.data.tokenizers import Tokenizer

    if _VOCABULARY_SIZE.value:
        return _VOCABULARY_SIZE.value
    try:
        path = experiment.find_vocabulary(config.vocabulary, _DATA_DIR.value)
    except UserError:
        return experiment.VOCABULARY_SIZE
    return Tokenizer(path, config.model.text.max_tokens, config.lower_case).size


def in_child(work):
    """What `work()` returns, done in a process whose end, whatever it is, can be told of."""
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(work, sending), daemon=True)
    child.start()
    sending.close()
    began = time.perf_counter()
    while not receiving.poll(_EVERY):
        print(f"compiling, {time.perf_counter() - began:.0f} s so far", file=sys.stderr)
    try:
        kind, told = receiving.recv()
    except EOFError:
        child.join()
        if child.exitcode == -signal.SIGKILL:
            raise UserError(
                "the compiler was killed, as processes are that take more memory than this machine "
                "has: the paper's step takes 8 to 17 GiB; close other programs, or plan on a "
                "larger machine"
            ) from None
        if child.exitcode < 0:
            raise UserError(
                f"the compiler crashed ({signal.Signals(-child.exitcode).name}), which is a fault "
                "of libtpu: another --config.microbatch or --topology may get through"
            ) from None
        raise RuntimeError(f"The compiler ended with exit code {child.exitcode}.") from None
    if kind == "error":
        raise UserError(told)
    return told


def _answer(work, sending):
    with common.quietly():
        try:
            found = ("found", work())
        except UserError as error:
            found = ("error", str(error))
    sending.send(found)


def show(config, found):
    import tpu_planner

    from tf_mural import reports

    row = "triple" if len({f for t in config.terms.values() for f in (t.x, t.y)}) == 3 else "row"
    print(
        f"{config.stage}, size {config.size}, {config.precision}, batch {found['batch']:,} on "
        f"{found['topology']}: {found['chips']} chips, {found['batch'] // found['chips']} rows each"
    )
    gib = tpu_planner.GIB
    memory = found["memory"]
    if not found["fits"]:
        over = memory["used"] - memory["capacity"]
        print(
            f"\ndoes not fit: {memory['used'] / gib:.2f} GiB of {memory['capacity'] / gib:.2f}, "
            f"{over / gib:.2f} GiB too much. What helps:"
        )
        print("\n".join(f"  {line}" for line in tpu_planner.advice(found, config)))
        return
    rows = [[name, f"{size / gib:.2f}"] for name, size in memory.items()]
    rows += [None, ["used", f"{found['used'] / gib:.2f}"], ["of", f"{found['capacity'] / gib:.2f}"]]
    print("\n" + reports.table(rows, ["memory of a chip", "GiB"]))
    print("fits")
    compiler = found["compiler"]
    rows = [
        ["TFLOP, of products and convolutions", figure(found["flops"] / 1e12)],
        [f"GFLOP a {row}", figure(found["flops_per_row"] / 1e9)],
        ["TFLOP by the compiler", figure(compiler["flops"] / 1e12)],
        ["GB from and to memory", figure(found["moved"] / 1e9)],
        ["GB accessed by the compiler", figure(compiler["bytes accessed"] / 1e9)],
        ["host calls", str(len(found["host_calls"]))],
    ]
    print("\n" + reports.table(rows, ["a chip and step", ""]))
    print("The compiler counts a loop's body once, and memory inside of the core too.")
    rows = [
        [c["kind"], c["count"], figure(c["bytes"] / 1e6), c["group"]] for c in found["collectives"]
    ]
    print("\n" + reports.table(rows, ["collectives of a step", "count", "MB each", "chips"]))
    rows = [[name, figure(1e3 * value)] for name, value in found["roofline"].items()]
    print("\n" + reports.table(rows, ["a step at least", "ms"]))
    print(
        f"bound by {found['bound']}; at best {found['rows_per_second']:,.0f} rows a second, "
        f"{figure(found['hours'])} hours and {figure(found['chip_hours'])} chip-hours for "
        f"{found['steps']:,} steps (rates: {found['source']})"
    )


def figure(value):
    """A number of any size with three digits that count, and no more than four decimals."""
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 4}f}"


if __name__ == "__main__":
    OVERRIDES = [a for a in sys.argv[1:] if a.startswith("--config.")]
    sys.argv[1:] = [a for a in sys.argv[1:] if a not in OVERRIDES]
    common.run(main)
