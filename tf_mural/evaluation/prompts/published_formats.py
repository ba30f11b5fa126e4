"""Reads class names and templates in the formats in which other projects publish them.

openai/CLIP          {"classes": [...], "templates": [...]}, or {data set: such an object}; only
                     English
CLIP_benchmark       `de_classnames.json`, {data set: names}, and
                     `de_zeroshot_classification_templates.json`, {data set: templates}; the codes
                     "cn" and "jp" in file names mean Chinese and Japanese
Babel-ImageNet       `babel_imagenet.json` or `babel_imagenet-298.json`, {"DE": [labels, names]},
                     which lack many classes, and `nllb_dist13b_prompts.json`, {"DE": templates}
"""

import glob
import json
import os
import re

from tf_mural.errors import UserError, lookup
from tf_mural.languages import by_code

_COUNTRIES = {"cn": "zh"}  # country codes that are used as language codes
_NAMES, _TEMPLATES = "_classnames.json", "_zeroshot_classification_templates.json"
_BABEL_STEM, _BABEL_TEMPLATES = "babel_imagenet", "nllb_dist13b_prompts.json"
_IMAGENET_CLASSES = 1000


def read(path, dataset, num_classes=None):
    """Reads class names and templates.

    Args:
        path: File or folder in one of the formats that the docstring of the module lists.
        dataset: Name of the data set, in upper or lower case; "imagenet" also finds "imagenet1k".
        num_classes: Number of classes of the records, or None.

    Returns:
        Tuple ({language: names by label}, {language: templates}). A class without a name has the
        name None.

    Raises:
        UserError: A file does not exist or is damaged, or the data set is unknown.
    """
    if os.path.isdir(path):
        return _read_clip_benchmark(path, dataset)
    if os.path.basename(path).startswith(_BABEL_STEM):
        return _read_babel(path, num_classes or _IMAGENET_CLASSES)
    table = _read_json(path)
    if not {"classes", "templates"} <= set(table):
        table = _find_dataset(table, dataset, path)
    if not isinstance(table, dict) or not {"classes", "templates"} <= set(table):
        raise _format_error(path, "'classes' and 'templates'")
    return tuple({"en": _check_list(table[key], path)} for key in ("classes", "templates"))


def check_imagenet_classes(names, classes, path):
    """Checks that the English names of Babel-ImageNet fit the classes of the records.

    Args:
        names: {language: names by label}, result of `read`.
        classes: class names of the records, such as "tench, Tinca tinca"; the English names are
            among these names.
        path: File of Babel-ImageNet, for the error message.

    Raises:
        UserError: Most English names are not among the names of their class.
    """
    english = names.get("en", ())
    pairs = [(name, words) for name, words in zip(english, classes, strict=False) if name]
    wrong = [
        (name, words)
        for name, words in pairs
        if name.lower() not in [word.strip().lower() for word in words.split(",")]
    ]
    if 2 * len(wrong) > len(pairs):
        name, words = wrong[0]
        raise UserError(
            f"prompts: {len(wrong)} of {len(pairs)} English names of {path} are not those of the "
            f"records' classes, such as {name!r} for {words!r}: the class list is that of another "
            "ImageNet, or in another order; convert imagenet again with its development kit"
        )


def _read_clip_benchmark(folder, dataset):
    names_and_templates = []
    for suffix in (_NAMES, _TEMPLATES):
        by_language = {}
        for path in sorted(glob.glob(os.path.join(glob.escape(folder), f"*{suffix}"))):
            code = os.path.basename(path).removesuffix(suffix)
            table = _read_json(path)
            if _find_key(table, dataset):
                strings = _check_list(_find_dataset(table, dataset, path), path)
                by_language[_COUNTRIES.get(code, code)] = strings
        names_and_templates.append(by_code(by_language, folder))
    if not any(names_and_templates):
        raise UserError(
            f"prompts: {folder} contains neither folders of prompts (templates, classes, filled) "
            f"nor a file *{_NAMES} or *{_TEMPLATES} with {dataset!r}"
        )
    return tuple(names_and_templates)


def _read_babel(path, num_classes):
    names = {}
    for code, value in _read_json(path).items():
        try:
            labels, words = value
            by_label = [None] * num_classes
            for label, word in zip(labels, words, strict=True):
                if label < 0:
                    raise ValueError
                by_label[label] = word
        except (IndexError, TypeError, ValueError) as error:
            raise UserError(
                f"prompts: {path}: expected for {code!r} labels below {num_classes} and as many "
                "names; the file is not the published one, or the records have the classes of "
                f"another ImageNet than the {_IMAGENET_CLASSES:,} of ILSVRC 2012"
            ) from error
        names[code.lower()] = by_label
    names = by_code(names, path)
    path = os.path.join(os.path.dirname(path), _BABEL_TEMPLATES)
    templates = _read_json(path)
    checked = {code.lower(): _check_list(texts, path) for code, texts in templates.items()}
    return names, by_code(checked, path)


def _read_json(path):
    """Returns the JSON object of a file."""
    try:
        with open(path, encoding="utf-8") as file:
            table = json.load(file)
    except FileNotFoundError:
        raise UserError(f"prompts: {path} does not exist") from None
    except ValueError as error:
        raise UserError(f"prompts: {path} is no JSON in UTF-8 ({error})") from error
    if not isinstance(table, dict):
        raise _format_error(path, "an object")
    return table


def _find_key(table, dataset):
    """Returns the key of a data set, or None; "ImageNet" and "imagenet1k" match "imagenet"."""
    normalized = _normalize_name(dataset)
    return next((key for key in table if _normalize_name(key) == normalized), None)


def _normalize_name(name):
    return re.sub(r"[^a-z0-9]", "", name.lower()).replace("imagenet1k", "imagenet")


def _find_dataset(table, dataset, path):
    key = _find_key(table, dataset)
    return table[key] if key else lookup(table, dataset, f"data set of {path}:")


def _check_list(value, path):
    if not isinstance(value, list):
        raise _format_error(path, f"a list of strings, got {type(value).__name__}")
    return value


def _format_error(path, expected):
    return UserError(f"prompts: {path}: expected {expected}; is it the published file?")
