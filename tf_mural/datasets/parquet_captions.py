"""Captioned images in Parquet files with one file per language, as mteb publishes its test sets.

Each file `<language>-00000-of-00001.parquet` repeats the images of the set. A record has the
captions of an image in all languages, joined by the id of the image, not by the position of the
row, and the bytes of the image from the first file that contains it.
"""

import dataclasses
import hashlib
import os
import re

from tf_mural import languages as language_codes
from tf_mural.datasets import captioned_images, image_files
from tf_mural.datasets.bounded_read import open_parquet
from tf_mural.datasets.captioned_images import CaptionedImage
from tf_mural.datasets.table.parquet import EmbeddedImage, ParquetTable
from tf_mural.errors import UserError

_FILE = re.compile(r"([A-Za-z]{2,3}(?:[-_][A-Za-z]+)?)-(\d{5})-of-(\d{5})\.parquet")
_FOLDERS = ("", "data")
_ROWS_PER_UNIT = 250
_BATCH_ROWS = 1024


@dataclasses.dataclass(frozen=True)
class Unit:
    """Some rows of a Parquet file.

    Attributes:
        path: path of the file.
        image_column: name of the column of the images.
        rows: pairs (row from 0, `CaptionedImage`).
    """

    path: str
    image_column: str
    rows: tuple[tuple[int, CaptionedImage], ...]


def find_files(raw_dir):
    """Returns {language: list of Parquet files} of a folder, or of its folder data.

    The dict is empty if there are no such files.

    Raises:
        UserError: a part of a language is missing, or two files have the same language.
    """
    parts = {}
    for folder in (os.path.join(raw_dir, name) if name else raw_dir for name in _FOLDERS):
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            if match := _FILE.fullmatch(name):
                parts.setdefault(match[1], []).append((os.path.join(folder, name), int(match[3])))
    files = {}
    for name, paths in language_codes.by_code(parts, raw_dir).items():
        if len(paths) != paths[0][1]:
            raise UserError(
                f"{raw_dir} has {len(paths)} of {paths[0][1]} Parquet files of the language "
                f"{name}; download the others"
            )
        files[name] = [path for path, _ in paths]
    return dict(sorted(files.items()))


def plan_units(
    files, id_column, text_column, parse_texts=None, image_column="image", by_language=False
):
    """Joins the rows of all languages by the ids of their images.

    Args:
        files: {language: list of Parquet files}.
        id_column, text_column, image_column: names of columns.
        parse_texts: callable from a cell of `text_column` and the description of its row to a list
            of captions. Default: the cell is a list of captions.
        by_language: whether each language has its own images. The ids of the records then start
            with the language, such as "de/1", and no rows are joined.

    Returns:
        List of `Unit`.

    Raises:
        UserError: pyarrow is not installed; a file is damaged or lacks a column; an id is missing,
            or occurs twice in a language.
    """
    locations, texts = {}, {}
    for language, paths in files.items():
        seen = set()
        for path in paths:
            rows = _read_columns(path, (id_column, text_column), image_column)
            for number, (id, cell) in enumerate(rows):
                where = f"{path}, row {number + 1}"
                if id is None or id in seen:
                    problem = "has no id" if id is None else f"repeats the id {id!r}"
                    raise UserError(
                        f"{where}: the row {problem}: expected one row per image; download the "
                        "file again"
                    )
                seen.add(id)
                key = f"{language}/{id}" if by_language else str(id)
                locations.setdefault(key, (path, number))
                captions = parse_texts(cell, where) if parse_texts else check_list(cell, where)
                texts.setdefault(key, []).extend((language, text) for text in captions)
    by_path = {}
    for id, (path, number) in locations.items():
        image = CaptionedImage(id, id, tuple(texts[id]))
        by_path.setdefault(path, []).append((number, image))
    return [
        Unit(path, image_column, tuple(rows[start : start + _ROWS_PER_UNIT]))
        for path, rows in by_path.items()
        for start in range(0, len(rows), _ROWS_PER_UNIT)
    ]


def check_list(cell, where):
    """Returns a cell that is a list of strings. Raises UserError if it has another type."""
    if not isinstance(cell, list) or not all(isinstance(text, str) for text in cell):
        raise UserError(f"{where}: expected a list of captions, got {cell!r:.60}")
    return cell


def read(unit):
    """Yields a `Record` or `Skipped` for each row of a unit, and `Skipped` for blank captions."""
    with ParquetTable.open(unit.path).opened() as read_row:
        for number, image in unit.rows:
            yield from captioned_images.make_records(
                image, *load_image(read_row(number, number + 1, None)[unit.image_column])
            )


def load_image(cell):
    """Returns (images of the record, reason or None) of a cell of `ParquetTable`."""
    if not isinstance(cell, EmbeddedImage):
        return (), "image missing"
    data, reason = image_files.validate_image(cell.data)
    return () if reason else (data,), reason


def fingerprint(units):
    """Returns a hash of the rows of units, and of the sizes of their files."""
    return hash_rows((unit.path, unit.rows) for unit in units)


def read_either(unit):
    """Reads a unit of this module or of `captioned_images`, for sets with both layouts."""
    return read(unit) if isinstance(unit, Unit) else captioned_images.read(unit)


def fingerprint_either(units):
    """Returns a hash of units of this module or of `captioned_images`; "" without units."""
    if not units:
        return ""
    is_parquet = isinstance(units[0], Unit)
    return fingerprint(units) if is_parquet else captioned_images.fingerprint(units)


def hash_rows(pairs):
    """Returns a hash of pairs (path of a file, plain data), in which a file counts by its size."""
    digest = hashlib.sha256()
    for path, rows in pairs:
        digest.update(repr(rows).encode(errors="backslashreplace"))
        digest.update(b"%d," % os.path.getsize(path))
    return digest.hexdigest()


def _read_columns(path, columns, image_column):
    """Yields the cells of some columns of each row, without reading the images."""
    with open_parquet(path) as file:
        names = file.schema_arrow.names
        if missing := [name for name in (*columns, image_column) if name not in names]:
            raise UserError(
                f"{path} has no column {', '.join(missing)}; its columns: {', '.join(names)}; "
                "download the file again"
            )
        for batch in file.iter_batches(_BATCH_ROWS, columns=list(columns)):
            yield from zip(*(batch.column(name).to_pylist() for name in columns), strict=True)
