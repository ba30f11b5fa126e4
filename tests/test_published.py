"""Published numbers: all numbers of the paper are present, and contradictions are marked."""

import json
import math
import os

import pytest
from conftest import ROOT

from tf_mural.evaluation import TASKS, benchmarks, bitext, sts, zero_shot
from tf_mural.reports import published
from tf_mural.reports.result_tables import flatten_values

MURAL, ETCL = published.MAIN_MODELS


def values(benchmark, model, setting="zero-shot"):
    return published.published_results(benchmark, setting)[model].values


def test_selected_numbers_equal_those_read_in_the_paper():
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
    rows = published.published_results("retrieval/xtd10")
    labse = rows["M-CLIP LABSE ViT-L/14"]
    assert labse.values["ja", "t2i_r10"] == 73.9 and labse.values["en", "t2i_r10"] == 91.6
    assert len(labse.values) == 11 and not labse.is_paper
    assert all(row.source.startswith("https://") for row in rows.values())
    assert published.published_results("retrieval/scenes") == {}


def test_rows_of_other_protocols_are_those_of_other_benchmarks():
    """The same model has three numbers on XM3600, which differ by several points."""
    cells = {
        "retrieval/xm3600": ("i2t_r1", 56.7, "retrieval/v1"),
        "retrieval/xm3600_first": ("i2t_r1", 48.94, "retrieval/v1;captions_per_image=1"),
        "retrieval/xm3600_mteb": ("i2t_hit1", 56.27, "retrieval/mteb"),
    }
    for name, (metric, value, protocol) in cells.items():
        row = published.published_results(name)["mSigLIP-B/16"]
        assert (row.values["mean", metric], row.protocol) == (value, protocol)
    row = published.published_results("retrieval/xm3600_mteb")["mSigLIP-B/16"]
    assert row.values["mean", "t2i_ndcg10"] == 57.96 and row.values["mean", "i2t_ndcg10"] == 60.91
    babel = published.published_results("zero_shot/babel_imagenet")["mSigLIP-B/16"]
    assert babel.values["mean", "top1"] == 40.2
    assert babel.protocol == "zero_shot/argmax;prompt_set=openai-english"
    cvqa = published.published_results("multiple_choice/cvqa")
    assert cvqa["Meta CLIP 2 ViT-H/14"].values["groups/local", "accuracy"] == 57.4
    assert published.published_results("retrieval/xtd200")["mSigLIP-SO400M"].doubtful


def test_benchmarks_of_the_multilingual_sets_have_published_rows():
    sets = ("xm3600", "xflickrco", "wit", "xtd", "flickr30k_200", "babel", "glami", "cvqa", "mvl")
    names = [n for n in benchmarks.BENCHMARKS if n.split("/")[1].startswith(sets)]
    names = [name for name in names if not name.startswith("consistency")]
    assert len(names) == 15
    for name in names:
        rows = published.published_results(name)
        assert rows and {row.protocol for row in rows.values()} == {
            benchmarks.benchmark_protocol(name)
        }


def test_contradictory_cells_are_marked_with_the_reason():
    def doubtful(benchmark, model, setting="zero-shot"):
        return published.published_results(benchmark, setting)[model].doubtful

    swapped = {(code, f"{way}_r{k}") for code in ("ja", "ko") for way in ("i2t", "t2i")
               for k in (1, 5, 10)}  # fmt: skip
    assert set(doubtful("retrieval/coco", ETCL)) == swapped
    fine_tuned = doubtful("retrieval/coco", ETCL, "fine-tune")
    assert set(fine_tuned) == swapped | {("ko", "average_recall"), ("mean", "average_recall")}
    assert "74.5" in fine_tuned["ko", "average_recall"]
    assert not doubtful("retrieval/flickr30k", ETCL)
    groups = {("groups/all", "top1"), ("groups/well_resourced", "top1")}
    assert groups <= set(doubtful("zero_shot/imagenet", ETCL))
    assert ("en", "top1") not in doubtful("zero_shot/imagenet", ETCL)  # the text agrees
    assert set(doubtful("zero_shot/sun397", ETCL)) == {("groups/well_resourced", "top1")}
    assert len(doubtful("bitext/tatoeba", ETCL)) == 4
    assert set(doubtful("bitext/tatoeba", "m-USE")) == {("groups/langs83", "accuracy")}


def test_unmarked_groups_are_the_means_of_their_members():
    """The tolerance of 0.11 is the rounding error of the printed numbers."""
    num_checked = 0
    for name, groups, metric in (
        ("zero_shot/food101", zero_shot.GROUPS, "top1"),
        ("zero_shot/sun397", zero_shot.GROUPS, "top1"),
        ("bitext/tatoeba", bitext.GROUPS, "accuracy"),
        ("sts/sts2017", sts.GROUPS, "spearman"),
    ):
        for row in published.published_results(name).values():
            for group, languages in groups.items():
                cell = (f"groups/{group}", metric)
                members = [row.values.get((language, metric)) for language in languages]
                if cell in row.values and cell not in row.doubtful and None not in members:
                    assert abs(row.values[cell] - math.fsum(members) / len(members)) < 0.11, cell
                    num_checked += 1
    assert num_checked == 11  # 3 means of Table 2, 4 of Table 12, 4 of Tables 3 and 4 together


def test_rows_belong_to_existing_benchmarks_and_tables():
    tables = {}
    for row in published.paper_numbers()["rows"] + published.other_numbers()["rows"]:
        benchmark = benchmarks.BENCHMARKS[row["benchmark"]]
        assert row["setting"] in published.SETTINGS
        assert set(row.get("contradictory", {})) <= {
            "/".join(cell) for cell in flatten_values(row["values"])
        }
        assert all(0 <= value < 345 for value in flatten_values(row["values"]).values())
        if "table" in row:
            tables.setdefault(row["table"], set()).add(row["benchmark"])
            assert row["table"] in benchmark.tables
    assert set(tables) == set(range(1, 17))
    for name, benchmark in benchmarks.BENCHMARKS.items():
        assert {table for table, names in tables.items() if name in names} == set(benchmark.tables)
    for task, protocol in published.paper_numbers()["protocols"].items():
        assert protocol == vars(__import__(TASKS[task].__module__, fromlist=["x"]))["PROTOCOL"]


def test_tables_that_repeat_a_number_agree():
    seen = {}
    for row in published.paper_numbers()["rows"]:
        for cell, value in flatten_values(row["values"]).items():
            key = (row["benchmark"], row["model"], row["setting"], *cell)
            assert seen.setdefault(key, value) == value, key


def numbers(tree):
    """Returns all numbers of nested lists and dicts, sorted."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list):
        return sorted(number for part in tree for number in numbers(part))
    return [tree] if isinstance(tree, int | float) else []


@pytest.fixture(scope="module")
def paper():
    path = os.path.join(ROOT, "..", "shared", "paper", "results.json")
    if not os.path.exists(path):
        pytest.skip("no ../shared/paper/results.json")
    with open(path, encoding="utf-8") as file:
        return json.load(file)


@pytest.mark.parametrize("table", range(1, 17))
def test_each_table_has_all_its_numbers_and_no_others(paper, table):
    rows = [row["values"] for row in published.paper_numbers()["rows"] if row["table"] == table]
    source = paper[f"table{table}"]
    expected = numbers(source["rows"] if "rows" in source else source["languages"])
    if table == 10:
        expected = [67.8]  # this number is in the text of the paper; its table cell is empty
    if table == 11:
        expected = sorted(number for number in expected if number not in range(1, 11))
    assert numbers(rows) == expected


def test_numbers_per_language_are_assigned_to_their_languages(paper):
    for code, cells in paper["table14"]["languages"].items():
        for name, value in cells.items():
            assert values(f"zero_shot/{name}", ETCL)[code, "top1"] == value
    for table in ("table15", "table16"):
        for code, cells in paper[table]["languages"].items():
            for model, value in cells.items():
                assert values("bitext/tatoeba", model)[code, "accuracy"] == value
    for row in paper["table1"]["rows"]:
        for name, key in (("retrieval/flickr30k", "flickr30k"), ("retrieval/coco", "mscoco_5k")):
            for code, value in row[key].items():
                if value is not None:
                    code = "mean" if code == "avg" else code
                    numbers_of_model = values(name, row["model"], row["type"])
                    assert numbers_of_model[code, "average_recall"] == value


def test_the_groups_are_those_of_the_paper(paper):
    groups = paper["groups"]
    assert {name: set(g) for name, g in zero_shot.GROUPS.items()} == {
        name: set(g) for name, g in groups["zero_shot_classification"].items()
    }
    tatoeba = dict(groups["tatoeba"])
    tatoeba["langs83"] = tatoeba.pop("laser_readme_intersection_83")
    assert {name: set(g) for name, g in bitext.GROUPS.items()} == {
        name: set(g) for name, g in tatoeba.items()
    }
