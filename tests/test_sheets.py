import os

import numpy as np
import pytest
from PIL import Image

from tf_mural import reports
from tf_mural.reports import fonts, sheets

NO_FONT = "\U000e1fff"  # a code point without a character


def tiles(count, height=32, width=64):
    return np.stack([np.full((height, width, 3), 20 * i, np.uint8) for i in range(count)])


def test_images_stand_in_rows(tmp_path):
    captions = [[("en", "one")]] * 5
    assert reports.contact_sheet(tmp_path / "sheet.png", tiles(5), captions, columns=2) == []
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    # 256 wide with 16 between, 128 high with a line of text (20) and 32 of space.
    assert sheet.shape == (3 * (128 + 20 + 32) + 16, 2 * 272 + 16, 3)
    for i in range(5):
        top, left = 16 + (i // 2) * 180, 16 + (i % 2) * 272
        assert (sheet[top : top + 128, left : left + 256] == 20 * i).all()
        below = sheet[top + 128 : top + 160, left : left + 256]
        assert below.min() < 128, "the caption is drawn"
    assert (sheet[376:504, 288:544] == 255).all(), "no sixth image"


def test_a_caption_without_a_font_says_so(tmp_path):
    captions = [[("en", "one"), ("xx", NO_FONT), ("ab", "a" + NO_FONT)]]
    assert reports.contact_sheet(tmp_path / "a.png", tiles(1), captions) == ["ab", "xx"]
    said = [[("en", "one"), ("xx", "(no font)"), ("ab", "(no font)")]]
    assert reports.contact_sheet(tmp_path / "b.png", tiles(1), said) == []
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_scripts_that_join_letters_need_a_pillow_that_can(tmp_path, monkeypatch):
    captions = [[("en", "one"), ("he", "אחד")]]
    monkeypatch.setattr(fonts, "_can_shape", lambda: False)
    assert reports.contact_sheet(tmp_path / "a.png", tiles(1), captions) == ["he"]
    monkeypatch.setattr(fonts, "_can_shape", lambda: True)
    assert reports.contact_sheet(tmp_path / "b.png", tiles(1), captions) == []


def test_sheets_refuse_what_does_not_fit(tmp_path):
    with pytest.raises(ValueError, match="1 lists of captions for 2 images"):
        reports.contact_sheet(tmp_path / "a.png", tiles(2), [[]])
    with pytest.raises(ValueError, match="expected uint8"):
        reports.contact_sheet(tmp_path / "a.png", tiles(2).astype(np.float32), [[], []])


def test_texts_fall_back_font_by_font(monkeypatch):
    import matplotlib

    sans = fonts._paths()[0]
    serif = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSerif.ttf")
    known = {sans: set("abאב"), serif: set("12")}
    monkeypatch.setattr(fonts, "_paths", lambda: (sans, serif))
    monkeypatch.setattr(fonts, "_characters", lambda path: known[path])

    def found(text):
        pieces = fonts.runs("en", text, 15)
        return pieces and [(os.path.basename(font.path), piece) for font, piece in pieces]

    a, b = "DejaVuSans.ttf", "DejaVuSerif.ttf"
    assert found("ab ba") == [(a, "ab ba")]
    assert found("21") == [(b, "21")]
    assert found("ab 12 b") == [(a, "ab "), (b, "12 "), (a, "b")]
    monkeypatch.setattr(fonts, "_can_shape", lambda: True)
    assert found("אב 12") == [(b, "12"), (a, "אב ")]  # from right to left
    assert found("abc") is None


@pytest.mark.parametrize("text", ["a house and a garden and a tree", "a" * 30])
def test_captions_are_wrapped_to_the_width(text):
    lines = sheets._wrap("en", text, 120)
    assert 1 < len(lines) <= 3
    assert all(fonts.length(runs) <= 120 for runs in lines)
    written = [piece for runs in lines for _, piece in runs]
    assert "".join(written).replace(" ", "") == text.replace(" ", "")


def test_a_mark_stays_with_its_letter():
    lines = sheets._wrap("en", "e\u0301" * 30, 120)
    assert len(lines) > 1
    assert all(not runs[0][1].startswith("\u0301") for runs in lines)


def test_long_captions_end_in_an_ellipsis():
    lines = sheets._wrap("en", "word " * 40, 120)
    assert len(lines) == 3
    assert lines[-1][-1][1].endswith("…")
    assert fonts.length(lines[-1]) <= 120
