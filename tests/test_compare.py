"""The command compare: tables, charts, errors, and the arithmetic of differences."""

import json
import math
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from tf_mural.cli import compare as command
from tf_mural.errors import UserError
from tf_mural.evaluation.results import Result
from tf_mural.reports import comparison, comparison_charts
from tf_mural.reports.comparison import Column
from tf_mural.reports.result_tables import flatten_values, headline_values, result_table


def write_result(path, recalls, **changes):
    """Writes a result file of average recalls; intervals are from value - 2 to value + 1."""
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
    return write_result(tmp_path / "mural.json", {"en": 70.0, "ja": 40.0, "ko": 30.0})


@pytest.fixture
def etcl(tmp_path):
    return write_result(tmp_path / "etcl.json", {"en": 69.0, "ja": 60.5, "ko": 45.0})


@pytest.fixture
def compare(tmp_path, monkeypatch, capsys):
    """Returns a function that runs the command in `tmp_path` and returns its output."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        command.main(arguments)
        printed = capsys.readouterr()
        assert printed.err == ""
        return printed.out

    return run


def error_of(*arguments):
    """Returns the error message of the command."""
    with pytest.raises(UserError) as error:
        command.main(arguments)
    return str(error.value)


def rows_of(text, key):
    """Returns the cells of the rows of a table that start with `key`."""
    lines = [line for line in text.split("\n") if line.startswith(key + " ")]
    return [re.split(r"  +", line) for line in lines]


def test_results_are_compared_with_the_paper(tools, mural, etcl, tmp_path):
    arguments = (mural, f"own={etcl}", "paper", "--out_dir=out")
    done = tools.run(tmp_path, "compare.py", *arguments)
    assert done.code == 0 and done.err == "", done.err
    ja, gains = rows_of(done.out, "ja")
    assert ja[1:] == ["40.6", "62.1", "40.0 (38.0 to 41.0)", "60.5 (58.5 to 61.5)"]
    # The numbers of the paper have no interval. The gain of two values with intervals has bounds at
    # a distance of sqrt(2^2 + 1^2).
    with_two_intervals = "+20.5 (+18.3 to +22.7)"
    assert gains[1:] == ["+19.9 (+17.9 to +20.9)", "-1.6 (-3.6 to -0.6)", with_two_intervals]
    # Trained and unseen languages have separate means. The mean and the sum over en, ja and ko
    # equal the values printed in the paper.
    assert rows_of(done.out, "mean of 2")[0][1:] == ["54.2", "65.6", "55.0", "64.8"]
    assert rows_of(done.out, "mean")[-1][1:] == ["+11.6", "-2.0", "+11.5"]
    assert rows_of(done.out, "sum of en, ja, ko")[0][1:] == ["139.9", "180.5", "140.0", "174.5"]
    assert done.out.index("trained:") < done.out.index("unseen:") < done.out.index("means:")
    assert "own: " in done.out and "Table 1" in done.out and "†" not in done.out
    written = (tmp_path / "out" / "comparison.md").read_text()
    assert written.startswith("# retrieval/coco\n\naverage_recall, retrieval/v1\n")
    assert re.search(r"^\| ja +\| +40.6 \| +62.1 \| 40.0 \(38.0 to 41.0\) \|", written, re.M)
    assert "![values.png](values.png)" in written and "![gains.png](gains.png)" in written
    for name in ("values.png", "gains.png"):
        assert min(Image.open(tmp_path / "out" / name).size) > 200


def test_the_default_folder_is_in_the_folder_of_the_last_file(compare, mural, etcl, tmp_path):
    compare(mural, etcl)
    assert {p.name for p in (tmp_path / "comparison").iterdir()} == {
        "comparison.md",
        "values.png",
        "gains.png",
    }


def test_a_mean_over_a_number_of_languages_needs_all_of_them():
    column = Column("a", "p", {"de": 1.0, "en": 2.0, "groups/all": 9.0})
    comparison.add_aggregates(column, {"mean": 2}, {})
    assert column.values["mean"] == 1.5
    incomplete = Column("a", "p", {"de": 1.0})
    comparison.add_aggregates(incomplete, {"mean": 2}, {})
    assert "mean" not in incomplete.values


def write_items(path, hits):
    """Writes the hits per image of a result: two captions per image, one text recall."""
    arrays = {}
    for code, columns in hits.items():
        for name in ("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10"):
            count = 2 if name.startswith("t2i") else 1
            sums = 100.0 * np.asarray(columns) * count
            arrays[f"{code}/{name}"] = np.stack([sums, np.full(len(sums), count)], 1)
    np.savez(str(path).replace(".json", ".items.npz"), **arrays)


def test_results_with_hits_per_image_are_compared_by_paired_bootstrap(compare, tmp_path):
    """The models agree on 90 % of the images, so the paired interval is narrow."""
    images = np.arange(400)
    first = {"de": images % 2 == 0, "fr": images % 2 == 0}
    second = {"de": first["de"] | (images % 10 == 1), "fr": first["fr"] ^ (images < 2)}
    paths = []
    for name, hits in (("one", first), ("two", second)):
        values = {code: 100.0 * float(np.mean(column)) for code, column in hits.items()}
        paths.append(write_result(tmp_path / f"{name}.json", values))
        write_items(paths[-1], hits)
    out = compare(*paths)
    gain = next(row for row in rows_of(out, "de") if row[1].startswith("+10.0"))
    low, high = map(float, re.findall(r"[+-][\d.]+", " ".join(gain))[1:3])
    assert 6.5 < low < 8 and 12 < high < 13.5
    assert "After Holm's correction over 2 languages, higher in de; lower in none." in out
    assert re.search(r"two-s0 - one-s0: .* difference of \d\.\d is detected in 80 %", out)
    write_items(paths[0], {"de": images % 3 == 0})
    assert "one.items.npz gives average_recall 33.500 for de, the result 50.0: the" in error_of(
        *paths
    )
    (tmp_path / "one.items.npz").write_bytes(b"PK")
    assert "one.items.npz is damaged" in error_of(*paths)


def test_doubtful_numbers_are_printed_and_not_counted(compare, mural):
    out = compare("paper", mural, "--setting=fine-tune", "--control=mural-s0", "--rows=all")
    ko, gains = rows_of(out, "ko")
    assert "77.0 †" in ko and "73.3" in ko
    assert gains[5] == "-43.3 (-45.3 to -42.3)" and gains.count("-") == 5
    assert "† MURAL(reprod.) + ETCL, ko: The mean 77.8" in out and "Not counted." in out
    assert rows_of(out, "mean")[0].count("77.8 †") == 1


def test_published_numbers_are_compared_without_results(compare, tmp_path):
    out = compare("paper", "--benchmark=retrieval/flickr30k")
    assert rows_of(out, "cs")[1][1:] == ["+18.5"]
    out = compare("paper", "--benchmark=retrieval/xtd10", "--rows=M-CLIP LABSE ViT-L/14")
    assert rows_of(out, "ja") == [["ja", "73.9"]]
    assert rows_of(out, "mean")[-1] == ["mean", "87.2"]
    assert not (tmp_path / "comparison" / "nothing").exists()


def test_results_on_a_subset_of_the_records_get_a_note(compare, tmp_path):
    path = write_result(tmp_path / "few.json", {"en": 50.0}, records=12)
    out = compare(path, "paper")
    assert "few-s0 was evaluated on 12 records, but the benchmark has 5,000." in out


def test_results_of_a_task_without_a_benchmark_are_compared(compare, tmp_path):
    cells = {"deu": {"forward": 1.0, "accuracy": 2.0}, "groups": {"all": {"accuracy": 3.0}}}
    changes = dict(benchmark=None, task="bitext", protocol="bitext/v1", values=cells, intervals={})
    first = write_result(tmp_path / "one.json", {}, **changes)
    cells["deu"]["accuracy"] = 7.5
    out = compare(first, write_result(tmp_path / "two.json", {}, **changes))
    assert out.startswith("bitext\n\naccuracy, bitext/v1\n")
    assert rows_of(out, "deu") == [["deu", "2.0", "7.5"], ["deu", "+5.5"]]
    assert rows_of(out, "groups/all")[0] == ["groups/all", "3.0", "3.0"]


def test_another_metric_can_be_selected(compare, mural, etcl):
    out = compare(mural, etcl, "--measure=i2t_r1")
    assert rows_of(out, "ja") == [["ja", "31.0", "51.5"], ["ja", "+20.5"]]


@pytest.mark.parametrize(
    "changes, arguments, message",
    [
        (
            {"protocol": "retrieval/v1;captions_per_image=1"},
            [],
            r"mural-s0 was measured by retrieval/v1, other-s0 by retrieval/v1;captions_per_image=1"
            ": numbers of different protocols are not comparable",
        ),
        (
            {"data": {"data/coco/test": "fedcba987654"}},
            [],
            r"mural-s0 was measured on data/coco/test \(0123456789ab\), other-s0 on data/coco/test "
            r"\(fedcba987654\): the records differ",
        ),
        ({"benchmark": "retrieval/xtd10"}, [], "the results are of retrieval/coco and retrieval/x"),
        ({}, ["--measure=i2t_r2"], "unknown metric .*mural.json. 'i2t_r2'; .* did you mean 'i2t"),
        ({}, ["--control=mural"], "unknown control 'mural'; known: mural-s0, other-s0"),
        ({}, ["paper", "--rows=LaBSE"], "unknown row .published on retrieval/coco. 'LaBSE'; known"),
        (
            {"model": "runs/x/mural-s0"},
            [],
            "two of the results are called 'mural-s0': name them w",
        ),
        ({"intervals": {}}, ["--measure=chance2"], "unknown metric"),
    ],
)
def test_results_that_are_not_comparable_are_rejected(mural, tmp_path, changes, arguments, message):
    other = write_result(tmp_path / "other.json", {"en": 50.0}, **changes)
    error = error_of(mural, other, *arguments)
    assert re.search(message, error), error
    assert not (tmp_path / "comparison").exists()


def test_invalid_files_are_rejected(tmp_path, mural, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no file 'nowhere.json': arguments are results of" in error_of("nowhere.json")
    (tmp_path / "a.json").write_text("{")
    assert "a.json is not JSON" in error_of("a.json")
    (tmp_path / "a.json").write_text('{"task": "retrieval", "protocol": "x"}')
    assert "a.json is not a result of tools/evaluate.py: it has no data, m" in error_of("a.json")
    with open(mural, encoding="utf-8") as file:
        result = json.load(file)
    for content, problem in [
        (3, "it has no data, model, protocol, task, values"),
        (None, "it has no data"),
        ({**result, "values": 3}, "its values is 3"),
        ({**result, "intervals": 3}, "its intervals is 3"),
        ({**result, "model": 1}, "its model is 1"),
        ({**result, "values": {"en": {"r1": "x"}}}, "its value r1 of en is 'x', expected a number"),
    ]:
        (tmp_path / "a.json").write_text(json.dumps(content))
        assert f"not a result of tools/evaluate.py: {problem}" in error_of("a.json")
    assert "no benchmark is named: evaluate with --task=" in error_of("paper")
    assert "unknown benchmark 'coco'" in error_of("paper", "--benchmark=coco")
    other = write_result(tmp_path / "b.json", {"en": 50.0}, protocol="retrieval/v2")
    error = error_of(other, "paper")
    assert "MURAL(reprod.) was measured by retrieval/v1, b-s0 by retrieval/v2" in error


# --- arithmetic -----------------------------------------------------------------------------------

FIRST = Column("first", "p", {"en": 10.0, "de": 5.0}, {"en": (7.0, 11.0)}, data={"a": "1"})
SECOND = Column("second", "p", {"en": 8.0, "fr": 1.0}, {"en": (6.0, 12.0)}, data={"b": "1"})


def test_differences_equal_values_computed_by_hand():
    gain, (low, high) = comparison.difference(FIRST, SECOND, "en")
    # The lower bound of the gain is sqrt(3^2 + 4^2) below the gain, because the lower bound of
    # `FIRST` is 3 below its value and the upper bound of `SECOND` is 4 above its value. In the same
    # way, the upper bound of the gain is sqrt(1^2 + 2^2) above the gain.
    assert gain == 2.0 and math.isclose(low, 2 - 5) and math.isclose(high, 2 + math.sqrt(5))
    exact = Column("paper", "p", {"en": 8.0, "de": 4.0}, doubtful={"de": "why"})
    assert comparison.difference(FIRST, exact, "en") == (2.0, (-1.0, 3.0))
    assert comparison.difference(exact, exact, "en") == (0.0, None)
    assert comparison.difference(FIRST, exact, "de") == (None, None)  # doubtful
    assert comparison.difference(FIRST, SECOND, "fr") == (None, None)  # missing


def test_the_gain_of_equal_columns_is_0():
    gain, (low, high) = comparison.difference(FIRST, FIRST, "en")
    assert gain == 0.0 and low < 0 < high


def test_aggregates_need_all_values_and_ignore_doubtful_ones():
    column = Column("x", "p", {"en": 1.0, "de": 2.0, "ja": 6.0}, doubtful={"ja": "why"})
    means = {"m": ("en", "de"), "n": ("en", "fr"), "o": ("en", "ja")}
    comparison.add_aggregates(column, means, {"s": ("en", "de")})
    assert {k: column.values[k] for k in column.values if len(k) == 1} == {"m": 1.5, "s": 3.0}
    printed = Column("x", "p", {"en": 1.0, "de": 2.0, "m": 9.0})
    comparison.add_aggregates(printed, means, {})
    assert printed.values["m"] == 9.0  # an existing value is not replaced


def test_record_sets_are_compared_by_content():
    comparison.check_comparable([FIRST, SECOND])
    with pytest.raises(UserError, match="nothing to compare"):
        comparison.check_comparable([])
    with pytest.raises(UserError, match="none of the results has a value"):
        comparison.check_comparable([Column("a", "p", {})])


def test_pairs_are_trained_if_both_languages_are():
    keys = ["en-de", "en-ar", "de", "uk", "groups/all", "mean", "total"]
    assert comparison.group_keys(keys, {"en", "de"}, ["total"]) == {
        "trained": ["en-de", "de"],
        "unseen": ["en-ar", "uk"],
        "means": ["groups/all", "mean", "total"],
    }


def test_nested_values_are_flattened_and_headline_values_have_intervals():
    values = {"en": {"r": 1.0, "chance": 2.0}, "groups": {"all": {"r": 3.0}}, "total": 4.0}
    assert flatten_values(values) == {
        ("en", "r"): 1.0,
        ("en", "chance"): 2.0,
        ("groups/all", "r"): 3.0,
        ("", "total"): 4.0,
    }
    intervals = {"en": {"r": (0, 1)}, "groups": {"all": {"r": (1, 2)}}}
    result = Result("other", "other/v1", values, {}, intervals)
    assert headline_values(result) == {"en": 1.0, "groups/all": 3.0}
    result.intervals["en"]["chance"] = (0, 0)
    assert list(headline_values(result)) == ["en/r", "en/chance", "groups/all/r"]
    table = result_table(result).split("\n")
    assert table[0].split() == ["r", "95", "%", "chance", "95", "%", "total"]
    assert table[2].split() == ["en", "1.0", "0.0", "to", "1.0", "2.0", "0.0", "to", "0.0", "-"]


def test_charts_without_values_are_rejected(tmp_path):
    path = str(tmp_path / "a.png")
    for draw in (
        lambda: comparison_charts.value_chart(path, [FIRST], {"a": ["xx"]}, "axis", "title"),
        lambda: comparison_charts.gain_chart(path, FIRST, SECOND, {"a": ["de"]}, "axis", "title"),
    ):
        with pytest.raises(UserError, match="a.png: no language has values to draw"):
            draw()
    assert not list(tmp_path.iterdir())


def test_bars_are_as_long_as_the_gains(tmp_path):
    """In the image, the green bar of +20 is twice as long as the bar of +10."""
    subject = Column("a", "p", {"de": 20.0, "fr": 10.0, "ko": 0.0})
    control = Column("b", "p", {"de": 0.0, "fr": 0.0, "ko": 10.0})
    groups = {"trained": ["fr", "de"], "unseen": ["ko"]}
    path = tmp_path / "gains.png"
    comparison_charts.gain_chart(str(path), subject, control, groups, "points", "title")
    image = Image.open(path).convert("RGB")

    def lengths(color):
        counts = (
            sum(image.getpixel((x, y)) == color for x in range(image.width))
            for y in range(image.height)
        )
        return {count for count in counts if count > 20}

    longest, shortest = max(lengths((46, 139, 87))), min(lengths((46, 139, 87)))
    assert abs(longest - 2 * shortest) <= 4
    (loss,) = {round(n, -1) for n in lengths((192, 80, 60))}
    assert abs(loss - shortest) <= 10
    comparison_charts.gain_chart(
        str(path), subject, control, groups, "p", "t", lower_is_better=True
    )
    image = Image.open(path).convert("RGB")
    assert abs(max(lengths((192, 80, 60))) - longest) <= 2  # a lower value is better
    shutil.rmtree(tmp_path)
