"""Protocols of retrieval, classification and multiple choice, and their reference values."""

import math
import os

import numpy as np
import pytest
from golden import benchmark_scores_case as case
from helpers.embedders import AxisEmbedder

from tf_mural.data.records import Record
from tf_mural.errors import UserError
from tf_mural.evaluation import metrics, multiple_choice, protocols, retrieval, zero_shot
from tf_mural.evaluation.prompts import FilledTemplates
from tf_mural.evaluation.results import Result
from tf_mural.experiment import run_report

GOLDEN = np.load(os.path.join(os.path.dirname(case.__file__), "benchmark_scores.npz"))
HITS = [f"hit{k}" for k in case.K_VALUES]


class TableEmbedder:
    """Embeds the image b"7" and the text "7" as row 7 of two tables."""

    def __init__(self, images, texts):
        self._images, self._texts = images, texts

    def embed_images(self, encoded):
        return self._images[[int(item) for item in encoded]]

    def embed_texts(self, texts):
        return self._texts[[int(text) for text in texts]]


def table_records(owners, ids=None):
    """Returns a record per image; text j, named "j", is a text of the image `owners[j]`."""
    return [
        Record(
            ids[image] if ids else f"{image}",
            (b"%d" % image,),
            tuple(("en", f"{text}") for text in np.flatnonzero(np.asarray(owners) == image)),
        )
        for image in range(max(owners) + 1)
    ]


@pytest.mark.parametrize("name", case.score_cases())
def test_ranks_give_the_values_of_mteb_for_a_similarity_matrix(name):
    scores, ids, pairs = case.score_cases()[name]
    texts = case.text_ids(ids, pairs)
    pair_texts, pair_images = np.array(pairs).T
    for direction, matrix, queries, items, names in (
        ("t2i", scores, pair_texts, pair_images, ids),
        ("i2t", scores.T, pair_images, pair_texts, texts),
    ):
        order = sorted(range(len(names)), key=lambda i, n=names: n[i].encode(), reverse=True)
        position = np.argsort(order)
        ranks = metrics.ranks_of_scores(matrix[:, order], queries, position[items])
        values = {"ndcg10": metrics.ndcg(ranks, queries, len(matrix))}
        values |= dict(zip(HITS, metrics.hits(ranks, queries, len(matrix)).T, strict=True))
        for metric, actual in values.items():
            expected = GOLDEN[f"mteb/{name}/{direction}/{metric}"]
            np.testing.assert_allclose(actual, expected, atol=1e-6, err_msg=f"{direction} {metric}")


@pytest.mark.parametrize("name", ["several captions", "coarse scores", "constant", "duplicates"])
def test_the_protocol_mteb_gives_the_means_of_mteb(name):
    """Embeddings whose similarities are the recorded ones: a text is its row of the matrix."""
    scores, ids, pairs = case.score_cases()[name]
    owners = [image for _, image in pairs]
    rows = np.concatenate([scores, np.sqrt(1 - (scores**2).sum(1, keepdims=True).clip(0, 1))], 1)
    if name == "constant":  # The rows of this case are longer than 1.
        rows = np.full((len(scores), 19), 0.25)
        rows[:, 18] = 0
    images = np.eye(19, dtype=np.float32)[:18]
    if name == "duplicates":
        images[7] = images[2]
    embedder = TableEmbedder(images, rows.astype(np.float32))
    records = table_records(owners, ids)
    result = retrieval.run(embedder, records, protocol="mteb")
    assert result.protocol == "retrieval/mteb" and result.counts["candidates"] == {"en": 18}
    for direction in ("t2i", "i2t"):
        for metric in ("ndcg10", *HITS):
            expected = 100 * GOLDEN[f"mteb/{name}/{direction}/{metric}"].mean()
            key = f"{direction}_{metric}"
            assert result.values["en"][key] == pytest.approx(expected, abs=1e-4), key
            low, high = result.intervals["en"][key]
            assert low <= expected + 1e-4 and expected - 1e-4 <= high


def test_equal_texts_are_one_query_with_several_images_in_mteb_unique():
    records = [Record(f"{i}", (b"%d" % i,), (("en", f"{i // 2}"),)) for i in range(6)]
    eye = np.eye(6, dtype=np.float32)
    images = eye[[0, 0, 1, 1, 2, 2]] + eye[[5, 4, 5, 4, 5, 4]] * 0.1
    embedder = TableEmbedder(images / np.linalg.norm(images, axis=1, keepdims=True), eye)
    unique = retrieval.run(embedder, records, protocol="mteb-unique")
    assert unique.counts["texts"] == {"en": 3} and unique.counts["candidates"] == {"en": 6}
    assert unique.values["en"]["t2i_ndcg10"] == unique.values["en"]["i2t_ndcg10"] == 100.0
    every = retrieval.run(embedder, records, protocol="mteb")
    # Each text finds both images with equal scores, and its own one first in half of the cases.
    assert every.values["en"]["t2i_hit1"] == 50.0
    assert every.values["en"]["t2i_ndcg10"] == pytest.approx(50 * (1 + 1 / np.log2(3)))


def test_a_collapsed_encoder_scores_by_ids_in_mteb_and_0_by_default():
    class Collapsed(AxisEmbedder):
        def _rows(self, numbers):
            return np.full((len(list(numbers)), 4), 0.5, np.float32)

    records = [Record(f"{i}", (b"%d" % i,), (("en", f"{i}"),)) for i in range(10)]
    values = retrieval.run(Collapsed(), records, protocol="mteb").values["en"]
    assert values["t2i_hit1"] == 10.0 and values["t2i_hit10"] == 100.0
    assert retrieval.run(Collapsed(), records).values["en"]["t2i_r1"] == 0.0


@pytest.mark.parametrize("name", ["one caption", "several captions"])
def test_recalls_without_ties_equal_those_of_clip_benchmark(name):
    images, texts, owners = case.embedding_cases()[name]
    result = retrieval.run(TableEmbedder(images, texts), table_records(owners))
    for direction, key in (("i2t", "text_retrieval"), ("t2i", "image_retrieval")):
        for k in case.K_VALUES:
            expected = GOLDEN[f"clip_benchmark/{name}/{key}_recall@{k}"]
            assert result.values["en"][f"{direction}_r{k}"] == pytest.approx(
                100 * expected, abs=1e-4
            )


def test_recalls_with_ties_of_clip_benchmark_are_between_the_bounds_of_the_ranks():
    """The order of `torch.topk` is not specified; ties as misses give the lower bound."""
    images, texts, owners = case.embedding_cases()["duplicates"]
    bounds = metrics.rank_bounds(images, texts, owners)
    for k in case.K_VALUES:
        expected = GOLDEN[f"clip_benchmark/duplicates/image_retrieval_recall@{k}"]
        high, low = (np.mean(ranks < k) for ranks in bounds)
        assert low - 1e-6 <= expected <= high + 1e-6
    assert np.any(bounds[0] != bounds[1])


@pytest.mark.parametrize("name", ["classes", "equal classes"])
def test_classification_by_argmax_equals_that_of_clip_benchmark(name):
    images, labels, prompts = case.class_case(name == "equal classes")
    records = [Record(f"{i}", (b"%d" % i,), label=int(n)) for i, n in enumerate(labels)]
    embedder = TableEmbedder(images, prompts.reshape(-1, prompts.shape[-1]))
    texts = [[str(t * 8 + c) for t in range(len(prompts))] for c in range(8)]
    result = zero_shot.run(embedder, records, {"en": texts}, protocol="argmax")
    assert result.protocol == "zero_shot/argmax"
    values, misses = result.values["en"], zero_shot.run(embedder, records, {"en": texts}).values
    expected = 100 * GOLDEN[f"clip_benchmark/{name}/mean_per_class_recall"]
    assert values["class_recall"] == pytest.approx(expected, abs=1e-4)
    expected = 100 * GOLDEN[f"clip_benchmark/{name}/acc1"]
    if name == "classes":
        assert values["top1"] == misses["en"]["top1"] == pytest.approx(expected, abs=1e-4)
    else:  # acc1 depends on the order of `torch.topk`; ties as misses are the lower bound
        assert misses["en"]["top1"] < expected and misses["en"]["top1"] < values["top1"]


def test_images_of_the_second_of_two_equal_names_are_assigned_to_the_first():
    records = [Record(f"{i}", (b"%d" % min(i, 1),), label=i) for i in range(3)]
    prompts = {"en": FilledTemplates(["0", "1", "1"], ["{}"])}
    result = zero_shot.run(AxisEmbedder(), records, prompts, protocol="argmax", prompt_set="names")
    assert result.values["en"]["top1"] == pytest.approx(200 / 3)
    assert result.protocol == "zero_shot/argmax;prompt_set=names"
    assert zero_shot.run(AxisEmbedder(), records, prompts).values["en"]["top1"] == pytest.approx(
        100 / 3
    )


def choice_records(labels):
    """Returns records of one image and four texts, in German and in English, as of CVQA."""
    return [
        Record(
            f"{'A-B' if item % 2 else 'C-D'}/{item // 2}_{item % 2}",
            (b"%d" % (item // 2),),
            tuple((code, f"{4 * item + option}") for code in ("de", "en") for option in range(4)),
            label=int(label),
        )
        for item, label in enumerate(labels)
    ]


def test_choices_equal_those_of_mteb_with_ties():
    scores, labels = case.choice_case()
    images = np.eye(2, dtype=np.float32)[[0] * 20]
    texts = np.stack([scores.ravel(), np.sqrt(1 - scores.ravel() ** 2)], 1).astype(np.float32)
    result = multiple_choice.run(TableEmbedder(images, texts), choice_records(labels))
    expected = 100 * GOLDEN["mteb/choice/recall_1"]
    for key in ("de", "en"):
        assert result.values[key]["accuracy"] == pytest.approx(expected.mean(), abs=1e-6)
        assert result.values[key]["chance"] == 25.0
    assert result.values["groups"]["local"] == result.values["de"]
    odd = result.values["subsets"]["A-B"]["accuracy"]
    assert odd == pytest.approx(expected[1::2].mean(), abs=1e-6)
    assert result.counts == {"images": 20, "texts": 320, "items": {"de": 40, "en": 40}}
    low, high = result.intervals["groups"]["local"]["accuracy"]
    assert low < expected.mean() < high


def test_one_text_and_several_images_are_a_choice_in_each_language():
    records = [
        Record(f"q{n}", (b"1", b"2", b"3", b"4"), (("de", f"{n}"), ("en", "1")), label=n - 1)
        for n in (1, 2, 3)
    ]
    embedder = AxisEmbedder()
    result = multiple_choice.run(embedder, records)
    assert result.values["de"]["accuracy"] == 100.0
    assert result.values["groups"]["languages"]["accuracy"] == pytest.approx(200 / 3)
    assert result.values["en"]["accuracy"] == pytest.approx(100 / 3)
    assert embedder.images_seen == [b"1", b"2", b"3", b"4"]
    assert list(multiple_choice.run(embedder, records, languages=["German"]).values)[0] == "de"


def test_a_collapsed_encoder_chooses_the_first_option():
    class Collapsed(AxisEmbedder):
        def _rows(self, numbers):
            return np.full((len(list(numbers)), 4), 0.5, np.float32)

    labels = [0] * 5 + [1] * 15
    assert multiple_choice.run(Collapsed(), choice_records(labels)).values["en"]["accuracy"] == 25.0


@pytest.mark.parametrize(
    "record, message",
    [
        (Record("a", (b"1",), (("en", "1"), ("en", "2"))), "'a' has no label: multiple_choice"),
        (
            Record("a", (b"1",), (("en", "1"),), label=0),
            "1 images and 1 texts in 'en': expec",
        ),
        (Record("a", (b"1", b"2"), (("en", "1"), ("en", "2")), label=0), "2 images and 2 texts"),
        (Record("a", (b"1",), (("en", "1"), ("en", "2")), label=2), "label 2, but 2 options"),
    ],
)
def test_records_without_a_choice_are_refused(record, message):
    with pytest.raises(UserError, match=message):
        multiple_choice.run(AxisEmbedder(), [record])


def test_missing_languages_and_empty_records_are_refused():
    with pytest.raises(UserError, match="no record has texts in fr; languages .*: de"):
        multiple_choice.run(AxisEmbedder(), choice_records([0]), languages=["de", "fr"])
    with pytest.raises(UserError, match="no records"):
        multiple_choice.run(AxisEmbedder(), [])


def test_reports_of_stages_leave_out_other_protocols(capsys):
    def stage(protocol):
        return {"evaluation": {"retrieval": Result("retrieval", protocol, {}, {}).as_dict()}}

    one, other = "retrieval/v1", "retrieval/v1;captions_per_image=1"
    stages = {"mural": stage(other), "align": stage(one), "etcl": stage(one)}
    assert list(run_report._same_protocol(stages, "etcl")) == ["align", "etcl"]
    line = f"mural is not compared: it was evaluated by {other}, and etcl by {one}; evaluate both"
    assert line in capsys.readouterr().out


# --- statistics -----------------------------------------------------------------------------------


def items_of_hits(hits):
    return metrics.group_items(100.0 * np.asarray(hits), np.arange(len(hits)), len(hits))


def test_the_paired_bootstrap_has_the_standard_error_of_paired_differences():
    random = np.random.default_rng(0)
    first = random.random(2000) < 0.5
    second = first ^ (random.random(2000) < 0.04)
    arguments = items_of_hits(first), items_of_hits(second)
    value, (low, high), p_value, error = metrics.paired_bootstrap(*arguments)
    differences = 100.0 * (first.astype(float) - second)
    assert value == pytest.approx(differences.mean())
    expected = differences.std() / np.sqrt(len(differences))
    assert error == pytest.approx(expected, rel=0.1) and low < value < high
    assert high - low == pytest.approx(2 * 1.96 * expected, rel=0.15)
    z = abs(value) / error
    assert p_value == pytest.approx(2 * (1 - 0.5 * (1 + math.erf(z / 2**0.5))), rel=1e-6)
    assert metrics.smallest_detectable_difference(error) == pytest.approx(2.8016 * error)
    swapped = metrics.paired_bootstrap(*arguments[::-1])
    assert swapped[0] == -value and swapped[3] == pytest.approx(error)
    assert metrics.paired_bootstrap(arguments[0], arguments[0])[1:] == ((0.0, 0.0), 1.0, 0.0)
    with pytest.raises(UserError, match="expected the results of two models on the same records"):
        metrics.paired_bootstrap(arguments[0], arguments[1][:9])


def test_texts_of_an_image_are_drawn_together():
    """Four equal captions of an image do not make the result more certain than one."""
    hits = np.random.default_rng(1).random(500) < 0.3
    groups = np.repeat(np.arange(500), 4)
    once = metrics.paired_bootstrap(items_of_hits(hits), items_of_hits(~hits))
    many = metrics.paired_bootstrap(
        *(metrics.group_items(100.0 * np.repeat(h, 4), groups, 500) for h in (hits, ~hits))
    )
    np.testing.assert_allclose(many[3], once[3], rtol=1e-6)
    one = metrics.grouped_bootstrap(np.repeat(hits, 4)[:, None], groups, 500)
    assert one.std() == pytest.approx(np.std(hits) / np.sqrt(500), rel=0.1)


def test_holm_corrects_as_published():
    """The example of Holm's method: sorted p-values times 4, 3, 2, 1, never decreasing."""
    assert metrics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert metrics.holm([0.6, 0.5]) == [1.0, 1.0] and metrics.holm([]) == []


def test_the_items_of_a_result_give_its_values():
    images, texts, owners = case.embedding_cases()["several captions"]
    embedder, records = TableEmbedder(images, texts), table_records(owners)
    for protocol in ("v1", "mteb"):
        result = retrieval.run(embedder, records, protocol=protocol)
        for name, items in result.items["en"].items():
            assert items.shape == (30, 2)
            value = items[:, 0].sum() / items[:, 1].sum()
            assert value == pytest.approx(result.values["en"][name], abs=1e-3), name
        assert "items" not in result.as_dict()
    joined = metrics.join_items([items for name, items in result.items["en"].items()])
    assert joined.shape == (30, 16)
    result = multiple_choice.run(AxisEmbedder(), choice_records([0, 1, 0, 1]))
    assert result.items["de"]["accuracy"].shape == (2, 2)  # two questions per photograph


def test_protocols_have_names_and_descriptions():
    assert protocols.protocol_id("retrieval", captions_per_image=1) == (
        "retrieval/v1;captions_per_image=1"
    )
    assert protocols.describe("retrieval/mteb;captions_per_image=1")["captions"] == "first"
    assert protocols.describe("retrieval/v1")["ties"] == "misses"
    assert protocols.describe("zero_shot/argmax;prompt_set=names")["templates"] == "names"
    assert protocols.describe("sts/v1") == {}
    with pytest.raises(UserError, match="unknown protocol of retrieval 'v2'; known: v1, mteb, mte"):
        retrieval.run(AxisEmbedder(), [], protocol="v2")
    with pytest.raises(UserError, match="queries have no relevant item"):
        metrics.ndcg([0], [0], 2)
