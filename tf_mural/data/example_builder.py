"""From draws to rows: records read and parsed, fields chosen, texts tokenised, images decoded."""

import contextlib

import numpy as np
import tensorflow as tf

from tf_mural.data import image_ops, records

_NOTHING = records.serialize(records.Record(""))


class Rows:
    """The rows of one source.

    A record makes no row if it is damaged, its image does not decode, or its text is missing or has
    no token that the vocabulary knows.

    Args:
        source: `Source`.
        tokenizer: `text.Tokenizer`.
        sizes: `Sizes`.
        languages: the stage's table of language codes.
    """

    def __init__(self, source, tokenizer, sizes, languages):
        self.stream = source.stream
        self.text_fields = [field for field, kind in source.fields.items() if kind == "text"]
        self.image_fields = [field for field, kind in source.fields.items() if kind == "image"]
        self.codes = self.stream.languages or ("",)
        self._source, self._tokenizer, self._sizes = source, tokenizer, sizes
        self._stage_ids = [languages.index(code) for code in self.stream.languages] or [0]

    def fetched(self, draws, drawn=None):
        """Serialized records, empty ones for those that are damaged, and what to take from them.

        Args:
            draws: (b,) int64.
            drawn: function of the positions in `codes` of the languages drawn.

        Returns:
            {"draw" (b,), "data" (b,) string, "language" (b, text fields), "uniform" (b, 3)}.
        """
        count = draws.shape[0]

        def fetch(draws, which, unit):
            data, language, uniform = self.read(draws, which, unit)
            if drawn:
                drawn(language)
            return data, language, uniform

        data, language, uniform = tf.numpy_function(
            fetch,
            [draws, *self.stream.draw(draws)],
            (tf.string, tf.int64, tf.float64),
            stateful=False,
        )
        return {
            "draw": draws,
            "data": tf.ensure_shape(data, (count,)),
            "language": tf.ensure_shape(language, (count, len(self.text_fields))),
            "uniform": tf.ensure_shape(uniform, (count, 3)),
        }

    def read(self, draws, which, unit):
        """The same in numpy: (data, language, uniform)."""
        record, language, uniform = self.stream.locate(draws, which, unit)
        data = np.empty(len(draws), object)
        data.fill(_NOTHING)  # np.full would cut zeros off its end
        for number, record_set in enumerate(self.stream.sets):
            mine = np.flatnonzero(which == number)
            try:
                data[mine] = record_set.read(record[mine], verify=True)
            except records.DamagedRecord:
                for row in mine:
                    with contextlib.suppress(records.DamagedRecord):
                        data[[row]] = record_set.read(record[[row]], verify=True)
        return data, language, uniform

    def parsed(self, fetched):
        """Fields of records, texts tokenised and images still encoded.

        Returns:
            {text field: {"text" (b,) string, "known" (b,) bool: whether it has a token that the
            vocabulary knows, "tokens" (b, t), "id" (b,), "language" (b,)}, image field: {"data"
            (b,) string, "seed" (b, 2), "id" (b,)}}.
        """
        draws, uniform = fetched["draw"], fetched["uniform"]
        parsed = records.parse(fetched["data"])
        batch = self._texts(parsed, fetched["language"], uniform) if self.text_fields else {}
        for field in self.image_fields:
            every = tf.ones_like(parsed["images"].values, tf.bool)
            data = _pick(parsed["images"], every, uniform[:, 2])
            batch[field] = {"data": data, "seed": self.stream.seeds(draws)}
            batch[field]["id"] = _fingerprint(data)
        return batch

    def _texts(self, parsed, language, uniform):
        row_of = parsed["languages"].value_rowids()
        texts = []
        for i in range(len(self.text_fields)):
            wanted = tf.gather(tf.constant(self.codes), language[:, i])
            is_wanted = parsed["languages"].values == tf.gather(wanted, row_of)
            texts.append(_pick(parsed["texts"], is_wanted, uniform[:, i]))
        # All fields at once: of short texts, what is done to them is mostly the starting of it.
        text = tf.concat(texts, axis=0)
        tokens = self._tokenizer(text)
        columns = {
            "text": text,
            "known": self._tokenizer.has_known(tokens),
            "tokens": tokens,
            "id": _fingerprint(text),
            "language": tf.gather(
                tf.constant(self._stage_ids, tf.int32), tf.concat(tf.unstack(language, axis=1), 0)
            ),
        }
        parts = {key: tf.split(value, len(texts)) for key, value in columns.items()}
        return {
            field: {key: part[i] for key, part in parts.items()}
            for i, field in enumerate(self.text_fields)
        }

    def complete(self, batch):
        """Whether all texts of `parsed` are known, a boolean scalar."""
        known = [batch[field]["known"] for field in self.text_fields]
        return tf.reduce_all(known) if known else tf.constant(True)

    def decoded(self, example):
        """One row of `parsed` with its image decoded, resized, cropped and flipped."""
        example = dict(example)
        for field in self.image_fields:
            value, sizes = example[field], self._sizes
            image = image_ops.resize(image_ops.decode(value["data"]), sizes.resize)
            pixels = image_ops.random_crop(image, sizes.crop, value["seed"], flip=self._source.flip)
            example[field] = {"pixels": pixels, "id": value["id"]}
        return example


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


def _fingerprint(strings):
    """int64 ids by content: the same image or text has the same id in every record."""
    rows = strings.shape[0]
    ids = tf.bitcast(tf.fingerprint(tf.reshape(strings, (rows, 1)), method="farmhash64"), tf.int64)
    return tf.reshape(ids, (rows,))
