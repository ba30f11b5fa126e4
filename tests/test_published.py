"""The paper's numbers in the package: all of them, in their places, the doubtful ones marked."""

import json
import math
import os

import pytest
from conftest import ROOT

from tf_mural.evaluation import TASKS, benchmarks, bitext, sts, zero_shot
from tf_mural.reports import published
from tf_mural.reports.results import flat

MURAL, ETCL = published.MAIN


def values(benchmark, model, setting="zero-shot"):
    return published.published(benchmark, setting)[model].values


def test_numbers_read_in_the_paper():
    flickr = values("retrieval/flickr30k", ETCL)
    assert flickr["de", "average_recall"] == 85.6 and flickr["de", "i2t_r1"] == 77.5
    assert values("retrieval/flickr30k", MURAL, "fine-tune")["cs", "average_recall"] == 87.8
    assert values("retrieval/coco", "MURAL(reprod.) + ja")["ko", "average_recall"] == 47.6
    assert values("zero_shot/imagenet", ETCL)["en", "top1"] == 62.6
    assert values("zero_shot/sun397", MURAL)["groups/under_resourced", "top1"] == 23.0
    assert values("knn/imagenet", MURAL)["all", "r1"] == 66.9
    assert values("sts/sts2017", MURAL)["groups/meta_avg", "spearman"] == 74.6
    assert values("knn/imagenet", ETCL)["all", "r1"] == 67.8
    assert values("sts/sts2017", "LaBSE")["en-de", "spearman"] == 73.8
    assert values("sts/sts2017", ETCL)["groups/cross_lingual", "spearman"] == 80.7
    assert values("bitext/tatoeba", ETCL)["deu", "accuracy"] == 98.8
    assert values("bitext/tatoeba", "LASER")["groups/langs83", "accuracy"] == 75.9


def test_published_rows_name_their_source():
    rows = published.published("retrieval/xtd10")
    labse = rows["M-CLIP LABSE ViT-L/14"]
    assert labse.values["ja", "t2i_r10"] == 73.9 and labse.values["en", "t2i_r10"] == 91.6
    assert len(labse.values) == 11 and not labse.of_paper
    assert all(row.source.startswith("https://") for row in rows.values())
    assert published.published("retrieval/scenes") == {}


def test_contradictory_cells_are_marked_with_the_reason():
    def doubtful(benchmark, model, setting="zero-shot"):
        return published.published(benchmark, setting)[model].doubtful

    swapped = {(code, f"{way}_r{k}") for code in ("ja", "ko") for way in ("i2t", "t2i")
               for k in (1, 5, 10)}  # fmt: skip
    assert set(doubtful("retrieval/coco", ETCL)) == swapped
    tuned = doubtful("retrieval/coco", ETCL, "fine-tune")
    assert set(tuned) == swapped | {("ko", "average_recall"), ("mean", "average_recall")}
    assert "74.5" in tuned["ko", "average_recall"]
    assert not doubtful("retrieval/flickr30k", ETCL)
    groups = {("groups/all", "top1"), ("groups/well_resourced", "top1")}
    assert groups <= set(doubtful("zero_shot/imagenet", ETCL))
    assert ("en", "top1") not in doubtful("zero_shot/imagenet", ETCL)  # the text confirms it
    assert set(doubtful("zero_shot/sun397", ETCL)) == {("groups/well_resourced", "top1")}
    assert len(doubtful("bitext/tatoeba", ETCL)) == 4
    assert set(doubtful("bitext/tatoeba", "m-USE")) == {("groups/langs83", "accuracy")}


def test_what_is_not_doubtful_is_consistent():
    """Groups that are not marked are the means of their members, to what rounding allows."""
    checked = 0
    for name, groups, members in (
        ("zero_shot/food101", zero_shot.GROUPS, "top1"),
        ("zero_shot/sun397", zero_shot.GROUPS, "top1"),
        ("bitext/tatoeba", bitext.GROUPS, "accuracy"),
        ("sts/sts2017", sts.GROUPS, "spearman"),
    ):
        for row in published.published(name).values():
            for group, languages in groups.items():
                place = (f"groups/{group}", members)
                cells = [row.values.get((language, members)) for language in languages]
                if place in row.values and place not in row.doubtful and None not in cells:
                    assert abs(row.values[place] - math.fsum(cells) / len(cells)) < 0.11, place
                    checked += 1
    assert checked == 11  # 3 of Table 2, 4 of Table 12, 4 of Tables 3 and 4


def test_rows_are_of_benchmarks_and_measures_that_exist():
    tables = {}
    for row in published.paper()["rows"] + published.others()["rows"]:
        benchmark = benchmarks.BENCHMARKS[row["benchmark"]]
        assert row["setting"] in published.SETTINGS
        assert set(row.get("contradictory", {})) <= {"/".join(p) for p in flat(row["values"])}
        assert all(0 <= value < 345 for value in flat(row["values"]).values())
        if "table" in row:
            tables.setdefault(row["table"], set()).add(row["benchmark"])
            assert row["table"] in benchmark.tables
    assert set(tables) == set(range(1, 17))
    for name, benchmark in benchmarks.BENCHMARKS.items():
        assert {t for t, names in tables.items() if name in names} == set(benchmark.tables)
    for task, protocol in published.paper()["protocols"].items():
        assert protocol == vars(__import__(TASKS[task].__module__, fromlist=["x"]))["PROTOCOL"]


def test_tables_that_repeat_a_number_agree():
    seen = {}
    for row in published.paper()["rows"]:
        for place, value in flat(row["values"]).items():
            key = (row["benchmark"], row["model"], row["setting"], *place)
            assert seen.setdefault(key, value) == value, key


def numbers(tree):
    """All numbers of nested lists and dicts, sorted."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list):
        return sorted(number for part in tree for number in numbers(part))
    return [tree] if isinstance(tree, int | float) else []


@pytest.fixture(scope="module")
def results():
    path = os.path.join(ROOT, "..", "shared", "paper", "results.json")
    if not os.path.exists(path):
        pytest.skip("../shared/paper/results.json is not there")
    with open(path, encoding="utf-8") as file:
        return json.load(file)


@pytest.mark.parametrize("table", range(1, 17))
def test_every_number_of_a_table_is_there_and_no_other(results, table):
    rows = [row["values"] for row in published.paper()["rows"] if row["table"] == table]
    source = results[f"table{table}"]
    expected = numbers(source["rows"] if "rows" in source else source["languages"])
    if table == 10:
        expected = [67.8]  # the cell is empty: the number is in the text
    if table == 11:
        expected = sorted(number for number in expected if number not in range(1, 11))
    assert numbers(rows) == expected


def test_per_language_tables_are_in_their_places(results):
    for code, cells in results["table14"]["languages"].items():
        for name, value in cells.items():
            assert values(f"zero_shot/{name}", ETCL)[code, "top1"] == value
    for table in ("table15", "table16"):
        for code, cells in results[table]["languages"].items():
            for model, value in cells.items():
                assert values("bitext/tatoeba", model)[code, "accuracy"] == value
    for row in results["table1"]["rows"]:
        for name, key in (("retrieval/flickr30k", "flickr30k"), ("retrieval/coco", "mscoco_5k")):
            for code, value in row[key].items():
                if value is not None:
                    code = "mean" if code == "avg" else code
                    found = values(name, row["model"], row["type"])
                    assert found[code, "average_recall"] == value


def test_groups_are_those_of_the_paper(results):
    groups = results["groups"]
    assert {name: set(g) for name, g in zero_shot.GROUPS.items()} == {
        name: set(g) for name, g in groups["zero_shot_classification"].items()
    }
    tatoeba = dict(groups["tatoeba"])
    tatoeba["langs83"] = tatoeba.pop("laser_readme_intersection_83")
    assert {name: set(g) for name, g in bitext.GROUPS.items()} == {
        name: set(g) for name, g in tatoeba.items()
    }
