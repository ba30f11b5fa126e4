"""One's own pictures and texts: a TSV, CSV or JSONL table.

    wide   one row a record, one column a language:   image <tab> en <tab> de
    long   one row a text:                            image <tab> language <tab> text
    jsonl  one object a record: {"image": "a.jpg", "captions": {"en": "...", "de": ["...", "..."]}}

Several texts in a language: repeat the column, or part them by `texts_separator`. A table without
images gives records of texts that say the same (bitext).
"""

import dataclasses
import hashlib
import os

import numpy as np

from tf_mural.data.records import Dropped, Record
from tf_mural.datasets import image_files
from tf_mural.datasets.table import columns, rows, split_selection
from tf_mural.errors import UserError

SPLITS = ("train",)
AUGMENTATIONS = ("crop", "flip")
VERSION = 2
_RECORDS_PER_UNIT = 2000
_MOST_UNITS = 256  # Every shard of a set is an open file while it is read.


@dataclasses.dataclass(frozen=True)
class Unit:
    """Some records of a table: row r is the bytes [starts[r], ends[r]), record g the rows
    [cuts[g], cuts[g + 1])."""

    table: rows.Table
    columns: columns.Columns
    image_dir: str
    image_suffix: str
    min_texts: int
    split_column: str | None
    starts: np.ndarray
    ends: np.ndarray
    lines: np.ndarray
    cuts: np.ndarray


def plan(
    raw_dir: str,
    split: str,
    file: str | None = None,
    format: str | None = None,
    layout: str = "auto",
    image_column: str | None = None,
    image_dir: str = "",
    image_suffix: str = "",
    id_column: str | None = None,
    split_column: str | None = None,
    languages: tuple[str, ...] | None = None,
    language_column: str = "language",
    text_column: str = "text",
    texts_keys: tuple[str, ...] = ("captions",),
    texts_separator: str | None = None,
    min_texts: int = 1,
    quoting: str = "minimal",
):
    """Reads the table once, to find where each record is.

    Args:
        raw_dir: the folder of the table, or the table itself.
        split: name of the split.
        file: name of the table in raw_dir; "{split}" in it stands for the split. Default: the only
            one there is.
        format: tsv, csv or jsonl. Default: the extension of the file.
        layout: wide, long, or auto, which takes long if language_column and text_column are there.
        image_column: column of the image paths. Default: "image" if there is one; else no images.
        image_dir: folder of the images, relative to the table's.
        image_suffix: put behind each image path, such as ".jpg".
        id_column: column that names the record. Default: a first column "id", else the image.
        split_column: column that says which split a row is in. Default: "split" if there is one,
            the file's name does not say and it is nothing else; else, or if "", all rows are in
            each.
        languages: language codes to keep. Default: every column that looks like a language code.
        language_column: of the long layout.
        text_column: of the long layout.
        texts_keys: jsonl: keys of objects that hold texts by language; several are merged.
        texts_separator: what parts several texts in one cell, such as "|".
        min_texts: records with fewer texts are left out.
        quoting: minimal, or none if quotes in the file mean nothing.

    Returns:
        List of `Unit`.

    Raises:
        UserError: no such table, column or split; a table that cannot be read; options of images
            for a table without any.
    """
    table = rows.Table.open(rows.find_file(raw_dir, file, split), format, quoting)
    taken = (image_column, id_column, language_column, text_column)
    split_column = split_selection.split_column(table, file, split_column, taken)
    meaning = columns.resolve(
        table,
        layout,
        image=image_column,
        id=id_column,
        split=split_column,
        language=language_column,
        text=text_column,
        languages=languages,
        texts_keys=texts_keys,
        texts_separator=texts_separator,
    )
    if meaning.image is None and (image_dir or image_suffix):
        raise UserError(
            f"{table.path}: the options image_dir and image_suffix are of images, but no column "
            f"is: say which with image_column; columns found: {', '.join(table.columns)}"
        )
    starts, ends, lines, cuts = split_selection.find_records(table, meaning, split_column, split)
    folder = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(table.path)), image_dir))
    count = len(cuts) - 1
    units = min(_MOST_UNITS, -(-count // _RECORDS_PER_UNIT))
    out = []
    for number in range(units):
        first, last = count * number // units, count * (number + 1) // units
        some = slice(cuts[first], cuts[last])
        out.append(
            Unit(
                table,
                meaning,
                folder,
                image_suffix,
                min_texts,
                split_column,
                starts[some],
                ends[some],
                lines[some],
                cuts[first : last + 1] - cuts[first],
            )
        )
    return out


def read(unit):
    """Yields a `Record` or `Dropped` for each record of a unit, and `Dropped` for single texts."""
    with open(unit.table.path, "rb") as file:
        for first, last in zip(unit.cuts[:-1].tolist(), unit.cuts[1:].tolist(), strict=True):
            yield from _read_record(unit, file, range(first, last))


def splits(raw_dir, file=None, split_column=None, **more):
    """The splits that a table holds: by its files, by its split column, or "train" alone."""
    if file is not None and "{split}" in file:
        found = rows.splits_of_files(raw_dir, file)
        if not found:
            raise UserError(f"no file {file} in {raw_dir}, whatever the split")
        return found
    options = {key: more[key] for key in ("format", "quoting") if key in more}
    table = rows.Table.open(rows.find_file(raw_dir, file, ""), **options)
    taken = [value for key, value in more.items() if key.endswith("_column")]
    split_column, found = split_selection.split_column(table, file, split_column, taken), {}
    if split_column is None:
        return SPLITS
    for line, _, data in table.spans():
        row = table.row(data, line)
        if not isinstance(row, str) and (value := columns.first(row, split_column)):
            found[value] = None
    if not found:
        listed = ", ".join(table.columns)
        raise UserError(
            f"{table.path} names no split in {split_column!r}; columns: {listed}; set "
            f'split_column to another one, or to "" where all rows are of one split'
        )
    return tuple(found)


def fingerprint(raw_dir, split, file=None, **_):
    """A hash of the table, so that a changed one is not taken for the one converted before."""
    with open(rows.find_file(raw_dir, file, split), "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _read_record(unit, file, positions):
    """Yields what became of the rows at `positions`, which make up one record."""
    found = []
    for position in positions:
        file.seek(unit.starts[position])
        data = file.read(int(unit.ends[position] - unit.starts[position]))
        found.append(unit.table.row(data, int(unit.lines[position])))
    line = int(unit.lines[positions[0]])
    where, row = f"line {line}", found[0]
    if isinstance(row, str):
        yield Dropped(row, where)
        return
    if unit.split_column and columns.first(row, unit.split_column) is None:
        yield Dropped("no split named", where)
        return
    texts = {}  # for its keys alone: in order, without repeats
    for one in found:
        for item in unit.columns.texts(one):
            if isinstance(item, Dropped):
                yield dataclasses.replace(item, what=f"{where}: {item.what}")
            elif item in texts:
                yield Dropped("repeated in its record", f"{where}: {item[1]}", text=True)
            else:
                texts[item] = None
    image = columns.first(row, unit.columns.image)
    if len(texts) < unit.min_texts:
        reason = "no text" if not texts else f"fewer than {unit.min_texts} texts"
        yield Dropped(reason, f"{where}: {image}" if image else where)
        return
    images = ()
    if unit.columns.image is not None:
        if image is None:
            yield Dropped("no image named", where)
            return
        data, reason = image_files.load(unit.image_dir, image + unit.image_suffix, where)
        if reason:
            yield Dropped(reason, f"{where}: {image}{unit.image_suffix}")
            return
        images = (data,)
    name = columns.first(row, unit.columns.id) or image or str(line)
    yield Record(id=name, images=images, texts=tuple(texts))
