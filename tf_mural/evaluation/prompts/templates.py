"""Fills templates with class names, and records which languages lack templates or names."""

import collections.abc
import re

from tf_mural.errors import UserError
from tf_mural.evaluation.prompts import clip

_PLACEHOLDER = re.compile(r"\{c?\}")
_WORDNET_ID = re.compile(r"n\d{8}")
_SENTENCE_END = re.compile(r"\s*([.。．।։۔።។!?！？]*)$")


class FilledTemplates(collections.abc.Sequence):
    """The prompts of each class, by label: every template filled with every name of the class.

    Prompts are created on access. Runs of whitespace become one space.

    Args:
        names: For each label a name or a sequence of names, or None or "" if the class has no
            name. A class without a name has no prompts.
        templates: Strings with exactly one placeholder for the name, {} or {c}.
        suffix: Text that is inserted at the end of each template, before the final punctuation.

    Raises:
        UserError: There are no templates, or a template does not have exactly one placeholder.
    """

    def __init__(self, names, templates, suffix=""):
        self._names = [_as_names(name) for name in names]
        self._parts = [_split_template(template, suffix) for template in templates]
        if not self._parts:
            raise UserError("no templates: expected at least one; '{}' is the name without text")

    def __len__(self):
        return len(self._names)

    def __getitem__(self, label):
        return tuple(
            _normalize_whitespace(before + name + after)
            for name in self._names[label]
            for before, after in self._parts
        )


class Prompts(collections.abc.Mapping):
    """The prompts of each language: {language: sequence of the prompts of each class}.

    Attributes:
        lacking: {language: missing part} of the languages that are left out because they lack
            templates, names or a suffix.
    """

    def __init__(self, languages, lacking=None):
        self._languages = dict(languages)
        self.lacking = dict(lacking or {})

    def __getitem__(self, language):
        return self._languages[language]

    def __iter__(self):
        return iter(self._languages)

    def __len__(self):
        return len(self._languages)


def combine(names, templates, suffixes=None):
    """Fills the templates of each language with its own names; languages are never mixed.

    Args:
        names: {language: names by label}, see `FilledTemplates`.
        templates: {language: templates}.
        suffixes: {language: suffix} if the data set needs one, for example ", a type of food".

    Returns:
        `Prompts`. The attribute `lacking` of the result has the languages without names or
        templates. If suffixes are given, `lacking` also has the languages without a suffix.

    Raises:
        UserError: `FilledTemplates` rejects the templates of a language. The message names the
            language.
    """
    languages, lacking = {}, {}
    for language in sorted({*names, *templates}):
        if not any(map(_as_names, names.get(language) or ())):
            lacking[language] = "names of classes"
        elif not templates.get(language):
            lacking[language] = "templates"
        elif suffixes is not None and not suffixes.get(language):
            lacking[language] = "suffix"
        else:
            suffix = (suffixes or {}).get(language, "")
            try:
                filled = FilledTemplates(names[language], templates[language], suffix)
            except UserError as error:
                raise UserError(f"prompts in {language!r}: {error}") from error
            languages[language] = filled
    return Prompts(languages, lacking)


def english(classes, suffix=""):
    """Returns English `Prompts`: the 80 templates of CLIP with a record set's class names.

    Args:
        classes: Class names, the value of "classes" in the record set's manifest.
        suffix: Suffix of the templates, for example `FOOD_SUFFIX`.

    Raises:
        UserError: The manifest has WordNet ids instead of names.
    """
    ids = [name for name in classes if _WORDNET_ID.fullmatch(name)]
    if ids:
        raise UserError(
            f"the records' classes are ids such as {ids[0]}, no names: put the development kit "
            "next to the images and convert the data set again, or read prompts from files"
        )
    names = [clip.humanize_class(name) for name in classes]
    return Prompts({"en": FilledTemplates(names, clip.TEMPLATES, suffix)})


def count_prompts(prompts):
    """Counts the prompts of a language.

    Args:
        prompts: Sequence with the prompts of each class, in the order of the labels. The prompts of
            a class are a sequence of strings.

    Returns:
        Dict of counts:
            "classes": number of classes with prompts;
            "missing_classes": number of classes without prompts;
            "prompts": number of prompts of all classes;
            "repeated_prompts": number of prompts that repeat another prompt of their class;
            "identical_classes": number of classes with the same prompts as another class. No
            encoder can distinguish such classes, so their images are misses.
    """
    present = [class_prompts for class_prompts in prompts if class_prompts]
    num_equal = {}
    for class_prompts in present:
        key = hash(tuple(sorted(class_prompts)))
        num_equal[key] = num_equal.get(key, 0) + 1
    return {
        "classes": len(present),
        "missing_classes": len(prompts) - len(present),
        "prompts": sum(map(len, present)),
        "repeated_prompts": sum(len(prompts) - len(set(prompts)) for prompts in present),
        "identical_classes": sum(count for count in num_equal.values() if count > 1),
    }


def _as_names(name):
    """Returns the names of a class as a tuple of strings, () for a class without a name."""
    names = (name,) if isinstance(name, str) or name is None else tuple(name)
    return tuple(filter(None, (_normalize_whitespace(name or "") for name in names)))


def _split_template(template, suffix):
    """Returns the parts of a template before and after the name."""
    parts = _PLACEHOLDER.split(_normalize_whitespace(template))
    if len(parts) != 2:
        raise UserError(
            f"template {template!r} has {len(parts) - 1} places for the name: expected one, {{}}"
        )
    if suffix:
        # Only the part after the name is changed, because a name may end with punctuation.
        parts[1] = _SENTENCE_END.sub(lambda end: suffix.rstrip() + end[1], parts[1], count=1)
    return parts


def _normalize_whitespace(text):
    return " ".join(text.split())
