"""Saving and restoring a checkpoint: how long training stands still, and how long until on disk.

    python benchmarks/checkpoint.py --parameters=533e6 --folder=/tmp

A state of so many parameters and two slots each, in variables of the sizes of the paper's model (a
token embedding of 501,153 x 768 and products of 1,024 x 1,024), saved and restored by
`tf_mural.training.checkpoints`. While it is written, steps go on that change all of the state, as
an optimizer does. Beside it: plain writing of as many bytes to the same disk, and TensorFlow's own
`tf.train.Checkpoint`, which training waits for. Needs twice the state in memory, 12.8 GB for the
paper's, and as much on the disk.
"""

import argparse
import os
import shutil
import statistics
import sys
import time
import types

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from benchmarks.common import machine, note_load, say, tell  # noqa: E402

_EMBEDDING, _PRODUCT = (501_153, 768), (1024, 1024)


def shapes_of(parameters):
    """Shapes of variables with about so many numbers."""
    rows, width = _EMBEDDING
    first = (min(rows, int(parameters) // (2 * width)), width)
    rest = (parameters - first[0] * width) / (_PRODUCT[0] * _PRODUCT[1])
    return [first] + [_PRODUCT] * max(1, round(rest))


def state_of(parameters):
    """A trainer with as many parameters and two slots each."""
    import keras

    from tf_mural.backends import tensorflow as tf_backend
    from tf_mural.nonfinite import scalar

    def variables(kind):
        shapes = enumerate(shapes_of(parameters))
        return [keras.Variable(keras.random.normal(s), name=f"{kind}_{i}") for i, s in shapes]

    weights = variables("weights")
    slots = variables("first") + variables("second")
    return types.SimpleNamespace(
        encoder=types.SimpleNamespace(variables=weights, trainable_variables=weights),
        optimizer=types.SimpleNamespace(variables=slots, build=lambda _: None),
        step=scalar("step", "int32"),
        loss_scale=None,
        snapshot=tf_backend.snapshot,
        collective=False,
    )


def plain_write(folder, size):
    """Seconds to write so many bytes and have them on the disk."""
    block, path = os.urandom(1 << 26), os.path.join(folder, "plain")
    began = time.perf_counter()
    with open(path, "wb", buffering=0) as file:
        for _ in range(-(-size // len(block))):
            file.write(block)
        os.fsync(file.fileno())
    seconds = time.perf_counter() - began
    os.remove(path)
    return seconds * size / (-(-size // len(block)) * len(block))


def measure_ours(folder, trainer, step_seconds, rounds):
    """{what: seconds} of saves during steps, and of a restore."""
    from tf_mural.training import checkpoints

    variables = [*trainer.encoder.variables, *trainer.optimizer.variables]

    def step():
        began = time.perf_counter()
        for variable in variables:
            variable.value.assign_add(variable.value * 1e-3)
        time.sleep(step_seconds)
        return time.perf_counter() - began

    saved = checkpoints.Checkpoints(folder, trainer, keep=1)
    saved.restore({"vocabulary_hash": "x"})
    usual = statistics.median(step() for _ in range(3))
    found = {"step": usual, "stands_still": [], "step_while_writing": [], "on_disk": []}
    for i in range(rounds):
        began = time.perf_counter()
        saved.save(i)
        found["stands_still"].append(time.perf_counter() - began)
        while saved._thread.is_alive():
            found["step_while_writing"].append(step())
        saved.wait()
        found["on_disk"].append(time.perf_counter() - began)
        say(f"save {i + 1}: {found['stands_still'][-1]:.3f} s, {found['on_disk'][-1]:.1f} s")
    found["peak_gib"] = _peak()
    began = time.perf_counter()
    assert checkpoints.Checkpoints(folder, trainer).restore({"vocabulary_hash": "x"})
    found["restore"] = time.perf_counter() - began
    return found


def measure_tensorflow(folder, trainer):
    """Seconds of `tf.train.Checkpoint`: until it returns, and until it is on the disk."""
    import tensorflow as tf

    variables = [v.value for v in (*trainer.encoder.variables, *trainer.optimizer.variables)]
    began = time.perf_counter()
    path = tf.train.Checkpoint(variables=variables).write(os.path.join(folder, "tensorflow"))
    returned = time.perf_counter() - began
    with open(f"{path}.data-00000-of-00001", "rb") as file:
        os.fsync(file.fileno())
    return {"stands_still": returned, "on_disk": time.perf_counter() - began}


def _peak():
    with open("/proc/self/status", encoding="utf-8") as file:
        (line,) = [line for line in file if line.startswith("VmHWM")]
    return int(line.split()[1]) / 2**20


def parse(arguments=None):
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parameters", type=float, default=533e6)
    parser.add_argument("--folder", default=".", help="on the disk to be measured")
    parser.add_argument("--step", type=float, default=1.0, help="seconds a step takes beside LAMB")
    parser.add_argument("--rounds", type=int, default=2, help="saves")
    parser.add_argument("--json", help="file for the numbers")
    return parser.parse_args(arguments)


def table(results):
    """Lines for people."""
    ours, theirs = results["ours"], results["tensorflow"]
    gb, plain = results["bytes"] / 1e9, results["plain_write"]
    middle = statistics.median
    return [
        f"  {gb:.2f} GB; plain writing {plain:.1f} s ({gb / plain:.2f} GB/s)",
        f"  ours: training stands still {middle(ours['stands_still']):.3f} s, on disk after",
        f"    {middle(ours['on_disk']):.1f} s; a step {ours['step']:.2f} s, and meanwhile",
        f"    {middle(ours['step_while_writing'] or [0]):.2f} s; peak {ours['peak_gib']:.1f} GiB",
        f"    restored in {ours['restore']:.1f} s",
        f"  tf.train.Checkpoint: stands still {theirs['stands_still']:.1f} s, on disk after",
        f"    {theirs['on_disk']:.1f} s",
    ]


def main():
    options, about = parse(), machine()
    size = 3 * 4 * sum(a * b for a, b in shapes_of(options.parameters))
    folder = os.path.join(options.folder, f"checkpoint-benchmark-{os.getpid()}")
    os.makedirs(folder)
    try:
        results = {"bytes": size, "plain_write": plain_write(folder, size)}
        trainer = state_of(options.parameters)
        results["tensorflow"] = measure_tensorflow(folder, trainer)
        for name in os.listdir(folder):
            os.remove(os.path.join(folder, name))
        results["ours"] = measure_ours(folder, trainer, options.step, options.rounds)
    finally:
        shutil.rmtree(folder)
    tell(note_load(about), table(results), options.json, **results)


if __name__ == "__main__":
    main()
