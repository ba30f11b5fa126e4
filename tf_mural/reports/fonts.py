"""Which font of this machine draws which text."""

import collections
import functools
import itertools
import os
import re
import unicodedata

from tf_mural.reports.direction import visual_order

# One font file often holds the shapes of the same characters for several languages.
_CJK_FACE = {"ja": "JP", "ko": "KR", "zh": "SC", "zh-Hant": "TC", "zh-TW": "TC", "yue": "HK"}

_SCRIPTS = dict.fromkeys(("CJK", "HANGUL", "HIRAGANA", "KATAKANA", "IDEOGRAPHIC"), "CJK") | {
    "CANADIAN": "Canadian Aboriginal",
    "MEETEI": "Meetei Mayek",
    "OL": "Ol Chiki",
}

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
    text = _without_pictures(text)
    visible = {character for character in text if _is_visible(character)}
    for path in _paths():
        if visible <= _characters(path):
            return [(_font(path, language, size), text)]
    # Word by word, most of them in one font: letters of two fonts do not join.
    main = max(_paths(), key=lambda path: len(visible & _characters(path)))  # the first of equals
    pieces = []
    for part in re.findall(r"\s+|\S+\s*", text):
        found = _pieces(part, (main, *_paths()))
        if found is None:
            return None
        for path, piece in found:
            if pieces and pieces[-1][0] == path:
                pieces[-1][1] += piece
            else:
                pieces.append([path, piece])
    return [(_font(path, language, size), piece) for path, piece in visual_order(pieces, text)]


def missing_scripts(text):
    """Names of the scripts ("Bengali") of the characters that no font of this machine has."""
    visible = {character for character in _without_pictures(text) if _is_visible(character)}
    lost = (c for c in visible if not any(c in _characters(path) for path in _paths()))
    return sorted({_script(character) for character in lost})


def length(pieces):
    """Width in pixels of what `runs` returned."""
    return sum(font.getlength(piece) for font, piece in pieces)


def advice(captions):
    """What to install so that these (language, text) pairs can be drawn; "" if all can.

    One line a reason: scripts without a font, a Pillow that cannot join letters.
    """
    scripts, unjoined = collections.defaultdict(set), set()
    for language, text in captions:
        for script in missing_scripts(text):
            scripts[script].add(language)
        if _needs_shaping(text) and not _can_shape():
            unjoined.add(language)
    lines = []
    if scripts:
        named = [f"{name} ({' '.join(sorted(codes))})" for name, codes in sorted(scripts.items())]
        lines.append(
            f"no font here for {', '.join(named)}: put fonts of these scripts, such as Noto Sans, "
            "into ~/.local/share/fonts, or install them (Debian, Ubuntu: fonts-noto-core, and "
            "fonts-noto-cjk for CJK)"
        )
    if unjoined:
        lines.append(
            f"this Pillow cannot join letters, nor set them from right to left, which "
            f"{' '.join(sorted(unjoined))} need: it wants Raqm and FriBiDi (Debian, Ubuntu: "
            "libfribidi0 beside Pillow's own wheel)"
        )
    return "\n".join(lines)


def latin(size):
    """A font for plain labels; matplotlib brings it along, so every machine has it."""
    return _font(_paths()[0], "en", size)


def _pieces(word, paths):
    """[(path, piece)] of a word, in one font if there is one; None without a font."""
    visible = {character for character in word if _is_visible(character)}
    for path in paths:
        if visible <= _characters(path):
            return [(path, word)]
    pieces = []
    for character in word:
        path = pieces[-1][0] if pieces else paths[0]
        if _is_visible(character) and character not in _characters(path):
            path = next((path for path in paths if character in _characters(path)), None)
        if path is None:
            return None
        if pieces and pieces[-1][0] == path:
            pieces[-1] = (path, pieces[-1][1] + character)
        else:
            pieces.append((path, character))
    return pieces


def _without_pictures(text):
    """A text in which symbols such as emoji are empty squares where no font has them."""
    symbols = {c for c in text if unicodedata.category(c) in ("So", "Sk")}
    lost = {c for c in symbols if not any(c in _characters(path) for path in _paths())}
    if lost:
        text = re.sub(f"[{re.escape(''.join(sorted(lost)))}][\ufe0e\ufe0f\u200d]*", "□", text)
    return text


def _script(character):
    """The first word of a character's name is that of its script, but for a few."""
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
