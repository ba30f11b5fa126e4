"""`table`: your own images and texts in tables: TSV, CSV, JSONL, Parquet, or COCO's JSON.

    wide   one column per language:  image <tab> en <tab> de
    long   one row per text:         image <tab> language <tab> text
    jsonl  one object per row:  {"image": "a.jpg", "captions": {"en": "...", "de": ["...", ...]}}

The cells of a Parquet file may contain the images, as in Hugging Face's data sets; see `parquet`.
`coco_json` reads captions in COCO's format. `files` describes which files of a folder are read.
`encodings` describes how the encoding and the delimiter of a table are chosen.

All rows of an image form one record. Several texts of an image may therefore be in several rows,
anywhere in the table, or in several tables of one folder; several texts may also be in repeated
columns or in one cell, separated by `texts_separator`. From a table without images, the texts of a
record are translations of each other (a bitext).
"""

import dataclasses
import hashlib
import itertools
import os

from tf_mural.data.records import InputParts
from tf_mural.datasets.table import coco_json, encodings, files, grouping, headers, parquet, rows
from tf_mural.datasets.table.columns import first_value
from tf_mural.datasets.table.reading import Unit, read
from tf_mural.errors import UserError

__all__ = ["AUGMENTATIONS", "SPLITS", "VERSION", "Unit", "fingerprint", "plan", "read", "splits"]

SPLITS = ("train",)
AUGMENTATIONS = ("crop", "flip")
VERSION = 3
_RECORDS_PER_UNIT = 2000
OPEN_OPTIONS = ("format", "quoting", "delimiter", "encoding")
_MAX_UNITS = 256  # A reader keeps every shard of a record set open.


def plan(
    raw_dir: str,
    split: str,
    file: tuple[str, ...] | None = None,
    format: str | None = None,
    layout: str = "auto",
    image_column: str | None = None,
    image_dir: str = "",
    image_suffix: str = "",
    id_column: str | None = None,
    split_column: str | None = None,
    columns: tuple[str, ...] = (),
    language: str | None = None,
    languages: tuple[str, ...] | None = None,
    language_column: str | None = None,
    text_column: str | None = None,
    texts_keys: tuple[str, ...] = ("captions",),
    texts_separator: str | None = None,
    min_texts: int = 1,
    quoting: str = "minimal",
    delimiter: str | None = None,
    encoding: str | None = None,
):
    """Reads the tables once to find the rows of each record.

    Args:
        raw_dir: folder of the table or of several tables, or the table itself.
        split: name of the split.
        file: name of the table in raw_dir, or several names, in which "{split}" stands for the
            split. Default: all tables of the folder, if images or ids join them; see `files`.
        format: tsv, csv, jsonl, parquet or json (captions in COCO's format). Default: the extension
            of the file.
        layout: "wide", "long" or "auto"; "auto" means "long" if the table has a column of languages
            and a column of texts, otherwise "wide".
        image_column: column of the image paths. Default: "image", or a column such as "file_name"
            or "filepath" whose cells are names of image files; a table without such a column has
            no images.
        image_dir: folder of the images, relative to the folder of the table. Default: the folder of
            the table; for COCO's JSON, the folder near the JSON file that contains the images.
        image_suffix: appended to each image path, such as ".jpg".
        id_column: column of ids, which name the records and join the rows of several tables.
            Default: "id" if it is the first column, or "image_id" in a table without images;
            otherwise the image path names the record.
        split_column: column that names the split of a row; "" puts all rows in each split. Default:
            "split" if this column exists, the name of the file does not contain the split, and no
            other option names the column; otherwise "".
        columns: columns and the languages of their texts, such as alt:en. This option does not
            change how the other columns are used.
        language: language of the texts in a column such as "caption", "text" or "title", if no
            column names the language.
        languages: languages to keep. With this option, the name of a column may also be the code of
            a rare language, such as "alt". Default: every column whose name is a language.
        language_column: column of the language in the long layout. Default: "language" or "lang".
        text_column: column of the text in the long layout, or with the option language. Default:
            "text", "caption" or a similar name.
        texts_keys: keys whose values are JSON objects with texts by language; several objects are
            merged.
        texts_separator: separator of several texts in one cell, such as "|".
        min_texts: drop records with fewer texts than this.
        quoting: "minimal", or "none" if quotes in the file have no meaning.
        delimiter: comma, semicolon, tab or the character itself. Default: the delimiter that the
            extension implies, or another delimiter if only that one divides the header.
        encoding: encoding of TSV and CSV files, such as cp1250. Default: UTF-8, UTF-16 with a byte
            order mark, or cp1252 if all texts are in languages of Western Europe.

    Returns:
        A list of `Unit`.

    Raises:
        UserError: a table, a column, a language or the split does not exist; a table cannot be
            read or has no texts; or options for images are given for a table without images.
    """
    options = headers.ColumnOptions(
        layout=layout,
        image=image_column,
        id=id_column,
        split=split_column,
        language_column=language_column,
        text=text_column,
        columns=tuple(columns),
        language=language,
        languages=languages,
        texts_keys=tuple(texts_keys),
        separator=texts_separator,
    )
    selection = files.find_tables(raw_dir, file, split)
    tables = open_tables(selection.paths, format, quoting, delimiter, encoding)
    sources = resolve_sources(tables, selection.by_name, options)
    _check_joined(sources, raw_dir, image_dir or image_suffix)
    if file is None:
        _check_folders(sources, raw_dir)
    base = os.path.dirname(os.path.abspath(selection.paths[0]))
    if not image_dir and isinstance(tables[0], coco_json.CocoTable):
        root = raw_dir if os.path.isdir(raw_dir) else base
        base = files.find_image_folder(root, selection.paths[0], _sample_images(sources))
    names = grouping.ImageNames(os.path.normpath(os.path.join(base, image_dir)), image_suffix)
    for cell in _sample_images(sources):
        names = names.check(cell)
    groups = grouping.find_records(sources, names, split)
    count = len(groups.cuts) - 1
    num_units = min(_MAX_UNITS, -(-count // _RECORDS_PER_UNIT))
    bounds = [count * number // num_units for number in range(num_units + 1)] if num_units else []
    units = [
        Unit(sources, groups.slice(*span), names, min_texts) for span in itertools.pairwise(bounds)
    ]
    if units:
        parts = tuple(_input_parts(sources, groups, selection.others))
        units[0] = dataclasses.replace(units[0], parts=parts)
    return units


def splits(raw_dir, file=None, split_column=None, **options):
    """Returns the splits in the file names or the split column; `SPLITS` if there are none."""
    pattern = next((name for name in files.file_names(file) if "{split}" in name), None)
    if pattern is not None:
        in_names = files.splits_of_files(raw_dir, pattern)
        if not in_names:
            raise UserError(f"no file {pattern} in {raw_dir} for any split")
        return in_names
    selection = files.find_tables(raw_dir, file, "")
    if selection.by_name:
        return selection.splits
    open_options = {key: options[key] for key in OPEN_OPTIONS if key in options}
    used = [value for key, value in options.items() if key.endswith("_column")]
    names_of_splits = {}
    for table in open_tables(selection.paths, **open_options):
        column = grouping.resolve_split_column(table, False, split_column, used)
        if column is not None and (not table.has_header or column in table.columns):
            names_of_splits |= dict.fromkeys(grouping.list_splits(table, column))
    return tuple(names_of_splits) or selection.splits or SPLITS


def fingerprint(raw_dir, split, file=None, **_):
    """Returns a hash of the contents of the tables."""
    digests = []
    for path in files.find_tables(raw_dir, file, split).paths:
        with open(path, "rb") as table:
            digests.append(hashlib.file_digest(table, "sha256").hexdigest())
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )


# --- several tables -------------------------------------------------------------------------------


def open_tables(paths, format=None, quoting="minimal", delimiter=None, encoding=None):
    """Opens files and returns their tables. A JSON file has two tables; see `coco_json`.

    Args:
        paths: paths of the files.
        format, quoting, delimiter, encoding: as for `plan`.

    Raises:
        UserError: a file cannot be opened, or does not have the format.
    """
    tables = []
    for path in paths:
        kind = format or path.rpartition(".")[2].lower()
        if kind == "json":
            tables += coco_json.CocoTable.open(path)
        elif kind == "parquet":
            tables.append(parquet.ParquetTable.open(path))
        else:
            tables.append(rows.Table.open(path, kind, quoting, delimiter, encoding))
    return tables


def resolve_sources(tables, by_name, options):
    """Returns a `grouping.Source` for each table.

    Args:
        tables: list of tables that are read together.
        by_name: whether the names of the files give the split.
        options: `headers.ColumnOptions`.

    Raises:
        UserError: as for `headers.resolve`, or the assumed encoding of a table may be wrong.
    """
    all_columns = tuple(dict.fromkeys(name for table in tables for name in table.columns))
    used = (options.image, options.id, options.language_column, options.text)
    sources = []
    for table in tables:
        split_column = grouping.resolve_split_column(table, by_name, options.split, used)
        if len(tables) > 1 and table.has_header and split_column not in table.columns:
            split_column = None
        chosen = dataclasses.replace(options, split=split_column)
        resolved = headers.resolve(table, chosen, all_columns if len(tables) > 1 else None)
        sources.append(grouping.Source(table, resolved, split_column))
        if getattr(table, "is_assumed", False):
            languages = _languages_of(table, resolved)
            encodings.check_assumed(table.path, table.encoding, languages)
    return sources


def _languages_of(table, resolved):
    """Returns the codes of the languages of the texts of a table with a header."""
    roles = map(resolved.role, table.columns)
    codes = {role.language.code for role in roles if role.kind == "texts"}
    if resolved.language_column is not None:
        parsed = (table.row(data, line) for line, _, data in table.spans())
        valid = (row for row in parsed if not isinstance(row, str))
        names = {name for row in valid if (name := first_value(row, resolved.language_column))}
        codes |= {language.code for name in names if (language := resolved.find_language(name))}
    return codes


def _sample_images(sources):
    """Returns some of the paths of images in the tables."""
    cells = (
        first_value(row, source.columns.image)
        for source in sources
        if source.columns.image not in source.table.image_columns
        for row in source.table.samples()
    )
    return [cell for cell in cells if cell]


def _check_joined(sources, raw_dir, image_options):
    """Raises UserError if there are no texts, or if neither images nor ids join the tables."""
    has_texts = [headers.has_texts(source.table, source.columns) for source in sources]
    if not any(has_texts):
        plain = (s for s in sources if s.columns.text in s.table.columns)
        source = next(plain, sources[0])
        headers.raise_without_texts(source.table, source.columns)
    with_image = [source for source in sources if source.columns.image is not None]
    if not with_image and image_options:
        table = sources[0].table
        raise UserError(
            f"{table.path}: the options image_dir and image_suffix are for images, but there is no "
            "column of images: name it with image_column; columns found: "
            f"{', '.join(table.columns)}"
        )
    for source, with_texts in zip(sources, has_texts, strict=True):
        headers.check_long(source.table, source.columns)
        if not with_texts and source.columns.text in source.table.columns:
            headers.raise_without_texts(source.table, source.columns)
        is_joined = source.columns.image or (
            source.columns.id and any(other.columns.id for other in with_image)
        )
        if len(sources) > 1 and not is_joined:
            listed = ", ".join(os.path.basename(other.table.path) for other in sources)
            raise UserError(
                f"{raw_dir}: name the table with the option file; found: {listed}, but neither "
                f"images nor ids join {os.path.basename(source.table.path)} with the others"
            )


def _check_folders(sources, raw_dir):
    """Raises UserError if equal paths in two tables may name different images."""
    with_paths = (s for s in sources if s.columns.image not in (None, *s.table.image_columns))
    folders = sorted({os.path.dirname(source.table.path) for source in with_paths})
    if len(folders) > 1:
        raise UserError(
            f"{raw_dir}: the tables in {' and '.join(folders)} name their own images; convert each "
            "folder as raw_dir, or name the tables with the option file if the paths are relative "
            "to the first one"
        )


def _input_parts(sources, groups, others):
    """Yields the `InputParts` of the files, of the columns, and of the rows of other splits."""
    for path, table in {source.table.path: source.table for source in sources}.items():
        encoding = getattr(table, "encoding", encodings.UTF8)
        is_usual = encoding == encodings.UTF8
        change = "" if is_usual else f"{os.path.basename(path)} is read as {encoding}"
        yield InputParts("files", 1, change=change)
    for name, reason in others.items():
        option = "" if reason in (files.OTHER_SPLIT, files.NO_CAPTIONS) else f"file={name}"
        yield InputParts("files", 1, reason, name, option)
    for source, keys in zip(sources, groups.json_keys, strict=True):
        yield from source.columns.parts(keys)
        yield from source.columns.repeated_parts(source.table.columns)
    if count := sum(groups.other_splits.values()):
        yield InputParts("rows", count, "they are in another split", groups.example)
