"""Prompts from files: folders with one file a language, or what projects publish.

A folder of prompts holds folders of text files in UTF-8, each named by its language (`de.txt`):

    templates/de.txt   a template a line, with {} where the name goes
    classes/de.txt     a name a line, in the order of the labels; empty where there is none; several
                       names of a class have a tab between them
    suffix/de.txt      optional, one line: what goes to the end of each template, such as
                       ", eine Art Essen"; with this folder every language needs one
    filled/de.tsv      instead of all these: label, tab, the whole prompt; a line a prompt
"""

import os

from tf_mural.errors import UserError
from tf_mural.evaluation.prompts import published
from tf_mural.evaluation.prompts.clip import spoken
from tf_mural.evaluation.prompts.templates import Prompts, combine

_FOLDERS = {"templates": ".txt", "classes": ".txt", "suffix": ".txt", "filled": ".tsv"}


def read(place, classes=None, dataset="imagenet", suffixes=None):
    """Reads prompts.

    Args:
        place: a folder as above, or what is published: the JSON of openai/CLIP's names and
            templates, the folder of CLIP_benchmark's JSON files, or its `babel_imagenet.json`.
        classes: the names of the labels in the records' manifest, to check number and order.
        dataset: which one, where a file holds several.
        suffixes: {language: suffix}, where the files have none and the data set asks for it.

    Returns:
        `Prompts`; languages that lack something are in its `lacking`.

    Raises:
        UserError: nothing of the kind there, a damaged file, a label that does not exist, another
            number of names than of classes, names in another order than the classes.
    """
    place = os.fspath(place)
    if not os.path.exists(place):
        raise UserError(f"prompts: {place} does not exist")
    if any(os.path.isdir(os.path.join(place, folder)) for folder in _FOLDERS):
        if suffixes is not None:
            raise UserError(f"prompts: the suffixes of {place} belong into its folder 'suffix'")
        found = {folder: _texts(place, folder, end) for folder, end in _FOLDERS.items()}
        names, filled = found["classes"], _filled(place, found["filled"], classes)
        templates = found["templates"]
        suffixes = {key: value[0] for key, value in found["suffix"].items() if value} or None
    else:
        names, templates = published.read(place, dataset, len(classes) if classes else None)
        filled = {}
    for language in filled:
        if language in names:
            raise UserError(f"{place}: {language!r} is in 'filled' and in 'classes': keep one")
    for language, of_language in names.items():
        _check(of_language, classes, place, language)
    combined = combine(names, templates, suffixes)
    lacking = {key: what for key, what in combined.lacking.items() if key not in filled}
    return Prompts({**combined, **filled}, lacking)


def _texts(place, folder, end):
    """{language: lines} of the files of a folder, in the order of the languages."""
    path = os.path.join(place, folder)
    if not os.path.isdir(path):
        return {}
    names = sorted(name for name in os.listdir(path) if name.endswith(end))
    return {name.removesuffix(end): _lines(os.path.join(path, name), folder) for name in names}


def _lines(path, kind):
    """The lines of a file; of classes, a line with several names is a list."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error.reason} at byte {error.start})") from error
    lines = text.split("\n")
    if not lines[-1]:  # what comes after the last line's end
        lines.pop()
    if kind == "classes":
        return [line.split("\t") for line in lines]
    # A label and its prompt stand for themselves; a line without text is none.
    return [line for line in lines if line.strip()]


def _filled(place, files, classes):
    """{language: prompts by label} of files of whole prompts."""
    labels = {
        language: [_labelled(place, language, number, line) for number, line in enumerate(lines, 1)]
        for language, lines in files.items()
    }
    count = (
        len(classes)
        if classes
        else 1 + max((label for pairs in labels.values() for label, _ in pairs), default=-1)
    )
    prompts = {}
    for language, pairs in labels.items():
        by_label = [[] for _ in range(count)]
        for label, prompt in pairs:
            if label >= count:
                raise UserError(
                    f"{place}: label {label} in filled/{language}.tsv: the records have {count} "
                    f"classes, from 0 to {count - 1}"
                )
            by_label[label].append(" ".join(prompt.split()))
        prompts[language] = by_label
    return prompts


def _labelled(place, language, number, line):
    """(label, prompt) of a line."""
    label, tab, prompt = line.partition("\t")
    if not label.isdecimal() or not prompt.strip():
        raise UserError(
            f"{place}: line {number} of filled/{language}.tsv: expected a label, a tab and a "
            f"prompt, got {line!r}"
        )
    return int(label), prompt


def _check(names, classes, place, language):
    """Refuses names that are not those of the classes in number, or in order where one can tell."""
    if not classes:
        return
    if len(names) != len(classes):
        raise UserError(
            f"{place}: {len(names)} names of classes in {language!r}, but the records have "
            f"{len(classes)}; a class without a name needs an empty line"
        )
    place_of = {spoken(name).lower(): label for label, name in enumerate(classes)}
    same, moved = 0, None
    for label, name in enumerate(names):
        first = name if isinstance(name, str) else next(iter(name or ()), "")
        other = place_of.get(spoken(first).lower(), None)
        same += (other == label) - (other not in (None, label))
        if other not in (None, label):
            moved = moved or (label, first, other)
    # Some names are those of other classes, such as "crane"; many are another order.
    if moved and same < 0:
        label, name, other = moved
        raise UserError(
            f"{place}: the classes in {language!r} are in another order than the records': name "
            f"{label} is {name!r}, which is label {other} there"
        )
