"""Times what a run pays beside its plain steps: start-up, and the second pass of micro-batches.

    python benchmarks/overheads.py --cases=tiny,b0,b7 --json=overheads.json

Start-up is the time from the command to its first step at size tiny, on scenes that are converted
already, in a process of its own each time. The step in micro-batches (GradCache) takes turns with
the plain one, at the same batch, in one process.
"""

import argparse
import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from benchmarks.cases import CASES, Case  # noqa: E402
from benchmarks.common import machine, note_load, picked, say, tell  # noqa: E402
from benchmarks.ours import Ours  # noqa: E402
from benchmarks.worker import Worker  # noqa: E402

# As large as configs/etcl.py has them at size tiny, at a batch that is worth parting.
_TINY = Case("tiny", "tiny", "nano", image_size=64, batch=512, tokens=32, vocabulary=3116)
# With the micro-batch, and turns for one of --rounds: a step of about a second says little alone.
SETUPS = {"tiny": (_TINY, 128, 5), "b0": (CASES["b0"], 4, 1), "b7": (CASES["b7"], 2, 1)}


class Switched(Ours):
    """The step with micro-batches of any size, over one model."""

    def __init__(self, case):
        super().__init__(case)
        self._steps = {None: self._step}

    def step(self, microbatch=None):
        """Runs one step in micro-batches of so many rows, or the plain one; returns its loss."""
        self.trainer.microbatch = microbatch
        if microbatch not in self._steps:
            self._steps[microbatch] = self._traced()
        return float(self._steps[microbatch](self._batch)["loss"])

    def _traced(self):
        import tensorflow as tf

        @tf.function(autograph=False)
        def step(batch):
            return tf.distribute.get_strategy().run(self.trainer.train_step, args=(batch,))

        return step.get_concrete_function(self._batch)


def measure_microbatches(case, microbatch, rounds, warmup=1):
    """Times plain steps and steps in micro-batches, in turns.

    Returns:
        {"case", "microbatch", "seconds" {"plain" | "microbatches": [...]}, "overhead": the second
        as a multiple of the first by the medians, "overhead_fastest" by the fastest}.
    """
    seconds = {"plain": [], "microbatches": []}
    worker = Worker("benchmarks.overheads", "Switched", case=case)
    try:
        for turn in range(-warmup, rounds):
            for name, rows in (("plain", None), ("microbatches", microbatch)):
                loss, wall, _ = worker.call("step", rows)
                say(f"{case.name}: {name}, {wall:.2f} s, loss {loss:.4f}")
                if turn >= 0:
                    seconds[name].append(wall)
    finally:
        worker.close()

    def ratio(of):
        return of(seconds["microbatches"]) / of(seconds["plain"])

    about = {"case": dataclasses.asdict(case), "microbatch": microbatch, "seconds": seconds}
    return about | {"overhead": ratio(statistics.median), "overhead_fastest": ratio(min)}


def measure_start(data_dir, workdirs, rounds):
    """Seconds from the command to the line of its first step, of each round.

    Args:
        data_dir: folder of scenes; they are made there first where they are missing.
        workdirs: folder for the runs.
        rounds: how many.

    Raises:
        RuntimeError: a run ends without a step; with what it said.
    """
    command = [sys.executable, os.path.join(ROOT, "tools", "train.py"), "--stage=mural"]
    command += [f"--data_dir={data_dir}", "--config.steps=2", "--config.optimizer.warmup_steps=1"]
    seconds = []
    for turn in range(-1, rounds):  # the first one may convert, and reads files from the disk
        workdir = os.path.join(workdirs, f"start{turn}")
        began = time.perf_counter()
        with subprocess.Popen(
            [*command, f"--workdir={workdir}"], stdout=subprocess.PIPE, text=True
        ) as process:
            said = []
            for line in process.stdout:
                said.append(line)
                if line.startswith("step"):
                    break
            took = time.perf_counter() - began
            process.kill()
        if not said or not said[-1].startswith("step"):
            raise RuntimeError(f"no step was taken: {''.join(said)}")
        if turn >= 0:
            say(f"start-up: {took:.1f} s")
            seconds.append(took)
    return seconds


def table(results):
    """Lines for people."""
    lines = []
    if seconds := results.get("start"):
        lines.append(
            f"  command to first step, tiny: {statistics.median(seconds):.1f} s "
            f"({min(seconds):.1f} to {max(seconds):.1f})"
        )
    for name, found in results["microbatches"].items():
        plain, parted = (statistics.median(of) for of in found["seconds"].values())
        lines.append(
            f"  {name}, batch {found['case']['batch']}, micro-batches of {found['microbatch']}: "
            f"{plain:.2f} s plain, {parted:.2f} s in micro-batches, {found['overhead']:.2f} times "
            f"({found['overhead_fastest']:.2f} by the fastest)"
        )
    return lines


def parse(arguments=None):
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default="tiny,b0", help=f"of {', '.join(SETUPS)}, or nothing")
    parser.add_argument("--rounds", type=int, default=3, help="steps of each kind; tiny: 5 times")
    parser.add_argument("--starts", type=int, default=3, help="runs to start; 0: none")
    parser.add_argument("--data_dir", default="data", help="folder of the scenes")
    parser.add_argument("--json", help="file for the numbers")
    options = parser.parse_args(arguments)
    options.cases = picked(parser, "--cases", options.cases, SETUPS)
    if options.rounds < 1 or options.starts < 0:
        parser.error("--rounds from 1, --starts from 0")
    return options


def main():
    options = parse()
    about, results = machine(), {"microbatches": {}}
    if options.starts:
        with tempfile.TemporaryDirectory() as folder:
            results["start"] = measure_start(options.data_dir, folder, options.starts)
    for name in options.cases:
        case, microbatch, turns = SETUPS[name]
        found = measure_microbatches(case, microbatch, turns * options.rounds)
        results["microbatches"][name] = found
        note_load(about)
    tell(about, table(results), options.json, **results)


if __name__ == "__main__":
    main()
