"""Fields that are read from stored vectors: which vectors a field reads, and the row of a draw."""

import collections
import dataclasses

import tensorflow as tf

from tf_mural.data import records
from tf_mural.errors import UserError
from tf_mural.modalities import MODALITIES

_OF = {"image": "images", "text": "texts"}  # {modality of a tower: `of` of its features}
# Keys of the description of vectors that all record sets of a source must have in common.
_SHARED = ("of", "width", "dtype", "languages", "model")


@dataclasses.dataclass(frozen=True)
class VectorField:
    """The vectors that a field reads.

    Attributes:
        name: name of the vectors in the records.
        description: description of the vectors, see `records.describe_vectors`.
        text: number of the drawn text whose row the field reads, from 0; see `needs_text`.
    """

    name: str
    description: dict
    text: int = 0

    @property
    def needs_text(self):
        """Whether the row is that of a drawn text of an example."""
        return self.description["of"] == "texts" and "languages" not in self.description

    @property
    def row_bytes(self):
        """Number of bytes of a row."""
        dtype = records.DTYPES[self.description["dtype"]]
        return self.description["width"] * dtype.itemsize


def open_vector_fields(source, sets, vectors, text_fields):
    """Returns {field: `VectorField`} of a source.

    The fields of text towers whose features are stored read the rows of different drawn texts, as
    if they were text fields: they take the texts after those of the text fields. Fields of towers
    of vectors, such as a teacher, start at the first drawn text; fields that read the same vectors
    of texts read the rows of different drawn texts.

    Args:
        source: name of the source, for messages.
        sets: list of `RecordSet` of the source.
        vectors: {field: (name of the vectors, width, modality of the tower)}; a width of None is
            not checked.
        text_fields: number of text fields of the source, which read their texts from the records.

    Raises:
        UserError: a record set has no vectors of this name and width, has sequences instead of
            single rows, or has no row for some of the images or texts that the tower embeds; record
            sets have vectors of different models; or the fields need more texts of an example than
            a source may draw.
    """
    fields, texts = {}, collections.Counter({"text": text_fields})
    limit = MODALITIES["text"].max_fields
    for field, (name, width, modality) in vectors.items():
        where = f"the field {field!r} of the source {source!r}"
        first = None
        for record_set in sets:
            description = _describe(record_set, name, width, modality, where)
            first = first or (record_set.folder, description)
            for key in _SHARED:
                if first[1].get(key) != description.get(key):
                    raise UserError(
                        f"the vectors {name!r} of {first[0]} and {record_set.folder} differ in "
                        f"{key!r}: {first[1].get(key)} and {description.get(key)}; use record sets "
                        "with vectors of one model"
                    )
        group = modality if modality == "text" else (modality, name)
        fields[field] = VectorField(name, first[1], texts[group])
        texts[group] += fields[field].needs_text
        if texts[group] > limit:
            raise UserError(
                f"{where} needs more than {limit} texts of an example, to read their vectors "
                f"{name!r}: move it to another source"
            )
    return fields


def _describe(record_set, name, width, modality, where):
    """Returns the description of the vectors of a record set, after checks."""
    description, folder = record_set.vectors.get(name), record_set.folder
    if description is None:
        known = ", ".join(record_set.vectors) or "none"
        raise UserError(
            f"{folder} has no vectors {name!r}, which {where} reads; its vectors: {known}. "
            f"tools/extract.py --name={name} adds them"
        )
    if description["of"] == "steps":
        raise UserError(
            f"{folder}: the vectors {name!r} are sequences, but {where} reads one row per example: "
            "use vectors of images or texts"
        )
    languages = ", ".join(description.get("languages", ()))
    if modality in _OF and (description["of"] != _OF[modality] or languages):
        raise UserError(
            f"{folder}: the vectors {name!r} are those of {description['of']}"
            + (f" in {languages}" if languages else "")
            + f", but {where} needs the features of all {_OF[modality]}: make them with "
            f"tools/extract.py --features --of={_OF[modality]}"
        )
    if width not in (None, description["width"]):
        raise UserError(
            f"{folder}: the vectors {name!r} have the width {description['width']}, but {where} "
            f"expects {width}: set the width of its tower to {description['width']}"
        )
    return description


def count_texts(fields):
    """Returns the number of texts that are drawn per example for fields of vectors.

    Args:
        fields: {field: `VectorField`}.
    """
    return max((field.text + 1 for field in fields.values() if field.needs_text), default=0)


def required_vectors(fields):
    """Returns the names of vectors of which a record may have no row, and then cannot be drawn.

    Args:
        fields: {field: `VectorField`}.
    """
    return tuple(dict.fromkeys(f.name for f in fields.values() if not f.needs_text))


def draw_rows(field, parsed, picked):
    """Returns the row of each example, as float32.

    Args:
        field: `VectorField`.
        parsed: result of `records.parse`.
        picked: int64 (b,), position of the drawn row among the rows of its record.

    Returns:
        (rows float32 (b, width), row bytes string (b,), valid bool (b,)). A row is not valid if it
        is missing or has another size, if it is not finite, or if the number of rows of its record
        is not that of the texts or images; it then consists of zeros.
    """
    rows, width = parsed[records.VECTORS + field.name], field.description["width"]
    lengths = rows.row_lengths()
    if field.needs_text:
        valid = lengths == parsed["texts"].row_lengths()
    elif field.description["of"] == "images":
        images = parsed["images"].row_lengths()
        valid = (images == 0) | (lengths == images)
    else:
        valid = tf.ones_like(lengths, tf.bool)
    valid &= (picked >= 0) & (picked < lengths)
    index = tf.where(valid, rows.row_starts() + picked, 0)
    values = tf.concat([rows.values, [""]], axis=0)  # the batch may have no row at all
    data = tf.gather(values, tf.minimum(index, tf.shape(values, tf.int64)[0] - 1))
    valid &= tf.strings.length(data) == field.row_bytes
    data = tf.where(valid, data, b"\0" * field.row_bytes)
    dtype = tf.as_dtype(field.description["dtype"])
    vectors = tf.cast(tf.io.decode_raw(data, dtype), tf.float32)
    vectors = tf.ensure_shape(vectors, (picked.shape[0], width))
    finite = tf.reduce_all(tf.math.is_finite(vectors), axis=1)
    return tf.where(finite[:, tf.newaxis], vectors, 0.0), data, valid & finite
