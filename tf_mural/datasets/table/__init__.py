"""`table`: your own images and texts in a TSV, CSV or JSONL table.

    wide   one row per record, one column per language:  image <tab> en <tab> de
    long   one row per text:                             image <tab> language <tab> text
    jsonl  one object per record:  {"image": "a.jpg", "captions": {"en": "...", "de": ["...", ...]}}

For several texts in a language, repeat the column or separate the texts by `texts_separator`. A
table without images gives records of texts that are translations of each other (a bitext).
"""

import dataclasses
import hashlib
import os

import numpy as np

from tf_mural.data.records import Record, Skipped
from tf_mural.datasets import image_files
from tf_mural.datasets.table import columns, rows, split_selection
from tf_mural.errors import UserError

SPLITS = ("train",)
AUGMENTATIONS = ("crop", "flip")
VERSION = 2
_RECORDS_PER_UNIT = 2000
_MAX_UNITS = 256  # A reader keeps every shard of a record set open.


@dataclasses.dataclass(frozen=True)
class Unit:
    """A unit: a range of the records of a table.

    Row r is the bytes [starts[r], ends[r]) of the file and begins at line lines[r]. Record i
    consists of the rows [cuts[i], cuts[i + 1]).
    """

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
    """Reads the table once to find the position of each record.

    Args:
        raw_dir: folder of the table, or the table itself.
        split: name of the split.
        file: name of the table in raw_dir, in which "{split}" stands for the split. Default: the
            only table in the folder.
        format: tsv, csv or jsonl. Default: the extension of the file.
        layout: "wide", "long" or "auto"; "auto" means "long" if language_column and text_column
            exist, else "wide".
        image_column: column of the image paths. Default: "image"; a table without this column has
            no images.
        image_dir: folder of the images, relative to the folder of the table.
        image_suffix: appended to each image path, such as ".jpg".
        id_column: column that names the record. Default: "id" if it is the first column; otherwise
            the image path names the record.
        split_column: column that names the split of a row; "" puts all rows in each split. Default:
            "split" if this column exists, the name of the file does not contain the split, and no
            other option names the column; otherwise "".
        languages: language codes to keep. Default: every column that looks like a language code.
        language_column: column of the language in the long layout.
        text_column: column of the text in the long layout.
        texts_keys: keys of JSON objects with texts by language; several objects are merged.
        texts_separator: separator of several texts in one cell, such as "|".
        min_texts: drop records with fewer texts than this.
        quoting: "minimal", or "none" if quotes in the file have no meaning.

    Returns:
        A list of `Unit`.

    Raises:
        UserError: the table, a column or the split does not exist; the table cannot be read; or
            options for images are given for a table without images.
    """
    table = rows.Table.open(rows.find_file(raw_dir, file, split), format, quoting)
    used = (image_column, id_column, language_column, text_column)
    split_column = split_selection.resolve_split_column(table, file, split_column, used)
    resolved = columns.resolve(
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
    if resolved.image is None and (image_dir or image_suffix):
        raise UserError(
            f"{table.path}: the options image_dir and image_suffix are for images, but there is no "
            "column of images: name it with image_column; columns found: "
            f"{', '.join(table.columns)}"
        )
    starts, ends, lines, cuts = split_selection.find_records(table, resolved, split_column, split)
    folder = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(table.path)), image_dir))
    count = len(cuts) - 1
    num_units = min(_MAX_UNITS, -(-count // _RECORDS_PER_UNIT))
    units = []
    for number in range(num_units):
        first, last = count * number // num_units, count * (number + 1) // num_units
        span = slice(cuts[first], cuts[last])
        units.append(
            Unit(
                table,
                resolved,
                folder,
                image_suffix,
                min_texts,
                split_column,
                starts[span],
                ends[span],
                lines[span],
                cuts[first : last + 1] - cuts[first],
            )
        )
    return units


def read(unit):
    """Yields a `Record` or `Skipped` for each record of a unit, and `Skipped` for dropped texts."""
    with open(unit.table.path, "rb") as file:
        for first, last in zip(unit.cuts[:-1].tolist(), unit.cuts[1:].tolist(), strict=True):
            yield from _read_record(unit, file, range(first, last))


def splits(raw_dir, file=None, split_column=None, **options):
    """Returns the splits in the file names or the split column; only `train` if there are none."""
    if file is not None and "{split}" in file:
        names = rows.splits_of_files(raw_dir, file)
        if not names:
            raise UserError(f"no file {file} in {raw_dir} for any split")
        return names
    format_options = {key: options[key] for key in ("format", "quoting") if key in options}
    table = rows.Table.open(rows.find_file(raw_dir, file, ""), **format_options)
    used = [value for key, value in options.items() if key.endswith("_column")]
    split_column = split_selection.resolve_split_column(table, file, split_column, used)
    return SPLITS if split_column is None else split_selection.list_splits(table, split_column)


def fingerprint(raw_dir, split, file=None, **_):
    """Returns a hash of the contents of the table."""
    with open(rows.find_file(raw_dir, file, split), "rb") as table:
        return hashlib.file_digest(table, "sha256").hexdigest()


def _read_record(unit, file, positions):
    """Yields the `Record` or `Skipped` of the rows at `positions`, which form one record."""
    record_rows = []
    for position in positions:
        file.seek(unit.starts[position])
        data = file.read(int(unit.ends[position] - unit.starts[position]))
        record_rows.append(unit.table.row(data, int(unit.lines[position])))
    line = int(unit.lines[positions[0]])
    where, row = f"line {line}", record_rows[0]
    if isinstance(row, str):
        yield Skipped(row, where)
        return
    if unit.split_column and columns.first_value(row, unit.split_column) is None:
        yield Skipped("no split named", where)
        return
    texts = yield from _read_texts(unit, record_rows, where)
    image = columns.first_value(row, unit.columns.image)
    if len(texts) < unit.min_texts:
        reason = "no text" if not texts else f"fewer than {unit.min_texts} texts"
        yield Skipped(reason, f"{where}: {image}" if image else where)
        return
    images = ()
    if unit.columns.image is not None:
        if image is None:
            yield Skipped("no image named", where)
            return
        data, reason = image_files.load_image(unit.image_dir, image + unit.image_suffix, where)
        if reason:
            yield Skipped(reason, f"{where}: {image}{unit.image_suffix}")
            return
        images = (data,)
    name = columns.first_value(row, unit.columns.id) or image or str(line)
    yield Record(id=name, images=images, texts=tuple(texts))


def _read_texts(unit, record_rows, where):
    """Yields `Skipped` for invalid and repeated texts; returns the list of (language, text)."""
    texts = {}  # A dict, because it is ordered and its keys are unique.
    for row in record_rows:
        for item in unit.columns.texts(row):
            if isinstance(item, Skipped):
                yield dataclasses.replace(item, example=f"{where}: {item.example}")
            elif item in texts:
                yield Skipped("repeated in its record", f"{where}: {item[1]}", text_only=True)
            else:
                texts[item] = None
    return list(texts)
