"""Measures peak memory and triples per second of the ETCL step by batch and micro-batch.

    python benchmarks/memory.py --data_dir=data --batches=1024,4096,32768 --microbatches=256,0

By default, the step trains the tiny towers of configs/etcl.py on the scenes data set (created by
tools/train.py or tools/convert.py). With `--towers=text` or `--towers=image`, the step trains a
large tower of this modality and a tiny tower of the other modality on random data. Each line of the
table is measured in a process of its own, which reads a global batch, traces the step, and runs it
`--steps` times. A micro-batch of 0 means the step without micro-batches. The columns are the size
of the batch, the memory of the process before the steps, its peak memory during the steps (the
batch is included in both), triples per second, and the processor seconds of all threads per step.
Other load of the machine changes processor seconds less than triples per second.

    python benchmarks/memory.py --towers=image --batches=32 --microbatches=0 --remat=0,1
"""

import dataclasses
import itertools
import os
import statistics
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from benchmarks.cases import Case  # noqa: E402
from benchmarks.common import append_load, log, machine_info, make_parser, report  # noqa: E402
from benchmarks.tf_mural_step import TensorFlowStep  # noqa: E402
from benchmarks.worker import Worker  # noqa: E402

# Number of examples that are read at a time. Reading a large batch therefore needs little memory in
# addition to the batch.
_READ_SIZE = 256
_MIB = 2**20
_TOWERS = {
    "text": Case("text", "tiny", "base", image_size=64, batch=0),
    "image": Case("image", "b0", "nano", image_size=224, batch=0, tokens=8, vocabulary=500),
}


class MeasuredStep:
    """A step on a batch, in a process whose memory is measured."""

    def describe(self):
        """Returns the bytes of the batch and of the process, and resets the peak."""
        import tensorflow as tf

        size = sum(x.shape.num_elements() * x.dtype.size for x in tf.nest.flatten(self._batch))
        before = _read_status("VmRSS")
        with open("/proc/self/clear_refs", "w", encoding="utf-8") as file:
            file.write("5")
        return {"batch_bytes": size, "before_bytes": before}

    def step(self):
        """Runs one step; returns its loss."""
        return float(self._step(self._batch)["loss"])

    def peak(self):
        """Returns the peak memory of this process since the call of `describe`, in bytes."""
        return _read_status("VmHWM")


class LargeTowerStep(MeasuredStep, TensorFlowStep):
    """The step with a large and a tiny tower on a random global batch.

    Args:
        towers: a key of `_TOWERS`.
        batch: triples per step.
        **options: see `TensorFlowStep`.
    """

    def __init__(self, towers, batch, **options):
        super().__init__(dataclasses.replace(_TOWERS[towers], batch=batch), **options)
        self._step = self._step.get_concrete_function(self._batch)


class ScenesStep(MeasuredStep):
    """The step with tiny towers on a global batch of scenes.

    Args:
        data_dir: folder that contains scenes/train.
        batch: triples per step.
        microbatch: see configs/base.py; 0 stands for None.
        loss_chunk: see configs/base.py; 0 stands for None.
        dropout: rate of dropout and of stochastic depth.
        **options: further values of the config.
    """

    def __init__(self, data_dir, batch, microbatch, loss_chunk, dropout=0.0, **options):
        import tensorflow as tf

        from configs import etcl
        from tf_mural import experiment
        from tf_mural.backends import tensorflow as tf_backend

        config = etcl.get_config("tiny")
        config.batch_size = min(batch, _READ_SIZE)
        config.model.text.dropout = config.model.image.stochastic_depth = dropout
        config.evaluation = {}
        config.update(options)
        strategy = tf_backend.make_strategy("one")
        run = experiment.build(config, data_dir, strategy)
        self.trainer = run.trainer
        self.trainer.core.microbatch = microbatch or None
        self.trainer.core.loss_chunk = loss_chunk or None
        self._batch = _global_batch(run.dataset(start_step=0), batch)

        @tf.function(autograph=False)
        def replicated_step(batch):
            return strategy.run(self.trainer.train_step, args=(batch,))

        self._step = replicated_step.get_concrete_function(self._batch)


def _global_batch(dataset, rows):
    """Reads batches of a dataset one by one; returns the first `rows` examples as one batch."""
    import numpy as np
    import tensorflow as tf

    arrays = tf.nest.map_structure(
        lambda spec: np.empty((rows, *spec.shape[1:]), spec.dtype.as_numpy_dtype),
        dataset.element_spec,
    )
    start = 0
    for batch in dataset.take(rows // _READ_SIZE if rows > _READ_SIZE else 1):
        for array, piece in zip(tf.nest.flatten(arrays), tf.nest.flatten(batch), strict=True):
            array[start : start + len(piece)] = piece.numpy()
        start += len(piece)
    return tf.nest.map_structure(tf.convert_to_tensor, arrays)


def _read_status(name):
    with open("/proc/self/status", encoding="utf-8") as file:
        lines = [line for line in file if line.startswith(name)]
    return 1024 * int(lines[0].split()[1])


def measure(options, **settings):
    """Measures a line of the table.

    Args:
        options: parsed flags.
        **settings: batch, microbatch, loss_chunk, precision and remat.

    Returns:
        The settings and the measured values, or the settings and "error".
    """
    label, seconds, processor = f"{settings['batch']}/{settings['microbatch']}", [], []
    if options.towers == "tiny":
        arguments = {"name": "ScenesStep", "data_dir": options.data_dir, **settings}
        arguments["dropout"] = options.dropout
    else:
        arguments = {key: settings[key] for key in ("batch", "precision", "remat")}
        arguments |= {"name": "LargeTowerStep", "towers": options.towers}
    try:
        worker = Worker("benchmarks.memory", **arguments)
        try:
            settings |= worker.call("describe")[0]
            for number in range(options.warmup + options.steps):
                loss, wall, processor_time = worker.call("step")
                log(f"{label}: step {number + 1}: {wall:.2f} s, loss {loss:.4f}")
                seconds.append(wall)
                processor.append(processor_time)
            settings["peak_bytes"] = worker.call("peak")[0]
        finally:
            worker.close()
    except RuntimeError as error:
        return {**settings, "error": str(error).strip().splitlines()[-1]}
    seconds, processor = seconds[options.warmup :], processor[options.warmup :]
    rate = settings["batch"] / statistics.median(seconds)
    return {
        **settings,
        "seconds": seconds,
        "processor_seconds": processor,
        "triples_per_second": rate,
    }


def table(results):
    """Returns the lines of a table of the results of `measure`."""
    header = ("batch", "micro-batch", "loss chunk", "precision", "remat", "MiB of batch", "before")
    header += ("peak", "triples/s", "processor s")
    lines = ["  ".join(f"{name:>12}" for name in header)]
    for result in results:
        values = [result["batch"], result["microbatch"] or "-", result["loss_chunk"] or "-"]
        values += [result["precision"].removeprefix("mixed_"), result["remat"]]
        if "error" in result:
            values.append(result["error"])
        else:
            sizes = ("batch_bytes", "before_bytes", "peak_bytes")
            values += [round(result[name] / _MIB) for name in sizes]
            values.append(f"{result['triples_per_second']:.1f}")
            values.append(f"{statistics.median(result['processor_seconds']):.2f}")
        lines.append("  ".join(f"{value:>12}" for value in values))
    return lines


def parse(arguments=None):
    """Parses the flags."""

    def parse_integers(text):
        return [int(part) for part in text.split(",")]

    parser = make_parser(__doc__)
    parser.add_argument("--data_dir", default="data", help="folder of the record sets")
    parser.add_argument("--batches", type=parse_integers, default=[1024, 4096, 32768])
    parser.add_argument(
        "--microbatches",
        type=parse_integers,
        default=[256],
        help="0: the step without micro-batches",
    )
    parser.add_argument("--loss_chunk", type=int, default=64, help="0: all examples at once")
    parser.add_argument("--towers", choices=["tiny", *_TOWERS], default="tiny")
    parser.add_argument("--precision", default="float32", help="see configs/base.py")
    parser.add_argument("--remat", type=parse_integers, default=[0], help="0, 1 or 0,1")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--warmup", type=int, default=1, help="steps before the timed steps")
    parser.add_argument("--steps", type=int, default=2, help="timed steps per line")
    options = parser.parse_args(arguments)
    if options.towers != "tiny" and (any(options.microbatches) or options.dropout):
        parser.error("--towers=text and --towers=image require --microbatches=0 and no --dropout")
    if options.towers != "tiny":
        options.loss_chunk = 0
    return options


def main():
    options, info, results = parse(), machine_info(), []
    for microbatch, batch, remat in itertools.product(
        options.microbatches, options.batches, options.remat
    ):
        results.append(
            measure(
                options,
                batch=batch,
                microbatch=microbatch,
                loss_chunk=options.loss_chunk,
                precision=options.precision,
                remat=bool(remat),
            )
        )
        append_load(info)
    report(info, table(results), options.json, results=results)


if __name__ == "__main__":
    main()
