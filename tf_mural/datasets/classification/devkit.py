"""The development kit of ImageNet: which class each of its numbers is.

meta.mat is a file of Matlab's version 5. Of that format, this reads what is in it: one struct array
of numbers and text.
"""

import dataclasses
import struct
import zlib

import numpy as np

from tf_mural.datasets import text_lines
from tf_mural.datasets.classification import archives
from tf_mural.errors import UserError

ARCHIVE = "ILSVRC2012_devkit_t12.tar.gz"
_TOP = "ILSVRC2012_devkit_t12"
_META = "data/meta.mat"
_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
_FIELDS = ("ILSVRC2012_ID", "WNID", "words", "num_children")


@dataclasses.dataclass(frozen=True)
class Synset:
    """A class: its number in the kit from 1, its id in WordNet ("n01440764"), its names."""

    number: int
    wnid: str
    words: str


def find(raw_dir):
    """The `Place` of the kit in a folder, or None."""
    return archives.find(raw_dir, ARCHIVE, _TOP, _META)


def synsets(place):
    """The classes in the alphabetical order of their ids: list of `Synset`.

    Those that stand above others in the tree of WordNet are no classes. Raises UserError if
    meta.mat says anything else.
    """
    where = place.where(_META)
    try:
        table = _struct_array(_data(place.bytes(_META)), "synsets")
        found = [
            Synset(int(row["ILSVRC2012_ID"]), str(row["WNID"]), str(row["words"]))
            for row in table
            if int(row["num_children"]) == 0
        ]
    except (KeyError, IndexError, ValueError, TypeError, struct.error, zlib.error) as error:
        raise UserError(
            f"{where} is no table of classes ({error!r}); download {ARCHIVE} again"
        ) from error
    numbers = sorted(one.number for one in found)
    if numbers != list(range(1, len(found) + 1)) or len({one.wnid for one in found}) != len(found):
        raise UserError(f"{where}: expected classes numbered from 1; download {ARCHIVE} again")
    return sorted(found, key=lambda one: one.wnid)


def truth(place):
    """The number of the class of each validation image, as in the kit: list of ints."""
    where = place.where(_TRUTH)
    rows = [row.strip() for row in text_lines.split(place.bytes(_TRUTH), where)]
    found = [int(row) if row.isascii() and row.isdigit() else 0 for row in rows]
    if not found or 0 in found:
        line = found.index(0) + 1 if found else 1
        raise UserError(f"{where}, line {line}: expected the number of a class from 1")
    return found


# --- Matlab's version 5 ---------------------------------------------------------------------------

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_CELLS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8"}
_CELLS |= {12: "i8", 13: "u8"}
_TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le"}
_STRUCT, _CHARACTERS = 2, 4
_LARGEST = 1 << 28  # bytes, unpacked


def _data(data):
    if data[126:128] != b"IM":
        raise ValueError("not of Matlab's version 5, or of another byte order")
    return data[_HEADER:]


def _elements(data):
    """Yields (kind, bytes) of what follows one another in `data`."""
    place = 0
    while place < len(data):
        kind, size = struct.unpack_from("<II", data, place)
        if kind >> 16:  # Up to four bytes stand in the header.
            kind, size, start, length = kind & 0xFFFF, kind >> 16, place + 4, 8
        else:
            start = place + 8
            length = 8 + (size if kind == _COMPRESSED else -(-size // 8) * 8)
        if start + size > len(data):
            raise ValueError("cut short")
        yield kind, data[start : start + size]
        place += length


def _struct_array(data, name):
    """Yields the rows of the struct array called `name`, each a dict of `_FIELDS`."""
    for kind, body in _elements(data):
        if kind == _COMPRESSED:
            unpacked = zlib.decompressobj()
            kind, body = next(_elements(unpacked.decompress(body, _LARGEST)))
        if kind != _MATRIX:
            continue
        flags, _, called, *parts = _elements(body)
        if called[1].decode() == name and flags[1][0] == _STRUCT:
            return _rows(parts)
    raise KeyError(name)


def _rows(parts):
    (_, width), (_, names), *values = parts
    (width,) = struct.unpack("<i", width)
    fields = [names[at : at + width].split(b"\0")[0].decode() for at in range(0, len(names), width)]
    for field in _FIELDS:
        fields.index(field)
    if len(values) % len(fields):
        raise ValueError("rows of different lengths")
    for start in range(0, len(values), len(fields)):
        row = dict(zip(fields, values[start : start + len(fields)], strict=True))
        yield {field: _value(row[field][1]) for field in _FIELDS}


def _value(body):
    """A text, or the first number of a matrix."""
    flags, _, _, (kind, cells) = list(_elements(body))[:4]
    if flags[1][0] == _CHARACTERS:
        return cells.decode(_TEXTS[kind])
    return np.frombuffer(cells, "<" + _CELLS[kind])[0]
