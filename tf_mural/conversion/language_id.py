"""Which language a text is in, by a detector of others."""

import functools
import importlib
import sys

from tf_mural.errors import UserError, lookup

# Codes that detectors and corpora have for the same language.
_SAME = {"iw": "he", "nb": "no", "nn": "no", "tl": "fil", "jw": "jv", "in": "id"}
_MOST_BYTES = 1000


def plain(code):
    """A code without its script or region, in one spelling: "zh" for zh-Hant, "he" for iw."""
    code = code.partition("-")[0].lower()
    return _SAME.get(code, code)


@functools.cache
def detector(name):
    """A function from a text to a language code.

    Args:
        name: in `DETECTORS`, or "package.module:function".

    Raises:
        UserError: it is unknown or not installed.
    """
    module, colon, function = name.partition(":")
    if not colon:
        return lookup(DETECTORS, name, "language detector")()
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UserError(f"no language detector {name!r}: {error}") from error


def _cld3():
    # Each brings a protobuf of its own: cld3 first is fine, TensorFlow first ends the process.
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
    found = gcld3.NNetLanguageIdentifier(min_num_bytes=0, max_num_bytes=_MOST_BYTES)
    return lambda text: found.FindLanguage(text=text).language


DETECTORS = {"cld3": _cld3}
