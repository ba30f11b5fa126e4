"""Contact sheets: layout, captions and missing fonts."""

import numpy as np
import pytest
from PIL import Image

from tf_mural import reports
from tf_mural.reports import fonts, sheets

NO_FONT = "\U000e1fff"  # a code point without a character


def tiles(count, height=32, width=64):
    return np.stack([np.full((height, width, 3), 20 * i, np.uint8) for i in range(count)])


def test_images_are_laid_out_in_rows(tmp_path):
    captions = [[("en", "one")]] * 5
    assert reports.contact_sheet(tmp_path / "sheet.png", tiles(5), captions, columns=2) == []
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    # Images are 256 pixels wide and 128 pixels high. Gaps of 16 pixels separate the columns. Below
    # each image, there is a line of text of 20 pixels and a gap of 32 pixels.
    assert sheet.shape == (3 * (128 + 20 + 32) + 16, 2 * 272 + 16, 3)
    for i in range(5):
        top, left = 16 + (i // 2) * 180, 16 + (i % 2) * 272
        assert (sheet[top : top + 128, left : left + 256] == 20 * i).all()
        below = sheet[top + 128 : top + 160, left : left + 256]
        assert below.min() < 128, "the caption is drawn"
    assert (sheet[376:504, 288:544] == 255).all(), "no sixth image"


def test_a_caption_without_a_font_is_replaced_by_a_note(tmp_path):
    captions = [[("en", "one"), ("xx", NO_FONT), ("ab", "a" + 2 * NO_FONT)]]
    assert reports.contact_sheet(tmp_path / "a.png", tiles(1), captions) == ["ab", "xx"]
    notes = [[("en", "one"), ("xx", "(no font)"), ("ab", "(no font)")]]
    assert reports.contact_sheet(tmp_path / "b.png", tiles(1), notes) == []
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_scripts_that_join_letters_need_a_pillow_with_raqm(tmp_path, monkeypatch):
    captions = [[("en", "one"), ("he", "אחד")]]
    monkeypatch.setattr(fonts, "_can_shape", lambda: False)
    assert reports.contact_sheet(tmp_path / "a.png", tiles(1), captions) == ["he"]
    monkeypatch.setattr(fonts, "_can_shape", lambda: True)
    assert reports.contact_sheet(tmp_path / "b.png", tiles(1), captions) == []


def test_invalid_images_and_captions_are_rejected(tmp_path):
    with pytest.raises(ValueError, match="1 lists of captions for 2 images"):
        reports.contact_sheet(tmp_path / "a.png", tiles(2), [[]])
    with pytest.raises(ValueError, match="expected uint8"):
        reports.contact_sheet(tmp_path / "a.png", tiles(2).astype(np.float32), [[], []])


def wrap(text):
    font, drawable = fonts.caption_font("en", text, 15)
    lines = sheets._wrap(font, drawable, 120)
    assert all(font.getlength(line) <= 120 for line in lines)
    return lines


@pytest.mark.parametrize("text", ["a house and a garden and a tree", "a" * 30])
def test_captions_are_wrapped_to_the_width(text):
    lines = wrap(text)
    assert 1 < len(lines) <= 3
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_a_combining_mark_stays_on_the_line_of_its_letter():
    lines = wrap("e\u0301" * 30)
    assert len(lines) > 1
    assert all(not line.startswith("\u0301") for line in lines)


def test_long_captions_end_in_an_ellipsis():
    lines = wrap("word " * 40)
    assert len(lines) == 3 and lines[-1].endswith("…")


def drawn_columns(tmp_path, text):
    """Returns the numbers of the columns of the first line of a caption that have dark pixels."""
    reports.contact_sheet(tmp_path / "sheet.png", tiles(1), [[("he", text)]])
    below = np.asarray(Image.open(tmp_path / "sheet.png"))[16 + 128 :, 16 : 16 + 256]
    return np.flatnonzero((below < 100).all(axis=2).any(axis=0))


def test_a_right_to_left_caption_ends_at_the_left_and_starts_at_the_right(tmp_path, monkeypatch):
    if not fonts._can_shape():
        pytest.skip("this Pillow has no Raqm")
    monkeypatch.setattr(sheets, "_MAX_LINES", 1)
    hebrew, latin = drawn_columns(tmp_path, "\u05d0" * 3), drawn_columns(tmp_path, "abc")
    assert hebrew.max() > 250 and hebrew.min() > 200
    assert latin.max() < 100
    # The first letters of a text determine the direction, also if the line has a Latin word.
    mixed = drawn_columns(tmp_path, "\u05d0 abc")
    assert mixed.max() > 245 and mixed.min() < hebrew.min()


def test_images_of_any_size_are_aligned_at_the_bottom(tmp_path):
    shapes = [(10, 40), (40, 10), (600, 300)]
    images = [np.full((h, w, 3), 50 * (i + 1), np.uint8) for i, (h, w) in enumerate(shapes)]
    assert reports.contact_sheet(tmp_path / "a.png", images, [[("en", "one")]] * 3, columns=3) == []
    sheet = np.asarray(Image.open(tmp_path / "a.png"))
    assert sheet.shape == (256 + 20 + 32 + 16, 3 * 272 + 16, 3)
    boxes = [(272 - 64, 16, 256), (16, 288 + 96, 64), (16, 560 + 64, 128)]
    for i, (top, left, width) in enumerate(boxes):
        box = sheet[top:272, left : left + width]
        assert (box == 50 * (i + 1)).all(), i
        assert (sheet[16:272, 16 + 272 * i : 272 * (i + 1)] == 50 * (i + 1)).sum() == box.size


def test_invalid_lists_of_images_are_rejected(tmp_path):
    with pytest.raises(ValueError, match="expected uint8"):
        reports.contact_sheet(tmp_path / "a.png", [np.zeros((4, 4), np.uint8)], [[]])
    with pytest.raises(ValueError, match="expected uint8"):
        reports.contact_sheet(tmp_path / "a.png", [], [])
