"""The bitext retrieval task."""

import collections
import json
import os

import numpy as np
import pytest
from conftest import ROOT
from helpers.embedders import rejecting_embed

from tf_mural.data.records import Record
from tf_mural.datasets import tatoeba
from tf_mural.errors import UserError
from tf_mural.evaluation import bitext

SHARED = os.path.join(ROOT, "..", "shared")
OFFICIAL = os.path.join(SHARED, "data", "tatoeba")


class AxisEmbedder:
    """Embeds "7 x" as axis 7, and "7.5 x" as the direction between axes 7 and 8."""

    def embed_texts(self, texts):
        self.texts_seen = list(texts)
        rows = np.zeros((len(self.texts_seen), 40), np.float32)
        for row, text in zip(rows, self.texts_seen, strict=True):
            axis, fraction = divmod(float(text.split()[0]), 1)
            row[int(axis)], row[int(axis) + 1] = np.cos(fraction * 1.6), np.sin(fraction * 1.6)
        return rows


class OneHotEmbedder:
    """Embeds unique strings as orthogonal axes."""

    def embed_texts(self, texts):
        return np.eye(len(texts := list(texts)), dtype=np.float32)


def pairs(*texts, language="deu", other="eng"):
    """Returns records of (text, translation) pairs."""
    return [
        Record(f"{language}:{i}", (), ((language, text), (other, translation)))
        for i, (text, translation) in enumerate(texts)
    ]


def scored_pairs(num_hits, language="deu", num_misses=0):
    """Returns pairs that are hits in both directions, then pairs that are misses in both."""
    hits = [(f"{i} {language}", f"{i}") for i in range(num_hits)]
    misses = [(f"{30 + i} {language}", f"{30 + (i + 1) % num_misses}") for i in range(num_misses)]
    return pairs(*hits, *misses, language=language)


def test_scores_equal_values_computed_by_hand():
    result = bitext.run(AxisEmbedder(), scored_pairs(6, num_misses=2))
    assert (result.task, result.protocol) == ("bitext", "bitext/v1")
    assert result.values == {
        "deu": {"forward": 75.0, "backward": 75.0, "accuracy": 75.0},
        "groups": {},
    }
    assert result.counts["pairs"] == {"deu": 8}


def test_forward_and_backward_are_scored_separately():
    # Forward: German 0 and German 0.4 are both nearest to English 0, so only the first pair is a
    # hit. Backward: English 0 is nearest to German 0, and English 1 to German 0.4, so both pairs
    # are hits.
    records = pairs(("0", "0"), ("0.4", "1"))
    expected = {"forward": 50.0, "backward": 100.0, "accuracy": 75.0}
    assert bitext.run(AxisEmbedder(), records).values["deu"] == expected
    # The order of the two texts does not matter.
    swapped = [Record(r.id, (), r.texts[::-1]) for r in records]
    assert bitext.run(AxisEmbedder(), swapped).values["deu"] == expected


def test_pairs_are_named_by_the_language_that_is_not_english():
    records = []
    for first, second in (("de", "en"), ("fr", "de"), ("de", "fr"), ("eng", "ces"), ("en", "en")):
        records += pairs(("1", "1"), ("2", "2"), language=first, other=second)
    result = bitext.run(AxisEmbedder(), records)
    # de-fr has four pairs, and each text occurs in two of them. All pairs tie and are misses.
    assert result.counts["pairs"] == {"ces": 2, "de": 2, "de-fr": 4, "en": 2}
    accuracies = {k: v["accuracy"] for k, v in result.values.items() if k != "groups"}
    assert accuracies == {"ces": 100.0, "de": 100.0, "de-fr": 0.0, "en": 100.0}


def test_ties_and_duplicates_count_as_misses():
    # English 1 occurs twice, so neither German text can select its own translation.
    records = pairs(("0", "0"), ("1", "1"), ("1.1", "1"))
    values = bitext.run(AxisEmbedder(), records).values["deu"]
    assert values["forward"] == pytest.approx(100 / 3)
    assert values["backward"] == pytest.approx(200 / 3)


def test_a_collapsed_encoder_scores_zero_and_a_single_pair_scores_100():
    class CollapsedEmbedder:
        def embed_texts(self, texts):
            rows = np.ones((len(list(texts)), 64)) / 8
            return rows + 1e-8 * np.random.default_rng(0).normal(size=rows.shape)

    assert bitext.run(CollapsedEmbedder(), scored_pairs(30)).values["deu"]["accuracy"] == 0.0
    assert bitext.run(CollapsedEmbedder(), scored_pairs(1)).values["deu"]["accuracy"] == 100.0


def test_candidates_are_the_pairs_of_the_language_and_languages_can_be_selected():
    records = scored_pairs(4) + scored_pairs(4, "fra") + scored_pairs(2, "ces", num_misses=2)
    result = bitext.run(AxisEmbedder(), records)
    assert [v["accuracy"] for k, v in result.values.items() if k != "groups"] == [50, 100, 100]
    embedder = AxisEmbedder()
    for name in ("fra", "fr", "French"):
        named = bitext.run(AxisEmbedder(), records, languages=[name])
        assert set(named.values) - {"groups"} == {"fra"}
    selected = bitext.run(embedder, records, languages=["fra"])
    assert list(selected.values) == ["fra", "groups"]
    assert not any("deu" in text for text in embedder.texts_seen)
    with pytest.raises(UserError, match=r"unknown language \(of these records\) 'jpn'; known: ces"):
        bitext.run(AxisEmbedder(), records, languages=["jpn"])


def test_groups_are_means_over_languages_regardless_of_their_size():
    records = []
    for number, language in enumerate(bitext.GROUPS["all112"]):
        records += scored_pairs(2 + number % 3, language, num_misses=2 * (language == "tha"))
    result = bitext.run(AxisEmbedder(), records, num_bootstrap=20)
    groups = result.values["groups"]
    assert list(groups) == ["langs14", "langs36", "langs83", "all112"]
    missing_accuracy = 100 - result.values["tha"]["accuracy"]
    assert missing_accuracy > 20
    for name, size in (("langs14", 14), ("langs36", 36), ("langs83", 83), ("all112", 112)):
        assert groups[name]["accuracy"] == pytest.approx(100 - missing_accuracy / size)
    assert set(result.intervals["groups"]) == set(groups) and result.counts["missing"] == {}
    without_javanese = [r for r in records if r.texts[0][0] != "jav"]
    result = bitext.run(AxisEmbedder(), without_javanese, num_bootstrap=20)
    assert list(result.values["groups"]) == ["langs14", "langs83"]
    assert result.counts["missing"] == {"langs36": ["jav"], "all112": ["jav"]}


def test_requested_groups_must_be_complete():
    records = scored_pairs(4) + scored_pairs(2, "fra", num_misses=2)
    result = bitext.run(AxisEmbedder(), records, groups={"own": ["deu", "fra"]})
    assert result.values["groups"] == {"own": dict.fromkeys(result.values["deu"], 75.0)}
    with pytest.raises(UserError, match="group 'langs14': there are no pairs of ara, cmn, ita"):
        bitext.run(AxisEmbedder(), records, groups=["langs14"])
    with pytest.raises(UserError, match="unknown group 'langs82'; .*did you mean 'langs83'"):
        bitext.run(AxisEmbedder(), records, groups=["langs82"])
    with pytest.raises(UserError, match="group 'none' is empty"):
        bitext.run(AxisEmbedder(), records, groups={"none": []})


def test_the_groups_are_those_of_the_paper():
    path = os.path.join(SHARED, "paper", "results.json")
    if not os.path.exists(path):
        pytest.skip("no ../shared/paper/results.json")
    with open(path, encoding="utf-8") as file:
        paper = json.load(file)
    paper_groups = paper["groups"]["tatoeba"]
    paper_groups["langs83"] = paper_groups.pop("laser_readme_intersection_83")
    assert {k: sorted(v) for k, v in bitext.GROUPS.items()} == {
        k: sorted(v) for k, v in paper_groups.items()
    }
    # The means over these groups, computed from Tables 15 and 16, equal the means in results.json.
    rows = paper["table15"]["languages"] | paper["table16"]["languages"]
    recomputed = paper["consistency"]["tatoeba_group_means_recomputed_from_tables_15_16"]
    for model, means in recomputed.items():
        means["langs83"] = means.pop("laser_readme_intersection_83")
        for group, mean in means.items():
            recomputed_mean = np.mean([rows[language][model] for language in bitext.GROUPS[group]])
            assert recomputed_mean == pytest.approx(mean, abs=0.006), (model, group)


def test_intervals_match_the_normal_approximation_and_are_reproducible():
    class HalfCorrectEmbedder:
        """Embeds texts so that every second pair is a hit."""

        def embed_texts(self, texts):
            rows = np.zeros((len(texts := list(texts)), 800), np.float32)
            for row, text in zip(rows, texts, strict=True):
                number = int(text.split()[0])
                row[number if "e" in text or number % 2 else (number + 2) % 400 + 400] = 1
            return rows

    records = pairs(*((f"{i} d", f"{i} e") for i in range(400)))
    result = bitext.run(HalfCorrectEmbedder(), records, groups={"single": ["deu"]})
    half_width = 100 * 1.96 * np.sqrt(0.25 / 400)
    assert result.values["deu"]["accuracy"] == 50.0
    for metric in ("forward", "backward", "accuracy"):
        interval = result.intervals["deu"][metric]
        assert interval == pytest.approx((50 - half_width, 50 + half_width), abs=0.8), metric
        assert result.intervals["groups"]["single"][metric] == interval
    assert (
        result.intervals
        == bitext.run(HalfCorrectEmbedder(), records, groups={"single": ["deu"]}).intervals
    )
    assert (
        result.intervals["deu"]
        != bitext.run(HalfCorrectEmbedder(), records, seed=1).intervals["deu"]
    )


def test_records_without_two_texts_are_rejected():
    with pytest.raises(UserError, match="^no records: bitext needs"):
        bitext.run(AxisEmbedder(), [])
    for texts in ((("en", "0"),), (("en", "0"), ("de", "0"), ("fr", "0")), ()):
        with pytest.raises(UserError, match=f"record 'x' has {len(texts)} texts: bitext expects"):
            bitext.run(AxisEmbedder(), [Record("x", (), texts)])


def test_errors_of_embeddings_name_the_record():
    class NanEmbedder(AxisEmbedder):
        def embed_texts(self, texts):
            rows = super().embed_texts(texts)
            rows[self.texts_seen.index("2"), 0] = np.nan
            return rows

    with pytest.raises(UserError, match="^record 'deu:2': its embedding has length nan: expected"):
        bitext.run(NanEmbedder(), scored_pairs(4))

    class RejectingEmbedder:
        embed_texts = rejecting_embed(
            3, "embeddings of texts: the one at position 3 has length nan"
        )

    # The text at position 3 of the unique texts is the second text of the second pair.
    with pytest.raises(UserError, match="^record 'deu:1': embeddings of texts: the one at"):
        bitext.run(RejectingEmbedder(), scored_pairs(4))


# --- the published data ---------------------------------------------------------------------------


def official_records(*languages):
    if not os.path.isdir(OFFICIAL):
        pytest.skip("no ../shared/data/tatoeba")
    units = tatoeba.plan(OFFICIAL, "test", languages or None)
    return [record for unit in units for record in tatoeba.read(unit)]


def test_orthogonal_strings_score_the_only_pair_of_equal_strings():
    # One of the 88,877 pairs has equal strings on both sides, and no string occurs twice.
    records = official_records()
    equal = [r for r in records if r.texts[0][1] == r.texts[1][1]]
    assert len(equal) == 1 and len(records) == 88877
    language = equal[0].texts[0][0]
    selected = [r for r in records if r.texts[0][0] == language]
    values = bitext.run(OneHotEmbedder(), selected, num_bootstrap=10).values[language]
    assert values == pytest.approx(dict.fromkeys(values, 100 / len(selected)))
    # If each translation is replaced by the text itself, all pairs are hits.
    same = [Record(r.id, (), (r.texts[0], ("eng", r.texts[0][1]))) for r in selected]
    assert (
        bitext.run(OneHotEmbedder(), same, num_bootstrap=10).values[language]["accuracy"] == 100.0
    )


def test_character_counts_on_published_data_equal_a_naive_implementation():
    records = official_records("tzl", "nov", "ang")
    result = bitext.run(CharacterEmbedder(), records, num_bootstrap=10)
    assert result.counts["pairs"] == {"ang": 134, "nov": 257, "tzl": 104}
    for language in ("ang", "nov", "tzl"):
        all_texts = [r.texts for r in records if r.texts[0][0] == language]
        counts = [[collections.Counter(text) for _, text in texts] for texts in all_texts]
        for metric, side in (("forward", 0), ("backward", 1)):
            hits = [is_hit(counts, i, side) for i in range(len(counts))]
            assert result.values[language][metric] == pytest.approx(100 * np.mean(hits)), language
    assert result.values["nov"]["accuracy"] > 15  # Novial and English share many words


def is_hit(counts, index, side):
    """Returns whether the translation of a text has a higher cosine than any other candidate."""
    scores = [cosine(counts[index][side], pair[1 - side]) for pair in counts]
    return all(scores[index] > s + 1e-6 for i, s in enumerate(scores) if i != index)


def cosine(a, b):
    product = sum(n * b[c] for c, n in a.items())
    return product / np.sqrt(sum(n * n for n in a.values()) * sum(n * n for n in b.values()))


class CharacterEmbedder:
    """Embeds a text as the counts of its characters."""

    def embed_texts(self, texts):
        texts = list(texts)
        axes = {c: i for i, c in enumerate(sorted(set("".join(texts))))}
        rows = np.zeros((len(texts), len(axes)))
        for row, text in zip(rows, texts, strict=True):
            np.add.at(row, [axes[c] for c in text], 1)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)
