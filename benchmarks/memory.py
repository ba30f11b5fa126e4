"""Peak memory and triples a second of the ETCL step over batch and micro-batch.

    python benchmarks/memory.py --data_dir=data --batches=1024,4096,32768 --microbatches=256,0

The tiny towers of configs/etcl.py on scenes (made by tools/train.py or tools/convert.py), or with
`--towers=text` or `--towers=image` one large tower beside a tiny one, on random data. Each line is
a process of its own, which reads one global batch, traces the step, and takes `--steps` of it. A
micro-batch of 0 is the plain step. What is told: memory of the process before the steps and its
peak during them, both with the batch itself, whose size is told too; triples a second by the clock,
and the seconds that all threads spent on a processor in a step, which other work disturbs less.

    python benchmarks/memory.py --towers=image --batches=32 --microbatches=0 --rematerialise=0,1
"""

import argparse
import dataclasses
import itertools
import os
import statistics
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from benchmarks.cases import Case  # noqa: E402
from benchmarks.common import machine, note_load, say, tell  # noqa: E402
from benchmarks.ours import Ours  # noqa: E402
from benchmarks.worker import Worker  # noqa: E402

# Rows that are read at a time, so that reading takes no more memory for a larger batch.
_READ = 256
_MIB = 2**20
_TOWERS = {
    "text": Case("text", "tiny", "base", image_size=64, batch=0),
    "image": Case("image", "b0", "nano", image_size=224, batch=0, tokens=8, vocabulary=500),
}


class _Watched:
    """A step on one batch in a process whose memory is watched."""

    def describe(self):
        """Bytes of the batch, and of the process now; its peak counts from here."""
        import tensorflow as tf

        size = sum(x.shape.num_elements() * x.dtype.size for x in tf.nest.flatten(self._batch))
        before = _status("VmRSS")
        with open("/proc/self/clear_refs", "w", encoding="utf-8") as file:
            file.write("5")
        return {"batch_bytes": size, "before_bytes": before}

    def step(self):
        """One step; returns its loss."""
        return float(self._step(self._batch)["loss"])

    def peak(self):
        """Bytes, the largest that this process was since `describe`."""
        return _status("VmHWM")


class Large(_Watched, Ours):
    """A large tower beside a tiny one, and one random global batch.

    Args:
        towers: a name of `_TOWERS`.
        batch: triples.
        **options: of `ours.Ours`.
    """

    def __init__(self, towers, batch, **options):
        super().__init__(dataclasses.replace(_TOWERS[towers], batch=batch), **options)
        self._step = self._step.get_concrete_function(self._batch)


class Run(_Watched):
    """A trainer and one global batch of scenes.

    Args:
        data_dir: has scenes/train.
        batch, microbatch, loss_chunk, precision, rematerialise: as in configs/base.py.
        dropout: of the text tower; stochastic depth too.
    """

    def __init__(self, data_dir, batch, microbatch, loss_chunk, dropout=0.0, **options):
        import tensorflow as tf

        from configs import etcl
        from tf_mural import experiment
        from tf_mural.backends import tensorflow as tf_backend

        config = etcl.get_config("tiny")
        config.batch_size = min(batch, _READ)
        config.model.text.dropout = config.model.image.stochastic_depth = dropout
        config.evaluation = {}
        config.update(options)
        strategy = tf_backend.make_strategy("one")
        run = experiment.build(config, data_dir, strategy)
        self.trainer = run.trainer
        self.trainer.microbatch = microbatch or None
        self.trainer.loss_chunk = loss_chunk or None
        self._batch = _global_batch(run.dataset(start_step=0), batch)

        @tf.function(autograph=False)
        def replicated_step(batch):
            return strategy.run(self.trainer.train_step, args=(batch,))

        self._step = replicated_step.get_concrete_function(self._batch)


def _global_batch(dataset, rows):
    """The first `rows` rows of a dataset of smaller batches, read one after another."""
    import numpy as np
    import tensorflow as tf

    arrays = tf.nest.map_structure(
        lambda spec: np.empty((rows, *spec.shape[1:]), spec.dtype.as_numpy_dtype),
        dataset.element_spec,
    )
    first = 0
    for part in dataset.take(rows // _READ if rows > _READ else 1):
        for array, piece in zip(tf.nest.flatten(arrays), tf.nest.flatten(part), strict=True):
            array[first : first + len(piece)] = piece.numpy()
        first += len(piece)
    return tf.nest.map_structure(tf.convert_to_tensor, arrays)


def _status(name):
    with open("/proc/self/status", encoding="utf-8") as file:
        lines = [line for line in file if line.startswith(name)]
    return 1024 * int(lines[0].split()[1])


def measure(options, **about):
    """One line of the table, or why there is none.

    Args:
        options: the flags.
        **about: batch, microbatch, loss_chunk, precision, rematerialise.
    """
    name, seconds, processor = f"{about['batch']}/{about['microbatch']}", [], []
    if options.towers == "tiny":
        given = {"name": "Run", "data_dir": options.data_dir, "dropout": options.dropout, **about}
    else:
        alike = {k: about[k] for k in ("batch", "precision", "rematerialise")}
        given = {"name": "Large", "towers": options.towers, **alike}
    try:
        worker = Worker("benchmarks.memory", **given)
        try:
            about |= worker.call("describe")[0]
            for number in range(options.warmup + options.steps):
                loss, wall, busy = worker.call("step")
                say(f"{name}: step {number + 1}: {wall:.2f} s, loss {loss:.4f}")
                seconds.append(wall)
                processor.append(busy)
            about["peak_bytes"] = worker.call("peak")[0]
        finally:
            worker.close()
    except RuntimeError as error:
        return {**about, "error": str(error).strip().splitlines()[-1]}
    seconds, processor = seconds[options.warmup :], processor[options.warmup :]
    rate = about["batch"] / statistics.median(seconds)
    return {
        **about,
        "seconds": seconds,
        "processor_seconds": processor,
        "triples_per_second": rate,
    }


def table(results):
    """Lines for people."""
    head = ("batch", "micro-batch", "loss chunk", "precision", "again", "MiB of batch", "before")
    head += ("peak", "triples/s", "processor s")
    lines = ["  ".join(f"{name:>12}" for name in head)]
    for found in results:
        numbers = [found["batch"], found["microbatch"] or "-", found["loss_chunk"] or "-"]
        numbers += [found["precision"].removeprefix("mixed_"), found["rematerialise"]]
        if "error" in found:
            numbers.append(found["error"])
        else:
            sizes = ("batch_bytes", "before_bytes", "peak_bytes")
            numbers += [round(found[name] / _MIB) for name in sizes]
            numbers.append(f"{found['triples_per_second']:.1f}")
            numbers.append(f"{statistics.median(found['processor_seconds']):.2f}")
        lines.append("  ".join(f"{value:>12}" for value in numbers))
    return lines


def parse(arguments=None):
    """The flags."""

    def numbers(text):
        return [int(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", default="data", help="folder of the record sets")
    parser.add_argument("--batches", type=numbers, default=[1024, 4096, 32768])
    parser.add_argument("--microbatches", type=numbers, default=[256], help="0: the plain step")
    parser.add_argument("--loss_chunk", type=int, default=64, help="0: all rows at once")
    parser.add_argument("--towers", choices=["tiny", *_TOWERS], default="tiny")
    parser.add_argument("--precision", default="float32", help="of configs/base.py")
    parser.add_argument("--rematerialise", type=numbers, default=[0], help="0, 1 or 0,1")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--warmup", type=int, default=1, help="steps before them")
    parser.add_argument("--steps", type=int, default=2, help="timed steps of a line")
    parser.add_argument("--json", help="file for the numbers")
    options = parser.parse_args(arguments)
    if options.towers != "tiny" and (any(options.microbatches) or options.dropout):
        parser.error("--microbatches=0 and the recipe's dropout are what --towers has")
    if options.towers != "tiny":
        options.loss_chunk = 0
    return options


def main():
    options, about, results = parse(), machine(), []
    for microbatch, batch, again in itertools.product(
        options.microbatches, options.batches, options.rematerialise
    ):
        results.append(
            measure(
                options,
                batch=batch,
                microbatch=microbatch,
                loss_chunk=options.loss_chunk,
                precision=options.precision,
                rematerialise=bool(again),
            )
        )
        note_load(about)
    tell(about, table(results), options.json, results=results)


if __name__ == "__main__":
    main()
