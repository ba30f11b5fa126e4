"""Tables of text, and tables of results."""

import math

import pytest

from tf_mural import reports
from tf_mural.errors import UserError
from tf_mural.evaluation.results import Result
from tf_mural.reports import result_tables


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
def test_display_width_counts_columns_of_a_terminal(text, width):
    assert reports.display_width(text) == width


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


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.6, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (86399, "1 d 00 h"),
        (270000, "3 d 03 h"),
        (math.nan, "?"),
        (math.inf, "?"),
        (-1, "?"),
    ],
)
def test_durations_have_two_units(seconds, text):
    assert reports.format_duration(seconds) == text
