"""From records to batches: read, choose, decode, augment, tokenise, zip."""

import dataclasses

import numpy as np
import tensorflow as tf

from tf_mural import images, records
from tf_mural.base import UserError
from tf_mural.pipeline.health import ATTEMPTS, LACKS_TEXT, Health, notebook
from tf_mural.pipeline.options import untuned

__all__ = ["Health", "Sizes", "Source", "training_dataset", "untuned"]

# How far away the draw is that replaces one whose image does not decode. A prime: the shuffle sees
# 32 bits of an epoch's number, and epochs a power of two apart would visit records in one order.
_DISTANCE = (1 << 40) + 15


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
    same whatever the number of workers and replicas. A record whose image does not decode leaves
    its row to the record of a distant draw: no other row changes, in this source or another.

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
        _source_dataset(elements.map(draws_of), source, sizes, languages, rows, health)
        for source in sources
    ]

    def merge(*parts):
        merged = {field: value for part in parts for field, value in part.items()}
        for value in merged.values():
            if "text" in value:
                value["tokens"] = tokenizer(value.pop("text"))
        return merged

    dataset = tf.data.Dataset.zip(*parts).map(merge, num_parallel_calls=tf.data.AUTOTUNE)
    return untuned(dataset.prefetch(2))


def _source_dataset(draws, source, sizes, languages, rows, health):
    """Batches of one source, texts still strings."""
    read = _reader(source, languages, health)
    dataset = draws.map(read, num_parallel_calls=tf.data.AUTOTUNE)
    image_fields = [field for field, kind in source.fields.items() if kind == "image"]
    if not image_fields:
        return dataset.map(lambda batch: {field: batch[field] for field in source.fields})

    # A function of its own, which the three places that call it need not trace again.
    @tf.function(autograph=False)
    def decode(example):
        decoded = {field: example[field] for field in source.fields}
        for field in image_fields:
            value = example[field]
            image = images.resize(images.decode(value["data"]), sizes.resize)
            pixels = images.random_crop(image, sizes.crop, value["seed"], flip=source.flip)
            decoded[field] = {"pixels": pixels, "id": value["id"]}
        return decoded

    return _decoded(dataset, rows, decode, read, notebook(source.stream, health))


def _decoded(dataset, rows, decode, read, note):
    """Decodes batches of encoded examples, with replacements where that fails."""

    def replacement(draw, attempt):
        before = note(draw + (attempt - 1) * _DISTANCE, attempt)
        one = read((before + _DISTANCE)[tf.newaxis])
        return decode(tf.nest.map_structure(lambda x: x[0], one))

    def decode_or_replace(example):
        attempts = tf.data.Dataset.range(1, ATTEMPTS)
        replacements = attempts.map(lambda k: replacement(example["draw"], k))
        tries = tf.data.Dataset.from_tensors(example).map(decode).concatenate(replacements)
        # Outside of ignore_errors: a row that nothing fills ends the run.
        last = tf.data.Dataset.range(ATTEMPTS, ATTEMPTS + 1)
        last = last.map(lambda k: replacement(example["draw"], k))
        return tries.ignore_errors().concatenate(last).take(1)

    def decode_batch(batch):
        examples = tf.data.Dataset.from_tensor_slices(batch)
        whole = examples.map(decode, num_parallel_calls=tf.data.AUTOTUNE)
        careful = examples.flat_map(decode_or_replace).batch(rows, drop_remainder=True)
        # A batch with a bad image comes out short, is dropped, and is made again with care.
        return whole.ignore_errors().batch(rows, drop_remainder=True).concatenate(careful).take(1)

    return dataset.interleave(decode_batch, cycle_length=2, num_parallel_calls=2)


def _reader(source, languages, health):
    """Function of draws (b,) to the fields of their records, images still encoded."""
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
            try:
                data[mine] = record_set.read(record[mine])
            except UserError as error:
                health.error = health.error or error
                raise
        return data, language, uniform

    @tf.function(autograph=False)
    def read(draws):
        rows = draws.shape[0]
        which, unit = stream.draw(draws)
        data, language, uniform = tf.numpy_function(
            fetch, [draws, which, unit], (tf.string, tf.int64, tf.float64), stateful=False
        )
        data = tf.ensure_shape(data, (rows,))
        language = tf.ensure_shape(language, (rows, len(text_fields)))
        uniform = tf.ensure_shape(uniform, (rows, 3))
        parsed = records.parse(data)
        batch = {"draw": draws}
        for i, field in enumerate(text_fields):
            wanted = tf.gather(codes, language[:, i])
            is_wanted = parsed["languages"].values == tf.gather(
                wanted, parsed["languages"].value_rowids()
            )
            text = _pick(parsed["texts"], is_wanted, uniform[:, i])
            present = tf.reduce_all(tf.strings.length(text) > 0)
            with tf.control_dependencies([tf.debugging.Assert(present, [LACKS_TEXT])]):
                text = tf.identity(text)
            batch[field] = {
                "text": text,
                "id": _fingerprint(text, rows),
                "language": tf.gather(stage_ids, language[:, i]),
            }
        for field in image_fields:
            every = tf.ones_like(parsed["images"].values, tf.bool)
            data = _pick(parsed["images"], every, uniform[:, 2])
            batch[field] = {"data": data, "seed": stream.seeds(draws)}
            batch[field]["id"] = _fingerprint(data, rows)
        return batch

    return read


def _pick(ragged, allowed, uniform):
    """One allowed value a row, chosen by a uniform number, or "" where there is none.

    Takes strings (b, None), booleans (values,) and numbers (b,); returns (b,).
    """
    row_of = ragged.value_rowids()
    allowed_int = tf.cast(allowed, tf.int64)
    counts = tf.math.segment_sum(allowed_int, row_of)
    counts = tf.pad(counts, [[0, tf.shape(uniform)[0] - tf.shape(counts)[0]]])
    before = tf.cumsum(counts, exclusive=True)
    wanted = tf.cast(tf.floor(uniform * tf.cast(counts, tf.float64)), tf.int64)
    rank = tf.cumsum(allowed_int) - 1 - tf.gather(before, row_of)
    chosen = allowed & (rank == tf.gather(wanted, row_of))
    where = tf.boolean_mask(row_of, chosen)[:, tf.newaxis]
    none = tf.fill(uniform.shape, "")
    return tf.tensor_scatter_nd_update(none, where, tf.boolean_mask(ragged.values, chosen))


def _fingerprint(strings, rows):
    """int64 ids by content: the same image or text has the same id in every record."""
    ids = tf.bitcast(tf.fingerprint(tf.reshape(strings, (rows, 1)), method="farmhash64"), tf.int64)
    return tf.reshape(ids, (rows,))
