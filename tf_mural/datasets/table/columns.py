"""Roles of the columns of a table: maps a row to its image, its id and its texts."""

import dataclasses

from tf_mural.data.records import Skipped, is_language
from tf_mural.errors import UserError, suggest

LAYOUTS = ("auto", "wide", "long")


@dataclasses.dataclass(frozen=True)
class Columns:
    """Names of the columns by role. A name with dots is a path into nested JSON objects.

    Attributes:
        layout: "wide" (a row has all texts of a record) or "long" (a row has one text).
        image, id: names, or None.
        language, text: names; only for the long layout.
        languages: language codes to keep, or None for all.
        texts_keys: names of JSON objects with texts by language.
        reserved: columns of the wide layout that do not contain texts, even if their names look
            like language codes.
        separator: separator of several texts in a cell, or None.
    """

    layout: str
    image: str | None
    id: str | None
    language: str
    text: str
    languages: tuple[str, ...] | None
    texts_keys: tuple[str, ...]
    reserved: frozenset
    separator: str | None

    def key(self, row):
        """Returns the value that all rows of a record share in the long layout."""
        return first_value(row, self.id or self.image)

    def texts(self, row):
        """Yields (language, text) or `Skipped` for each text of a row; ignores blank cells."""
        for code, cells in self._cells(row):
            if self.languages is not None and code not in self.languages:
                continue
            if not is_language(code):
                yield Skipped("not a language code", repr(code), text_only=True)
                continue
            for cell in cells:
                if isinstance(cell, str):
                    for text in self._split_cell(cell):
                        yield code, text
                elif cell is not None:
                    yield Skipped("text is not a string", repr(cell), text_only=True)

    def _cells(self, row):
        """Yields (language, list of cells)."""
        if self.layout == "long":
            yield (first_value(row, self.language) or ""), _as_list(get_value(row, self.text))
            return
        nested = [get_value(row, key) for key in self.texts_keys]
        nested = [value for value in nested if isinstance(value, dict)]
        for texts in nested or [row]:
            for code, value in texts.items():
                if nested or (code not in self.reserved and is_language(code)):
                    yield code, _as_list(value)

    def _split_cell(self, cell):
        if self.separator is None:
            texts = [cell]
        else:
            texts = [text.strip() for text in cell.split(self.separator)]
        return [text for text in texts if text.strip()]


def resolve(
    table, layout, image, id, split, language, text, languages, texts_keys, texts_separator
):
    """Returns the `Columns` of a table; options that are None take their defaults.

    Raises:
        UserError: a column that an option names does not exist, or the layout is unknown.
    """
    if layout not in LAYOUTS:
        raise UserError(f"unknown layout {layout!r}; known: {', '.join(LAYOUTS)}")
    is_long = layout == "long" or (layout == "auto" and {language, text} <= set(table.columns))
    if image is None and "image" in table.columns:
        image = "image"
    if id is None and table.columns[:1] == ("id",) and image != "id":
        id = "id"  # At any other position, "id" is the language code of Indonesian.
    named = {name for name in (image, id, split) if name is not None}
    reserved = frozenset(named | {name.partition(".")[0] for name in named})
    options = [("image_column", image), ("id_column", id), ("split_column", split)]
    if is_long:
        options += [("language_column", language), ("text_column", text)]
    else:
        options += [("languages", code) for code in languages or ()]
    if not table.json:  # Keys of JSON objects are optional, so only headers are checked.
        _check_columns(table, options)
    listed = f"columns found: {', '.join(table.columns)}"
    if is_long and image is None and id is None:
        raise UserError(
            f"{table.path}: the long layout needs image_column or id_column, to know which texts "
            f"belong together; {listed}"
        )
    if not (is_long or table.json or any(is_language(c) for c in set(table.columns) - reserved)):
        raise UserError(
            f"{table.path}: expected columns named by language codes such as 'de' (wide layout), "
            f"or columns {language!r} and {text!r} (long layout); {listed}"
        )
    return Columns(
        layout="long" if is_long else "wide",
        image=image,
        id=id,
        language=language,
        text=text,
        languages=languages,
        texts_keys=texts_keys if table.json else (),
        reserved=reserved,
        separator=texts_separator,
    )


def _check_columns(table, options):
    for option, name in options:
        if name is not None and name not in table.columns:
            raise UserError(
                f"{table.path} has no column {name!r}, which the option {option} names; "
                f"columns found: {', '.join(table.columns)}{suggest(name, table.columns)}"
            )


def get_value(row, name):
    """Returns the value of a row under a name, or None; dots lead into nested objects."""
    if name is None or name in row:
        return row.get(name)
    for part in name.split("."):
        row = row.get(part) if isinstance(row, dict) else None
    return row


def first_value(row, name):
    """Returns the first value under a name as a stripped string, or None if it is empty."""
    values = _as_list(get_value(row, name))
    value = str(values[0]).strip() if values and values[0] is not None else ""
    return value or None


def _as_list(value):
    return value if isinstance(value, list) else [value]
