"""Times the ETCL step on JAX in bfloat16 on one accelerator, at the largest batch that fits.

    pip install -r requirements.txt "jax[cuda13]==0.10.2" -r benchmarks/requirements.txt
    python benchmarks/accelerator.py --model=b7 --json=accelerator.json

Batches are doubled until the memory is full, with the whole batch in one pass and, beyond that, in
micro-batches of the largest that fits; the same towers in PyTorch (`torch.compile`, bfloat16 by
autocast) at theirs. Told are milliseconds, triples and model FLOPs a second, and the share of a
bfloat16 matrix product on the same device. On a CPU --model=tiny shows that it works.
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
from benchmarks.common import machine, note_load, require, say, tell  # noqa: E402
from benchmarks.worker import Worker  # noqa: E402

_FULL = ("RESOURCE_EXHAUSTED", "OutOfMemoryError", "out of memory", "code -9")
_MATMUL_REPEATS = 10


def largest(side, case, options, microbatch=0):
    """Timings of the largest batch that fits, from `case.batch` on; None where that does not.

    Args:
        side: of `SIDES`.
        case: `cases.Case`.
        options: of the command line.
        microbatch: rows; 0 is the whole batch.
    """
    found, batch = None, case.batch
    while batch <= options.max_batch:
        try:
            found = measure(side, dataclasses.replace(case, batch=batch), options, microbatch)
        except RuntimeError as error:
            if not any(word in str(error) for word in _FULL):
                raise
            say(f"{side}: batch {batch} does not fit")
            break
        batch *= 2
    return found


def measure(side, case, options, microbatch):
    """{"batch", "microbatch", "milliseconds", ...} of the steps at one batch."""
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
        walls = [worker.call("matmul", size)[1] for _ in range(_MATMUL_REPEATS + 1)][1:]
    finally:
        worker.close()
    median, peak = statistics.median(seconds), 2 * size**3 / min(walls)
    say(f"{side}: batch {case.batch}, {1000 * median:.1f} ms a step")
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
    "ours": ("ours_jax", "OursOnJax", {}),
    "PyTorch": (
        "peer",
        "Peer",
        {"variants": ("compiled",), "device": "auto", "precision": "bfloat16"},
    ),
}


def shares(runs):
    """Adds model FLOPs a second, and their share of the peak, to runs.

    Those of a step without anything computed twice count for all: what a micro-batch computes again
    is no use to anyone.
    """
    plain = next(r for r in runs if r["side"] == "ours" and not r["microbatch"])
    each = plain["flops"] / plain["batch"]
    for run in runs:
        run["flops_per_second"] = each * run["triples_per_second"]
        run["share_of_peak"] = run["flops_per_second"] / run["peak_flops_per_second"]
    return runs


def table(runs):
    """Lines that say the same as the JSON file, for people."""
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
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=list(CASES), default="b7")
    parser.add_argument("--batch", type=int, help="the first one tried (default: the case's)")
    parser.add_argument("--max_batch", type=int, default=4096, help="the last one")
    parser.add_argument("--steps", type=int, default=10, help="timed steps")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them")
    parser.add_argument("--matmul", type=int, default=8192, help="rows of the matrices of the peak")
    parser.add_argument("--peer", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--json", help="file for the numbers")
    options = parser.parse_args(arguments)
    if options.steps < 1 or options.warmup < 1:
        parser.error("--steps and --warmup from 1")
    require(parser, ("jax",))
    if options.peer:
        require(parser, ("torch", "transformers"))
    return options


def main():
    options = parse()
    case = CASES[options.model]
    case = dataclasses.replace(case, batch=options.batch or case.batch)
    about = machine()
    plain = largest("ours", case, options)
    if plain is None:
        raise SystemExit(f"batch {case.batch} does not fit: a smaller --batch")
    runs, rows = [plain], plain["batch"]
    if 4 * rows <= options.max_batch:
        runs.append(
            measure("ours", dataclasses.replace(case, batch=4 * rows), options, microbatch=rows)
        )
    if options.peer:
        runs += filter(None, [largest("PyTorch", case, options)])
    note_load(about)
    tell(about, table(shares(runs)), options.json, case=dataclasses.asdict(case), runs=runs)


if __name__ == "__main__":
    main()
