"""Fonts of this machine for the captions in pictures. A caption is drawn in one font."""

import collections
import functools
import itertools
import os
import re
import unicodedata

# {language: last word of the family name of a font face}. A font file for Chinese, Japanese and
# Korean often has one face per region, with different shapes of the same characters.
_CJK_FACE = {"ja": "JP", "ko": "KR", "zh": "SC", "zh-Hant": "TC", "zh-TW": "TC", "yue": "HK"}

_SCRIPTS = dict.fromkeys(("CJK", "HANGUL", "HIRAGANA", "KATAKANA", "IDEOGRAPHIC"), "CJK") | {
    "CANADIAN": "Canadian Aboriginal",
    "MEETEI": "Meetei Mayek",
    "OL": "Ol Chiki",
}

_STYLE_WORDS = ("Bold", "Italic", "Oblique", "Light", "Thin", "Black", "Condensed", "Mono", "Serif")


def caption_font(language, text, size):
    """Returns the font that has the most characters of a text, and the text that it can draw.

    Args:
        language: Language code, which selects the shapes of characters that Chinese, Japanese and
            Korean write differently.
        text: The text.
        size: Font size in pixels.

    Returns:
        Tuple (Pillow font, text). In the text, a square replaces each symbol, such as an emoji, and
        each letter that the font lacks. None if no font has most of the characters, or if Pillow on
        this machine cannot join the letters of the script.
    """
    if _needs_shaping(text) and not _can_shape():
        return None
    visible = collections.Counter(character for character in text if _is_visible(character))
    if not visible:
        return latin_font(size), text
    # `max` returns the first of several fonts that have equally many characters of the text.
    path = max(
        _paths(), key=lambda path: sum(visible[c] for c in visible.keys() & _characters(path))
    )
    missing = visible.keys() - _characters(path)
    letters = {c for c in missing if unicodedata.category(c) not in ("So", "Sk")}
    if 2 * sum(visible[c] for c in letters) > visible.total():
        return None
    if missing:
        text = re.sub(f"[{re.escape(''.join(sorted(missing)))}][\ufe0e\ufe0f\u200d]*", "□", text)
    return _font(path, language, size), text


def is_right_to_left(text):
    """Returns whether the first letter with a direction is written from right to left."""
    directions = (unicodedata.bidirectional(character) for character in text)
    return next((d for d in directions if d in ("L", "R", "AL")), "L") != "L"


def missing_scripts(text):
    """Returns the names of the scripts of a text, such as "Bengali", that no font supports."""
    letters = {c for c in text if _is_visible(c) and unicodedata.category(c) not in ("So", "Sk")}
    missing = (c for c in letters if not any(c in _characters(path) for path in _paths()))
    return sorted({_script_name(character) for character in missing})


def installation_advice(captions):
    """Returns advice on what to install to draw (language, text) pairs; "" if all can be drawn.

    The advice has a line for scripts without a font, and a line for a Pillow that cannot join
    letters.
    """
    languages_by_script, unjoined = collections.defaultdict(set), set()
    for language, text in captions:
        for script in missing_scripts(text):
            languages_by_script[script].add(language)
        if _needs_shaping(text) and not _can_shape():
            unjoined.add(language)
    lines = []
    if languages_by_script:
        scripts = [
            f"{name} ({' '.join(sorted(codes))})"
            for name, codes in sorted(languages_by_script.items())
        ]
        lines.append(
            f"no font on this machine for {', '.join(scripts)}: copy fonts of these scripts, such "
            "as Noto Sans, to ~/.local/share/fonts, or install them (Debian, Ubuntu: "
            "fonts-noto-core, and fonts-noto-cjk for CJK)"
        )
    if unjoined:
        lines.append(
            f"this Pillow cannot join letters or draw them from right to left, which "
            f"{' '.join(sorted(unjoined))} need: it requires Raqm and FriBiDi (Debian, Ubuntu: "
            "libfribidi0 with the wheel of Pillow)"
        )
    return "\n".join(lines)


def latin_font(size):
    """Returns a font for labels; it is part of matplotlib, so every machine has it."""
    return _font(_paths()[0], "en", size)


def _script_name(character):
    """Returns the script of a character: the first word of its Unicode name, with exceptions."""
    first = unicodedata.name(character, "unknown").split()[0]
    return _SCRIPTS.get(first, first.capitalize())


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
    """Returns the font files, upright sans-serif fonts first."""
    import matplotlib
    from matplotlib import font_manager

    def sort_key(path):
        name = os.path.basename(path)
        return sum(word in name for word in _STYLE_WORDS), "Sans" not in name, path

    default = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return (default, *sorted(font_manager.findSystemFonts(), key=sort_key))


@functools.cache
def _characters(path):
    """Returns the characters of a font file; empty if the file is unreadable or a bitmap font."""
    from matplotlib.ft2font import FT2Font

    try:
        face = FT2Font(path)
    except (OSError, RuntimeError):
        return frozenset()
    return frozenset(map(chr, face.get_charmap())) if face.scalable else frozenset()


@functools.cache
def _font(path, language, size):
    from PIL import ImageFont

    index = 0
    suffix = _CJK_FACE.get(language, _CJK_FACE.get(language.split("-")[0]))
    if path.endswith(".ttc") and suffix:
        index = _face_numbers(path).get(suffix, 0)
    return ImageFont.truetype(path, size, index=index)


@functools.cache
def _face_numbers(path):
    """Returns {last word of the family name: number} of the faces of a font collection."""
    from PIL import ImageFont

    faces = {}
    for number in itertools.count():
        try:
            family, _ = ImageFont.truetype(path, 10, index=number).getname()
        except OSError:  # there is no face with this number
            return faces
        faces.setdefault(family.split()[-1], number)
