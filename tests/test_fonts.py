"""The font of a caption, symbols without a font, and scripts without a font."""

import os

import pytest

from tf_mural.reports import fonts


@pytest.fixture
def use_two_fonts(monkeypatch):
    """Returns a callable that replaces the fonts by two files with the given characters."""
    import matplotlib

    folder = os.path.join(matplotlib.get_data_path(), "fonts", "ttf")
    paths = [os.path.join(folder, name) for name in ("DejaVuSans.ttf", "DejaVuSerif.ttf")]

    def replace(first, second=""):
        characters = {paths[0]: set(first), paths[1]: set(second)}
        monkeypatch.setattr(fonts, "_paths", lambda: tuple(paths))
        monkeypatch.setattr(fonts, "_characters", characters.get)
        monkeypatch.setattr(fonts, "_can_shape", lambda: True)
        return [os.path.basename(path) for path in paths]

    return replace


def drawable(text):
    """Returns (name of the font file, text that is drawn); None if no font has the characters."""
    result = fonts.caption_font("en", text, 15)
    return result and (os.path.basename(result[0].path), result[1])


def test_a_caption_is_drawn_in_the_font_with_most_of_its_characters(use_two_fonts):
    sans, serif = use_two_fonts("abc", "bcdef")
    assert drawable("ab ba") == (sans, "ab ba")
    assert drawable("bc cb") == (sans, "bc cb"), "the first of two fonts with all characters"
    assert drawable("fed") == (serif, "fed")
    assert drawable("a bc fed") == (serif, "□ bc fed")


def test_a_caption_is_not_drawn_if_no_font_has_most_of_its_letters(use_two_fonts):
    sans, _ = use_two_fonts("ab")
    assert drawable("a xyz") is None
    assert drawable("ab xy") == (sans, "ab □□")
    assert drawable(" ") == (sans, " ")


def test_symbols_without_a_font_become_squares(use_two_fonts):
    sans, _ = use_two_fonts("dog\u25a1!")
    assert drawable("dog \U0001f436\ufe0f!") == (sans, "dog \u25a1!")
    assert drawable("\U0001f436") == (sans, "\u25a1")
    use_two_fonts("dog\u25a1!\U0001f436")
    assert drawable("dog \U0001f436!") == (sans, "dog \U0001f436!")


def test_the_direction_of_a_text_is_that_of_its_first_letter():
    assert fonts.is_right_to_left("12 \u05d0 ab") and fonts.is_right_to_left("\u0628")
    assert not fonts.is_right_to_left("12 ab \u05d0") and not fonts.is_right_to_left("12")


def test_missing_scripts_are_named_with_their_languages(use_two_fonts, monkeypatch):
    use_two_fonts("abc\u25a1")
    assert fonts.missing_scripts("abc") == []
    assert fonts.missing_scripts("a \u0995\u09be 红 ひ \U0001f436") == ["Bengali", "CJK"]
    advice = fonts.installation_advice(
        [("bn", "\u0995"), ("as", "\u0996"), ("zh", "红"), ("en", "abc")]
    )
    assert advice.startswith("no font on this machine for Bengali (as bn), CJK (zh): ")
    monkeypatch.setattr(fonts, "_can_shape", lambda: False)
    lines = fonts.installation_advice([("ar", "\u0628"), ("en", "abc")]).splitlines()
    assert len(lines) == 2 and "which ar need" in lines[1]
    assert fonts.installation_advice([("en", "abc")]) == ""
