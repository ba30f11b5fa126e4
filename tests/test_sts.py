"""The semantic textual similarity task."""

import collections
import json
import os

import numpy as np
import pytest
from conftest import ROOT

from tf_mural.data.records import Record
from tf_mural.datasets import sts2017
from tf_mural.errors import UserError
from tf_mural.evaluation import sts

SHARED = os.path.join(ROOT, "..", "shared")
OFFICIAL = os.path.join(SHARED, "data", "sts2017")


class AngleEmbedder:
    """Embeds "30" as the direction of 30 degrees, and records its texts."""

    def embed_texts(self, texts):
        self.texts_seen = list(texts)
        angles = np.radians([float(text) for text in self.texts_seen])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


class CharacterEmbedder:
    """Embeds a text as the counts of its characters."""

    def embed_texts(self, texts):
        texts = list(texts)
        rows = np.zeros((len(texts), 1 << 10), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for character in text:
                row[ord(character) % len(row)] += 1
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def pair(number, first, second, score, languages=("en", "en")):
    texts = tuple(zip(languages, (first, second), strict=True))
    return Record(f"p{number}", (), texts, score=score)


def pairs(*cases, languages=("en", "en")):
    """Returns records of two texts; a case is (angle of the embeddings in degrees, score)."""
    return [pair(i, "0", str(d), score, languages) for i, (d, score) in enumerate(cases)]


def test_scores_equal_values_computed_by_hand():
    # Sorted by descending cosine, the pairs have the angles 0, 10, 20 and 30 degrees.
    values = {
        "the same order": ([(0, 5), (10, 4), (20, 3), (30, 0)], 100.0),
        "the opposite": ([(0, 0), (10, 3), (20, 4), (30, 5)], -100.0),
        # The ranks of the cosines are 4, 3, 2, 1; those of the scores are 4, 1, 2, 3. The
        # correlation is 1 - 6 * (0 + 4 + 0 + 4) / (4 * 15).
        "two large differences": ([(0, 5), (10, 0), (20, 1), (30, 2)], 20.0),
        # The ranks of the cosines are 4, 3, 2, 1; those of the scores are 3.5, 3.5, 1.5, 1.5. The
        # sum of the products of the deviations from the mean rank is 4; the sums of the squared
        # deviations are 5 and 4.
        "ties": ([(0, 5), (10, 5), (20, 1), (30, 1)], 100 * 4 / np.sqrt(20)),
    }
    for name, (cases, expected) in values.items():
        result = sts.run(AngleEmbedder(), pairs(*cases))
        assert result.values["en-en"]["spearman"] == pytest.approx(expected), name
        assert (result.task, result.protocol) == ("sts", "sts/v1")


def test_a_collapsed_encoder_scores_zero_despite_noise():
    class CollapsedEmbedder:
        def embed_texts(self, texts):
            rows = np.ones((len(list(texts)), 64)) / 8
            return rows + 1e-8 * np.random.default_rng(0).normal(size=rows.shape)

    records = [pair(i, f"a{i}", f"b{i}", i % 6) for i in range(60)]
    result = sts.run(CollapsedEmbedder(), records)
    assert result.values["en-en"]["spearman"] == 0.0
    assert result.intervals["en-en"]["spearman"] == (0.0, 0.0)


def test_tracks_have_the_names_of_the_paper_in_either_order():
    cases = ((0, 5), (10, 4), (20, 3))
    orders = [("es", "en"), ("en", "ar"), ("fr", "en"), ("en", "en"), ("de", "cs"), ("eng", "ara")]
    records = [record for codes in orders for record in pairs(*cases, languages=codes)]
    # en-es and es-en are the same track, so these 2 pairs are ranked together with 3 other pairs.
    records += pairs((5, 4.5), (40, 1), languages=("en", "es"))
    result = sts.run(AngleEmbedder(), records)
    assert list(result.values) == ["cs-de", "en-ar", "en-en", "en-es", "en-fr", "eng-ara", "groups"]
    assert result.counts["pairs"]["en-es"] == 5 and result.counts["pairs"]["en-ar"] == 3
    selected = sts.run(AngleEmbedder(), records, tracks=["es-en", "en-ar"])
    assert list(selected.values) == ["en-es", "en-ar", "groups"]
    assert selected.values["en-es"] == result.values["en-es"]
    with pytest.raises(UserError, match=r"unknown track .* 'en-tr'; known: cs-de, en-ar, "):
        sts.run(AngleEmbedder(), records, tracks=["tr-en"])


def all_tracks(score_fn):
    """Returns records of the ten tracks of the paper with the scores `score_fn(track, i)`."""
    return [
        pair(f"{name}{i}", "0", str(10 * i), score_fn(name, i), tuple(name.split("-")))
        for names in sts.GROUPS.values()
        for name in names
        for i in range(4)
    ]


def test_groups_are_means_and_the_meta_average_is_the_mean_of_both():
    # The pairs of es-es and of the seven cross-lingual tracks have the correct order; the order of
    # the pairs of en-en and of ar-ar is reversed.
    records = all_tracks(lambda name, i: i if name in ("en-en", "ar-ar") else 5 - i)
    result = sts.run(AngleEmbedder(), records)
    groups = {name: value["spearman"] for name, value in result.values["groups"].items()}
    expected = {"monolingual": -100 / 3, "cross_lingual": 100.0, "meta_avg": 100 / 3}
    assert groups == pytest.approx(expected)
    assert set(result.intervals["groups"]) == set(groups) and result.counts["missing"] == {}
    incomplete = sts.run(AngleEmbedder(), [r for r in records if r.texts[1][0] != "tr"])
    assert list(incomplete.values["groups"]) == ["monolingual"]
    assert incomplete.counts["missing"] == {"cross_lingual": ["en-tr"]}
    # A group of tracks is not reported as missing if the records contain none of its tracks.
    no_groups = sts.run(AngleEmbedder(), pairs((0, 3), (9, 1), languages=("de", "cs")))
    assert no_groups.values["groups"] == no_groups.counts["missing"] == {}


def test_the_groups_are_those_of_the_paper():
    path = os.path.join(SHARED, "paper", "results.json")
    if not os.path.exists(path):
        pytest.skip("no ../shared/paper/results.json")
    with open(path, encoding="utf-8") as file:
        paper = json.load(file)
    for group, table in (("monolingual", "table3"), ("cross_lingual", "table4")):
        names = set(paper[table]["rows"][0]) - {"model", "avg"}
        assert set(sts.GROUPS[group]) == names
    # The averages that the task computes from Tables 3 and 4 give the number in Table 11.
    rows = {t: paper[t]["rows"][2] for t in ("table3", "table4")}
    means = [np.mean([rows[t][k] for k in rows[t] if k not in ("model", "avg")]) for t in rows]
    assert np.mean(means) == pytest.approx(paper["table11"]["rows"][9]["sts_meta_avg"], abs=0.06)


def test_intervals_contain_the_value_are_reproducible_and_narrow_with_more_pairs():
    random = np.random.default_rng(0)
    cases = [(float(d), 5 - d / 40 + random.normal()) for d in random.uniform(0, 160, 400)]
    few, many = (sts.run(AngleEmbedder(), pairs(*cases[:n])) for n in (50, 400))
    widths = []
    for result in (few, many):
        low, high = result.intervals["en-en"]["spearman"]
        assert low < result.values["en-en"]["spearman"] < high
        widths.append(high - low)
    assert widths[1] < 0.6 * widths[0]
    assert many.intervals == sts.run(AngleEmbedder(), pairs(*cases)).intervals
    assert many.intervals != sts.run(AngleEmbedder(), pairs(*cases), seed=1).intervals


def test_equal_texts_are_embedded_once():
    embedder = AngleEmbedder()
    sts.run(embedder, pairs((0, 5), (10, 4), (10, 3)))
    assert embedder.texts_seen == ["0", "10"]


def test_records_that_cannot_be_scored_are_rejected():
    valid = pairs((0, 5), (10, 4))
    with pytest.raises(UserError, match="^no records: sts needs"):
        sts.run(AngleEmbedder(), [])
    with pytest.raises(UserError, match="none of the 1 records has a score"):
        sts.run(AngleEmbedder(), [Record("a", (), (("en", "0"), ("en", "1")))])
    assert sts.run(AngleEmbedder(), [*valid, Record("a")]).counts["without_score"] == 1
    with pytest.raises(UserError, match="record 'x' has a score and 1 texts: sts expects two"):
        sts.run(AngleEmbedder(), [*valid, Record("x", (), (("en", "0"),), score=1.0)])
    with pytest.raises(UserError, match=r"track en-en has 1 pair\(s\), all of score 5.0"):
        sts.run(AngleEmbedder(), valid[:1])
    with pytest.raises(UserError, match=r"track en-en has 2 pair\(s\), all of score 3.0"):
        sts.run(AngleEmbedder(), pairs((0, 3), (10, 3)))
    with pytest.raises(UserError, match="record 'p2': expected a finite score, got nan"):
        sts.run(AngleEmbedder(), pairs((0, 3), (10, 4), (20, float("nan"))))


@pytest.mark.parametrize("factor, length", [(np.nan, "nan"), (2.0, "2.0"), (0.0, "0.0")])
def test_errors_of_embeddings_name_the_record(factor, length):
    class ScaledEmbedder(AngleEmbedder):
        def embed_texts(self, texts):
            rows = super().embed_texts(texts)
            rows[[text == "20" for text in self.texts_seen]] *= factor
            return rows

    records = pairs((0, 3), (10, 4), (20, 1), (30, 0))
    with pytest.raises(UserError, match=f"^record 'p2': its embedding has length {length}"):
        sts.run(ScaledEmbedder(), records)

    class ShortEmbedder(AngleEmbedder):
        def embed_texts(self, texts):
            return super().embed_texts(texts)[1:]

    with pytest.raises(UserError, match=r"of 4 texts have shape \(3, 2\): expected one row each"):
        sts.run(ShortEmbedder(), records)


@pytest.fixture(scope="module")
def official_records():
    if not os.path.isdir(OFFICIAL):
        pytest.skip("no ../shared/data/sts2017")
    return [record for unit in sts2017.plan(OFFICIAL, "test") for record in sts2017.read(unit)]


def test_character_counts_on_the_published_tracks_equal_scipy(official_records):
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    result = sts.run(CharacterEmbedder(), official_records, num_bootstrap=10)
    assert len(result.values) == 11 and set(result.counts["pairs"].values()) == {250}
    expected = {}
    for record in official_records:
        counts = [collections.Counter(ord(c) % 1024 for c in text) for _, text in record.texts]
        norms = [sum(n * n for n in count.values()) ** 0.5 for count in counts]
        cosine = sum(n * counts[1][c] for c, n in counts[0].items()) / (norms[0] * norms[1])
        name = record.id.split(":")[0].removeprefix("STS.")
        if name.endswith("-en") and name != "en-en":
            name = f"en-{name[:2]}"
        expected.setdefault(name, []).append((round(cosine, 6), record.score))
    for name, scored in expected.items():
        correlation = 100 * stats.spearmanr(*zip(*scored, strict=True)).statistic
        # Float32 and float64 round cosines differently: a few pairs tie in only one of the two
        # dtypes.
        assert result.values[name]["spearman"] == pytest.approx(correlation, abs=0.02), name
    # Counts of characters are useful embeddings within a language, but not across scripts.
    assert result.values["groups"]["monolingual"]["spearman"] > 50
    assert abs(result.values["en-ar"]["spearman"]) < 20


def test_angles_that_follow_the_scores_give_100_on_the_published_tracks(official_records):
    records = []
    for record in official_records:
        (first, _), (second, _) = record.texts
        texts = ((first, "0"), (second, str(80 - 10 * record.score)))
        records.append(Record(record.id, (), texts, score=record.score))
    result = sts.run(AngleEmbedder(), records, num_bootstrap=10)
    assert len(result.values) == 11
    for name in [k for k in result.values if k != "groups"]:
        assert result.values[name]["spearman"] == pytest.approx(100.0), name
    assert result.values["groups"]["meta_avg"]["spearman"] == pytest.approx(100.0)
