"""Reads prompts from files: a folder with one file per language, or a published format.

A folder of prompts contains folders of UTF-8 text files. The name of each file is a language code,
such as `de.txt`, also in another convention (`deu_Latn.txt`; see `tf_mural.languages`):

    templates/de.txt   one template per line, with {} for the name
    classes/de.txt     one name per line, in the order of the labels; an empty line for a class
                       without a name; several names of a class are separated by tabs
    suffix/de.txt      optional, one line: appended to each template, for example
                       ", eine Art Essen"; if the folder exists, every language needs a suffix
    filled/de.tsv      instead of the files above: one complete prompt per line, after its label
                       and a tab
"""

import os

from tf_mural import languages
from tf_mural.errors import UserError, lookup
from tf_mural.evaluation.prompts import published_formats
from tf_mural.evaluation.prompts.clip import humanize_class
from tf_mural.evaluation.prompts.templates import Prompts, combine

PROMPT_SETS = ("names", "openai-english")
_EXTENSIONS = {"templates": ".txt", "classes": ".txt", "suffix": ".txt", "filled": ".tsv"}


def read(path, classes=None, dataset="imagenet", suffixes=None, prompt_set=None):
    """Reads prompts.

    Args:
        path: A folder as described in the docstring of this module, or a published file or folder:
            the JSON file of names and templates of openai/CLIP, the folder of JSON files of
            CLIP_benchmark, or the file `babel_imagenet.json` of CLIP_benchmark.
        classes: Class names of the record set's manifest, or None. The number and the order of
            the names in the files are checked against `classes`.
        dataset: Name of the data set, for files that contain several data sets.
        suffixes: {language: suffix}, if the data set needs suffixes and the files have none.
        prompt_set: "names": each prompt is only the name of the class, without a template.
            "openai-english": Babel-ImageNet's prompts, but with the English names and templates of
            CLIP, from the files of CLIP_benchmark in the same folder, as Babel-ImageNet's own
            program uses them. None: the prompts of the files.

    Returns:
        `Prompts`. The attribute `lacking` of the result has the languages without templates, names
        or a required suffix.

    Raises:
        UserError: The path does not exist or contains no prompts, a file is damaged, a label does
            not exist, names differ from `classes` in number or order, or `prompt_set` is unknown.
    """
    path = os.fspath(path)
    if prompt_set is not None:
        lookup(dict.fromkeys(PROMPT_SETS), prompt_set, "prompt set")
    if not os.path.exists(path):
        raise UserError(f"prompts: {path} does not exist")
    if any(os.path.isdir(os.path.join(path, folder)) for folder in _EXTENSIONS):
        if suffixes is not None:
            raise UserError(f"prompts: the suffixes of {path} must be in its folder 'suffix'")
        lines = {folder: _read_folder(path, folder, end) for folder, end in _EXTENSIONS.items()}
        names, filled = lines["classes"], _parse_filled(path, lines["filled"], classes)
        templates = lines["templates"]
        suffixes = {key: value[0] for key, value in lines["suffix"].items() if value} or None
    else:
        num_classes = len(classes) if classes else None
        names, templates = published_formats.read(path, dataset, num_classes)
        filled = {}
        if classes and os.path.basename(path).startswith("babel_imagenet"):
            published_formats.check_imagenet_classes(names, classes, path)
        if prompt_set == "openai-english":
            english = published_formats.read(os.path.dirname(path) or ".", dataset, num_classes)
            names["en"], templates["en"] = (table["en"] for table in english)
    if prompt_set == "names":
        templates, filled = dict.fromkeys(names, ["{}"]), {}
    for language in filled:
        if language in names:
            raise UserError(f"{path}: {language!r} is in 'filled' and in 'classes': keep one")
    for language, class_names in names.items():
        _check_names(class_names, classes, path, language)
    combined = combine(names, templates, suffixes)
    lacking = {code: part for code, part in combined.lacking.items() if code not in filled}
    return Prompts({**combined, **filled}, lacking)


def _read_folder(path, folder, extension):
    """Returns {language: lines} of the files of a folder, sorted by language."""
    folder_path = os.path.join(path, folder)
    if not os.path.isdir(folder_path):
        return {}
    names = sorted(name for name in os.listdir(folder_path) if name.endswith(extension))
    paths = {name.removesuffix(extension): os.path.join(folder_path, name) for name in names}
    by_code = languages.by_code(paths, folder_path)
    return {code: _read_lines(by_code[code], folder) for code in sorted(by_code)}


def _read_lines(path, folder):
    """Returns the lines of a file; each line of "classes" is split into a list of names."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error.reason} at byte {error.start})") from error
    lines = text.split("\n")
    if not lines[-1]:  # the empty string after the last newline
        lines.pop()
    if folder == "classes":
        return [line.split("\t") for line in lines]
    # Empty lines are removed, because they have a meaning only in files of "classes".
    return [line for line in lines if line.strip()]


def _parse_filled(path, files, classes):
    """Returns {language: prompts by label} of files with complete prompts."""
    labelled = {
        language: [
            _parse_filled_line(path, language, number, line) for number, line in enumerate(lines, 1)
        ]
        for language, lines in files.items()
    }
    num_classes = (
        len(classes)
        if classes
        else 1 + max((label for pairs in labelled.values() for label, _ in pairs), default=-1)
    )
    prompts = {}
    for language, pairs in labelled.items():
        by_label = [[] for _ in range(num_classes)]
        for label, prompt in pairs:
            if label >= num_classes:
                raise UserError(
                    f"{path}: label {label} in filled/{language}.tsv: the records have "
                    f"{num_classes} classes, from 0 to {num_classes - 1}"
                )
            by_label[label].append(" ".join(prompt.split()))
        prompts[language] = by_label
    return prompts


def _parse_filled_line(path, language, number, line):
    """Returns (label, prompt) of a line."""
    label, _, prompt = line.partition("\t")
    if not label.isdecimal() or not prompt.strip():
        raise UserError(
            f"{path}: line {number} of filled/{language}.tsv: expected a label, a tab and a "
            f"prompt, got {line!r}"
        )
    return int(label), prompt


def _check_names(names, classes, path, language):
    """Raises a UserError if names differ from the classes in number, or have another order."""
    if not classes:
        return
    if len(names) != len(classes):
        raise UserError(
            f"{path}: {len(names)} names of classes in {language!r}, but the records have "
            f"{len(classes)}; a class without a name needs an empty line"
        )
    label_of = {humanize_class(name).lower(): label for label, name in enumerate(classes)}
    balance, mismatch = 0, None
    for label, name in enumerate(names):
        first = name if isinstance(name, str) else next(iter(name or ()), "")
        other = label_of.get(humanize_class(first).lower(), None)
        balance += (other == label) - (other not in (None, label))
        if other not in (None, label):
            mismatch = mismatch or (label, first, other)
    # A few names may equal the name of another class, such as "crane". Therefore the order is
    # refused only if more names match another class than match their own class.
    if mismatch and balance < 0:
        label, name, other = mismatch
        raise UserError(
            f"{path}: the classes in {language!r} are in another order than the records': name "
            f"{label} is {name!r}, which is label {other} there"
        )
