"""From records to batches: read, choose, decode, augment, tokenise, zip."""

import dataclasses

import numpy as np
import tensorflow as tf

from tf_mural import images, records


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
    sources, tokenizer, sizes, languages, global_batch, replicas=1, workers=(0, 1), start_step=0
):
    """Batches of a stage, one a replica and step, without end.

    Element e belongs to step `start_step + e // replicas` and local replica `e % replicas`; its
    rows are the draws of that slice of the step's global batch, so that the global batch is the
    same whatever the number of workers and replicas.

    Args:
        sources: list of `Source`; their fields are zipped into one batch.
        tokenizer: `text.Tokenizer`.
        sizes: `Sizes`.
        languages: the stage's table of language codes; ids in a batch index it.
        global_batch: rows of a step over all replicas.
        replicas: replicas of this worker.
        workers: (number of this worker, number of workers).
        start_step: number of the first step.

    Returns:
        `tf.data.Dataset` of {field: {"pixels" uint8 (n, crop, crop, 3) or "tokens" int32 (n, t),
        "id" int64 (n,), "language" int32 (n,) for texts}} with static shapes.
    """
    worker, count = workers
    rows = global_batch // (count * replicas)

    def draws_of(element):
        step = start_step + element // replicas
        slot = worker * replicas + element % replicas
        return step * global_batch + slot * rows + tf.range(rows, dtype=tf.int64)

    elements = tf.data.Dataset.range(np.iinfo(np.int64).max // (4 * max(global_batch, 1)))
    parts = [_source_dataset(elements, draws_of, s, sizes, languages, rows) for s in sources]

    def merge(*parts):
        merged = {field: value for part in parts for field, value in part.items()}
        for value in merged.values():
            if "text" in value:
                value["tokens"] = tokenizer(value.pop("text"))
        return merged

    dataset = tf.data.Dataset.zip(*parts).map(merge, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.prefetch(2)


def _source_dataset(elements, draws_of, source, sizes, languages, rows):
    """Batches of one source, texts still strings."""
    stream = source.stream
    text_fields = [field for field, kind in source.fields.items() if kind == "text"]
    image_fields = [field for field, kind in source.fields.items() if kind == "image"]
    codes = tf.constant(stream.languages or [""])
    stage_ids = tf.constant([languages.index(code) for code in stream.languages] or [0], tf.int32)

    def fetch(draws, which, unit):
        record, language, uniform = stream.locate(draws, which, unit)
        data = np.empty(len(draws), object)
        for number, record_set in enumerate(stream.sets):
            mine = np.flatnonzero(which == number)
            data[mine] = record_set.read(record[mine])
        return data, language, uniform

    def read(element):
        draws = draws_of(element)
        which, unit = stream.draw(draws)
        data, language, uniform = tf.numpy_function(
            fetch, [draws, which, unit], (tf.string, tf.int64, tf.float64), stateful=False
        )
        data = tf.ensure_shape(data, (rows,))
        language = tf.ensure_shape(language, (rows, len(text_fields)))
        uniform = tf.ensure_shape(uniform, (rows, 3))
        parsed = records.parse(data)
        batch = {}
        for i, field in enumerate(text_fields):
            wanted = tf.gather(codes, language[:, i])
            is_wanted = parsed["languages"].values == tf.gather(
                wanted, parsed["languages"].value_rowids()
            )
            text = _pick(parsed["texts"], is_wanted, uniform[:, i])
            batch[field] = {
                "text": tf.ensure_shape(text, (rows,)),
                "id": _fingerprint(text, rows),
                "language": tf.gather(stage_ids, language[:, i]),
            }
        for field in image_fields:
            every = tf.ones_like(parsed["images"].values, tf.bool)
            data = tf.ensure_shape(_pick(parsed["images"], every, uniform[:, 2]), (rows,))
            batch[field] = {"data": data, "seed": stream.seeds(draws)}
            batch[field]["id"] = _fingerprint(data, rows)
        return batch

    def pixels(example):
        for field in image_fields:
            value = example[field]
            image = images.resize(images.decode(value.pop("data")), sizes.resize)
            value["pixels"] = images.random_crop(
                image, sizes.crop, value.pop("seed"), flip=source.flip
            )
        return example

    dataset = elements.map(read, num_parallel_calls=tf.data.AUTOTUNE)
    if image_fields:
        dataset = dataset.unbatch().map(pixels, num_parallel_calls=tf.data.AUTOTUNE)
        dataset = dataset.batch(rows, drop_remainder=True)
    return dataset


def _pick(ragged, allowed, uniform):
    """One allowed value a row, chosen by a uniform number: (b, None) and (values,) to (b,)."""
    row_of = ragged.value_rowids()
    allowed_int = tf.cast(allowed, tf.int64)
    counts = tf.math.segment_sum(allowed_int, row_of)
    counts = tf.pad(counts, [[0, tf.shape(uniform)[0] - tf.shape(counts)[0]]])
    before = tf.cumsum(counts, exclusive=True)
    wanted = tf.cast(tf.floor(uniform * tf.cast(counts, tf.float64)), tf.int64)
    rank = tf.cumsum(allowed_int) - 1 - tf.gather(before, row_of)
    chosen = allowed & (rank == tf.gather(wanted, row_of))
    return tf.boolean_mask(ragged.values, chosen)


def _fingerprint(strings, rows):
    """int64 ids by content: the same image or text has the same id in every record."""
    ids = tf.bitcast(tf.fingerprint(tf.reshape(strings, (rows, 1)), method="farmhash64"), tf.int64)
    return tf.reshape(ids, (rows,))
