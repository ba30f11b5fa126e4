"""tools/compare.py: what it prints, writes and refuses, and the arithmetic of its differences."""

import json
import math
import re
import shutil

import pytest
from PIL import Image

from tf_mural.errors import UserError
from tf_mural.reports import comparison, comparison_charts
from tf_mural.reports.comparison import Column
from tf_mural.reports.results import flat, headline, result_table


def a_result(path, recalls, **changes):
    """A file as tools/evaluate.py writes it: average recalls with an interval of -2 and +1."""
    result = {
        "model": f"runs/tiny/{path.stem}-s0",
        "benchmark": "retrieval/coco",
        "records": 5000,
        "data": {"data/coco/test": "0123456789ab"},
        "task": "retrieval",
        "protocol": "retrieval/v1",
        "values": {
            c: {"average_recall": v, "i2t_r1": v - 9, "chance": 1} for c, v in recalls.items()
        },
        "intervals": {c: {"average_recall": [v - 2, v + 1]} for c, v in recalls.items()},
    } | changes
    path.write_text(json.dumps(result))
    return str(path)


@pytest.fixture
def mural(tmp_path):
    return a_result(tmp_path / "mural.json", {"en": 70.0, "ja": 40.0, "ko": 30.0})


@pytest.fixture
def etcl(tmp_path):
    return a_result(tmp_path / "etcl.json", {"en": 69.0, "ja": 60.5, "ko": 45.0})


@pytest.fixture
def compare(tools, tmp_path):
    return lambda *arguments: tools.run(tmp_path, "compare.py", *arguments)


def rows_of(text, key):
    """Cells of the rows of a table that start with `key`."""
    lines = [line for line in text.split("\n") if line.startswith(key + " ")]
    return [re.split(r"  +", line) for line in lines]


def test_side_by_side_with_the_paper(compare, mural, etcl, tmp_path):
    done = compare(mural, f"ours={etcl}", "paper", "--out_dir=out")
    assert done.code == 0 and done.err == "", done.err
    ja, gains = rows_of(done.out, "ja")
    assert ja[1:] == ["40.6", "62.1", "40.0 (38.0 to 41.0)", "60.5 (58.5 to 61.5)"]
    # Against the paper the interval is ours alone; against ours both count: sqrt(2^2 + 1^2).
    spread = "+20.5 (+18.3 to +22.7)"
    assert gains[1:] == ["+19.9 (+17.9 to +20.9)", "-1.6 (-3.6 to -0.6)", spread]
    # Trained and unseen apart, each with its mean; the paper's mean and sum of three.
    assert rows_of(done.out, "mean of 2")[0][1:] == ["54.2", "65.6", "55.0", "64.8"]
    assert rows_of(done.out, "mean")[-1][1:] == ["+11.6", "-2.0", "+11.5"]
    assert rows_of(done.out, "sum of en, ja, ko")[0][1:] == ["139.9", "180.5", "140.0", "174.5"]
    assert done.out.index("trained:") < done.out.index("unseen:") < done.out.index("means:")
    assert "ours: " in done.out and "Table 1" in done.out and "†" not in done.out
    written = (tmp_path / "out" / "comparison.md").read_text()
    assert written.startswith("# retrieval/coco\n\naverage_recall, retrieval/v1\n")
    assert re.search(r"^\| ja +\| +40.6 \| +62.1 \| 40.0 \(38.0 to 41.0\) \|", written, re.M)
    assert "![values.png](values.png)" in written and "![gains.png](gains.png)" in written
    for name in ("values.png", "gains.png"):
        assert min(Image.open(tmp_path / "out" / name).size) > 200


def test_where_it_writes_by_default(compare, mural, etcl, tmp_path):
    assert compare(mural, etcl).code == 0
    assert {p.name for p in (tmp_path / "comparison").iterdir()} == {
        "comparison.md",
        "values.png",
        "gains.png",
    }


def test_doubtful_numbers_are_shown_and_not_counted(compare, mural, tmp_path):
    done = compare("paper", mural, "--setting=fine-tune", "--control=mural-s0", "--rows=all")
    assert done.code == 0, done.err
    ko, gains = rows_of(done.out, "ko")
    assert "77.0 †" in ko and "73.3" in ko
    assert gains[5] == "-43.3 (-45.3 to -42.3)" and gains.count("-") == 5
    assert "† MURAL(reprod.) + ETCL, ko: The mean 77.8" in done.out and "Not counted." in done.out
    assert rows_of(done.out, "mean")[0].count("77.8 †") == 1


def test_the_paper_alone(compare, tmp_path):
    done = compare("paper", "--benchmark=retrieval/flickr30k")
    assert done.code == 0, done.err
    assert rows_of(done.out, "cs")[1][1:] == ["+18.5"]
    done = compare("paper", "--benchmark=retrieval/xtd10", "--rows=M-CLIP LABSE ViT-L/14")
    assert rows_of(done.out, "ja") == [["ja", "73.9"]]
    assert rows_of(done.out, "mean")[-1] == ["mean", "87.2"]
    assert not (tmp_path / "comparison" / "nothing").exists()


def test_a_part_of_the_records_is_told(compare, tmp_path):
    path = a_result(tmp_path / "few.json", {"en": 50.0}, records=12)
    done = compare(path, "paper")
    assert "Beware: few-s0 is of 12 records, the benchmark has 5,000." in done.out


def test_tasks_without_a_benchmark_compare_too(compare, tmp_path):
    cells = {"deu": {"forward": 1.0, "accuracy": 2.0}, "groups": {"all": {"accuracy": 3.0}}}
    changes = dict(benchmark=None, task="bitext", protocol="bitext/v1", values=cells, intervals={})
    one = a_result(tmp_path / "one.json", {}, **changes)
    cells["deu"]["accuracy"] = 7.5
    done = compare(one, a_result(tmp_path / "two.json", {}, **changes))
    assert done.code == 0, done.err
    assert done.out.startswith("bitext\n\naccuracy, bitext/v1\n")
    assert rows_of(done.out, "deu") == [["deu", "2.0", "7.5"], ["deu", "+5.5"]]
    assert rows_of(done.out, "groups/all")[0] == ["groups/all", "3.0", "3.0"]


def test_another_measure(compare, mural, etcl):
    done = compare(mural, etcl, "--measure=i2t_r1")
    assert rows_of(done.out, "ja") == [["ja", "31.0", "51.5"], ["ja", "+20.5"]]


@pytest.mark.parametrize(
    "changes, arguments, message",
    [
        (
            {"protocol": "retrieval/v1;captions_per_image=1"},
            [],
            r"mural-s0 was measured by retrieval/v1, other-s0 by retrieval/v1;captions_per_image=1"
            ": numbers of different protocols do not compare",
        ),
        (
            {"data": {"data/coco/test": "fedcba987654"}},
            [],
            r"mural-s0 was measured on data/coco/test \(0123456789ab\), other-s0 on data/coco/test "
            r"\(fedcba987654\): the records differ",
        ),
        ({"benchmark": "retrieval/xtd10"}, [], "the results are of retrieval/coco and retrieval/x"),
        ({}, ["--measure=i2t_r2"], "unknown measure .*mural.json. 'i2t_r2'; .* did you mean 'i2t"),
        ({}, ["--control=mural"], "unknown control 'mural'; known: mural-s0, other-s0"),
        ({}, ["paper", "--rows=LaBSE"], "unknown row .published on retrieval/coco. 'LaBSE'; known"),
        (
            {"model": "runs/x/mural-s0"},
            [],
            "two of the results are called 'mural-s0': tell them ap",
        ),
        ({"intervals": {}}, ["--measure=chance2"], "unknown measure"),
    ],
)
def test_what_does_not_compare_is_refused(compare, mural, tmp_path, changes, arguments, message):
    other = a_result(tmp_path / "other.json", {"en": 50.0}, **changes)
    refusal = compare(mural, other, *arguments).error()
    assert re.search(message, refusal), refusal
    assert not (tmp_path / "comparison").exists()


def test_what_is_no_result_is_refused(compare, tmp_path, mural):
    assert "no file 'nowhere.json': arguments are results of" in compare("nowhere.json").error()
    (tmp_path / "a.json").write_text("{")
    assert "a.json is no JSON" in compare("a.json").error()
    (tmp_path / "a.json").write_text('{"task": "retrieval", "protocol": "x"}')
    assert (
        "a.json is no result of tools/evaluate.py: it has no data, m" in compare("a.json").error()
    )
    with open(mural, encoding="utf-8") as file:
        result = json.load(file)
    for odd, said in [
        (3, "it has no data, model, protocol, task, values"),
        (None, "it has no data"),
        ({**result, "values": 3}, "its values is 3"),
        ({**result, "intervals": 3}, "its intervals is 3"),
        ({**result, "model": 1}, "its model is 1"),
        ({**result, "values": {"en": {"r1": "x"}}}, "its value r1 of en is 'x', expected a number"),
    ]:
        (tmp_path / "a.json").write_text(json.dumps(odd))
        assert f"no result of tools/evaluate.py: {said}" in compare("a.json").error()
    assert "no benchmark is named: score with --task=" in compare("paper").error()
    assert "unknown benchmark 'coco'" in compare("paper", "--benchmark=coco").error()
    other = a_result(tmp_path / "b.json", {"en": 50.0}, protocol="retrieval/v2")
    refusal = compare(other, "paper").error()
    assert "MURAL(reprod.) was measured by retrieval/v1, b-s0 by retrieval/v2" in refusal


# --- the arithmetic -------------------------------------------------------------------------------

OURS = Column("ours", "p", {"en": 10.0, "de": 5.0}, {"en": (7.0, 11.0)}, data={"a": "1"})
THEIRS = Column("theirs", "p", {"en": 8.0, "fr": 1.0}, {"en": (6.0, 12.0)}, data={"b": "1"})


def test_a_difference_by_hand():
    gain, (low, high) = comparison.difference(OURS, THEIRS, "en")
    # Down: ours may be 3 lower, theirs 4 higher. Up: ours 1 higher, theirs 2 lower.
    assert gain == 2.0 and math.isclose(low, 2 - 5) and math.isclose(high, 2 + math.sqrt(5))
    exact = Column("paper", "p", {"en": 8.0, "de": 4.0}, doubtful={"de": "why"})
    assert comparison.difference(OURS, exact, "en") == (2.0, (-1.0, 3.0))
    assert comparison.difference(exact, exact, "en") == (0.0, None)
    assert comparison.difference(OURS, exact, "de") == (None, None)  # doubtful
    assert comparison.difference(OURS, THEIRS, "fr") == (None, None)  # not there


def test_equal_columns_have_no_gain():
    gain, (low, high) = comparison.difference(OURS, OURS, "en")
    assert gain == 0.0 and low < 0 < high


def test_aggregates_need_all_and_count_nothing_doubtful():
    column = Column("x", "p", {"en": 1.0, "de": 2.0, "ja": 6.0}, doubtful={"ja": "why"})
    means = {"m": ("en", "de"), "n": ("en", "fr"), "o": ("en", "ja")}
    comparison.add_aggregates(column, means, {"s": ("en", "de")})
    assert {k: column.values[k] for k in column.values if len(k) == 1} == {"m": 1.5, "s": 3.0}
    printed = Column("x", "p", {"en": 1.0, "de": 2.0, "m": 9.0})
    comparison.add_aggregates(printed, means, {})
    assert printed.values["m"] == 9.0  # what is printed stays


def test_data_are_the_same_by_content_not_by_place():
    comparison.check([OURS, THEIRS])
    with pytest.raises(UserError, match="nothing to compare"):
        comparison.check([])
    with pytest.raises(UserError, match="none of the results has a value"):
        comparison.check([Column("a", "p", {})])


def test_pairs_are_trained_if_both_halves_are():
    keys = ["en-de", "en-ar", "de", "uk", "groups/all", "mean", "total"]
    assert comparison.split(keys, {"en", "de"}, ["total"]) == {
        "trained": ["en-de", "de"],
        "unseen": ["en-ar", "uk"],
        "means": ["groups/all", "mean", "total"],
    }


def test_nested_values_flat_and_headlines():
    values = {"en": {"r": 1.0, "chance": 2.0}, "groups": {"all": {"r": 3.0}}, "total": 4.0}
    assert flat(values) == {
        ("en", "r"): 1.0,
        ("en", "chance"): 2.0,
        ("groups/all", "r"): 3.0,
        ("", "total"): 4.0,
    }
    from tf_mural.evaluation.results import Result

    intervals = {"en": {"r": (0, 1)}, "groups": {"all": {"r": (1, 2)}}}
    result = Result("other", "other/v1", values, {}, intervals)
    assert headline(result) == {"en": 1.0, "groups/all": 3.0}
    result.intervals["en"]["chance"] = (0, 0)
    assert list(headline(result)) == ["en/r", "en/chance", "groups/all/r"]
    table = result_table(result).split("\n")
    assert table[0].split() == ["r", "95", "%", "chance", "95", "%", "total"]
    assert table[2].split() == ["en", "1.0", "0.0", "to", "1.0", "2.0", "0.0", "to", "0.0", "-"]


def test_nothing_to_draw_is_refused(tmp_path):
    path = str(tmp_path / "a.png")
    for draw in (
        lambda: comparison_charts.value_chart(path, [OURS], {"a": ["xx"]}, "axis", "title"),
        lambda: comparison_charts.gain_chart(path, OURS, THEIRS, {"a": ["de"]}, "axis", "title"),
    ):
        with pytest.raises(UserError, match="a.png: no language has values to draw"):
            draw()
    assert not list(tmp_path.iterdir())


def test_bars_are_as_long_as_the_gains(tmp_path, monkeypatch):
    """Counted in the picture: the green bar of +20 is twice as long as that of +10."""
    ours = Column("a", "p", {"de": 20.0, "fr": 10.0, "ko": 0.0})
    zero = Column("b", "p", {"de": 0.0, "fr": 0.0, "ko": 10.0})
    groups = {"trained": ["fr", "de"], "unseen": ["ko"]}
    path = tmp_path / "gains.png"
    comparison_charts.gain_chart(str(path), ours, zero, groups, "points", "title")
    image = Image.open(path).convert("RGB")

    def lengths(colour):
        counts = {}
        for y in range(image.height):
            row = sum(image.getpixel((x, y)) == colour for x in range(image.width))
            if row > 20:
                counts[row] = counts.get(row, 0) + 1
        return counts

    longest, shortest = max(lengths((46, 139, 87))), min(lengths((46, 139, 87)))
    assert abs(longest - 2 * shortest) <= 4
    (fall,) = {round(n, -1) for n in lengths((192, 80, 60))}
    assert abs(fall - shortest) <= 10
    comparison_charts.gain_chart(str(path), ours, zero, groups, "p", "t", lower_is_better=True)
    image = Image.open(path).convert("RGB")
    assert abs(max(lengths((192, 80, 60))) - longest) <= 2  # a rise is now the worse
    shutil.rmtree(tmp_path)
