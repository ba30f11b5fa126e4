"""Filters that decide on each record by itself, and the language identification that they use.

A record filter is called with (index, record, skip): the index of the record in its unit, the
`Record`, and a function that counts a `Skipped`. A record filter returns the record, possibly with
fewer texts, or None if the record is dropped.
"""

import functools
import importlib
import sys

from tf_mural.conversion import image_probe
from tf_mural.data.records import Skipped, keep_texts
from tf_mural.errors import UserError, lookup

# Languages that are written without spaces between words.
_UNSEGMENTED = {"zh", "yue", "wuu", "ja", "th", "lo", "km", "my", "bo", "dz"}
# Different codes that detectors and corpora use for the same language.
_SYNONYMS = {"iw": "he", "nb": "no", "nn": "no", "tl": "fil", "jw": "jv", "in": "id"}
_MAX_DETECTOR_BYTES = 1000


def build_record_filters(filters, vectors=None):
    """Returns the list of record filters that a `FilterConfig` requires, in order.

    Args:
        filters: `FilterConfig`.
        vectors: {name: description} of the vectors of the records, or None.
    """
    built = []
    if filters.short_side_above is not None or filters.aspect_below is not None:
        built.append(_ImageSizeFilter(filters))
    text_options = {filters.min_words, filters.max_words, filters.max_characters}
    if {*text_options, filters.language_detector} != {None}:
        built.append(_TextFilter(filters, vectors or {}))
    return built


def replace_texts(record, kept, skip, vectors):
    """Returns the record with only some of its texts, or None if there are too few texts.

    A record with images needs one text; a translation, which has no images, needs two texts.

    Args:
        record: `Record`.
        kept: ascending positions of the texts that are kept.
        skip: function that counts a `Skipped`.
        vectors: {name: description} of the vectors of the record, whose rows go with the texts.
    """
    if len(kept) == len(record.texts):
        return record
    if not kept:
        skip(Skipped("no text left", record.id))
    elif not record.images and len(kept) < 2:
        skip(Skipped("no translation left", record.id))
    else:
        return keep_texts(record, kept, vectors)
    return None


def count_words(text, code):
    """Returns the number of words, or of characters if the language is written without spaces."""
    words = text.split()
    return sum(map(len, words)) if base_language(code) in _UNSEGMENTED else len(words)


class _ImageSizeFilter:
    def __init__(self, filters):
        self._side = filters.short_side_above
        self._aspect = filters.aspect_below

    def __call__(self, index, record, skip):
        for image in record.images:
            if reason := self._reason(image):
                return skip(Skipped(reason, record.id))
        return record

    def _reason(self, image):
        size = image_probe.image_size(image)
        if isinstance(size, str):
            return size
        short, long = sorted(size)
        if self._side is not None and short <= self._side:
            return f"image side of {self._side} pixels or less"
        if self._aspect is not None and long >= self._aspect * short:
            return f"image sides of {self._aspect:g} to 1 or more"
        return None


class _TextFilter:
    def __init__(self, filters, vectors):
        self._filters, self._vectors = filters, vectors
        name = filters.language_detector
        self._detect = load_language_detector(name) if name is not None else None

    def __call__(self, index, record, skip):
        kept = []
        for position, (code, text) in enumerate(record.texts):
            if problem := self._problem(code, text):
                reason, detail = problem
                skip(Skipped(reason, f"{record.id}, {code}{detail}", text_only=True))
            else:
                kept.append(position)
        return replace_texts(record, kept, skip, self._vectors)

    def _problem(self, code, text):
        """Returns (reason, suffix of the example in the ledger), or None if the text passes."""
        filters = self._filters
        if filters.max_characters is not None and len(text) > filters.max_characters:
            return f"text of more than {filters.max_characters} characters", ""
        if filters.min_words is not None or filters.max_words is not None:
            count = count_words(text, code)
            if filters.min_words is not None and count < filters.min_words:
                return f"text of fewer than {filters.min_words} words", f": {text}"
            if filters.max_words is not None and count > filters.max_words:
                return f"text of more than {filters.max_words} words", ""
        if self._detect is not None:
            detected = self._detect(text)
            if detected is None or base_language(detected) != base_language(code):
                return f"another language by {filters.language_detector}", f": {detected}: {text}"
        return None


# --- language identification ----------------------------------------------------------------------


def base_language(code):
    """Returns a language code without script or region, in one spelling: "zh" for "zh-Hant"."""
    code = code.partition("-")[0].lower()
    return _SYNONYMS.get(code, code)


@functools.cache
def load_language_detector(name):
    """Returns a function that maps a text to a language code.

    Args:
        name: a key of `LANGUAGE_DETECTORS`, or "package.module:function".

    Raises:
        UserError: the detector is unknown or not installed.
    """
    module, colon, function = name.partition(":")
    if not colon:
        return lookup(LANGUAGE_DETECTORS, name, "language detector")()
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UserError(f"no language detector {name!r}: {error}") from error


def _load_cld3():
    # TensorFlow and gcld3 both bundle protobuf; importing gcld3 second aborts the process.
    if "tensorflow" in sys.modules and "gcld3" not in sys.modules:
        raise UserError(
            "the language detector cld3 must be loaded before TensorFlow, which this process has "
            "loaded; convert with 2 processes or more, or import gcld3 first"
        )
    try:
        import gcld3
    except ImportError as error:
        message = "the language detector cld3 needs a package: pip install cld3-py"
        raise UserError(message) from error
    identifier = gcld3.NNetLanguageIdentifier(min_num_bytes=0, max_num_bytes=_MAX_DETECTOR_BYTES)
    return lambda text: identifier.FindLanguage(text=text).language


LANGUAGE_DETECTORS = {"cld3": _load_cld3}
