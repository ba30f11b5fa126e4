"""`table`: your own images and texts in TSV, CSV or JSONL tables.

    wide   one column per language:  image <tab> en <tab> de
    long   one row per text:         image <tab> language <tab> text
    jsonl  one object per row:  {"image": "a.jpg", "captions": {"en": "...", "de": ["...", ...]}}

All rows of an image form one record. Several texts of an image may therefore be in several rows,
anywhere in the table, or in several tables of one folder; several texts may also be in repeated
columns or in one cell, separated by `texts_separator`. A table without images gives records of
texts that are translations of each other (a bitext).
"""

import collections
import contextlib
import dataclasses
import hashlib
import itertools
import os

from tf_mural import file_io
from tf_mural.data.records import InputParts, Record, Skipped
from tf_mural.datasets import image_files
from tf_mural.datasets.table import grouping, headers, rows
from tf_mural.datasets.table.columns import first_value
from tf_mural.errors import UserError

SPLITS = ("train",)
AUGMENTATIONS = ("crop", "flip")
VERSION = 3
_RECORDS_PER_UNIT = 2000
_MAX_UNITS = 256  # A reader keeps every shard of a record set open.


@dataclasses.dataclass(frozen=True)
class Unit:
    """A unit: some of the records of the tables.

    Attributes:
        sources: list of `grouping.Source`.
        groups: `grouping.Groups`, the rows of the records.
        names: `grouping.ImageNames`.
        min_texts: see `plan`.
        parts: `InputParts` of the whole input; only in the first unit.
    """

    sources: list
    groups: grouping.Groups
    names: grouping.ImageNames
    min_texts: int
    parts: tuple[InputParts, ...] = ()


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
):
    """Reads the tables once to find the rows of each record.

    Args:
        raw_dir: folder of the table or of several tables, or the table itself.
        split: name of the split.
        file: name of the table in raw_dir, or several names, in which "{split}" stands for the
            split. Default: all tables of the folder, if images or ids join them.
        format: tsv, csv or jsonl. Default: the extension of the file.
        layout: "wide", "long" or "auto"; "auto" means "long" if there are columns of the language
            and of the text, else "wide".
        image_column: column of the image paths. Default: "image", or a column such as "file_name"
            or "filepath" whose cells are names of image files; a table without such a column has
            no images.
        image_dir: folder of the images, relative to the folder of the table.
        image_suffix: appended to each image path, such as ".jpg".
        id_column: column that names the record, or the image of a row in another table. Default:
            "id" if it is the first column, or "image_id" in a table without images; otherwise the
            image path names the record.
        split_column: column that names the split of a row; "" puts all rows in each split. Default:
            "split" if this column exists, the name of the file does not contain the split, and no
            other option names the column; otherwise "".
        columns: columns and the languages of their texts, such as alt:en; the other columns are
            used as without this option.
        language: language of the texts in a column such as "caption", "text" or "title", if no
            column names the language.
        languages: languages to keep; this option may also name a column with the code of a rare
            language, such as "alt". Default: every column whose name is a language.
        language_column: column of the language in the long layout. Default: "language" or "lang".
        text_column: column of the text in the long layout, or with the option language. Default:
            "text", "caption" or a similar name.
        texts_keys: keys of JSON objects with texts by language; several objects are merged.
        texts_separator: separator of several texts in one cell, such as "|".
        min_texts: drop records with fewer texts than this.
        quoting: "minimal", or "none" if quotes in the file have no meaning.

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
    paths, others = rows.find_files(raw_dir, file, split)
    tables = [rows.Table.open(path, format, quoting) for path in paths]
    sources = _resolve_sources(tables, rows.file_names(file), options)
    _check_joined(sources, raw_dir, image_dir or image_suffix)
    base = os.path.dirname(os.path.abspath(paths[0]))
    names = grouping.ImageNames(os.path.normpath(os.path.join(base, image_dir)), image_suffix)
    for source in sources:
        cells = (first_value(row, source.columns.image) for row in source.table.samples())
        for cell in filter(None, cells):
            names = names.check(cell)
    groups = grouping.find_records(sources, names, split)
    count = len(groups.cuts) - 1
    num_units = min(_MAX_UNITS, -(-count // _RECORDS_PER_UNIT))
    bounds = [count * number // num_units for number in range(num_units + 1)] if num_units else []
    units = [
        Unit(sources, groups.slice(*span), names, min_texts) for span in itertools.pairwise(bounds)
    ]
    if units:
        parts = tuple(_input_parts(sources, groups, others))
        units[0] = dataclasses.replace(units[0], parts=parts)
    return units


def read(unit):
    """Yields `Record` or `Skipped` for each record of a unit, `Skipped` for texts, `InputParts`."""
    yield from unit.parts
    codes = collections.Counter()
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(s.table.path, "rb")) for s in unit.sources]
        for first, last in itertools.pairwise(unit.groups.cuts.tolist()):
            yield from _read_record(unit, files, range(first, last), codes)
    for code, count in codes.items():
        yield unit.sources[0].columns.code_parts(code, count)


def splits(raw_dir, file=None, split_column=None, **options):
    """Returns the splits in the file names or the split column; only `train` if there are none."""
    names = rows.file_names(file)
    pattern = next((name for name in names if "{split}" in name), None)
    if pattern is not None:
        in_names = rows.splits_of_files(raw_dir, pattern)
        if not in_names:
            raise UserError(f"no file {pattern} in {raw_dir} for any split")
        return in_names
    format_options = {key: options[key] for key in ("format", "quoting") if key in options}
    used = [value for key, value in options.items() if key.endswith("_column")]
    names_of_splits = {}
    for path in rows.find_files(raw_dir, file, "")[0]:
        table = rows.Table.open(path, **format_options)
        column = grouping.resolve_split_column(table, names, split_column, used)
        if column is not None and (table.json or column in table.columns):
            names_of_splits |= dict.fromkeys(grouping.list_splits(table, column))
    return tuple(names_of_splits) or SPLITS


def fingerprint(raw_dir, split, file=None, **_):
    """Returns a hash of the contents of the tables."""
    digests = []
    for path in rows.find_files(raw_dir, file, split)[0]:
        with open(path, "rb") as table:
            digests.append(hashlib.file_digest(table, "sha256").hexdigest())
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )


# --- several tables -------------------------------------------------------------------------------


def _resolve_sources(tables, file, options):
    """Returns a `grouping.Source` for each table."""
    all_columns = tuple(dict.fromkeys(name for table in tables for name in table.columns))
    used = (options.image, options.id, options.language_column, options.text)
    sources = []
    for table in tables:
        split_column = grouping.resolve_split_column(table, file, options.split, used)
        if len(tables) > 1 and not table.json and split_column not in table.columns:
            split_column = None
        chosen = dataclasses.replace(options, split=split_column)
        resolved = headers.resolve(table, chosen, all_columns if len(tables) > 1 else None)
        sources.append(grouping.Source(table, resolved, split_column))
    return sources


def _check_joined(sources, raw_dir, image_options):
    """Raises UserError if there are no texts, or if nothing joins the tables."""
    has_texts = [headers.has_texts(source.table, source.columns) for source in sources]
    if not any(has_texts):
        headers.raise_without_texts(sources[0].table, sources[0].columns)
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


def _input_parts(sources, groups, others):
    """Yields the `InputParts` of the files, the columns and the rows of other splits."""
    yield InputParts("files", len(sources))
    for name in others:
        yield InputParts("files", 1, "the option file omits them", name, f"file={name}")
    for source, keys in zip(sources, groups.json_keys, strict=True):
        yield from source.columns.parts(keys)
    if count := sum(groups.other_splits.values()):
        yield InputParts("rows", count, "they are in another split", groups.example)


# --- records --------------------------------------------------------------------------------------


def _read_rows(unit, files, positions):
    """Returns a list of (`grouping.Source`, place of the row, row) of a record."""
    groups, record_rows = unit.groups, []
    for position in positions:
        number, line = int(groups.sources[position]), int(groups.lines[position])
        source, file = unit.sources[number], files[number]
        file.seek(groups.starts[position])
        data = file.read(int(groups.ends[position] - groups.starts[position]))
        where = f"line {line}"
        if len(unit.sources) > 1:
            where = f"{os.path.basename(source.table.path)}, {where}"
        record_rows.append((source, where, source.table.row(data, line)))
    return record_rows


def _read_record(unit, files, positions, codes):
    """Yields the `Record` or `Skipped` of the rows at `positions`, and `InputParts` of the rows."""
    record_rows = _read_rows(unit, files, positions)
    source, where, row = record_rows[0]
    if isinstance(row, str):
        yield InputParts("rows", 1, "they are not valid", f"{where}: {row}")
        yield Skipped(row, where)
        return
    if source.split_column and first_value(row, source.split_column) is None:
        yield InputParts("rows", 1, "they name no split", where)
        yield Skipped("no split named", where)
        return
    yield InputParts("rows", len(record_rows))
    texts = yield from _read_texts(record_rows, codes)
    values = [
        (first_value(r, s.columns.image), first_value(r, s.columns.id)) for s, _, r in record_rows
    ]
    cell = next((image for image, _ in values if image), None)
    id = next((id for _, id in values if id), None)
    if len(texts) < unit.min_texts:
        reason = "no text" if not texts else f"fewer than {unit.min_texts} texts"
        yield Skipped(reason, f"{where}: {cell}" if cell else where)
        return
    images, image = (), None
    if any(source.columns.image is not None for source in unit.sources):
        if cell is None:
            yield Skipped("no image named", where)
            return
        image = unit.names.path(cell)
        data, reason = _load_image(unit.names, image, where)
        if reason:
            yield reason
            return
        images = (data,)
    number = int(unit.groups.lines[positions[0]])
    yield Record(id=id or image or str(number), images=images, texts=tuple(texts))


def _load_image(names, image, where):
    """Returns (bytes, None), or (None, `Skipped`) if the image cannot be used."""
    path = image + names.suffix
    data, reason = image_files.load_image(names.folder, path, where)
    if reason is None:
        return data, None
    similar = file_io.describe_similar(names.folder, path) if reason == "image missing" else ""
    return None, Skipped(reason, f"{where}: {path}{similar}")


def _read_texts(record_rows, codes):
    """Yields `Skipped` for invalid and repeated texts; returns the list of (language, text)."""
    texts = {}  # A dict, because it is ordered and its keys are unique.
    for source, where, row in record_rows:
        for item in source.columns.texts(row, codes):
            if isinstance(item, Skipped):
                yield dataclasses.replace(item, example=f"{where}: {item.example}")
            elif item in texts:
                yield Skipped("repeated in its record", f"{where}: {item[1]}", text_only=True)
            else:
                texts[item] = None
    return list(texts)
