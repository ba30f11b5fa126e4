"""Names and templates as their projects publish them.

openai/CLIP          {"classes": [...], "templates": [...]}, alone or by data set: English
CLIP_benchmark       `de_classnames.json`, {data set: names}, beside
                     `de_zeroshot_classification_templates.json`, {data set: templates}; "cn" and
                     "jp" there are Chinese and Japanese
its Babel-ImageNet   `babel_imagenet.json`, {"DE": [labels, names]}, with many classes missing,
                     beside `nllb_dist13b_prompts.json`, {"DE": templates}
"""

import glob
import json
import os
import re

from tf_mural.errors import UserError, lookup

_LANGUAGES = {"cn": "zh", "jp": "ja"}  # codes of countries
_NAMES, _TEMPLATES = "_classnames.json", "_zeroshot_classification_templates.json"
_BABEL, _BABEL_TEMPLATES = "babel_imagenet.json", "nllb_dist13b_prompts.json"
_IMAGENET = 1000  # classes


def read(place, dataset, count=None):
    """Names and templates.

    Args:
        place: file or folder, see above.
        dataset: which one, however its capitals; "imagenet" is "imagenet1k" too.
        count: classes of the records, or None.

    Returns:
        ({language: names by label, None where there is none}, {language: templates}).

    Raises:
        UserError: no such file, a damaged one, no such data set.
    """
    if os.path.isdir(place):
        return _clip_benchmark(place, dataset)
    if os.path.basename(place) == _BABEL:
        return _babel(place, count or _IMAGENET)
    table = _json(place)
    if not {"classes", "templates"} <= set(table):
        table = _of_dataset(table, dataset, place)
    if not isinstance(table, dict) or not {"classes", "templates"} <= set(table):
        raise _odd(place, "'classes' and 'templates'")
    return tuple({"en": _list(table[key], place)} for key in ("classes", "templates"))


def _clip_benchmark(folder, dataset):
    found = []
    for end in (_NAMES, _TEMPLATES):
        of_language = {}
        for path in sorted(glob.glob(os.path.join(glob.escape(folder), f"*{end}"))):
            code = os.path.basename(path).removesuffix(end)
            table = _json(path)
            if _key(table, dataset):
                found_there = _list(_of_dataset(table, dataset, path), path)
                of_language[_LANGUAGES.get(code, code)] = found_there
        found.append(of_language)
    if not any(found):
        raise UserError(
            f"prompts: {folder} holds neither folders of prompts (templates, classes, filled) nor "
            f"a file *{_NAMES} or *{_TEMPLATES} with {dataset!r}"
        )
    return tuple(found)


def _babel(path, count):
    names = {}
    for code, value in _json(path).items():
        try:
            labels, words = value
            by_label = [None] * count
            for label, word in zip(labels, words, strict=True):
                if label < 0:
                    raise ValueError
                by_label[label] = word
        except (IndexError, TypeError, ValueError) as error:
            raise _odd(path, f"of {code!r} labels under {count} and as many names") from error
        names[code.lower()] = by_label
    beside = os.path.join(os.path.dirname(path), _BABEL_TEMPLATES)
    return names, {code.lower(): _list(texts, beside) for code, texts in _json(beside).items()}


def _json(path):
    """The object in a file."""
    try:
        with open(path, encoding="utf-8") as file:
            table = json.load(file)
    except FileNotFoundError:
        raise UserError(f"prompts: {path} does not exist") from None
    except ValueError as error:
        raise UserError(f"prompts: {path} is no JSON in UTF-8 ({error})") from error
    if not isinstance(table, dict):
        raise _odd(path, "an object")
    return table


def _key(table, dataset):
    """The table's name of a data set, or None: "ImageNet", "imagenet1k" and "imagenet" are one."""
    wanted = _plain(dataset)
    return next((key for key in table if _plain(key) == wanted), None)


def _plain(name):
    return re.sub(r"[^a-z0-9]", "", name.lower()).replace("imagenet1k", "imagenet")


def _of_dataset(table, dataset, path):
    key = _key(table, dataset)
    return table[key] if key else lookup(table, dataset, f"data set of {path}:")


def _list(value, path):
    if not isinstance(value, list):
        raise _odd(path, f"a list of strings, got {type(value).__name__}")
    return value


def _odd(path, expected):
    return UserError(f"prompts: {path}: expected {expected}; is it the published file?")
