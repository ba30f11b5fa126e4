"""Classifies the columns of a table by their names and first cells.

`resolve` and `Columns.role` are the only places that classify columns. A column is one of these:

    image, id, split     named by an option, or by a usual name such as "image" or "file_name"
    language, text       the language and the text of a row (long layout)
    texts                texts in one language: the name of the column is a language (wide layout),
                         the option `columns` assigns the language, or the column has a usual name
                         such as "caption" and the option `language` names the language
    captions             JSON objects with texts by language (JSONL)
    ignored              anything else, with the reason for the ledger
"""

import dataclasses
import re

from tf_mural import languages
from tf_mural.datasets.table.columns import Columns, first_value
from tf_mural.errors import UserError, suggest

LAYOUTS = ("auto", "wide", "long")
IMAGE_NAMES = (
    *("image", "image_path", "image_file", "image_name", "img", "img_path"),
    *("file_name", "filename", "filepath", "file_path", "path"),
)
ID_NAMES = ("image_id", "img_id", "imageid", "image_key")
LANGUAGE_NAMES = ("language", "lang", "language_code", "lang_code", "locale")
TEXT_NAMES = (
    *("text", "caption", "sentence", "texts", "captions", "sentences"),
    *("title", "comment", "description", "raw"),
)
_IMAGE_FILE = re.compile(r"(?!\w+://).+\.(jpe?g|png|webp|gif|bmp|tiff?)(#\d+)?", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class ColumnOptions:
    """The options of `table.plan` that describe columns; see `table.plan`."""

    layout: str = "auto"
    image: str | None = None
    id: str | None = None
    split: str | None = None
    language_column: str | None = None
    text: str | None = None
    columns: tuple[str, ...] = ()
    language: str | None = None
    languages: tuple[str, ...] | None = None
    texts_keys: tuple[str, ...] = ("captions",)
    separator: str | None = None


def resolve(table, options, all_columns=None):
    """Returns the `Columns` of a table; options that are None take their defaults.

    Args:
        table: `rows.Table`.
        options: `ColumnOptions`.
        all_columns: names of the columns of all tables, if the table is one of several tables that
            are read together. Default: those of `table`.

    Raises:
        UserError: a column that an option names does not exist, an option is invalid, or the
            layout is unknown.
    """
    if options.layout not in LAYOUTS:
        raise UserError(f"unknown layout {options.layout!r}; known: {', '.join(LAYOUTS)}")
    names, samples = table.columns, table.samples()
    is_single = all_columns is None or len(all_columns) == len(names)
    assigned = _parse_assignments(options.columns)
    default = None
    if options.language is not None:
        default = languages.Language(languages.canonicalize(options.language))
    chosen = _chosen_languages(options.languages)
    image = options.image or _find_image(table, samples, assigned)
    id = options.id or _find_id(names, image, is_single, assigned)
    language_column = options.language_column or _pick(names, LANGUAGE_NAMES, assigned)
    text = options.text or _pick(names, TEXT_NAMES, assigned)
    is_long = options.layout == "long" or (
        options.layout == "auto" and {language_column, text} <= set(names)
    )
    if options.layout == "long":
        language_column, text = language_column or LANGUAGE_NAMES[0], text or TEXT_NAMES[0]
    reserved = {"image": image, "id": id, "split": options.split}
    if is_long:
        reserved["language"] = language_column
    resolved = Columns(
        layout="long" if is_long else "wide",
        image=image,
        id=id,
        language_column=language_column if is_long else None,
        text=text,
        default=default,
        chosen=chosen,
        assigned=assigned,
        texts_keys=options.texts_keys if table.json else (),
        reserved=_with_roots(reserved),
        numeric=_numeric_columns(names, samples),
        wordy=_sort_by_words(names, samples),
        separator=options.separator,
    )
    if table.has_header:  # Keys of JSON objects are optional, so only headers are checked.
        _check_columns(table, options, resolved, is_long, all_columns or names)
    return resolved


def has_texts(table, resolved):
    """Returns whether a table has a column of texts, or may have one (JSONL)."""
    kinds = {resolved.role(name).kind for name in table.columns}
    is_plain = resolved.text in table.columns and resolved.layout == "wide"
    return bool(kinds & {"texts", "captions", "text"}) or not (table.has_header or is_plain)


def check_long(table, resolved):
    """Raises UserError if a table of the long layout has no images or ids that group its rows."""
    if resolved.layout == "long" and resolved.image is None and resolved.id is None:
        raise UserError(
            f"{table.path}: the long layout needs image_column or id_column, to know which texts "
            f"belong together; columns found: {', '.join(table.columns)}"
        )


def raise_without_texts(table, resolved):
    """Raises a UserError for a table without texts; the message names the remedy."""
    listed = f"columns found: {', '.join(table.columns)}"
    if resolved.text in table.columns:
        raise UserError(
            f"{table.path}: nothing names the language of the column {resolved.text!r}; name it "
            f"with the option language=en, or the option columns={resolved.text}:en; {listed}"
        )
    raise UserError(
        f"{table.path}: expected columns named by language codes such as 'de' (wide layout), "
        f"or columns 'language' and 'text' (long layout); {listed}; the option "
        f"columns={next(reversed(table.columns), 'text')}:en assigns a language to a column"
    )


# --- classification -------------------------------------------------------------------------------


def _parse_assignments(columns):
    """Returns {name: `languages.Language`} of the option `columns`."""
    assigned = {}
    for entry in columns:
        name, colon, code = entry.rpartition(":")
        if not colon or not name:
            raise UserError(
                f"the option columns contains {entry!r}; expected a column and its language, such "
                "as alt:en"
            )
        assigned[name] = languages.Language(languages.canonicalize(code, "the option columns"))
    return assigned


def _chosen_languages(codes):
    """Returns the codes of the option `languages`, as given and as records store them, or None."""
    if codes is None:
        return None
    stored = (languages.canonicalize(code, "the option languages") for code in codes)
    return frozenset([*codes, *stored])


def _pick(names, usual_names, assigned):
    """Returns the first of `usual_names` that is a column without an assigned language, or None."""
    by_name = {name.lower(): name for name in reversed(names) if name not in assigned}
    return next((by_name[name] for name in usual_names if name in by_name), None)


def _find_image(table, samples, assigned):
    """Returns the column of images or their paths, or None.

    The column is the one that contains images, "image", a usual name if its cells are names of
    image files, or the only column whose cells are names of image files.
    """
    names = [name for name in table.columns if name not in assigned]
    if embedded := [name for name in table.image_columns if name not in assigned]:
        if len(embedded) > 1 and "image" not in embedded:
            raise UserError(
                f"{table.path}: the columns {' and '.join(embedded)} contain images; choose one "
                f"with the option image_column={embedded[0]}"
            )
        return "image" if "image" in embedded else embedded[0]
    if "image" in names:
        return "image"
    of_files = [name for name in dict.fromkeys(names) if _names_images(samples, name)]
    usual = _pick(of_files, IMAGE_NAMES, ())
    return usual or (of_files[0] if len(of_files) == 1 else None)


def _names_images(samples, name):
    values = [value for row in samples if (value := first_value(row, name))]
    return bool(values) and all(_IMAGE_FILE.fullmatch(value) for value in values)


def _find_id(names, image, is_single, assigned):
    if image is None or not is_single:
        if name := _pick(names, ID_NAMES, assigned):
            return name if name != image else None
    # At any other position, "id" is the language code of Indonesian.
    return "id" if names[:1] == ("id",) and image != "id" and "id" not in assigned else None


def _numeric_columns(names, samples):
    """Returns the columns whose cells are numbers; such a column "no" or "lat" is no language."""
    numeric = set()
    for name in names:
        values = [value for row in samples if (value := first_value(row, name))]
        if values and all(map(_is_number, values)):
            numeric.add(name)
    return frozenset(numeric)


def _sort_by_words(names, samples):
    """Returns the columns, sorted by the number of words in their first cells, most words first."""

    def negative_count(name):
        return -sum(len((first_value(row, name) or "").split()) for row in samples)

    return tuple(sorted(dict.fromkeys(names), key=negative_count))


def _is_number(value):
    try:
        float(value)
    except ValueError:
        return value in ("True", "False", "true", "false")
    return True


def _with_roots(reserved):
    """Returns {name: role} of the named columns; adds the first part of each name with dots."""
    by_name = {}
    for role, name in reserved.items():
        if name is not None:
            by_name |= {name: role, name.partition(".")[0]: role}
    return by_name


def _check_columns(table, options, resolved, is_long, names):
    named = [("image_column", options.image), ("id_column", options.id)]
    named += [("split_column", options.split), *(("columns", name) for name in resolved.assigned)]
    if is_long:
        named += [("language_column", resolved.language_column), ("text_column", resolved.text)]
    else:
        named += [("language_column", options.language_column), ("text_column", options.text)]
        codes = {role.language.code for name in names if (role := resolved.role(name)).language}
        for code in options.languages or ():
            stored = languages.canonicalize(code)
            named.append(("languages", None if stored in codes else code))
    for option, name in named:
        # A name with dots is a path in nested objects.
        root = name.partition(".")[0] if name is not None and table.json else name
        if name is not None and not {name, root} & set(names):
            raise UserError(
                f"{table.path} has no column {name!r}, which the option {option} names; "
                f"columns found: {', '.join(names)}{suggest(name, names)}"
            )
