"""Templates and names of classes to prompts, and which languages have them."""

import collections.abc
import re

from tf_mural.errors import UserError
from tf_mural.evaluation.prompts import clip

_PLACE = re.compile(r"\{c?\}")
_WORDNET = re.compile(r"n\d{8}")
_STOP = re.compile(r"\s*([.。．।։۔።។!?！？]*)$")  # how sentences end


class Filled(collections.abc.Sequence):
    """The prompts of each class, by label: every template with each of the class's names in it.

    They are made when asked for. Runs of blanks become one.

    Args:
        names: for each label a name, several names, or None or "" where there is none; a class
            without a name has no prompts.
        templates: strings with one place for the name each, {} or {c}.
        suffix: goes to the end of each template, before its full stop.

    Raises:
        UserError: a template has no place for the name, or several; there are no templates.
    """

    def __init__(self, names, templates, suffix=""):
        self._names = [_names(name) for name in names]
        self._parts = [_parts(template, suffix) for template in templates]
        if not self._parts:
            raise UserError("no templates: expected at least one, '{}' for the bare name")

    def __len__(self):
        return len(self._names)

    def __getitem__(self, label):
        return tuple(
            _tidy(before + name + after)
            for name in self._names[label]
            for before, after in self._parts
        )


class Prompts(collections.abc.Mapping):
    """The prompts of each language: {language: sequence of the prompts of each label}.

    Attributes:
        lacking: {language: what is missing}, of languages that are not in it for that reason.
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
    """Fills the templates of each language with its names; nothing is taken from another language.

    Args:
        names: {language: names by label}, see `Filled`.
        templates: {language: templates}.
        suffixes: {language: suffix} where the data set asks for one, such as ", a type of food".

    Returns:
        `Prompts`; languages without names, templates or, where suffixes are given, a suffix are
        `lacking`.

    Raises:
        UserError: as `Filled`, with the language.
    """
    languages, lacking = {}, {}
    for language in sorted({*names, *templates}):
        if not any(map(_names, names.get(language) or ())):
            lacking[language] = "names of classes"
        elif not templates.get(language):
            lacking[language] = "templates"
        elif suffixes is not None and not suffixes.get(language):
            lacking[language] = "suffix"
        else:
            suffix = (suffixes or {}).get(language, "")
            try:
                languages[language] = Filled(names[language], templates[language], suffix)
            except UserError as error:
                raise UserError(f"prompts in {language!r}: {error}") from error
    return Prompts(languages, lacking)


def english(classes, suffix=""):
    """The 80 templates of CLIP with a record set's own names of its classes, in English alone.

    Args:
        classes: the manifest's "classes".
        suffix: such as `FOOD_SUFFIX`.

    Raises:
        UserError: the manifest has ids of WordNet for names.
    """
    ids = [name for name in classes if _WORDNET.fullmatch(name)]
    if ids:
        raise UserError(
            f"the records' classes are ids such as {ids[0]}, no names: convert them again with the "
            "development kit beside the images, or give prompts in files"
        )
    return Prompts({"en": Filled([clip.spoken(name) for name in classes], clip.TEMPLATES, suffix)})


def describe(prompts):
    """What the prompts of a language are: a dict of counts.

    Args:
        prompts: sequence, by label, of sequences of strings.

    Returns:
        "classes" with prompts, "missing_classes" without, "prompts"; "repeated_prompts", those
        that the same class has already; "identical_classes", those with the very prompts of
        another class, which no encoder can tell apart: their images are misses.
    """
    present = [of_class for of_class in prompts if of_class]
    seen = {}
    for of_class in present:
        key = hash(tuple(sorted(of_class)))
        seen[key] = seen.get(key, 0) + 1
    return {
        "classes": len(present),
        "missing_classes": len(prompts) - len(present),
        "prompts": sum(map(len, present)),
        "repeated_prompts": sum(len(of_class) - len(set(of_class)) for of_class in present),
        "identical_classes": sum(count for count in seen.values() if count > 1),
    }


def _names(name):
    """The names of a class as a tuple of tidy strings, () for none."""
    names = (name,) if isinstance(name, str) or name is None else tuple(name)
    return tuple(filter(None, (_tidy(one or "") for one in names)))


def _parts(template, suffix):
    """What comes before the name and what comes after it."""
    parts = _PLACE.split(_tidy(template))
    if len(parts) != 2:
        raise UserError(
            f"template {template!r} has {len(parts) - 1} places for the name: expected one, {{}}"
        )
    if suffix:
        # From the name on, for a name may end like a sentence.
        parts[1] = _STOP.sub(lambda stop: suffix.rstrip() + stop[1], parts[1], count=1)
    return parts


def _tidy(text):
    return " ".join(text.split())
