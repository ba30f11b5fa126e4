"""Measures the memory and the time of a step with LoRA, compared with full fine-tuning.

    python benchmarks/adaptation.py --vocabularies=501153,30522 --batches=8,32 --remat=0,1

A step trains a BERT on pairs of texts with the contrastive loss and LAMB. Each value of `--adapt`
has a turn in every round, in a process of its own. Only one process runs at a time, because full
fine-tuning with 501,153 pieces needs about 19 GiB. The table contains the peak memory of the
process during the steps, the medians of the elapsed seconds and of the processor seconds of a step,
and all of them in percent of those of the first value. Other load of the machine changes processor
seconds less than elapsed seconds.
"""

import itertools
import os
import statistics
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from benchmarks.common import append_load, log, machine_info, make_parser, report  # noqa: E402
from benchmarks.memory import MeasuredStep  # noqa: E402
from benchmarks.worker import Worker  # noqa: E402

_MIB = 2**20
_FIELDS = ("source", "target")


class TextStep(MeasuredStep):
    """A compiled step of a text tower on random pairs of texts.

    Args:
        bert: a key of `models.BERTS`.
        vocabulary: number of token embeddings.
        batch: texts per step, an even number. Half of them are the sources of the other half.
        tokens: tokens per text.
        adapt: see `models.DualEncoder`.
        remat: whether blocks recompute their activations in the backward pass.
    """

    def __init__(self, bert, vocabulary, batch, tokens, adapt, remat):
        import keras
        import numpy as np
        import tensorflow as tf

        import tf_mural

        keras.utils.set_random_seed(0)
        tower = tf_mural.models.text_tower(vocabulary, bert, tokens, dropout=0.1)
        model = tf_mural.DualEncoder(text_encoder=tower, adapt={"text": adapt})
        trainer = tf_mural.Trainer(
            model,
            [tf_mural.Term("source_target", *_FIELDS, 1.0)],
            dict.fromkeys(_FIELDS, "text"),
            remat=remat,
        )
        trainer.compile(optimizer=tf_mural.optimizers.LAMB(1e-4, weight_decay=1e-5))
        rng, self._batch = np.random.default_rng(0), {}
        for field in _FIELDS:
            self._batch[field] = {
                "id": tf.range(batch // 2, dtype=tf.int64),
                "tokens": tf.constant(rng.integers(1, vocabulary, (batch // 2, tokens)), tf.int32),
                "language": tf.zeros(batch // 2, tf.int32),
            }
        step = tf.function(trainer.train_step, autograph=False)
        self._step = step.get_concrete_function(self._batch)


def measure(options, vocabulary, batch, remat):
    """Measures all values of `adapt` for one size.

    Args:
        options: parsed flags.
        vocabulary, batch, remat: see `TextStep`.

    Returns:
        List with {"vocabulary", "batch", "remat", "adapt", "seconds", "processor_seconds",
        "peak_bytes"} per value.
    """
    size = {"vocabulary": vocabulary, "batch": batch, "remat": remat}
    results = {
        adapt: {**size, "adapt": adapt, "seconds": [], "processor_seconds": [], "peak_bytes": 0}
        for adapt in options.adapt
    }
    for _ in range(options.rounds):
        for result in results.values():
            _take_turn(options, size, result)
    return list(results.values())


def _take_turn(options, size, result):
    """Runs the steps of one round of a value of `adapt`, and adds the measurements to `result`."""
    arguments = {**size, "bert": options.bert, "tokens": options.tokens, "adapt": result["adapt"]}
    worker = Worker("benchmarks.adaptation", "TextStep", **arguments)
    try:
        worker.call("describe")
        for turn in range(-1, options.steps):  # step -1 is not counted
            loss, wall, processor = worker.call("step")
            log(f"{result['adapt']} {size}: {wall:.2f} s, loss {loss:.4f}")
            if turn >= 0:
                result["seconds"].append(wall)
                result["processor_seconds"].append(processor)
        result["peak_bytes"] = max(result["peak_bytes"], worker.call("peak")[0])
    finally:
        worker.close()


def table(results):
    """Returns the lines of a table of the results of `measure`."""
    header = ("pieces", "batch", "remat", "adapt", "MiB", "% of first", "s per step", "% of first")
    header += ("CPU s", "% of first")
    lines, reference = ["  ".join(f"{name:>10}" for name in header)], {}
    for result in results:
        key = result["vocabulary"], result["batch"], result["remat"]
        values = [result["peak_bytes"] / _MIB]
        values += [statistics.median(result[k]) for k in ("seconds", "processor_seconds")]
        first = reference.setdefault(key, values)
        cells = [*key, result["adapt"]]
        for value, reference_value in zip(values, first, strict=True):
            number = f"{value:.3f}" if value < 100 else f"{value:.0f}"
            cells += [number, f"{100 * value / reference_value:.0f}"]
        lines.append("  ".join(f"{cell!s:>10}" for cell in cells))
    return lines


def parse(arguments=None):
    """Parses the flags."""

    def parse_integers(text):
        return [int(part) for part in text.split(",")]

    parser = make_parser(__doc__)
    parser.add_argument("--bert", default="base", help="a key of tf_mural.models.BERTS")
    parser.add_argument("--vocabularies", type=parse_integers, default=[501_153, 30_522])
    parser.add_argument("--batches", type=parse_integers, default=[8, 32], help="texts per step")
    parser.add_argument("--remat", type=parse_integers, default=[0, 1], help="0, 1 or 0,1")
    parser.add_argument("--adapt", type=lambda text: text.split(","), default=["full", "lora:8"])
    parser.add_argument("--tokens", type=int, default=64, help="tokens per text")
    parser.add_argument("--steps", type=int, default=3, help="timed steps per turn")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each value of --adapt")
    options = parser.parse_args(arguments)
    if any(batch < 4 or batch % 2 for batch in options.batches):
        parser.error("--batches must be even numbers from 4")
    if options.steps < 1 or options.rounds < 1:
        parser.error("--steps and --rounds must be at least 1")
    return options


def main():
    options, info, results = parse(), machine_info(), []
    for vocabulary, batch, remat in itertools.product(
        options.vocabularies, options.batches, options.remat
    ):
        results += measure(options, vocabulary, batch, bool(remat))
        append_load(info)
    report(info, table(results), options.json, results=results)


if __name__ == "__main__":
    main()
