"""Captions in scripts that are hard to draw: directions on one line, symbols, missing fonts."""

import os

import numpy as np
import pytest
from PIL import Image

from tf_mural.reports import contact_sheet, direction, fonts, sheets

ALEF, BET, GIMEL = "\u05d0", "\u05d1", "\u05d2"


def order(pieces, text):
    return [piece for _, piece in direction.visual_order([[None, p] for p in pieces], text)]


def test_pieces_of_one_direction_stay_or_turn():
    assert order(["ab ", "cd"], "ab cd") == ["ab ", "cd"]
    assert order([ALEF + " ", BET], ALEF) == [BET, ALEF + " "]


def test_a_piece_against_the_text_keeps_its_order():
    # Of Hebrew with two Latin words in two fonts, the first Latin word stands left of the second.
    assert order([ALEF + " ", "ab ", "cd ", BET], ALEF) == [BET, " ", "ab ", "cd", ALEF + " "]
    three = [ALEF + " ", "ab ", "cd ", "ef ", BET]
    assert order(three, ALEF) == [BET, " ", "ab ", "cd ", "ef", ALEF + " "]
    # The space after the last Hebrew word goes between it and what follows.
    assert order(["ab ", ALEF + " ", BET + " ", "cd"], "ab") == ["ab ", BET, ALEF + " ", " ", "cd"]
    assert order(["12 ", ALEF], ALEF) == [ALEF, "12 "], "digits alone go with the text"


def test_a_mixed_piece_is_marked_where_its_first_letter_misleads():
    mixed = f"ab {ALEF}"
    assert order([BET + " ", mixed], BET) == [direction.TO_LEFT + mixed, BET + " "]
    mixed = f"{ALEF} ab"
    assert order(["x ", mixed], "x") == ["x ", direction.TO_RIGHT + mixed]


def test_lines_of_hebrew_that_begin_with_a_latin_word_run_as_the_text(monkeypatch):
    monkeypatch.setattr(fonts, "_can_shape", lambda: True)
    text = f"{ALEF * 10} Nike {GIMEL * 3}"
    lines = sheets._wrap("he", text, 110)
    written = ["".join(piece for _, piece in line) for line in lines]
    starting = [line for line in written if "Nike" in line and ALEF not in line and BET not in line]
    assert len(written) > 1 and starting
    assert all(direction.is_right_to_left(line) for line in written)


def two_fonts(monkeypatch, first, second):
    """Two font files that pretend to have these characters."""
    import matplotlib

    folder = os.path.join(matplotlib.get_data_path(), "fonts", "ttf")
    paths = [os.path.join(folder, name) for name in ("DejaVuSans.ttf", "DejaVuSerif.ttf")]
    known = {paths[0]: set(first), paths[1]: set(second)}
    monkeypatch.setattr(fonts, "_paths", lambda: tuple(paths))
    monkeypatch.setattr(fonts, "_characters", known.get)
    monkeypatch.setattr(fonts, "_can_shape", lambda: True)
    return [os.path.basename(path) for path in paths]


def found(text):
    pieces = fonts.runs("en", text, 15)
    return pieces and [(os.path.basename(font.path), piece) for font, piece in pieces]


def test_words_are_not_cut_between_fonts(monkeypatch):
    sans, serif = two_fonts(monkeypatch, "abc", "bcdef")
    # Most of the text is in the second font; bc alone would be drawn in the first.
    assert found("a bc fed") == [(sans, "a "), (serif, "bc fed")]
    assert found("ad bed") == [(sans, "a"), (serif, "d bed")], "no font has the whole word"
    assert found("ax bed") is None


def test_symbols_without_a_font_are_squares(monkeypatch):
    two_fonts(monkeypatch, "dog\u25a1!", "")
    (_, text), *rest = found("dog \U0001f436\ufe0f!")
    assert (text, rest) == ("dog \u25a1!", [])
    two_fonts(monkeypatch, "dog\u25a1!\U0001f436", "")
    assert found("dog \U0001f436!")[0][1] == "dog \U0001f436!"


def test_missing_scripts_by_name(monkeypatch):
    two_fonts(monkeypatch, "abc\u25a1", "")
    assert fonts.missing_scripts("abc") == []
    assert fonts.missing_scripts("a \u0995\u09be 红 ひ \U0001f436") == ["Bengali", "CJK"]
    said = fonts.advice([("bn", "\u0995"), ("as", "\u0996"), ("zh", "红"), ("en", "abc")])
    assert said.startswith("no font here for Bengali (as bn), CJK (zh): ")
    monkeypatch.setattr(fonts, "_can_shape", lambda: False)
    two_lines = fonts.advice([("ar", "\u0628"), ("en", "abc")]).splitlines()
    assert len(two_lines) == 2 and "which ar need" in two_lines[1]
    assert fonts.advice([("en", "abc")]) == ""


def test_images_of_any_size_stand_on_one_line(tmp_path):
    shapes = [(10, 40), (40, 10), (600, 300)]
    images = [np.full((h, w, 3), 50 * (i + 1), np.uint8) for i, (h, w) in enumerate(shapes)]
    assert contact_sheet(tmp_path / "a.png", images, [[("en", "one")]] * 3, columns=3) == []
    sheet = np.asarray(Image.open(tmp_path / "a.png"))
    assert sheet.shape == (256 + 20 + 32 + 16, 3 * 272 + 16, 3)
    boxes = [(272 - 64, 16, 256), (16, 288 + 96, 64), (16, 560 + 64, 128)]
    for i, (top, left, width) in enumerate(boxes):
        box = sheet[top:272, left : left + width]
        assert (box == 50 * (i + 1)).all(), i
        assert (sheet[16:272, 16 + 272 * i : 272 * (i + 1)] == 50 * (i + 1)).sum() == box.size


def test_lists_of_images_are_looked_at(tmp_path):
    with pytest.raises(ValueError, match="expected uint8"):
        contact_sheet(tmp_path / "a.png", [np.zeros((4, 4), np.uint8)], [[]])
    with pytest.raises(ValueError, match="expected uint8"):
        contact_sheet(tmp_path / "a.png", [], [])
