"""Layout of text: directions on a line, fonts for each script, symbols, missing fonts."""

import os

from tf_mural.reports import fonts, sheets

ALEF, BET, GIMEL = "\u05d0", "\u05d1", "\u05d2"


def ordered(pieces, text):
    return [piece for _, piece in fonts.visual_order([[None, p] for p in pieces], text)]


def test_pieces_of_one_direction_keep_or_reverse_their_order():
    assert ordered(["ab ", "cd"], "ab cd") == ["ab ", "cd"]
    assert ordered([ALEF + " ", BET], ALEF) == [BET, ALEF + " "]


def test_pieces_in_the_other_direction_keep_their_own_order():
    # In Hebrew text, the first of two Latin words is drawn to the left of the second.
    assert ordered([ALEF + " ", "ab ", "cd ", BET], ALEF) == [BET, " ", "ab ", "cd", ALEF + " "]
    three = [ALEF + " ", "ab ", "cd ", "ef ", BET]
    assert ordered(three, ALEF) == [BET, " ", "ab ", "cd ", "ef", ALEF + " "]
    # The space after the last Hebrew word is drawn between this word and the following text.
    assert ordered(["ab ", ALEF + " ", BET + " ", "cd"], "ab") == [
        "ab ",
        BET,
        ALEF + " ",
        " ",
        "cd",
    ]
    assert ordered(["12 ", ALEF], ALEF) == [ALEF, "12 "], "digits have the direction of the text"


def test_a_mixed_piece_gets_a_mark_if_its_first_letter_has_the_other_direction():
    mixed = f"ab {ALEF}"
    assert ordered([BET + " ", mixed], BET) == [fonts.RTL_MARK + mixed, BET + " "]
    mixed = f"{ALEF} ab"
    assert ordered(["x ", mixed], "x") == ["x ", fonts.LTR_MARK + mixed]


def test_lines_of_hebrew_that_begin_with_a_latin_word_are_right_to_left(monkeypatch):
    monkeypatch.setattr(fonts, "_can_shape", lambda: True)
    text = f"{ALEF * 10} Nike {GIMEL * 3}"
    lines = sheets._wrap("he", text, 110)
    texts = ["".join(piece for _, piece in line) for line in lines]
    latin_first = [
        line for line in texts if "Nike" in line and ALEF not in line and BET not in line
    ]
    assert len(texts) > 1 and latin_first
    assert all(fonts.is_right_to_left(line) for line in texts)


def use_two_fonts(monkeypatch, first, second):
    """Replaces the fonts by two files with the given characters; returns the names of the files."""
    import matplotlib

    folder = os.path.join(matplotlib.get_data_path(), "fonts", "ttf")
    paths = [os.path.join(folder, name) for name in ("DejaVuSans.ttf", "DejaVuSerif.ttf")]
    characters = {paths[0]: set(first), paths[1]: set(second)}
    monkeypatch.setattr(fonts, "_paths", lambda: tuple(paths))
    monkeypatch.setattr(fonts, "_characters", characters.get)
    monkeypatch.setattr(fonts, "_can_shape", lambda: True)
    return [os.path.basename(path) for path in paths]


def named_runs(text):
    """Divides a text by the fonts that draw it.

    Returns:
        List of tuples (name of the font file, string); None if no font has the characters.
    """
    runs = fonts.font_runs("en", text, 15)
    return runs and [(os.path.basename(font.path), piece) for font, piece in runs]


def test_each_word_has_the_first_font_with_all_its_characters(monkeypatch):
    sans, serif = use_two_fonts(monkeypatch, "abאב", "12")
    assert named_runs("ab ba") == [(sans, "ab ba")]
    assert named_runs("21") == [(serif, "21")]
    assert named_runs("ab 12 b") == [(sans, "ab "), (serif, "12 "), (sans, "b")]
    assert named_runs("אב 12") == [(serif, "12"), (sans, "אב ")]  # from right to left
    assert named_runs("abc") is None


def test_words_are_not_split_between_fonts(monkeypatch):
    sans, serif = use_two_fonts(monkeypatch, "abc", "bcdef")
    # The second font has most of the text. Therefore "bc" is drawn with the second font, although
    # the first font has these letters too.
    assert named_runs("a bc fed") == [(sans, "a "), (serif, "bc fed")]
    assert named_runs("ad bed") == [(sans, "a"), (serif, "d bed")], (
        "no font has all letters of the word"
    )
    assert named_runs("ax bed") is None


def test_symbols_without_a_font_become_squares(monkeypatch):
    use_two_fonts(monkeypatch, "dog\u25a1!", "")
    ((_, text),) = named_runs("dog \U0001f436\ufe0f!")
    assert text == "dog \u25a1!"
    use_two_fonts(monkeypatch, "dog\u25a1!\U0001f436", "")
    assert named_runs("dog \U0001f436!")[0][1] == "dog \U0001f436!"


def test_missing_scripts_are_named_with_their_languages(monkeypatch):
    use_two_fonts(monkeypatch, "abc\u25a1", "")
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
