"""Times saving and restoring a checkpoint, and how long a save blocks training.

    python benchmarks/checkpoint.py --parameters=533e6 --folder=/tmp

The state has the given number of parameters and two optimizer slots per parameter, in variables
with the sizes of the paper's model (a token embedding of 501,153 x 768 and matrices of 1,024 x
1,024). The state is saved and restored by `tf_mural.training.checkpoints`. Steps that change the
whole state, as an optimizer does, continue during a save. For comparison, the same number of bytes
is written to a plain file, and the state is saved by `tf.train.Checkpoint`, which blocks training.
The benchmark needs twice the size of the state in memory, and as much on the disk: 12.8 GB each for
the paper's model.
"""

import os
import shutil
import statistics
import sys
import time
import types

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from benchmarks.common import append_load, log, machine_info, make_parser, report  # noqa: E402

_EMBEDDING, _MATRIX = (501_153, 768), (1024, 1024)


def variable_shapes(parameters):
    """Returns shapes of variables with about `parameters` numbers in total."""
    rows, width = _EMBEDDING
    embedding = (min(rows, int(parameters) // (2 * width)), width)
    matrices = (parameters - embedding[0] * width) / (_MATRIX[0] * _MATRIX[1])
    return [embedding] + [_MATRIX] * max(1, round(matrices))


def make_trainer(parameters):
    """Returns a trainer with the given number of parameters and two slots per parameter."""
    import keras

    from tf_mural.backends import tensorflow as tf_backend
    from tf_mural.nonfinite import scalar_variable

    def make_variables(name):
        shapes = enumerate(variable_shapes(parameters))
        return [keras.Variable(keras.random.normal(s), name=f"{name}_{i}") for i, s in shapes]

    weights = make_variables("weights")
    slots = make_variables("first") + make_variables("second")
    return types.SimpleNamespace(
        encoder=types.SimpleNamespace(variables=weights, trainable_variables=weights),
        optimizer=types.SimpleNamespace(variables=slots, build=lambda _: None),
        step=scalar_variable("step", "int32"),
        loss_scale=None,
        snapshot=tf_backend.snapshot,
        snapshot_is_collective=False,
    )


def plain_write(folder, size):
    """Returns the seconds that it takes to write `size` bytes and to flush them to the disk."""
    block, path = os.urandom(1 << 26), os.path.join(folder, "plain")
    began = time.perf_counter()
    with open(path, "wb", buffering=0) as file:
        for _ in range(-(-size // len(block))):
            file.write(block)
        os.fsync(file.fileno())
    seconds = time.perf_counter() - began
    os.remove(path)
    return seconds * size / (-(-size // len(block)) * len(block))


def measure_manager(folder, trainer, step_seconds, rounds):
    """Measures saves by `CheckpointManager` while steps run, and a restore.

    Returns:
        Dict with these keys:
            "step": median seconds of a step without a save;
            "blocked": list of the seconds for which each save blocked training;
            "step_while_writing": list of the seconds of the steps during the saves;
            "on_disk": list of the seconds from the start of each save to its end;
            "restore": seconds of the restore;
            "peak_gib": peak memory of the process in GiB.
    """
    from tf_mural.training import checkpoints

    variables = [*trainer.encoder.variables, *trainer.optimizer.variables]

    def step():
        began = time.perf_counter()
        for variable in variables:
            variable.value.assign_add(variable.value * 1e-3)
        time.sleep(step_seconds)
        return time.perf_counter() - began

    saved = checkpoints.CheckpointManager(folder, trainer, max_to_keep=1)
    saved.restore({"vocabulary_hash": "x"})
    step_median = statistics.median(step() for _ in range(3))
    results = {"step": step_median, "blocked": [], "step_while_writing": [], "on_disk": []}
    for i in range(rounds):
        began = time.perf_counter()
        saved.save(i)
        results["blocked"].append(time.perf_counter() - began)
        while saved._thread.is_alive():
            results["step_while_writing"].append(step())
        saved.wait_until_finished()
        results["on_disk"].append(time.perf_counter() - began)
        log(f"save {i + 1}: {results['blocked'][-1]:.3f} s, {results['on_disk'][-1]:.1f} s")
    results["peak_gib"] = _peak_gib()
    began = time.perf_counter()
    assert checkpoints.CheckpointManager(folder, trainer).restore({"vocabulary_hash": "x"})
    results["restore"] = time.perf_counter() - began
    return results


def measure_tensorflow(folder, trainer):
    """Measures a save by `tf.train.Checkpoint`.

    Returns:
        {"blocked": seconds for which the save blocked training, "on_disk": seconds until the files
        were on the disk}.
    """
    import tensorflow as tf

    variables = [v.value for v in (*trainer.encoder.variables, *trainer.optimizer.variables)]
    began = time.perf_counter()
    path = tf.train.Checkpoint(variables=variables).write(os.path.join(folder, "tensorflow"))
    blocked = time.perf_counter() - began
    with open(f"{path}.data-00000-of-00001", "rb") as file:
        os.fsync(file.fileno())
    return {"blocked": blocked, "on_disk": time.perf_counter() - began}


def _peak_gib():
    with open("/proc/self/status", encoding="utf-8") as file:
        (line,) = [line for line in file if line.startswith("VmHWM")]
    return int(line.split()[1]) / 2**20


def parse(arguments=None):
    """Parses the flags."""
    parser = make_parser(__doc__)
    parser.add_argument("--parameters", type=float, default=533e6)
    parser.add_argument("--folder", default=".", help="folder on the disk to measure")
    parser.add_argument("--step", type=float, default=1.0, help="seconds of a step without LAMB")
    parser.add_argument("--rounds", type=int, default=2, help="number of saves")
    return parser.parse_args(arguments)


def table(results):
    """Returns the lines of a table."""
    manager, tensorflow = results["tf_mural"], results["tensorflow"]
    gb, plain = results["bytes"] / 1e9, results["plain_write"]
    median = statistics.median
    return [
        f"  {gb:.2f} GB; plain writing {plain:.1f} s ({gb / plain:.2f} GB/s)",
        f"  tf_mural: blocks training for {median(manager['blocked']):.3f} s, on disk after",
        f"    {median(manager['on_disk']):.1f} s; a step takes {manager['step']:.2f} s,",
        f"    during a save {median(manager['step_while_writing'] or [0]):.2f} s; peak memory",
        f"    {manager['peak_gib']:.1f} GiB; restored in {manager['restore']:.1f} s",
        f"  tf.train.Checkpoint: blocks training for {tensorflow['blocked']:.1f} s, on disk after",
        f"    {tensorflow['on_disk']:.1f} s",
    ]


def main():
    options, info = parse(), machine_info()
    size = 3 * 4 * sum(a * b for a, b in variable_shapes(options.parameters))
    folder = os.path.join(options.folder, f"checkpoint-benchmark-{os.getpid()}")
    os.makedirs(folder)
    try:
        results = {"bytes": size, "plain_write": plain_write(folder, size)}
        trainer = make_trainer(options.parameters)
        results["tensorflow"] = measure_tensorflow(folder, trainer)
        for name in os.listdir(folder):
            os.remove(os.path.join(folder, name))
        results["tf_mural"] = measure_manager(folder, trainer, options.step, options.rounds)
    finally:
        shutil.rmtree(folder)
    report(append_load(info), table(results), options.json, **results)


if __name__ == "__main__":
    main()
