"""Builds examples from draws: reads and parses records, tokenizes texts and decodes images."""

import contextlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tf_mural.data import image_ops, records, vector_fields
from tf_mural.errors import StorageError, UserError
from tf_mural.modalities import MODALITIES

_EMPTY = records.serialize(records.Record(""))


class ExampleBuilder:
    """Builds the examples of one source.

    A record cannot be used if it is damaged, if its image does not decode, if its text is missing
    or contains no token of the vocabulary, or if a row of its vectors is missing or not finite.

    Args:
        source: `Source`.
        tokenizer: `tokenizers.Tokenizer`.
        preprocessing: `preprocessing.Preprocessing`.
        languages: tuple of all language codes of the stage.
    """

    def __init__(self, source, tokenizer, preprocessing, languages):
        self.sampler = source.sampler
        self.fields = {
            modality: [field for field, value in source.fields.items() if value == modality]
            for modality in MODALITIES
        }
        self.vectors, self.code_switch = dict(source.vectors), dict(source.code_switch)
        self.language_codes = self.sampler.languages or ("",)
        self._source, self._tokenizer = source, tokenizer
        self._preprocessing = preprocessing
        self._language_ids = [languages.index(code) for code in self.sampler.languages] or [0]

    def fetch(self, draws, skipped_records=None, count=True):
        """Reads the serialized records of draws; damaged records are replaced by empty ones.

        Args:
            draws: int64 (b,), numbers of draws.
            skipped_records: `SkippedRecords` that stores the error that ends the reading. None: no
                object stores the error.
            count: whether `skipped_records` counts the draws.

        Returns:
            {"draw": int64 (b,), the argument; "data": string (b,), serialized records; "language":
            int64 (b, text fields), positions in `language_codes`; "uniform": float64 (b, 3), random
            numbers in [0, 1)}.
        """
        rows = draws.shape[0]

        def read(draws, set_index, unit):
            try:
                data, language, uniform = self.read(draws, set_index, unit)
                replaced = self.sampler.replaced_slots(draws, set_index, unit) if count else 0
            except (StorageError, UserError) as error:
                if skipped_records:  # `tf.data` would report the error inside a traceback.
                    skipped_records.fail(error)
                raise
            if skipped_records and count:
                skipped_records.count_drawn(self, language, replaced)
            return data, language, uniform

        data, language, uniform = tf.numpy_function(
            read,
            [draws, *self.sampler.sample(draws)],
            (tf.string, tf.int64, tf.float64),
            stateful=False,
        )
        return {
            "draw": draws,
            "data": tf.ensure_shape(data, (rows,)),
            "language": tf.ensure_shape(language, (rows, self.sampler.text_fields)),
            "uniform": tf.ensure_shape(uniform, (rows, 3)),
        }

    def read(self, draws, set_index, unit):
        """NumPy implementation of `fetch`; returns (data, language, uniform)."""
        record, language, uniform = self.sampler.resolve(draws, set_index, unit)
        data = np.empty(len(draws), object)
        data.fill(_EMPTY)  # np.full would strip trailing zero bytes
        for number, record_set in enumerate(self.sampler.sets):
            rows = np.flatnonzero(set_index == number)
            try:
                data[rows] = record_set.read(record[rows], verify=True)
            except records.DamagedRecord:
                for row in rows:
                    with contextlib.suppress(records.DamagedRecord):
                        data[[row]] = record_set.read(record[[row]], verify=True)
        return data, language, uniform

    def parse(self, fetched):
        """Parses the records of `fetch` into fields; texts are tokenized, images remain bytes.

        `READERS` has one entry per modality, which states how a field is read.

        Returns:
            {text field: {"text": string (b,), "known": bool (b,), whether the text contains a token
            of the vocabulary, "tokens": (b, t), "id": (b,), "language": (b,)}, image field:
            {"data": string (b,), "seed": (b, 2), "id": (b,)}, field of vectors: {"vectors": float32
            (b, width), "known": bool (b,), whether the record has a valid row, "id": (b,), and
            "language": (b,) for rows of drawn texts}}.
        """
        names = dict.fromkeys(field.name for field in self.vectors.values())
        parsed, batch = records.parse(fetched["data"], tuple(names)), {}
        for modality, reader in READERS.items():
            if self.fields[modality]:
                batch |= reader.parse(self, parsed, fetched)
        return batch

    def parse_images(self, parsed, fetched):
        """Picks an image of each record; the images stay encoded."""
        batch = {}
        for field in self.fields["image"]:
            allowed = tf.ones_like(parsed["images"].values, tf.bool)
            data = _pick(parsed["images"], allowed, fetched["uniform"][:, 2])
            batch[field] = {"data": data, "seed": self.sampler.seeds(fetched["draw"])}
            batch[field]["id"] = _fingerprint(data)
        return batch

    def parse_texts(self, parsed, fetched):
        """Picks a text of each record and text field, in the drawn language, and tokenizes it.

        The ids and languages of code-switched texts are those of the original texts.
        """
        count = len(self.fields["text"])
        texts = [_pick(parsed["texts"], *self._text_draw(parsed, fetched, i)) for i in range(count)]
        # The texts of all fields are tokenized together, because the overhead per operation
        # dominates for short texts.
        text = switched = tf.concat(texts, axis=0)
        if self.code_switch:
            parts = [self._code_switch(fetched, i, texts[i]) for i in range(count)]
            switched = tf.concat(parts, axis=0)
        tokens = self._tokenizer(switched)
        columns = {
            "text": text,
            "known": self._tokenizer.has_known_tokens(tokens),
            "tokens": tokens,
            "id": _fingerprint(text),
            "language": tf.concat([self._language_of(fetched, i) for i in range(count)], axis=0),
        }
        parts = {key: tf.split(value, len(texts)) for key, value in columns.items()}
        return {
            field: {key: part[i] for key, part in parts.items()}
            for i, field in enumerate(self.fields["text"])
        }

    def parse_vectors(self, parsed, fetched):
        """Picks a row of the vectors of each record.

        A row of texts is that of a drawn text, which is the text of the text field with the same
        number if the source has one. A row of images is that of the image of the image field.
        """
        batch = {}
        for field, vectors in self.vectors.items():
            if vectors.needs_text:
                rows, draw = parsed["texts"], self._text_draw(parsed, fetched, vectors.text)
            else:
                rows = parsed[records.VECTORS + vectors.name]
                column = 0 if vectors.description["of"] == "texts" else 2
                draw = tf.ones_like(rows.values, tf.bool), fetched["uniform"][:, column]
            picked = _pick_position(rows, *draw)
            values, data, known = vector_fields.draw_rows(vectors, parsed, picked)
            batch[field] = {"vectors": values, "known": known}
            if vectors.needs_text:  # equal texts have equal ids, also with other rounding errors
                data = _pick(rows, *draw)
                batch[field]["language"] = self._language_of(fetched, vectors.text)
            batch[field]["id"] = _fingerprint(data)
        return batch

    def _code_switch(self, fetched, number, texts):
        """Returns the texts of a text field, code-switched if the source requires it, (b,)."""
        switcher = self.code_switch.get(self.fields["text"][number])
        if switcher is None:
            return texts
        arguments = [texts, fetched["language"][:, number], fetched["draw"]]
        switched = tf.numpy_function(switcher, arguments, tf.string, stateful=False)
        return tf.ensure_shape(switched, texts.shape)

    def _text_draw(self, parsed, fetched, number):
        """Returns the arguments of `_pick` after the texts, for a drawn text of each record."""
        language, uniform = fetched["language"], fetched["uniform"]
        other_than = None
        if number > 0 and self.sampler.batch_size:  # both texts may be in the same language
            other_than = uniform[:, 0], language[:, 0] == language[:, number]
        allowed = self._in_language(parsed, language[:, number])
        return allowed, uniform[:, number], other_than

    def _language_of(self, fetched, number):
        """Returns the positions of the drawn languages in the languages of the stage, (b,)."""
        language_ids = tf.constant(self._language_ids, tf.int32)
        return tf.gather(language_ids, fetched["language"][:, number])

    def _in_language(self, parsed, language):
        """Returns whether each text of the parsed records is in the drawn language, (b,)."""
        codes = tf.gather(tf.constant(self.language_codes), language)
        row_of = parsed["languages"].value_rowids()
        return parsed["languages"].values == tf.gather(codes, row_of)

    def all_known(self, batch):
        """Returns whether all texts and vectors of a batch of `parse` can be used (scalar)."""
        known = [values["known"] for values in batch.values() if "known" in values]
        return tf.reduce_all(known) if known else tf.constant(True)

    @property
    def needs_decoding(self):
        """Whether `decode` changes a row."""
        return any(reader.decode and self.fields[modality] for modality, reader in READERS.items())

    def decode(self, example):
        """Decodes one row of a batch of `parse`, see `READERS`."""
        example = dict(example)
        for modality, reader in READERS.items():
            for field in self.fields[modality] if reader.decode else ():
                example[field] = reader.decode(self, example[field])
        return example

    def decode_image(self, value):
        """Decodes, resizes, crops and mirrors one image."""
        image = image_ops.resize_for(image_ops.decode(value["data"]), self._preprocessing)
        size, flip = self._preprocessing.crop, self._source.flip
        pixels = image_ops.random_crop(image, size, value["seed"], flip=flip)
        return {"pixels": pixels, "id": value["id"]}


class Reader(NamedTuple):
    """How `ExampleBuilder` reads the fields of a modality.

    Attributes:
        parse: method (parsed records, result of `fetch`) -> {field: {key: (b, ...)}}.
        decode: method {key: value of one row} -> the same with the input of the tower; None: the
            input is complete after `parse`.
    """

    parse: Callable
    decode: Callable | None = None


READERS = {
    "text": Reader(ExampleBuilder.parse_texts),
    "image": Reader(ExampleBuilder.parse_images, ExampleBuilder.decode_image),
    "vectors": Reader(ExampleBuilder.parse_vectors),
}


def _pick(ragged, allowed, uniform, other_than=None):
    """Picks one allowed value per row at random.

    Args:
        ragged: ragged string (b, None), the values of each row.
        allowed: bool (number of values,), whether a value may be picked.
        uniform: (b,), random numbers in [0, 1) that select the values.
        other_than: (numbers (b,) as `uniform`, bool (b,)): rows with True pick a value other than
            the value that is picked with these numbers. None: no row does.

    Returns:
        String (b,), which is "" for rows without an allowed value.
    """
    is_picked, row_of = _picked(ragged, allowed, uniform, other_than)
    indices = tf.boolean_mask(row_of, is_picked)[:, tf.newaxis]
    empty = tf.fill(uniform.shape, "")
    return tf.tensor_scatter_nd_update(empty, indices, tf.boolean_mask(ragged.values, is_picked))


def _pick_position(ragged, allowed, uniform, other_than=None):
    """Returns the position of the value that `_pick` picks in its row, int64 (b,); -1 for none."""
    is_picked, row_of = _picked(ragged, allowed, uniform, other_than)
    positions = tf.range(tf.size(allowed, tf.int64)) - tf.gather(ragged.row_starts(), row_of)
    indices = tf.boolean_mask(row_of, is_picked)[:, tf.newaxis]
    none = tf.fill(uniform.shape, tf.constant(-1, tf.int64))
    return tf.tensor_scatter_nd_update(none, indices, tf.boolean_mask(positions, is_picked))


def _picked(ragged, allowed, uniform, other_than=None):
    """Returns whether each value is picked, and its row, both (number of values,); see `_pick`."""
    row_of = ragged.value_rowids()
    allowed_int = tf.cast(allowed, tf.int64)
    counts = tf.math.segment_sum(allowed_int, row_of)
    counts = tf.pad(counts, [[0, tf.shape(uniform)[0] - tf.shape(counts)[0]]])
    before = tf.cumsum(counts, exclusive=True)
    picked_rank = tf.cast(tf.floor(uniform * tf.cast(counts, tf.float64)), tf.int64)
    if other_than is not None:
        first, applies = other_than
        first_rank = tf.cast(tf.floor(first * tf.cast(counts, tf.float64)), tf.int64)
        others = tf.cast(tf.floor(uniform * tf.cast(counts - 1, tf.float64)), tf.int64)
        other_rank = (first_rank + 1 + others) % tf.maximum(counts, 1)
        # With a single value, no rank matches, and the row is "".
        other_rank = tf.where(counts > 1, other_rank, counts)
        picked_rank = tf.where(applies, other_rank, picked_rank)
    rank = tf.cumsum(allowed_int) - 1 - tf.gather(before, row_of)
    return allowed & (rank == tf.gather(picked_rank, row_of)), row_of


def _fingerprint(strings):
    """Returns int64 hashes as ids: an image or text has the same id in every record."""
    rows = strings.shape[0]
    ids = tf.bitcast(tf.fingerprint(tf.reshape(strings, (rows, 1)), method="farmhash64"), tf.int64)
    return tf.reshape(ids, (rows,))
