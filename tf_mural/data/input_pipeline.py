"""From records to batches: read, choose, decode, augment, tokenise, zip."""

import dataclasses

import numpy as np
import tensorflow as tf

from tf_mural.data.example_builder import Rows
from tf_mural.data.fallback_draws import replaced
from tf_mural.data.pipeline_options import untuned
from tf_mural.data.skipped_records import CHANGED, Health

__all__ = ["Health", "Sizes", "Source", "training_dataset", "untuned"]

_ENDLESS = tf.data.experimental.INFINITE_CARDINALITY


@dataclasses.dataclass(frozen=True)
class Source:
    """A stream and the fields drawn from it.

    Attributes:
        stream: `sampling.Stream`.
        fields: {field: kind}, at most one image field; the text fields take the stream's languages
            in order.
        flip: whether training images may be mirrored.
    """

    stream: object
    fields: dict
    flip: bool = False


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Pixels: images are resized to `resize`, then cropped to `crop`."""

    resize: int
    crop: int


def training_dataset(
    sources,
    tokenizer,
    sizes,
    languages,
    global_batch,
    replicas=1,
    workers=(0, 1),
    start_step=0,
    health=None,
):
    """Batches of a stage, one a replica and step, without end.

    Element e belongs to step `start_step + e // replicas` and local replica `e % replicas`; its
    rows are the draws of that slice of the step's global batch, so that the global batch is the
    same whatever the number of workers and replicas. A record that makes no row (see `Rows`) leaves
    its place to the record of a distant draw: no other row changes, in this source or another.

    Args:
        sources: list of `Source`; their fields are zipped into one batch.
        tokenizer: `text.Tokenizer`.
        sizes: `Sizes`.
        languages: the stage's table of language codes; ids in a batch index it.
        global_batch: rows of a step over all replicas.
        replicas: replicas of this worker.
        workers: (number of this worker, number of workers).
        start_step: number of the first step.
        health: `Health` that counts such records.

    Returns:
        `tf.data.Dataset` of {field: {"pixels" uint8 (n, crop, crop, 3) or "tokens" int32 (n, t),
        "id" int64 (n,), "language" int32 (n,) for texts}} with static shapes.
    """
    health = health or Health()
    worker, count = workers
    rows = global_batch // (count * replicas)

    def draws_of(element):
        step = start_step + element // replicas
        slot = worker * replicas + element % replicas
        return step * global_batch + slot * rows + tf.range(rows, dtype=tf.int64)

    elements = tf.data.Dataset.range(np.iinfo(np.int64).max // (4 * max(global_batch, 1)))
    parts = [
        _source_dataset(
            elements.map(draws_of), Rows(source, tokenizer, sizes, languages), rows, health
        )
        for source in sources
    ]

    def merge(*parts):
        return {field: value for part in parts for field, value in part.items()}

    batches = tf.data.Dataset.zip(*parts).map(merge).prefetch(2)
    # Several processes that read what may end lose the static shapes of a loop's batches.
    return untuned(batches.apply(tf.data.experimental.assert_cardinality(_ENDLESS)))


def _source_dataset(draws, rows, count, health):
    """Batches of one source, of `count` rows: made at once, or anew with replacements."""
    usable = replaced(rows, health)

    # Nothing here branches on tensors by Python, and what AutoGraph makes of it costs every batch.
    @tf.autograph.experimental.do_not_convert
    def anew(draws):
        batch = rows.parsed(rows.fetched(usable(draws)))
        with tf.control_dependencies([tf.debugging.Assert(rows.complete(batch), [CHANGED])]):
            return _for_model(tf.nest.map_structure(tf.identity, batch))

    @tf.autograph.experimental.do_not_convert
    def read(draws):
        batch = rows.parsed(rows.fetched(draws, lambda drawn: health.drew(rows, drawn)))
        return draws, tf.cond(rows.complete(batch), lambda: _for_model(batch), lambda: anew(draws))

    dataset = draws.map(read, num_parallel_calls=tf.data.AUTOTUNE)
    if not rows.image_fields:
        return dataset.map(lambda _, batch: batch)

    # A function of its own, which the two places that call it need not trace again.
    decode = tf.function(rows.decoded, autograph=False)

    def decode_batch(draws, batch):
        at_once, again = tf.data.Dataset.from_tensors(batch), tf.data.Dataset.from_tensors(draws)
        # A batch with an image that does not decode comes out short, and is dropped.
        at_once = decoded(at_once).ignore_errors()
        return at_once.concatenate(decoded(again.map(anew))).take(1)

    def decoded(batches):
        examples = batches.unbatch().map(decode, num_parallel_calls=tf.data.AUTOTUNE)
        return examples.batch(count, drop_remainder=True)

    return dataset.interleave(decode_batch, cycle_length=2, num_parallel_calls=2)


def _for_model(batch):
    """The fields of `Rows.parsed` without the strings that became tokens, and what is known."""
    return {
        field: {key: value for key, value in values.items() if key not in ("text", "known")}
        for field, values in batch.items()
    }
