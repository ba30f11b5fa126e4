"""Roles of the columns of a table, which determine the image, the id and the texts of a row."""

import collections
import dataclasses
import functools
import re
import reprlib
import string

from tf_mural import languages
from tf_mural.data.records import InputParts, Skipped
from tf_mural.data.records.record import NOT_LANGUAGES
from tf_mural.data.text_cleaning import is_blank

NOT_CHOSEN = "the option languages omits them"


@dataclasses.dataclass(frozen=True)
class Role:
    """The role of a column.

    Attributes:
        kind: one of the kinds in the docstring of `headers`.
        language: `languages.Language` of the texts; None if another column or a JSON key names it.
        ignored: the reason why the column is ignored, or None.
        option: option with which the column would be used, or "".
    """

    kind: str
    language: languages.Language | None = None
    ignored: str | None = None
    option: str = ""


@dataclasses.dataclass(frozen=True)
class Columns:
    """The columns of a table by role. A name with dots is a path in nested JSON objects.

    Attributes:
        layout: "wide" (one column per language) or "long" (one row per text).
        image, id: names of the columns of images and of ids, or None.
        language_column: name of the column of languages, or None; only for the long layout.
        text: name of a column of texts whose name is not a language, such as "caption", or None.
        default: `languages.Language` of texts for which the table names no language, or None.
        chosen: the language codes to keep, or None for all.
        assigned: {name: `languages.Language`} of the option `columns`.
        texts_keys: names of JSON objects with texts by language.
        reserved: {name: role} of the columns without texts.
        numeric: names of columns of numbers.
        wordy: names of the columns, sorted by the number of words in their cells, most words first.
        separator: separator of several texts in a cell, or None.
    """

    layout: str
    image: str | None
    id: str | None
    language_column: str | None
    text: str | None
    default: languages.Language | None
    chosen: frozenset | None
    assigned: dict
    texts_keys: tuple[str, ...]
    reserved: dict
    numeric: frozenset
    wordy: tuple[str, ...]
    separator: str | None

    def __post_init__(self):
        # The roles are cached, because all rows have the same column names.
        object.__setattr__(self, "role", functools.cache(self._classify))

    def __reduce__(self):
        fields = dataclasses.fields(self)
        return Columns, tuple(getattr(self, field.name) for field in fields)

    def _classify(self, name):
        """Returns the `Role` of the column `name`."""
        if name in self.assigned:
            return Role("texts", self.assigned[name])
        if name in self.reserved:
            return Role(self.reserved[name])
        if any(name == key.partition(".")[0] for key in (*self.texts_keys, *self.assigned)):
            return Role("captions")
        option = f"columns={name}:{_guess_language(name)}"
        if self.layout == "long":
            if name == self.text:
                return Role("text")
            return Role("ignored", None, "the table has one text in each row", option)
        if name == self.text and self.default is not None:
            if self.chosen is not None and self.default.code not in self.chosen:
                return Role("ignored", None, NOT_CHOSEN)
            return Role("texts", self.default)
        language = languages.find(name)
        if self.chosen is not None and name in self.chosen:
            return Role("texts", language or languages.Language(languages.canonicalize(name)))
        if language is None:
            reason = "their language is not named" if name == self.text else NOT_LANGUAGES
            return Role("ignored", None, reason, option)
        if self.chosen is not None and language.code not in self.chosen:
            return Role("ignored", None, NOT_CHOSEN)
        if name in self.numeric:
            return Role("ignored", None, "their cells are numbers", option)
        return Role("texts", language)

    def parts(self, names):
        """Yields `InputParts` for the columns of a table, and for the languages in their names."""
        names = tuple(dict.fromkeys(names))
        # The option in the ledger names the column that is most likely to have texts.
        likely = next((name for name in self.wordy if self.role(name).option), None)
        for name in names:
            role = self.role(name)
            option = self.role(likely).option if likely and role.option else ""
            yield InputParts("columns", 1, role.ignored, name, option)
            if role.kind == "texts" and name not in self.assigned and name != self.text:
                yield InputParts.language_code(name, role.language)

    def repeated_parts(self, names):
        """Yields `InputParts` for the columns of a table whose name an earlier column has."""
        for name, count in collections.Counter(names).items():
            role = self.role(name)
            is_used = role.kind in ("texts", "text", "captions")  # all their cells are texts
            ignored = role.ignored or (None if is_used else "an earlier column has their name")
            if count > 1:
                yield InputParts("columns", count - 1, ignored, name)

    def texts(self, row, codes):
        """Yields (language code, text) or `Skipped` for each text of a row; ignores empty cells.

        Args:
            row: see `rows.Table`.
            codes: Counter of the language codes in cells and in keys of JSON objects, to which the
                codes of this row are added.
        """
        for name, language, cells in self._cells(row):
            if name is not None:
                codes[name] += 1
            if language is None and name is not None:
                example = f"{name!r}{languages.hint(name)}"
                yield Skipped("not a language code", example, text_only=True)
                continue
            if language is None:
                for cell in filter(None, cells):
                    yield Skipped("no language named", _brief(cell), text_only=True)
                continue
            if name is not None and self.chosen is not None and language.code not in self.chosen:
                continue
            for cell in cells:
                if isinstance(cell, str):
                    for text in self._split_cell(cell):
                        if is_blank(text):
                            example = f"{language.code} {text!r}"
                            yield Skipped("blank text", example, text_only=True)
                        else:
                            yield language.code, text
                elif cell is not None:
                    yield Skipped("text is not a string", reprlib.repr(cell), text_only=True)
        yield from self._outside_object(row)

    def code_parts(self, code, count):
        """Returns the `InputParts` of a language code that occurs in `count` cells or keys."""
        language = self.find_language(code)
        if language and self.chosen is not None and language.code not in self.chosen:
            return InputParts("language codes", count, NOT_CHOSEN, code)
        return InputParts.language_code(code, language, count)

    def find_language(self, code):
        """Returns the `languages.Language` of a code in a cell or a key, or None."""
        if self.chosen is not None and code in self.chosen:
            return languages.find(code) or languages.Language(languages.canonicalize(code))
        return languages.find(code)

    def _cells(self, row):
        """Yields (code in a cell or key, or None; `languages.Language` or None; list of texts)."""
        if self.layout == "long":
            code = first_value(row, self.language_column)
            language = self.find_language(code) if code else self.default
            yield code, language, _as_list(get_value(row, self.text))
            for name, language in self.assigned.items():
                yield None, language, _as_list(get_value(row, name))
            return
        for name, language in self.assigned.items():
            if name not in row:  # a path into nested objects
                yield None, language, _as_list(get_value(row, name))
        captions = [value for key in self.texts_keys if (value := get_value(row, key)) is not None]
        for value in captions:
            for code, cells in value.items() if isinstance(value, dict) else ((None, value),):
                language = self.default if code is None else self.find_language(code)
                yield code, language, _as_list(cells)
        has_object = self._has_object(row)
        for name, value in row.items():
            role = self.role(name)
            if role.kind == "texts" and (name in self.assigned or not has_object):
                yield None, role.language, _as_list(value)

    def _has_object(self, row):
        """Returns whether a row has an object with texts by language."""
        return any(isinstance(get_value(row, key), dict) for key in self.texts_keys)

    def _outside_object(self, row):
        """Yields `Skipped` for the texts that are next to an object with texts by language."""
        if self.layout == "long" or not self._has_object(row):
            return
        for name, value in row.items():
            if name not in self.assigned and self.role(name).kind == "texts":
                for text in filter(None, _as_list(value)):
                    example = f"{name}: {_brief(text)}"
                    yield Skipped("text next to an object of texts", example, text_only=True)

    def _split_cell(self, cell):
        if self.separator is None:
            texts = [cell]
        else:
            texts = [text.strip() for text in cell.split(self.separator)]
        return [text for text in texts if text.strip(string.whitespace)]


def _guess_language(name):
    """Returns the language that a part of a name suggests ("de" for caption_de), or "en"."""
    parts = re.split(r"[\W_]+", name)
    return next((part for part in reversed(parts) if len(part) == 2 and languages.find(part)), "en")


def get_value(row, name):
    """Returns the value of a column in a row, or None; `name` may be a path in nested objects."""
    if name is None or name in row:
        return row.get(name)
    for part in name.split("."):
        row = row.get(part) if isinstance(row, dict) else None
    return row


def first_value(row, name):
    """Returns the first value of a column as a stripped string, or None if it is empty."""
    values = _as_list(get_value(row, name))
    if not values or values[0] is None:
        return None
    is_nested = isinstance(values[0], list | dict)  # possibly too deeply for `str`
    return (reprlib.repr if is_nested else str)(values[0]).strip() or None


def _brief(value):
    """Returns the start of a value of JSON, which may be nested too deeply for `repr`."""
    return value[:80] if isinstance(value, str) else reprlib.repr(value)


def _as_list(value):
    return value if isinstance(value, list) else [value]
