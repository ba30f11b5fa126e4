"""Lays out texts of any script with the fonts of this machine.

Pillow orders the letters of a text only if one font draws the whole text. A line with several fonts
is drawn piece by piece; this module orders the pieces.
"""

import collections
import functools
import itertools
import os
import re
import unicodedata

# Invisible characters that mark a text as left-to-right or right-to-left.
LTR_MARK, RTL_MARK = "\u200e", "\u200f"

# {language: last word of the family name of a font face}. A font file for Chinese, Japanese and
# Korean often has one face per region, with different shapes of the same characters.
_CJK_FACE = {"ja": "JP", "ko": "KR", "zh": "SC", "zh-Hant": "TC", "zh-TW": "TC", "yue": "HK"}

_SCRIPTS = dict.fromkeys(("CJK", "HANGUL", "HIRAGANA", "KATAKANA", "IDEOGRAPHIC"), "CJK") | {
    "CANADIAN": "Canadian Aboriginal",
    "MEETEI": "Meetei Mayek",
    "OL": "Ol Chiki",
}

_STYLE_WORDS = ("Bold", "Italic", "Oblique", "Light", "Thin", "Black", "Condensed", "Mono", "Serif")


def font_runs(language, text, size):
    """Splits a text into runs of one font each, in drawing order from left to right.

    Args:
        language: Language code, which selects the shapes of characters that Chinese, Japanese and
            Korean write differently.
        text: One line.
        size: Font size in pixels.

    Returns:
        List of (Pillow font, string), or None if this machine has no font for a character, or if
        Pillow on this machine cannot join the letters of the script.
    """
    if _needs_shaping(text) and not _can_shape():
        return None
    text = _replace_missing_symbols(text)
    visible = {character for character in text if _is_visible(character)}
    for path in _paths():
        if visible <= _characters(path):
            return [(_font(path, language, size), text)]
    # Letters of two fonts do not join. Therefore each word is drawn in one font if possible. The
    # font with the most characters of the text is preferred.
    main = max(_paths(), key=lambda path: len(visible & _characters(path)))
    pieces = []
    for word in re.findall(r"\s+|\S+\s*", text):
        word_pieces = _split_word(word, (main, *_paths()))
        if word_pieces is None:
            return None
        for path, piece in word_pieces:
            if pieces and pieces[-1][0] == path:
                pieces[-1][1] += piece
            else:
                pieces.append([path, piece])
    return [(_font(path, language, size), piece) for path, piece in visual_order(pieces, text)]


def is_right_to_left(text):
    """Returns whether the first letter with a direction is written from right to left."""
    directions = (unicodedata.bidirectional(character) for character in text)
    return next((d for d in directions if d in ("L", "R", "AL")), "L") != "L"


def visual_order(pieces, text):
    """Orders the pieces of a line from left to right.

    Consecutive pieces whose direction is opposite to the direction of the text are ordered in their
    own direction. Within a piece, Pillow orders the letters by the direction of the first letter.

    Args:
        pieces: List of (font path, string) in reading order.
        text: The line.
    """
    is_rtl = is_right_to_left(text)
    opposite, ordered = [], []
    for path, piece in pieces:
        has_ltr, has_rtl = _directions(piece)
        if has_ltr and has_rtl and is_right_to_left(piece) != is_rtl:
            piece = (RTL_MARK if is_rtl else LTR_MARK) + piece
        if (has_ltr and not has_rtl) if is_rtl else (has_rtl and not has_ltr):
            opposite.append((path, piece))
        else:
            ordered += [*_reverse_pieces(opposite), (path, piece)]
            opposite = []
    ordered += _reverse_pieces(opposite)
    return ordered[::-1] if is_rtl else ordered


def missing_scripts(text):
    """Returns the names of the scripts of a text, such as "Bengali", that no local font has."""
    visible = {character for character in _replace_missing_symbols(text) if _is_visible(character)}
    missing = (c for c in visible if not any(c in _characters(path) for path in _paths()))
    return sorted({_script_name(character) for character in missing})


def runs_width(runs):
    """Returns the width in pixels of the result of `font_runs`."""
    return sum(font.getlength(piece) for font, piece in runs)


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


def _split_word(word, paths):
    """Splits a word into pieces of one font each; returns [(font path, piece)].

    The word is one piece if one font has all characters. The result is None if no font has a
    character.
    """
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


def _reverse_pieces(pieces):
    """Reverses the order of pieces, except that the space after the last piece stays at the end."""
    if not pieces:
        return []
    path, last = pieces[-1]
    stripped = last.rstrip()
    space = [(path, last[len(stripped) :])] if stripped != last else []
    return [(path, stripped), *reversed(pieces[:-1]), *space]


def _directions(text):
    """Returns (whether a text has left-to-right letters, whether it has right-to-left letters)."""
    letters = {unicodedata.bidirectional(character) for character in text}
    return "L" in letters, bool(letters & {"R", "AL"})


def _replace_missing_symbols(text):
    """Replaces symbols such as emoji by empty squares if no font has them."""
    symbols = {c for c in text if unicodedata.category(c) in ("So", "Sk")}
    missing = {c for c in symbols if not any(c in _characters(path) for path in _paths())}
    if missing:
        text = re.sub(f"[{re.escape(''.join(sorted(missing)))}][\ufe0e\ufe0f\u200d]*", "□", text)
    return text


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
