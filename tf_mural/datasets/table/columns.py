"""What the columns of a table mean: from a row to its image, its id and its texts."""

import dataclasses

from tf_mural.data.records import Dropped, is_language
from tf_mural.errors import UserError, suggest

LAYOUTS = ("auto", "wide", "long")


@dataclasses.dataclass(frozen=True)
class Columns:
    """Which column is what. A name with dots leads into nested JSON objects.

    Attributes:
        layout: "wide" (a row holds all texts of a record) or "long" (one text).
        image, id: names, or None.
        language, text: names; of the long layout only.
        languages: the codes to keep, or None for all.
        texts_keys: names of JSON objects that hold texts by language.
        reserved: columns of the wide layout that are no language, whatever they look like.
        separator: what parts several texts in a cell, or None.
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
        """What the rows of one record share in the long layout."""
        return first(row, self.id or self.image)

    def texts(self, row):
        """Yields (language, text) or `Dropped` for each text of a row; a blank cell is no text."""
        for code, values in self._values(row):
            if self.languages is not None and code not in self.languages:
                continue
            if not is_language(code):
                yield Dropped("not a language code", repr(code), text=True)
                continue
            for value in values:
                if isinstance(value, str):
                    for text in self._parts(value):
                        yield code, text
                elif value is not None:
                    yield Dropped("text is not a string", repr(value), text=True)

    def _values(self, row):
        """Yields (language, list of cells)."""
        if self.layout == "long":
            yield (first(row, self.language) or ""), _listed(lookup(row, self.text))
            return
        nested = [lookup(row, key) for key in self.texts_keys]
        nested = [value for value in nested if isinstance(value, dict)]
        for texts in nested or [row]:
            for code, value in texts.items():
                if nested or (code not in self.reserved and is_language(code)):
                    yield code, _listed(value)

    def _parts(self, cell):
        parts = (
            [cell] if self.separator is None else [p.strip() for p in cell.split(self.separator)]
        )
        return [part for part in parts if part.strip()]


def resolve(
    table, layout, image, id, split, language, text, languages, texts_keys, texts_separator
):
    """The `Columns` of a table from the options of the user, None standing for "not said".

    Raises:
        UserError: a column that was asked for is not there, or an unknown layout.
    """
    if layout not in LAYOUTS:
        raise UserError(f"unknown layout {layout!r}; known: {', '.join(LAYOUTS)}")
    is_long = layout == "long" or (layout == "auto" and {language, text} <= set(table.columns))
    if image is None and "image" in table.columns:
        image = "image"
    if id is None and table.columns[:1] == ("id",) and image != "id":
        id = "id"  # An "id" anywhere else is Indonesian.
    named = {name for name in (image, id, split) if name is not None}
    reserved = frozenset(named | {name.partition(".")[0] for name in named})
    asked = [("image_column", image), ("id_column", id), ("split_column", split)]
    if is_long:
        asked += [("language_column", language), ("text_column", text)]
    else:
        asked += [("languages", code) for code in languages or ()]
    if not table.json:  # Objects may leave keys out; only a header can be held to anything.
        _demand(table, asked)
    found = f"columns found: {', '.join(table.columns)}"
    if is_long and image is None and id is None:
        raise UserError(
            f"{table.path}: the long layout needs image_column or id_column, to know which texts "
            f"belong together; {found}"
        )
    if not (is_long or table.json or any(is_language(c) for c in set(table.columns) - reserved)):
        raise UserError(
            f"{table.path}: expected columns named by language codes such as 'de' (wide layout), "
            f"or columns {language!r} and {text!r} (long layout); {found}"
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


def _demand(table, asked):
    for option, name in asked:
        if name is not None and name not in table.columns:
            raise UserError(
                f"{table.path} has no column {name!r}, which the option {option} asks for; "
                f"columns found: {', '.join(table.columns)}{suggest(name, table.columns)}"
            )


def lookup(row, name):
    """What a row has under a name, dots leading into nested objects; None if nothing."""
    if name is None or name in row:
        return row.get(name)
    for part in name.split("."):
        row = row.get(part) if isinstance(row, dict) else None
    return row


def first(row, name):
    """The same as a string without blanks around it, the first one of a list; None if empty."""
    values = _listed(lookup(row, name))
    value = str(values[0]).strip() if values and values[0] is not None else ""
    return value or None


def _listed(value):
    return value if isinstance(value, list) else [value]
