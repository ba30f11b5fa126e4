"""Vectors of records: precomputed rows, such as the embeddings of a teacher or image features.

The manifest of a record set describes each name of `Record.vectors`:

    {"of": "texts",              what a row belongs to, see `OF`
     "width": 640,               number of values of a row
     "dtype": "float16",         see `DTYPES`
     "languages": ["en"],        optional, with "texts": only texts in these languages have rows
     "model": {"name": "runs/tiny/mural-s0", "fingerprint": "..."},    the model that made them
     "rows": 9600}               number of rows in the record set
"""

import dataclasses
import re

import numpy as np

from tf_mural.errors import UserError, lookup

# Rows of "texts" and "images" go with the texts and images of a record, in order. A record without
# images may have rows of "images", because the images can be left out once their vectors are
# stored. Rows of "steps" are the steps of a sequence, and their number is free.
OF = ("images", "texts", "steps")
DTYPES = {"float16": np.dtype("<f2"), "float32": np.dtype("<f4")}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def describe_vectors(of, width, dtype="float16", model=None, languages=None):
    """Returns the description of vectors for the manifest of a record set.

    Args:
        of: "images", "texts" or "steps": what a row belongs to.
        width: number of values of a row.
        dtype: "float16" or "float32".
        model: {"name": str, "fingerprint": str} of the model that made the vectors, or None. For
            embeddings of texts, "image_fingerprint" identifies the image tower of that model.
        languages: with "texts": codes of the languages whose texts have rows; None: all texts.

    Raises:
        UserError: a value is invalid.
    """
    lookup(dict.fromkeys(OF), of, "value of `of`")
    lookup(DTYPES, dtype, "dtype of vectors")
    if width < 1:
        raise UserError(f"width={width}: expected the number of values of a row, from 1")
    if languages is not None and of != "texts":
        raise UserError(f"languages={languages}: only rows of texts have languages, not of {of}")
    description = {"of": of, "width": int(width), "dtype": dtype}
    if languages is not None:
        description["languages"] = list(languages)
    return description | {"model": dict(model or {})}


def check_name(name):
    """Raises UserError if a string is not a name of vectors."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(
            f"the name of vectors is {name!r}, expected letters, digits, '_', '-' and '.', such as "
            "'teacher'"
        )


def vectors_problem(record, descriptions):
    """Returns how the vectors of a record differ from their descriptions, or None.

    Args:
        record: `Record`.
        descriptions: {name: description}, see `describe_vectors`.
    """
    for name in record.vectors:
        if name not in descriptions:
            known = ", ".join(descriptions) or "none"
            return f"the vectors {name!r} are not described, the described vectors are: {known}"
    for name, description in descriptions.items():
        width, dtype = description["width"], description["dtype"]
        array = record.vectors.get(name, np.zeros((0, width), DTYPES[dtype]))
        if array.shape[1] != width or array.dtype != DTYPES[dtype]:
            return (
                f"expected vectors {name!r} of {width} {dtype} values, got rows of "
                f"{array.shape[1]} {array.dtype} values"
            )
        expected = _expected_rows(record, description)
        if expected not in (None, len(array)):
            return (
                f"expected {expected} rows of the vectors {name!r}, one for each of its "
                f"{_owners(description)}, got {len(array)}"
            )
    return None


def keep_texts(record, indices, descriptions):
    """Returns a record with only some of its texts, and with their roles and vectors.

    Args:
        record: `Record`.
        indices: ascending positions of the texts that are kept.
        descriptions: {name: description} of the vectors of the record, see `describe_vectors`.
    """
    vectors = dict(record.vectors)
    for name, description in descriptions.items():
        if description["of"] == "texts" and name in vectors:
            row_of = {text: row for row, text in enumerate(_described_texts(record, description))}
            vectors[name] = vectors[name][[row_of[i] for i in indices if i in row_of]]
    return dataclasses.replace(
        record,
        texts=tuple(record.texts[i] for i in indices),
        roles=tuple(record.roles[i] for i in indices) if record.roles else (),
        vectors=vectors,
    )


def keep_images(record, indices, descriptions):
    """Returns a record with only some of its images, and with their vectors.

    Args:
        record: `Record`.
        indices: ascending positions of the images that are kept.
        descriptions: see `keep_texts`.
    """
    vectors = {
        name: rows[list(indices)] if descriptions[name]["of"] == "images" else rows
        for name, rows in record.vectors.items()
    }
    images = tuple(record.images[i] for i in indices)
    return dataclasses.replace(record, images=images, vectors=vectors)


def _described_texts(record, description):
    """Returns the positions of the texts that have rows."""
    codes = description.get("languages")
    return [i for i, (code, _) in enumerate(record.texts) if codes is None or code in codes]


def _expected_rows(record, description):
    """Returns the number of rows that a record must have; None: any number."""
    if description["of"] == "texts":
        return len(_described_texts(record, description))
    if description["of"] == "images" and record.images:
        return len(record.images)
    return None


def _owners(description):
    codes = ", ".join(description.get("languages", ()))
    return description["of"] + (f" in {codes}" if codes else "")
