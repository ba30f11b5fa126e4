"""Reads the records of a unit: the rows of each record, its image and its texts."""

import collections
import contextlib
import dataclasses
import itertools
import os

from tf_mural import file_io
from tf_mural.data.records import InputParts, Record, Skipped
from tf_mural.datasets import image_files
from tf_mural.datasets.table import grouping
from tf_mural.datasets.table.columns import first_value, get_value
from tf_mural.datasets.table.parquet import EmbeddedImage


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


def read(unit):
    """Yields a `Record` or `Skipped` for each record, `Skipped` for texts, and `InputParts`."""
    yield from unit.parts
    codes = collections.Counter()
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(source.table.opened()) for source in unit.sources]
        for first, last in itertools.pairwise(unit.groups.cuts.tolist()):
            yield from _read_record(unit, readers, range(first, last), codes)
    for code, count in codes.items():
        yield unit.sources[0].columns.code_parts(code, count)


def _read_rows(unit, readers, positions):
    """Returns a list of (`grouping.Source`, name of the row for messages, row) of a record."""
    groups, record_rows = unit.groups, []
    for position in positions:
        number, line = int(groups.sources[position]), int(groups.lines[position])
        source = unit.sources[number]
        span = int(groups.starts[position]), int(groups.ends[position])
        where = source.table.place(line)
        if len(unit.sources) > 1:
            where = f"{os.path.basename(source.table.path)}, {where}"
        record_rows.append((source, where, readers[number](*span, line)))
    return record_rows


def _read_record(unit, readers, positions, codes):
    """Yields the `Record` or `Skipped` of the rows at `positions`, and `InputParts` of the rows."""
    record_rows = _read_rows(unit, readers, positions)
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
    cells = (get_value(row, source.columns.image) for source, _, row in record_rows)
    embedded = next((value for value in cells if isinstance(value, EmbeddedImage)), None)
    id = next((id for _, id in values if id), None)
    if len(texts) < unit.min_texts:
        reason = "no text" if not texts else f"fewer than {unit.min_texts} texts"
        name = embedded.id if embedded else cell
        yield Skipped(reason, f"{where}: {name}" if name else where)
        return
    images, image = (), None
    if any(source.columns.image is not None for source in unit.sources):
        if cell is None:
            yield Skipped("no image named", where)
            return
        image = embedded.id if embedded else unit.names.path(cell)
        data, reason = _load_image(unit.names, embedded or image, where)
        if reason:
            yield reason
            return
        images = (data,)
    number = int(unit.groups.lines[positions[0]])
    yield Record(id=id or image or str(number), images=images, texts=tuple(texts))


def _load_image(names, image, where):
    """Returns (bytes, None), or (None, `Skipped`) if the image cannot be used.

    Args:
        names: `grouping.ImageNames`.
        image: `parquet.EmbeddedImage`, or a path.
        where: name of the row for messages.
    """
    if isinstance(image, EmbeddedImage):
        data, reason = image_files.validate_image(image.data)
        return data, reason and Skipped(reason, f"{where}: {image.id}")
    path = image + names.suffix
    data, reason = image_files.load_image(names.folder, path, where)
    if reason is None:
        return data, None
    similar = file_io.describe_similar(names.folder, path) if reason == "image missing" else ""
    return None, Skipped(reason, f"{where}: {path}{similar}")


def _read_texts(record_rows, codes):
    """Yields `Skipped` for invalid and repeated texts; returns the list of (language, text)."""
    texts = {}  # A dict is used, because it is ordered and its keys are unique.
    for source, where, row in record_rows:
        for item in source.columns.texts(row, codes):
            if isinstance(item, Skipped):
                yield dataclasses.replace(item, example=f"{where}: {item.example}")
            elif item in texts:
                yield Skipped("repeated in its record", f"{where}: {item[1]}", text_only=True)
            else:
                texts[item] = None
    return list(texts)
