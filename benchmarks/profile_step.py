"""Says where the time of the ETCL training step goes, by TensorFlow's profiler.

    python benchmarks/profile_step.py --case=b7 --json=profile.json

Each kind of operation is told with its time, its floating-point operations a second, and their
share of those of a large product of matrices on the same machine, the peak. Operations may run side
by side, so that times add up to more than the step.
"""

import argparse
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
from benchmarks.common import machine, note_load, peak, say, tell  # noqa: E402
from benchmarks.flops import COUNTS  # noqa: E402

_ROWS = 16  # of the table
# How TensorFlow names a kernel that does more in one, or is oneDNN's.
_PREFIX, _SUFFIX = re.compile("^_(Mkl)?(Native)?(Fused)?"), re.compile("WithBias$")


def _kind(name, kind):
    """The kind that a reader knows; what a fused operation does besides is not parted from it."""
    plain = _SUFFIX.sub("", _PREFIX.sub("", kind))
    return "LAMB" if name.startswith("lamb/") else plain if plain in COUNTS else kind


def read_profile(folder):
    """{kind of operation: seconds} of the host's operations in a profile.

    Args:
        folder: that the profiler wrote to.
    """
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    (path,) = glob.glob(os.path.join(folder, "**", "*.xplane.pb"), recursive=True)
    space = xplane_pb2.XSpace()
    with open(path, "rb") as file:
        space.ParseFromString(file.read())
    seconds = collections.Counter()
    for plane in space.planes:
        for event in (event for line in plane.lines for event in line.events):
            # An operation is "path/of/it:Type"; what is named "Class::Method" runs them.
            name, _, kind = plane.event_metadata[event.metadata_id].name.rpartition(":")
            if name and not name.endswith(":") and kind.isidentifier():
                seconds[_kind(name, kind)] += event.duration_ps / 1e12
    return seconds


def measure(case, steps, warmup):
    """Profiles some steps.

    Returns:
        dict: case, step (seconds of one, by the clock), peak_flops_per_second, flops (of a step)
        and kinds, {name: {"seconds", "flops", "share_of_peak"}} of a step, the longest first.
    """
    import tensorflow as tf

    from benchmarks.ours import Ours

    ours = Ours(case)
    for number in range(warmup):
        say(f"warm-up {number + 1}/{warmup}: loss {ours.step():.4f}")
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        began = time.perf_counter()
        for number in range(steps):
            say(f"step {number + 1}/{steps}: loss {ours.step():.4f}")
        wall = (time.perf_counter() - began) / steps
        tf.profiler.experimental.stop()
        seconds = read_profile(folder)
    flops, best = ours.flops_by_type(), peak(_multiplying(ours), case.matmul)
    kinds = {}
    for kind, total in (+seconds).most_common():
        own = flops.get(kind, 0)
        share = own / (total / steps) / best
        kinds[kind] = {"seconds": total / steps, "flops": own, "share_of_peak": share}
    return {
        "case": dataclasses.asdict(case),
        "step": wall,
        "flops": sum(flops.values()),
        "peak_flops_per_second": best,
        "kinds": kinds,
    }


def _multiplying(ours):
    def seconds(size):
        began = time.perf_counter()
        ours.matmul(size)
        return time.perf_counter() - began

    return seconds


def table(found):
    """Lines for people."""
    best, kinds = found["peak_flops_per_second"], found["kinds"]
    whole = sum(of["seconds"] for of in kinds.values())
    rows = list(kinds.items())
    rest = {"seconds": sum(of["seconds"] for _, of in rows[_ROWS:]), "flops": 0}
    rows = [*rows[:_ROWS], (f"{max(0, len(rows) - _ROWS)} other kinds", rest)]
    lines = [f"{'':<40} {'s':>8} {'of all':>7} {'GFLOP':>8} {'GFLOP/s':>8} {'of peak':>8}"]
    for name, of in rows:
        line = f"{name:<40} {of['seconds']:>8.3f} {of['seconds'] / whole:>7.1%}"
        if of["flops"]:
            rate = of["flops"] / of["seconds"]
            line += f" {of['flops'] / 1e9:>8.1f} {rate / 1e9:>8.1f} {rate / best:>8.1%}"
        lines.append(line)
    products = sum(of["seconds"] for of in kinds.values() if of["flops"])
    return [
        *lines,
        f"a step: {found['step']:.2f} s, {found['flops'] / 1e9:.0f} GFLOP, "
        f"{found['flops'] / found['step'] / best:.0%} of the peak of {best / 1e9:.0f} GFLOP/s",
        f"{products / whole:.0%} of the time of operations is products and convolutions, which "
        f"reach {found['flops'] / products / best:.0%} of the peak while they run",
    ]


def main(arguments=None):
    """Profiles a case; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", default="b7", choices=CASES)
    parser.add_argument("--batch", type=int, help="triples a step; default: the case's")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--json", help="file for the numbers")
    options = parser.parse_args(arguments)
    case, about = CASES[options.case], machine()
    if options.batch:
        case = dataclasses.replace(case, batch=options.batch)
    found = measure(case, options.steps, options.warmup)
    tell(note_load(about), table(found), options.json, **found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
