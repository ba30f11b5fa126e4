"""Peak memory and triples a second of the ETCL step over batch and micro-batch.

    python benchmarks/memory.py --data_dir=data --batches=1024,4096,32768 --microbatches=256,0

The tiny towers of configs/etcl.py on scenes (made by tools/train.py or tools/convert.py). Each line
is a process of its own, which reads one global batch, traces the step, and takes `--steps` of it. A
micro-batch of 0 is the plain step. What is told: memory of the process before the steps and its
peak during them, both with the batch itself, whose size is told too.
"""

import argparse
import json
import os
import statistics
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from benchmarks.train_step import machine, say  # noqa: E402
from benchmarks.worker import Worker  # noqa: E402

# Rows that are read at a time, so that reading takes no more memory for a larger batch.
_READ = 256
_MIB = 2**20


class Run:
    """A trainer and one global batch of scenes.

    Args:
        data_dir: has scenes/train.
        batch, microbatch, loss_chunk: as in configs/base.py.
        dropout: of the text tower; stochastic depth too.
    """

    def __init__(self, data_dir, batch, microbatch, loss_chunk, dropout=0.0):
        import tensorflow as tf

        from configs import etcl
        from tf_mural import build, distribute

        config = etcl.get_config("tiny")
        config.batch_size = min(batch, _READ)
        config.model.text.dropout = config.model.image.stochastic_depth = dropout
        config.evaluation = {}
        strategy = distribute.make_strategy("one")
        run = build.build(config, data_dir, strategy)
        self.trainer = run.trainer
        self.trainer.microbatch = microbatch or None
        self.trainer.loss_chunk = loss_chunk or None
        self._batch = _global_batch(run.dataset(start_step=0), batch)
        self.bytes = sum(
            x.shape.num_elements() * x.dtype.size for x in tf.nest.flatten(self._batch)
        )

        @tf.function(autograph=False)
        def replicated_step(batch):
            return strategy.run(self.trainer.train_step, args=(batch,))

        self._step = replicated_step.get_concrete_function(self._batch)

    def describe(self):
        """Bytes of the batch, and of the process now; its peak counts from here."""
        before = _status("VmRSS")
        with open("/proc/self/clear_refs", "w", encoding="utf-8") as file:
            file.write("5")
        return {"batch_bytes": self.bytes, "before_bytes": before}

    def step(self):
        """One step; returns its loss."""
        return float(self._step(self._batch)["loss"])

    def peak(self):
        """Bytes, the largest that this process was since `describe`."""
        return _status("VmHWM")


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


def measure(data_dir, batch, microbatch, loss_chunk, warmup, steps, dropout):
    """One line of the table, or why there is none."""
    about = {"batch": batch, "microbatch": microbatch, "loss_chunk": loss_chunk}
    seconds = []
    try:
        worker = Worker("benchmarks.memory", "Run", data_dir=data_dir, dropout=dropout, **about)
        try:
            about |= worker.call("describe")[0]
            for number in range(warmup + steps):
                loss, wall, _ = worker.call("step")
                say(f"{batch}/{microbatch}: step {number + 1}: {wall:.2f} s, loss {loss:.4f}")
                seconds.append(wall)
            about["peak_bytes"] = worker.call("peak")[0]
        finally:
            worker.close()
    except RuntimeError as error:
        return {**about, "error": str(error).strip().splitlines()[-1]}
    seconds = seconds[warmup:]
    return {**about, "seconds": seconds, "triples_per_second": batch / statistics.median(seconds)}


def table(results):
    """Lines for people."""
    head = ("batch", "micro-batch", "loss chunk", "MiB of batch", "before", "peak", "triples/s")
    lines = ["  ".join(f"{name:>12}" for name in head)]
    for found in results:
        numbers = [found["batch"], found["microbatch"] or "-", found["loss_chunk"] or "-"]
        if "error" in found:
            numbers.append(found["error"])
        else:
            sizes = ("batch_bytes", "before_bytes", "peak_bytes")
            numbers += [round(found[name] / _MIB) for name in sizes]
            numbers.append(f"{found['triples_per_second']:.1f}")
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
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--warmup", type=int, default=1, help="steps before them")
    parser.add_argument("--steps", type=int, default=2, help="timed steps of a line")
    parser.add_argument("--json", help="file for the numbers")
    return parser.parse_args(arguments)


def main():
    options = parse()
    results = []
    for microbatch in options.microbatches:
        for batch in options.batches:
            results.append(
                measure(
                    options.data_dir,
                    batch,
                    microbatch,
                    options.loss_chunk,
                    options.warmup,
                    options.steps,
                    options.dropout,
                )
            )
    about = machine()
    say("\n".join([f"\n{about['cpu']}, {about['cores']} cores", *table(results)]))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"machine": about, "results": results}, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
