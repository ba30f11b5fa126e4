"""Times the start-up of a run, and the overhead of micro-batches.

    python benchmarks/overheads.py --cases=tiny,b0,b7 --json=overheads.json

The start-up times are measured in new processes: of `import tf_mural`, of the help text of
each command, of the first training step at size tiny with converted scenes, and of a search in the
index of a model of size tiny. Steps with micro-batches (GradCache) alternate with plain steps on
the same batch in one process.
"""

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
from benchmarks.common import (  # noqa: E402
    append_load,
    log,
    machine_info,
    make_parser,
    parse_names,
    report,
)
from benchmarks.tf_mural_step import TensorFlowStep  # noqa: E402
from benchmarks.worker import Worker  # noqa: E402

# The model and inputs of the size tiny of configs/etcl.py, with a batch that is large enough for
# micro-batches.
_TINY = Case("tiny", "tiny", "nano", image_size=64, batch=512, tokens=32, vocabulary=3116)
# {name: tuple (case, micro-batch, turns per round)}. The case "tiny" has more turns than the other
# cases, because a step of this case takes only about a second.
SETUPS = {"tiny": (_TINY, 128, 5), "b0": (CASES["b0"], 4, 1), "b7": (CASES["b7"], 2, 1)}


class MicrobatchStep(TensorFlowStep):
    """The training step of one model, with or without micro-batches of any size."""

    def __init__(self, case):
        super().__init__(case)
        self._steps = {None: self._step}  # {micro-batch: compiled step}

    def step(self, microbatch=None):
        """Runs a step, with micro-batches unless `microbatch` is None; returns the loss."""
        self.trainer.core.microbatch = microbatch
        if microbatch not in self._steps:
            self._steps[microbatch] = self._trace()
        return float(self._steps[microbatch](self._batch)["loss"])

    def _trace(self):
        import tensorflow as tf

        @tf.function(autograph=False)
        def step(batch):
            return tf.distribute.get_strategy().run(self.trainer.train_step, args=(batch,))

        return step.get_concrete_function(self._batch)


def measure_microbatches(case, microbatch, rounds, warmup=1):
    """Times plain steps and steps with micro-batches alternately.

    Args:
        case: `cases.Case`.
        microbatch: triples per micro-batch.
        rounds: timed steps of each kind.
        warmup: steps of each kind before the timed steps.

    Returns:
        {"case", "microbatch", "seconds": {"plain" or "microbatches": list of the seconds of
        each step}, "overhead": median with micro-batches over the median of plain steps,
        "overhead_fastest": the same ratio for the fastest steps}.
    """
    seconds = {"plain": [], "microbatches": []}
    worker = Worker("benchmarks.overheads", "MicrobatchStep", case=case)
    try:
        for turn in range(-warmup, rounds):
            for name, size in (("plain", None), ("microbatches", microbatch)):
                loss, wall, _ = worker.call("step", size)
                log(f"{case.name}: {name}, {wall:.2f} s, loss {loss:.4f}")
                if turn >= 0:
                    seconds[name].append(wall)
    finally:
        worker.close()

    def ratio(statistic):
        return statistic(seconds["microbatches"]) / statistic(seconds["plain"])

    result = {"case": dataclasses.asdict(case), "microbatch": microbatch, "seconds": seconds}
    return result | {"overhead": ratio(statistics.median), "overhead_fastest": ratio(min)}


def measure_start(data_dir, workdirs, rounds):
    """Measures the seconds from the start of the command to the log line of the first step.

    Args:
        data_dir: folder of the scenes data set, which is converted first if it is missing.
        workdirs: folder for the runs.
        rounds: number of runs, after a first run that is not counted.

    Returns:
        Seconds of each run.

    Raises:
        RuntimeError: a run ends without a step. The message contains the output of the run.
    """
    command = _train_command(data_dir)
    seconds = []
    for turn in range(-1, rounds):  # run -1 is not counted: it may convert data
        workdir = os.path.join(workdirs, f"start{turn}")
        began = time.perf_counter()
        with subprocess.Popen(
            [*command, f"--workdir={workdir}"], stdout=subprocess.PIPE, text=True
        ) as process:
            output = []
            for line in process.stdout:
                output.append(line)
                if line.startswith("step"):
                    break
            elapsed = time.perf_counter() - began
            process.kill()
        if not output or not output[-1].startswith("step"):
            raise RuntimeError(f"the run ended without a step: {''.join(output)}")
        if turn >= 0:
            log(f"start-up: {elapsed:.1f} s")
            seconds.append(elapsed)
    return seconds


def _train_command(data_dir):
    command = [sys.executable, os.path.join(ROOT, "tools", "train.py"), "--stage=mural"]
    command += [f"--data_dir={data_dir}", "--config.steps=2"]
    return [*command, "--config.optimizer.warmup_steps=1"]


def _run(command):
    """Runs a command; returns its elapsed seconds. Raises RuntimeError if the command fails."""
    began = time.perf_counter()
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {process.stderr[-2000:]}")
    return time.perf_counter() - began


def measure_import_and_help(rounds):
    """Measures `import tf_mural` and the help text of each command, in seconds.

    The time of `import tf_mural` is that of a process that imports the package, minus that of a
    process that does nothing.

    Returns:
        {"import tf_mural" or "<command> --help": seconds of each process}.
    """
    from tf_mural import cli

    commands = {
        f"{name} --help": [sys.executable, os.path.join(ROOT, "tools", f"{name}.py"), "--help"]
        for name in cli.COMMANDS
    }
    seconds = {"import tf_mural": []}
    for turn in range(-1, rounds):  # the first turn writes bytecode, and is not counted
        empty = _run([sys.executable, "-c", ""])
        times = {"import tf_mural": _run([sys.executable, "-c", "import tf_mural"]) - empty}
        times |= {name: _run(command) for name, command in commands.items()}
        if turn >= 0:
            for name, elapsed in times.items():
                seconds.setdefault(name, []).append(elapsed)
    return seconds


def measure_search(data_dir, workdirs, rounds):
    """Measures the seconds of a search in an index of 512 images, with a model of size tiny.

    Args:
        data_dir, workdirs, rounds: see `measure_start`.
    """
    model, index = os.path.join(workdirs, "model"), os.path.join(workdirs, "index")
    tools = {
        name: [sys.executable, os.path.join(ROOT, "tools", f"{name}.py")]
        for name in ("index", "search")
    }
    _run([*_train_command(data_dir), f"--workdir={model}"])
    records = os.path.join(data_dir, "scenes", "test")
    _run([*tools["index"], f"--model={model}", f"--records={records}", f"--out={index}"])
    command = [*tools["search"], "un cercle rouge", f"--index={index}"]
    seconds = [_run(command) for _ in range(rounds)]
    log(f"search: {', '.join(f'{s:.1f}' for s in seconds)} s")
    return seconds


def table(results):
    """Returns the lines of a table."""
    lines = []
    if seconds := results.get("start"):
        lines.append(
            f"  command to first step, tiny: {statistics.median(seconds):.1f} s "
            f"({min(seconds):.1f} to {max(seconds):.1f})"
        )
    if seconds := results.get("search"):
        lines.append(
            f"  search, cold start: {statistics.median(seconds):.1f} s "
            f"({min(seconds):.1f} to {max(seconds):.1f})"
        )
    for name, seconds in results.get("light", {}).items():
        lines.append(
            f"  {name}: {statistics.median(seconds):.3f} s "
            f"({min(seconds):.3f} to {max(seconds):.3f})"
        )
    for name, result in results["microbatches"].items():
        plain, microbatches = (statistics.median(s) for s in result["seconds"].values())
        lines.append(
            f"  {name}, batch {result['case']['batch']}, micro-batches of {result['microbatch']}: "
            f"{plain:.2f} s plain, {microbatches:.2f} s with micro-batches, "
            f"{result['overhead']:.2f} times as long ({result['overhead_fastest']:.2f} for the "
            "fastest steps)"
        )
    return lines


def parse(arguments=None):
    """Parses the flags."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--cases", default="tiny,b0", help=f"comma-separated: {', '.join(SETUPS)}; may be empty"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="steps of each kind; five times as many for tiny"
    )
    parser.add_argument("--starts", type=int, default=3, help="number of runs to start")
    parser.add_argument("--data_dir", default="data", help="folder of the scenes data set")
    options = parser.parse_args(arguments)
    options.cases = parse_names(parser, "--cases", options.cases, SETUPS)
    if options.rounds < 1 or options.starts < 0:
        parser.error("--rounds must be at least 1, --starts at least 0")
    return options


def main():
    options = parse()
    info, results = machine_info(), {"microbatches": {}}
    if options.starts:
        with tempfile.TemporaryDirectory() as folder:
            results["light"] = measure_import_and_help(options.starts)
            results["start"] = measure_start(options.data_dir, folder, options.starts)
            results["search"] = measure_search(options.data_dir, folder, options.starts)
    for name in options.cases:
        case, microbatch, turns = SETUPS[name]
        result = measure_microbatches(case, microbatch, turns * options.rounds)
        results["microbatches"][name] = result
        append_load(info)
    report(info, table(results), options.json, **results)


if __name__ == "__main__":
    main()
