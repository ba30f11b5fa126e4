"""What a record must pass on its own, whatever the rest of the corpus.

A check is called with (row, record, drop). It returns the record, perhaps with fewer texts, or
None; what it takes away it tells `drop` as `Dropped`.
"""

import dataclasses

from tf_mural.conversion import image_probe, language_id
from tf_mural.data.records import Dropped

# Written without blanks between words.
_UNPARTED = {"zh", "yue", "wuu", "ja", "th", "lo", "km", "my", "bo", "dz"}


def checks_of(steps):
    """The checks of `Steps` that look at a record alone, in order."""
    found = []
    if steps.short_side_above is not None or steps.aspect_below is not None:
        found.append(_Images(steps))
    if {steps.min_words, steps.max_words, steps.max_characters, steps.language_detector} != {None}:
        found.append(_Texts(steps))
    return found


def with_texts(record, texts, drop):
    """The record with some of its texts left, or None where too few are: two of a translation."""
    if len(texts) == len(record.texts):
        return record
    if not texts:
        drop(Dropped("no text left", record.id))
    elif not record.images and len(texts) < 2:
        drop(Dropped("no translation left", record.id))
    else:
        return dataclasses.replace(record, texts=tuple(texts))
    return None


def words(text, code):
    """How many words a text has; characters, in languages that do not part their words."""
    found = text.split()
    return sum(map(len, found)) if language_id.plain(code) in _UNPARTED else len(found)


class _Images:
    def __init__(self, steps):
        self._side = steps.short_side_above
        self._aspect = steps.aspect_below

    def __call__(self, row, record, drop):
        for image in record.images:
            if why := self._problem(image):
                return drop(Dropped(why, record.id))
        return record

    def _problem(self, image):
        size = image_probe.size(image)
        if isinstance(size, str):
            return size
        short, long = sorted(size)
        if self._side is not None and short <= self._side:
            return f"image side of {self._side} pixels or less"
        if self._aspect is not None and long >= self._aspect * short:
            return f"image sides of {self._aspect:g} to 1 or more"
        return None


class _Texts:
    def __init__(self, steps):
        self._steps = steps
        name = steps.language_detector
        self._detect = language_id.detector(name) if name is not None else None

    def __call__(self, row, record, drop):
        left = []
        for code, text in record.texts:
            if why := self._problem(code, text):
                drop(Dropped(why[0], f"{record.id}, {code}{why[1]}", text=True))
            else:
                left.append((code, text))
        return with_texts(record, left, drop)

    def _problem(self, code, text):
        """(reason, what more there is to say), or None."""
        steps = self._steps
        if steps.max_characters is not None and len(text) > steps.max_characters:
            return f"text of more than {steps.max_characters} characters", ""
        if steps.min_words is not None or steps.max_words is not None:
            count = words(text, code)
            if steps.min_words is not None and count < steps.min_words:
                return f"text of fewer than {steps.min_words} words", f": {text}"
            if steps.max_words is not None and count > steps.max_words:
                return f"text of more than {steps.max_words} words", ""
        if self._detect is not None:
            found = self._detect(text)
            if found is None or language_id.plain(found) != language_id.plain(code):
                return f"another language by {steps.language_detector}", f": {found}: {text}"
        return None
