"""Tables of text, and tables of results."""

import math

import pytest
from rich.cells import cell_len

from tf_mural import reports
from tf_mural.errors import UserError
from tf_mural.evaluation.results import Result
from tf_mural.reports import result_tables, tables


@pytest.mark.parametrize(
    "text, width",
    [
        ("", 0),
        ("abc", 3),
        ("日本語", 6),
        ("한국어", 6),
        ("ｶﾅ", 2),  # Half-width katakana.
        ("e\u0301", 1),  # An e with a combining accent.
        ("स्ते", 2),  # Two consonants with two marks.
        ("\u1112\u1161\u11ab", 2),  # A Korean syllable of three letters.
        ("a\u200d\ufe0fb", 2),  # Joiner and variation selector.
    ],
)
@pytest.mark.parametrize("markdown", [False, True])
def test_text_has_its_width_in_columns_of_a_terminal(text, width, markdown):
    row = reports.table([[text, "x"], ["a" * 10, "y"]], ["text", "z"], markdown).split("\n")[2]
    assert row == (
        f"| {text}{' ' * (10 - width)} | x   |"
        if markdown
        else f"{text:<{12 - width + len(text)}}x"
    )


def test_a_table_is_aligned():
    rows = [
        ["日本", 1.25, 3, "+2.0"],
        ["a", 100.0, None, "-1.0"],
        None,
        ["e\u0301", math.nan, 12, ""],
    ]
    assert reports.table(rows, ["lang", "value", "n", "gain"]).split("\n") == [
        "lang  value   n  gain",
        "---------------------",
        "日本    1.2   3  +2.0",
        "a     100.0   -  -1.0",
        "---------------------",
        "e\u0301         -  12",
    ]


def test_a_markdown_table_is_aligned_and_escaped():
    rows = [["a|b", 1.0], None, ["c", "word"]]
    assert reports.table(rows, ["x", "y"], markdown=True).split("\n") == [
        "| x    | y    |",
        "| ---- | ---- |",
        "| a\\|b | 1.0  |",
        "| c    | word |",
    ]
    assert "| --: |" in reports.table([[1]], ["n"], markdown=True)


def test_a_table_rejects_rows_of_another_width():
    with pytest.raises(ValueError, match="a row of 2 cells under 3 columns"):
        reports.table([[1, 2]], ["a", "b", "c"])


def test_markup_and_names_of_emoji_are_text():
    assert reports.table([["[red]x[/red]", ":smile:"]], ["[b]", ":x:"]).split("\n") == [
        "[b]           :x:",
        "---------------------",
        "[red]x[/red]  :smile:",
    ]


WIDE_ROWS = [["the first sentence of a text", 123456.25, "日本語" * 4], ["b", 0.5, "c"]]


def test_a_narrow_terminal_folds_text_and_no_number(monkeypatch):
    columns = ["text", "count", "last"]
    full = reports.table(WIDE_ROWS, columns)
    assert full.split("\n")[2] == f"the first sentence of a text  123456.2  {'日本語' * 4}"
    monkeypatch.setenv("COLUMNS", "40")
    assert reports.table(WIDE_ROWS, columns) == full  # stdout is not a terminal
    monkeypatch.setattr(tables, "is_terminal", lambda stream: True)
    folded = reports.table(WIDE_ROWS, columns)
    assert max(map(cell_len, folded.split("\n"))) <= 40
    assert "123456.2" in folded and "0.5" in folded and "…" not in folded
    assert folded.replace("\n", " ").split()[-3:] == ["b", "0.5", "c"]
    words = " ".join(line[:14] for line in folded.split("\n")[2:-1]).split()
    assert words == WIDE_ROWS[0][0].split()
    monkeypatch.setenv("COLUMNS", "10")  # The numbers need more space than the terminal has.
    lines = reports.table(WIDE_ROWS, columns).split("\n")
    assert any("123456.2" in line for line in lines) and "…" not in "".join(lines)
    monkeypatch.setenv("COLUMNS", "200")
    assert reports.table(WIDE_ROWS, columns) == full


def make_result(recalls, interval=None):
    """Returns a retrieval result; the recalls of a language are AR, AR + 1 and so on."""
    names = [f"{direction}_r{k}" for direction in ("i2t", "t2i") for k in (1, 5, 10)]
    values = {
        code: {name: recall + i for i, name in enumerate(names)}
        | {"average_recall": recall, "chance": 0.5}
        for code, recall in recalls.items()
    }
    intervals = {code: {"average_recall": interval} for code in recalls} if interval else {}
    return Result("retrieval", "retrieval/v1", values, {}, intervals)


RESULTS = {
    "mural": make_result({"en": 60.0, "de": 10.0, "ko": 8.0}),
    "control": make_result({"en": 62.0, "de": 11.0, "ko": 9.0, "it": 3.0}),
    "etcl": make_result({"en": 57.0, "de": 51.0, "ko": 19.0}),
}
GROUPS = {"trained": ["en", "de", "fr"], "unseen": ["ko"]}


def test_retrieval_table_has_groups_means_and_gains():
    assert reports.retrieval_table(RESULTS, GROUPS, control="control").split("\n") == [
        "AR (%)     chance  mural  control  etcl  mural - control  etcl - control",
        "------------------------------------------------------------------------",
        "trained:",
        "en            0.5   60.0     62.0  57.0             -2.0            -5.0",
        "de            0.5   10.0     11.0  51.0             -1.0           +40.0",
        "mean of 2     0.5   35.0     36.5  54.0             -1.5           +17.5",
        "------------------------------------------------------------------------",
        "unseen:",
        "ko            0.5    8.0      9.0  19.0             -1.0           +10.0",
        "------------------------------------------------------------------------",
        "other:",
        "it            0.5      -      3.0     -                -               -",
    ]


def test_means_of_the_retrieval_table_have_only_complete_languages():
    lines = reports.retrieval_table(RESULTS, markdown=True).split("\n")
    assert lines[-1].split() == "| mean of 3 | 0.5 | 26.0 | 27.3 | 42.3 |".split()
    assert lines[-2].split() == "| it | 0.5 | - | 3.0 | - |".split()


def test_retrieval_table_rejects_an_unknown_control():
    with pytest.raises(UserError, match="unknown control 'contrl'; known: mural, control, etcl"):
        reports.retrieval_table(RESULTS, control="contrl")


def test_recall_table_has_recalls_intervals_and_chance():
    table = reports.recall_table(
        make_result({"de": 10.0, "en": 60.0}, (9.5, 11.0)), {"all": ["en", "de"]}
    )
    heading, _, first, second = table.split("\n")
    assert heading.split()[1:7] == ["i2t", "R@1", "i2t", "R@5", "i2t", "R@10"]
    assert first.split() == "en 60.0 61.0 62.0 63.0 64.0 65.0 60.0 9.5 to 11.0 0.5".split()
    assert second.split()[:2] == ["de", "10.0"]


def test_group_languages_keeps_every_language_once():
    assert result_tables.group_languages(["ko", "it", "en"], GROUPS) == {
        "trained": ["en"],
        "unseen": ["ko"],
        "other": ["it"],
    }
    assert result_tables.group_languages(["ko", "en"], None) == {"": ["ko", "en"]}
