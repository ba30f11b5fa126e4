"""Finds the rows of a split and groups them into records: all rows of an image form one record.

Two rows have the same image if their paths are equal after "./", "//" and a number as in
`photo.jpg#3` are removed. Paths are also equal if they name the same file in different Unicode
forms, or with a backslash instead of "/". A row without an image belongs to the image of the rows
with the same id; a table of images and a table of captions are joined in this way. In tables
without images, the rows with the same id form a record, and a row without an id forms a record by
itself.

The rows may be anywhere in the tables. Only the positions of the rows, and 128-bit hashes of their
images and ids, are in memory: at most about 200 bytes per row while the rows are sorted.
"""

import array
import dataclasses
import hashlib
import os
import posixpath
import re

import numpy as np

from tf_mural import file_io
from tf_mural.datasets.table.columns import Columns, first_value
from tf_mural.errors import UserError

_NUMBERED = re.compile(r"(.+)#\d+")
# State of a row: its table has no split column, its split is missing, or it is in the split.
_ABSENT, _NO_SPLIT, _IN_SPLIT = range(3)


@dataclasses.dataclass(frozen=True)
class Source:
    """One of the tables that are read together.

    Attributes:
        table: `rows.Table`, `parquet.ParquetTable` or `coco_json.CocoTable`.
        columns: `columns.Columns`.
        split_column: column of the splits, or None.
    """

    table: object
    columns: Columns
    split_column: str | None


@dataclasses.dataclass(frozen=True)
class ImageNames:
    """Maps the cells of the column of images to paths.

    Attributes:
        folder: folder of the images.
        suffix: appended to each name.
        numbered: whether "#" and a number at the end of a name are the number of a text, and not a
            part of the path.
    """

    folder: str
    suffix: str
    numbered: bool = True

    def path(self, cell):
        """Returns the path of a cell, relative to the folder, without the suffix."""
        match = _NUMBERED.fullmatch(cell) if self.numbered else None
        return match[1] if match else cell

    def key(self, cell):
        """Returns a normalized path, which is equal for all Unicode forms of the name of a file."""
        path = posixpath.normpath(self.path(cell))
        if path.isascii() and "\\" not in path:
            return path
        name = path + self.suffix
        if not os.path.lexists(os.path.join(self.folder, name)):
            similar, _ = file_io.find_name(self.folder, name)
            name = similar or name
        return name.removesuffix(self.suffix)

    def check(self, cell):
        """Returns self, or a copy with `numbered` False if the file `cell` exists."""
        is_file = _NUMBERED.fullmatch(cell) and os.path.lexists(
            os.path.join(self.folder, cell + self.suffix)
        )
        return dataclasses.replace(self, numbered=False) if is_file else self


@dataclasses.dataclass(frozen=True)
class Groups:
    """Rows, sorted by record. Record i consists of the rows [cuts[i], cuts[i + 1]).

    Attributes:
        sources: uint16 (n,), number of the table of each row.
        starts, ends: int64 (n,), start and end of each row: bytes in a text table, otherwise row
            numbers.
        lines: int64 (n,), line of each row.
        cuts: int64 (number of records + 1,), index of the first row of each record.
        other_splits: {name of another split: number of its rows}.
        example: the first row of another split, such as "line 3: val", or "".
        json_keys: all keys of the JSON objects of each table.
    """

    sources: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    lines: np.ndarray
    cuts: np.ndarray
    other_splits: dict
    example: str
    json_keys: tuple

    def slice(self, first, last):
        """Returns the groups of the records [first, last)."""
        span = slice(self.cuts[first], self.cuts[last])
        rows = {name: getattr(self, name)[span] for name in ("sources", "starts", "ends", "lines")}
        cuts = self.cuts[first : last + 1] - self.cuts[first]
        return dataclasses.replace(self, **rows, cuts=cuts)


def find_records(sources, names, split):
    """Finds the rows of a split and the records that they form.

    Args:
        sources: list of `Source`.
        names: `ImageNames`.
        split: name of the split.

    Returns:
        `Groups`.

    Raises:
        UserError: no row is in the split.
    """
    collected = _Rows(any(source.columns.image or source.columns.id for source in sources))
    for number, source in enumerate(sources):
        collected.read(number, source, names, split)
    if not collected.in_split and collected.other_splits:
        listed = ", ".join(collected.other_splits)
        source = next(source for source in sources if source.split_column)
        raise UserError(
            f"{source.table.path} has no rows of the split {split!r} in {source.split_column!r}; "
            f"it has: {listed}"
        )
    return collected.group()


# --- splits ---------------------------------------------------------------------------------------


def resolve_split_column(table, in_name, option, used):
    """Returns the column of the splits, or None if there is none or the file name gives the split.

    Args:
        table: `rows.Table`.
        in_name: whether the names of the tables give the split.
        option: the option `split_column`, or None.
        used: names of the columns that other options use.
    """
    is_default = option is None and not in_name and "split" not in used
    return "split" if is_default and _has_split_column(table) else option or None


def _has_split_column(table):
    if table.has_header:
        return "split" in table.columns
    parsed = (table.row(data, line) for line, _, data in table.spans() if b'"split"' in data)
    return any(isinstance(row, dict) and "split" in row for row in parsed)


def list_splits(table, split_column):
    """Returns the splits that occur in a column, in order. Raises UserError for an empty column."""
    names = {}
    for line, _, data in table.spans():
        row = table.row(data, line)
        if not isinstance(row, str) and (name := first_value(row, split_column)):
            names[name] = None
    if not names:
        listed = ", ".join(table.columns)
        raise UserError(
            f"{table.path} names no split in {split_column!r}; columns: {listed}; set "
            f'split_column to another one, or to "" if all rows are in one split'
        )
    return tuple(names)


# --- rows -----------------------------------------------------------------------------------------


class _Rows:
    """The positions and keys of all rows of a split.

    Args:
        has_keys: whether any table has a column of images or ids.
    """

    def __init__(self, has_keys):
        self._has_keys = has_keys
        self.in_split, self.other_splits, self.example = 0, {}, ""
        self._columns = {name: array.array("q") for name in ("starts", "ends", "lines")}
        self._sources, self._splits = array.array("H"), array.array("B")
        self._images, self._ids = array.array("Q"), array.array("Q")
        self._json_keys = []

    def read(self, number, source, names, split):
        """Adds the rows of a table that are in the split, or whose split is not known."""
        table, columns = source.table, source.columns
        keys = dict.fromkeys(table.columns)
        needs_row = table.json or bool(source.split_column or columns.image or columns.id)
        for line, start, data in table.spans():
            row = table.row(data, line) if needs_row else ""
            # An invalid row and a row without a split form separate records, which are skipped.
            state, image, id = _NO_SPLIT if needs_row else _ABSENT, None, None
            if not isinstance(row, str):
                keys |= dict.fromkeys(row) if table.json else {}
                if source.split_column:
                    name = first_value(row, source.split_column)
                    if name not in (split, None):
                        self.other_splits[name] = self.other_splits.get(name, 0) + 1
                        self.example = self.example or f"line {line}: {name}"
                        continue
                state = _ABSENT if not source.split_column else _IN_SPLIT if name else _NO_SPLIT
                self.in_split += state == _IN_SPLIT
                if state != _NO_SPLIT:
                    image, id = first_value(row, columns.image), first_value(row, columns.id)
                    image = image and names.key(image)
            self._add(number, start, table.end(start, data), line, state, image, id)
        self._json_keys.append(tuple(keys))

    def _add(self, number, start, end, line, state, image, id):
        for name, value in (("starts", start), ("ends", end), ("lines", line)):
            self._columns[name].append(value)
        self._sources.append(number)
        self._splits.append(state)
        if self._has_keys:
            self._images.frombytes(_hash(b"image", image))
            self._ids.frombytes(_hash(b"id", id))

    def group(self):
        """Returns the `Groups` of the rows."""
        rows = {name: np.array(values, np.int64) for name, values in self._columns.items()}
        rows["sources"] = np.array(self._sources, np.uint16)
        splits = np.array(self._splits, np.uint8)
        keys = self._keys() if self._has_keys else np.arange(len(splits))[:, None]
        if (splits == _IN_SPLIT).any() and (splits == _ABSENT).any():
            # A row of a table without a column of splits belongs to the split of its image.
            labels, _ = _label(keys)
            members = np.zeros(len(keys), bool)
            members[labels[splits == _IN_SPLIT]] = True
            kept = members[labels] | (splits != _ABSENT)
            dropped = np.flatnonzero(~kept)
            if len(dropped):
                self.other_splits[""] = len(dropped)
                self.example = self.example or f"line {rows['lines'][dropped[0]]}"
            rows, keys = {name: values[kept] for name, values in rows.items()}, keys[kept]
        labels, count = _label(keys)
        order = np.argsort(labels, kind="stable")
        cuts = np.searchsorted(labels[order], np.arange(count + 1))
        rows = {name: values[order] for name, values in rows.items()}
        keys = tuple(self._json_keys)
        return Groups(
            **rows, cuts=cuts, other_splits=self.other_splits, example=self.example, json_keys=keys
        )

    def _keys(self):
        """Returns uint64 (n, 2) keys; rows with equal keys form a record."""
        images = np.array(self._images, np.uint64).reshape(-1, 2)
        ids = np.array(self._ids, np.uint64).reshape(-1, 2)
        has_image, has_id = images.any(axis=1), ids.any(axis=1)
        keys = np.where(has_image[:, None], images, ids)
        neither = np.flatnonzero(~(has_image | has_id))
        keys[neither] = np.stack([np.zeros_like(neither), neither + 1], axis=1)
        # A row with only an id gets the image of the first row that has the same id and an image.
        if (has_id & has_image).any() and (has_id & ~has_image).any():
            labels, count = _label(ids)
            first = np.full(count, len(ids))
            joined = np.flatnonzero(has_id & has_image)
            np.minimum.at(first, labels[joined], joined)
            single = np.flatnonzero(has_id & ~has_image)
            partner = first[labels[single]]
            known = partner < len(ids)
            keys[single[known]] = images[partner[known]]
        return keys


def _hash(kind, text):
    """Returns 16 bytes that identify an image or an id; zeros for None."""
    if text is None:
        return bytes(16)
    return hashlib.blake2b(
        text.encode(errors="surrogatepass"), digest_size=16, person=kind
    ).digest()


def _label(keys):
    """Numbers equal keys by their first occurrence.

    Args:
        keys: integers (n, 2), or (n, 1) if all keys are different.

    Returns:
        (int64 (n,) numbers, number of different keys).
    """
    if keys.shape[1] == 1:
        return np.arange(len(keys)), len(keys)
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    ordered = keys[order]
    is_first = np.ones(len(keys), bool)
    is_first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    first = order[is_first]  # the first occurrences, because lexsort is stable
    ranks = np.empty(len(first), np.int64)
    ranks[np.argsort(first)] = np.arange(len(first))
    labels = np.empty(len(keys), np.int64)
    labels[order] = ranks[np.cumsum(is_first) - 1]
    return labels, len(first)
