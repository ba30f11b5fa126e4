"""Profiles the ETCL training step by type of operation with TensorFlow's profiler.

    python benchmarks/profile_step.py --case=b7 --json=profile.json

For each type of operation, the script prints the time, the floating-point operations per second,
and the share of the peak rate. The peak rate is that of a large matrix product on the same machine.
Operations can run in parallel; therefore the sum of their times can exceed the time of the step.
"""

import collections
import dataclasses
import glob
import os
import re
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from benchmarks.cases import CASES  # noqa: E402
from benchmarks.common import (  # noqa: E402
    append_load,
    log,
    machine_info,
    make_parser,
    peak_flops,
    report,
)
from benchmarks.flops import COUNTS  # noqa: E402

_ROWS = 16  # number of types of operations in the table
# Prefixes and suffixes of the types of fused kernels and of kernels of oneDNN.
_PREFIX, _SUFFIX = re.compile("^_(Mkl)?(Native)?(Fused)?"), re.compile("WithBias$")


def _display_type(name, op_type):
    """Returns the name of an operation in the table.

    The name is "LAMB" for operations of the optimizer, and the type for all other operations. If
    the FLOPs of the type are counted, the name omits the prefixes and suffixes of fused kernels.
    """
    plain = _SUFFIX.sub("", _PREFIX.sub("", op_type))
    return "LAMB" if name.startswith("lamb/") else plain if plain in COUNTS else op_type


def read_profile(folder):
    """Returns {type of operation: seconds} of the operations of the host.

    Args:
        folder: output folder of the profiler.
    """
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    (path,) = glob.glob(os.path.join(folder, "**", "*.xplane.pb"), recursive=True)
    space = xplane_pb2.XSpace()
    with open(path, "rb") as file:
        space.ParseFromString(file.read())
    seconds = collections.Counter()
    for plane in space.planes:
        for event in (event for line in plane.lines for event in line.events):
            # The event of an operation is named "path/of/operation:Type". "Class::Method" is the
            # event of a function that runs operations.
            name, _, op_type = plane.event_metadata[event.metadata_id].name.rpartition(":")
            if name and not name.endswith(":") and op_type.isidentifier():
                seconds[_display_type(name, op_type)] += event.duration_ps / 1e12
    return seconds


def measure(case, steps, warmup):
    """Profiles `steps` steps of a case after `warmup` other steps.

    Returns:
        {"case", "step": elapsed seconds per step, "flops": number of FLOPs per step,
        "peak_flops_per_second", "types": {type of operation: {"seconds", "flops",
        "share_of_peak"}} per step, in descending order of seconds}.
    """
    import tensorflow as tf

    from benchmarks.tf_mural_step import TensorFlowStep

    step = TensorFlowStep(case)
    for number in range(warmup):
        log(f"warm-up {number + 1}/{warmup}: loss {step.step():.4f}")
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        began = time.perf_counter()
        for number in range(steps):
            log(f"step {number + 1}/{steps}: loss {step.step():.4f}")
        wall = (time.perf_counter() - began) / steps
        tf.profiler.experimental.stop()
        seconds = read_profile(folder)
    flops, peak = step.flops_by_type(), peak_flops(_matmul_timer(step), case.matmul)
    types = {}
    for op_type, total in (+seconds).most_common():
        count = flops.get(op_type, 0)
        share = count / (total / steps) / peak
        types[op_type] = {"seconds": total / steps, "flops": count, "share_of_peak": share}
    return {
        "case": dataclasses.asdict(case),
        "step": wall,
        "flops": sum(flops.values()),
        "peak_flops_per_second": peak,
        "types": types,
    }


def _matmul_timer(step):
    def time_matmul(size):
        began = time.perf_counter()
        step.matmul(size)
        return time.perf_counter() - began

    return time_matmul


def table(results):
    """Returns the lines of a table of the results of `measure`."""
    peak, types = results["peak_flops_per_second"], results["types"]
    total = sum(values["seconds"] for values in types.values())
    rows = list(types.items())
    others = {"seconds": sum(values["seconds"] for _, values in rows[_ROWS:]), "flops": 0}
    rows = [*rows[:_ROWS], (f"{max(0, len(rows) - _ROWS)} other types", others)]
    lines = [f"{'':<40} {'s':>8} {'of all':>7} {'GFLOP':>8} {'GFLOP/s':>8} {'of peak':>8}"]
    for name, values in rows:
        line = f"{name:<40} {values['seconds']:>8.3f} {values['seconds'] / total:>7.1%}"
        if values["flops"]:
            rate = values["flops"] / values["seconds"]
            line += f" {values['flops'] / 1e9:>8.1f} {rate / 1e9:>8.1f} {rate / peak:>8.1%}"
        lines.append(line)
    products = sum(values["seconds"] for values in types.values() if values["flops"])
    return [
        *lines,
        f"a step: {results['step']:.2f} s, {results['flops'] / 1e9:.0f} GFLOP, "
        f"{results['flops'] / results['step'] / peak:.0%} of the peak of {peak / 1e9:.0f} GFLOP/s",
        f"{products / total:.0%} of the time of operations is spent in matrix products and "
        f"convolutions, which reach {results['flops'] / products / peak:.0%} of the peak",
    ]


def main(arguments=None):
    """Profiles a case; returns the exit code."""
    parser = make_parser(__doc__)
    parser.add_argument("--case", default="b7", choices=CASES)
    parser.add_argument("--batch", type=int, help="triples per step (default: that of the case)")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--warmup", type=int, default=2)
    options = parser.parse_args(arguments)
    case, info = CASES[options.case], machine_info()
    if options.batch:
        case = dataclasses.replace(case, batch=options.batch)
    results = measure(case, options.steps, options.warmup)
    report(append_load(info), table(results), options.json, **results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
