"""Which font of this machine draws which text."""

import functools
import itertools
import os
import unicodedata

# One font file often holds the shapes of the same characters for several languages.
_CJK_FACE = {"ja": "JP", "ko": "KR", "zh": "SC", "zh-Hant": "TC", "zh-TW": "TC", "yue": "HK"}

_PLAIN_LAST = ("Bold", "Italic", "Oblique", "Light", "Thin", "Black", "Condensed", "Mono", "Serif")


def runs(language, text, size):
    """Splits a text into pieces of one font each, in the order to draw them from left to right.

    Args:
        language: code, for the characters that Chinese, Japanese and Korean write differently.
        text: one line.
        size: of the font, in pixels.

    Returns:
        List of (Pillow font, piece); None where this machine has no font for some character, or
        its Pillow cannot join the letters of this script.
    """
    if _needs_shaping(text) and not _can_shape():
        return None
    visible = {character for character in text if _is_visible(character)}
    for path in _paths():
        if visible <= _characters(path):
            return [(_font(path, language, size), text)]
    pieces = []
    for character in text:
        path = pieces[-1][0] if pieces else _paths()[0]
        if _is_visible(character) and character not in _characters(path):
            path = next((path for path in _paths() if character in _characters(path)), None)
        if path is None:
            return None
        if pieces and pieces[-1][0] == path:
            pieces[-1][1] += character
        else:
            pieces.append([path, character])
    found = [(_font(path, language, size), piece) for path, piece in pieces]
    return found[::-1] if is_right_to_left(text) else found


def length(pieces):
    """Width in pixels of what `runs` returned."""
    return sum(font.getlength(piece) for font, piece in pieces)


def latin(size):
    """A font for plain labels; matplotlib brings it along, so every machine has it."""
    return _font(_paths()[0], "en", size)


def is_right_to_left(text):
    """Whether the first letter with a direction runs from right to left."""
    directions = (unicodedata.bidirectional(character) for character in text)
    return next((d for d in directions if d in ("L", "R", "AL")), "L") != "L"


def _is_visible(character):
    return not character.isspace() and unicodedata.category(character) not in ("Cf", "Cc")


def _needs_shaping(text):
    return any(
        unicodedata.bidirectional(character) in ("R", "AL")
        or character > "\u0900"
        and unicodedata.category(character) in ("Mn", "Mc")
        for character in text
    )


@functools.cache
def _can_shape():
    from PIL import features

    return bool(features.check("raqm"))


@functools.cache
def _paths():
    """Font files, upright sans-serif ones first."""
    import matplotlib
    from matplotlib import font_manager

    def plainness(path):
        name = os.path.basename(path)
        return sum(word in name for word in _PLAIN_LAST), "Sans" not in name, path

    brought_along = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return (brought_along, *sorted(font_manager.findSystemFonts(), key=plainness))


@functools.cache
def _characters(path):
    """The characters a font file has; none if it is unreadable or made of bitmaps."""
    from matplotlib.ft2font import FT2Font

    try:
        face = FT2Font(path)
    except (OSError, RuntimeError):  # a broken file is a font this machine does not have
        return frozenset()
    return frozenset(map(chr, face.get_charmap())) if face.scalable else frozenset()


@functools.cache
def _font(path, language, size):
    from PIL import ImageFont

    index = 0
    suffix = _CJK_FACE.get(language, _CJK_FACE.get(language.split("-")[0]))
    if path.endswith(".ttc") and suffix:
        index = _faces(path).get(suffix, 0)
    return ImageFont.truetype(path, size, index=index)


@functools.cache
def _faces(path):
    """{last word of the family's name: its number} of the faces in a collection."""
    from PIL import ImageFont

    faces = {}
    for number in itertools.count():
        try:
            family, _ = ImageFont.truetype(path, 10, index=number).getname()
        except OSError:  # past the last face
            return faces
        faces.setdefault(family.split()[-1], number)
