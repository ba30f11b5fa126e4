"""The development kit of ImageNet, which maps its class numbers to WordNet ids and names.

The file meta.mat has the file format of Matlab 5. This reader supports only the content of
meta.mat: one struct array of numbers and text.
"""

import dataclasses
import struct
import zlib

import numpy as np

from tf_mural.datasets import archives, bounded_read
from tf_mural.errors import UserError

ARCHIVE = "ILSVRC2012_devkit_t12.tar.gz"
_ROOT = "ILSVRC2012_devkit_t12"
_META = "data/meta.mat"
_GROUND_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
_FIELDS = ("ILSVRC2012_ID", "WNID", "words", "num_children")


@dataclasses.dataclass(frozen=True)
class Synset:
    """A class of ImageNet.

    Attributes:
        number: number of the class in the kit, from 1.
        wnid: WordNet id of the class, such as "n01440764".
        words: names of the class.
    """

    number: int
    wnid: str
    words: str


def locate(raw_dir):
    """Returns the `archives.ArchiveOrFolder` of the kit in a folder, or None."""
    return archives.locate(raw_dir, ARCHIVE, _ROOT, _META)


def synsets(kit):
    """Returns the classes as a list of `Synset`, in the alphabetical order of their WordNet ids.

    Synsets with children in the WordNet hierarchy are not classes and are left out.

    Args:
        kit: `archives.ArchiveOrFolder` from `locate`.

    Raises:
        UserError: meta.mat is corrupt, or its classes are not numbered from 1 without gaps.
    """
    path, data = kit.display_path(_META), kit.read(_META)
    try:
        table = _struct_array(_strip_header(data), "synsets")
        leaves = [
            Synset(int(row["ILSVRC2012_ID"]), str(row["WNID"]), str(row["words"]))
            for row in table
            if int(row["num_children"]) == 0
        ]
    except (KeyError, IndexError, ValueError, TypeError, struct.error, zlib.error) as error:
        raise UserError(
            f"{path} is not a table of classes ({error!r}); download {ARCHIVE} again"
        ) from error
    numbers = sorted(synset.number for synset in leaves)
    wnids = {synset.wnid for synset in leaves}
    if numbers != list(range(1, len(leaves) + 1)) or len(wnids) != len(leaves):
        raise UserError(f"{path}: expected classes numbered from 1; download {ARCHIVE} again")
    return sorted(leaves, key=lambda synset: synset.wnid)


def ground_truth(kit):
    """Returns the class number of each validation image, in the numbering of the kit."""
    path = kit.display_path(_GROUND_TRUTH)
    lines = [line.strip() for line in bounded_read.split_lines(kit.read(_GROUND_TRUTH), path)]
    numbers = [int(line) if line.isascii() and line.isdigit() else 0 for line in lines]
    if not numbers or 0 in numbers:
        line = numbers.index(0) + 1 if numbers else 1
        raise UserError(f"{path}, line {line}: expected a class number of at least 1")
    return numbers


# --- Matlab's version 5 ---------------------------------------------------------------------------

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_CELL_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8"}
_CELL_TYPES |= {12: "i8", 13: "u8"}
_TEXT_ENCODINGS = {1: "latin-1", 2: "latin-1", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le"}
_STRUCT, _CHARACTERS = 2, 4
_MAX_BYTES = 1 << 28  # maximum size of a decompressed element in bytes


def _strip_header(data):
    if data[126:128] != b"IM":
        raise ValueError("not of Matlab's version 5, or of another byte order")
    return data[_HEADER:]


def _elements(data):
    """Yields (type, bytes) of each data element of `data`."""
    position = 0
    while position < len(data):
        kind, size = struct.unpack_from("<II", data, position)
        if kind >> 16:  # A small element stores up to four bytes in its header.
            kind, size, start, length = kind & 0xFFFF, kind >> 16, position + 4, 8
        else:
            start = position + 8
            length = 8 + (size if kind == _COMPRESSED else -(-size // 8) * 8)
        if start + size > len(data):
            raise ValueError("truncated")
        yield kind, data[start : start + size]
        position += length


def _struct_array(data, name):
    """Yields the rows of the struct array called `name`, each a dict of `_FIELDS`."""
    for kind, body in _elements(data):
        if kind == _COMPRESSED:
            decompressor = zlib.decompressobj()
            kind, body = next(_elements(decompressor.decompress(body, _MAX_BYTES)))
        if kind != _MATRIX:
            continue
        flags, _, array_name, *parts = _elements(body)
        if array_name[1].decode() == name and flags[1][0] == _STRUCT:
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
    """Returns the text of a character array, or the first number of a numeric matrix."""
    flags, _, _, (kind, cells) = list(_elements(body))[:4]
    if flags[1][0] == _CHARACTERS:
        return cells.decode(_TEXT_ENCODINGS[kind])
    return np.frombuffer(cells, "<" + _CELL_TYPES[kind])[0]
