"""Times the ETCL step on JAX in bfloat16 on an accelerator, at the largest batch that fits.

    pip install -r requirements.txt "jax[cuda13]==0.10.2" -r benchmarks/requirements.txt
    python benchmarks/accelerator.py --model=b7 --json=accelerator.json

The batch is doubled until it does not fit into memory. The step is also timed with micro-batches at
four times the largest batch, and in PyTorch (`torch.compile`, bfloat16 with autocast) at the
largest batch that fits in PyTorch. The results are milliseconds per step, triples per second, model
FLOPs per second, and their ratio to the FLOPs per second of a bfloat16 matrix product on the same
device. With --model=tiny the benchmark can be tried on a CPU.
"""

import argparse
import dataclasses
import os
import statistics
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from benchmarks.cases import CASES  # noqa: E402
from benchmarks.common import (  # noqa: E402
    append_load,
    log,
    machine_info,
    make_parser,
    report,
    require_packages,
)
from benchmarks.worker import Worker  # noqa: E402

_OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "OutOfMemoryError", "out of memory", "code -9")
_MATMUL_REPEATS = 10


def measure_largest(side, case, options, microbatch=0):
    """Measures the largest batch that fits, starting with `case.batch`.

    Args:
        side: a key of `SIDES`.
        case: `cases.Case`.
        options: parsed flags.
        microbatch: triples per micro-batch; 0: no micro-batches.

    Returns:
        The result of `measure` for the largest batch; None if the first batch does not fit.
    """
    result, batch = None, case.batch
    while batch <= options.max_batch:
        try:
            result = measure(side, dataclasses.replace(case, batch=batch), options, microbatch)
        except RuntimeError as error:
            if not any(word in str(error) for word in _OUT_OF_MEMORY):
                raise
            log(f"{side}: batch {batch} does not fit")
            break
        batch *= 2
    return result


def measure(side, case, options, microbatch):
    """Returns {"batch", "microbatch", "milliseconds", ...} of steps with `case.batch` triples."""
    module, name, arguments = SIDES[side]
    if microbatch:
        arguments = {**arguments, "microbatch": microbatch}
    worker = Worker(f"benchmarks.{module}", name, case=case, **arguments)
    try:
        for _ in range(options.warmup):
            worker.call("step", "compiled")
        seconds = [worker.call("step", "compiled")[1] for _ in range(options.steps)]
        facts = worker.call("describe")[0]
        size = options.matmul
        matmul_seconds = [worker.call("matmul", size)[1] for _ in range(_MATMUL_REPEATS + 1)][1:]
    finally:
        worker.close()
    median, peak = statistics.median(seconds), 2 * size**3 / min(matmul_seconds)
    log(f"{side}: batch {case.batch}, {1000 * median:.1f} ms per step")
    return {
        "side": side,
        "batch": case.batch,
        "microbatch": microbatch,
        "milliseconds": 1000 * median,
        "spread_milliseconds": [1000 * min(seconds), 1000 * max(seconds)],
        "triples_per_second": case.batch / median,
        "peak_flops_per_second": peak,
        **facts,
    }


SIDES = {
    "tf_mural": ("tf_mural_step", "JaxStep", {}),
    "PyTorch": (
        "torch_step",
        "TorchStep",
        {"variants": ("compiled",), "device": "auto", "precision": "bfloat16"},
    ),
}


def add_shares(runs):
    """Adds model FLOPs per second, and their ratio to the peak rate, to results of `measure`.

    Model FLOPs are the FLOPs of the step without micro-batches. With micro-batches, the forward
    pass runs twice, but its FLOPs are counted only once.
    """
    plain = next(r for r in runs if r["side"] == "tf_mural" and not r["microbatch"])
    flops_per_triple = plain["flops"] / plain["batch"]
    for run in runs:
        run["flops_per_second"] = flops_per_triple * run["triples_per_second"]
        run["share_of_peak"] = run["flops_per_second"] / run["peak_flops_per_second"]
    return runs


def table(runs):
    """Returns the lines of a table of the results of `measure`."""
    columns = f"{'batch':>7} {'micro':>6} {'ms':>9} {'triples/s':>10} {'TFLOP/s':>9} {'of peak':>8}"
    lines = [f"{runs[0]['device']}", f"  {'':<9} {columns}"]
    for run in runs:
        lines.append(
            f"  {run['side']:<9} {run['batch']:>7,} {run['microbatch'] or '-':>6} "
            f"{run['milliseconds']:>9.1f} {run['triples_per_second']:>10.1f} "
            f"{run['flops_per_second'] / 1e12:>9.3f} {run['share_of_peak']:>8.1%}"
        )
    return lines


def parse(arguments=None):
    """Parses the flags."""
    parser = make_parser(__doc__)
    parser.add_argument("--model", choices=list(CASES), default="b7")
    parser.add_argument("--batch", type=int, help="first batch (default: that of the case)")
    parser.add_argument("--max_batch", type=int, default=4096, help="last batch")
    parser.add_argument("--steps", type=int, default=10, help="timed steps")
    parser.add_argument("--warmup", type=int, default=3, help="steps before the timed steps")
    parser.add_argument(
        "--matmul",
        type=int,
        default=8192,
        help="rows of the matrices that measure the peak",
    )
    parser.add_argument("--peer", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args(arguments)
    if options.steps < 1 or options.warmup < 1:
        parser.error("--steps and --warmup must be at least 1")
    require_packages(parser, ("jax",))
    if options.peer:
        require_packages(parser, ("torch", "transformers"))
    return options


def main():
    options = parse()
    case = CASES[options.model]
    case = dataclasses.replace(case, batch=options.batch or case.batch)
    info = machine_info()
    plain = measure_largest("tf_mural", case, options)
    if plain is None:
        raise SystemExit(f"batch {case.batch} does not fit: choose a smaller --batch")
    runs, batch = [plain], plain["batch"]
    if 4 * batch <= options.max_batch:
        large = dataclasses.replace(case, batch=4 * batch)
        runs.append(measure("tf_mural", large, options, microbatch=batch))
    if options.peer:
        runs += filter(None, [measure_largest("PyTorch", case, options)])
    append_load(info)
    report(info, table(add_shares(runs)), options.json, case=dataclasses.asdict(case), runs=runs)


if __name__ == "__main__":
    main()
