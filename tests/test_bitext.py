import collections
import json
import os

import numpy as np
import pytest
from conftest import ROOT

from tf_mural.data.records import Record
from tf_mural.datasets import tatoeba
from tf_mural.errors import UserError
from tf_mural.evaluation import bitext

SHARED = os.path.join(ROOT, "..", "shared")
OFFICIAL = os.path.join(SHARED, "data", "tatoeba")


class Axes:
    """Embeds "7 x" as axis 7, and any "7.5" as the direction between axes 7 and 8."""

    def texts(self, texts):
        self.seen = list(texts)
        rows = np.zeros((len(self.seen), 40), np.float32)
        for row, text in zip(rows, self.seen, strict=True):
            whole, part = divmod(float(text.split()[0]), 1)
            row[int(whole)], row[int(whole) + 1] = np.cos(part * 1.6), np.sin(part * 1.6)
        return rows


class Identity:
    """Embeds equal strings alike, others at right angles."""

    def texts(self, texts):
        return np.eye(len(texts := list(texts)), dtype=np.float32)


def pairs(*texts, language="deu", other="eng"):
    """Records of (text, translation)."""
    return [
        Record(f"{language}:{i}", (), ((language, text), (other, translation)))
        for i, (text, translation) in enumerate(texts)
    ]


def right(count, language="deu", wrong=0):
    """Pairs that are found, and after them `wrong` ones that are not, either way."""
    found = [(f"{i} {language}", f"{i}") for i in range(count)]
    missed = [(f"{30 + i} {language}", f"{30 + (i + 1) % wrong}") for i in range(wrong)]
    return pairs(*found, *missed, language=language)


def test_scores_by_hand():
    result = bitext.run(Axes(), right(6, wrong=2))
    assert (result.task, result.protocol) == ("bitext", "bitext/v1")
    assert result.values == {
        "deu": {"forward": 75.0, "backward": 75.0, "accuracy": 75.0},
        "groups": {},
    }
    assert result.counts["pairs"] == {"deu": 8}


def test_directions_are_told_apart():
    # German 0 and 1 both lie nearest to English 0, which lies nearer to German 0: forward one of
    # two is right, backward English 1 is nearest to German 1, both are right.
    records = pairs(("0", "0"), ("0.4", "1"))
    expected = {"forward": 50.0, "backward": 100.0, "accuracy": 75.0}
    assert bitext.run(Axes(), records).values["deu"] == expected
    # The same pairs written English first are the same pairs.
    swapped = [Record(r.id, (), r.texts[::-1]) for r in records]
    assert bitext.run(Axes(), swapped).values["deu"] == expected


def test_pairs_are_named_by_the_language_that_is_not_english():
    records = []
    for one, other in (("de", "en"), ("fr", "de"), ("de", "fr"), ("eng", "ces"), ("en", "en")):
        records += pairs(("1", "1"), ("2", "2"), language=one, other=other)
    result = bitext.run(Axes(), records)
    # de-fr has four pairs, each of whose texts comes twice: ties, all of them missed.
    assert result.counts["pairs"] == {"ces": 2, "de": 2, "de-fr": 4, "en": 2}
    accuracies = {k: v["accuracy"] for k, v in result.values.items() if k != "groups"}
    assert accuracies == {"ces": 100.0, "de": 100.0, "de-fr": 0.0, "en": 100.0}


def test_ties_and_duplicates_count_as_misses():
    # English 1 is there twice: neither German text can tell which one is its own.
    records = pairs(("0", "0"), ("1", "1"), ("1.1", "1"))
    values = bitext.run(Axes(), records).values["deu"]
    assert values["forward"] == pytest.approx(100 / 3)
    assert values["backward"] == pytest.approx(200 / 3)


def test_a_collapsed_encoder_finds_nothing_and_one_pair_finds_itself():
    class Collapsed:
        def texts(self, texts):
            rows = np.ones((len(list(texts)), 64)) / 8
            return rows + 1e-8 * np.random.default_rng(0).normal(size=rows.shape)

    assert bitext.run(Collapsed(), right(30)).values["deu"]["accuracy"] == 0.0
    assert bitext.run(Collapsed(), right(1)).values["deu"]["accuracy"] == 100.0


def test_languages_see_their_own_pairs_only_and_are_chosen():
    records = right(4) + right(4, "fra") + right(2, "ces", wrong=2)
    result = bitext.run(Axes(), records)
    assert [v["accuracy"] for k, v in result.values.items() if k != "groups"] == [50, 100, 100]
    embed = Axes()
    chosen = bitext.run(embed, records, languages=["fra"])
    assert list(chosen.values) == ["fra", "groups"] and not any("deu" in t for t in embed.seen)
    with pytest.raises(UserError, match=r"unknown language \(of these records\) 'jpn'; known: ces"):
        bitext.run(Axes(), records, languages=["jpn"])


def test_groups_are_means_over_languages_of_any_size():
    records = []
    for number, language in enumerate(bitext.GROUPS["all112"]):
        records += right(2 + number % 3, language, wrong=2 * (language == "tha"))
    result = bitext.run(Axes(), records, draws=20)
    groups = result.values["groups"]
    assert list(groups) == ["langs14", "langs36", "langs83", "all112"]
    short = 100 - result.values["tha"]["accuracy"]
    assert short > 20
    for name, size in (("langs14", 14), ("langs36", 36), ("langs83", 83), ("all112", 112)):
        assert groups[name]["accuracy"] == pytest.approx(100 - short / size)
    assert set(result.intervals["groups"]) == set(groups) and result.counts["missing"] == {}
    without = [r for r in records if r.texts[0][0] != "jav"]
    result = bitext.run(Axes(), without, draws=20)
    assert list(result.values["groups"]) == ["langs14", "langs83"]
    assert result.counts["missing"] == {"langs36": ["jav"], "all112": ["jav"]}


def test_groups_that_are_asked_for_must_be_there():
    records = right(4) + right(2, "fra", wrong=2)
    mine = bitext.run(Axes(), records, groups={"mine": ["deu", "fra"]})
    assert mine.values["groups"] == {"mine": dict.fromkeys(mine.values["deu"], 75.0)}
    with pytest.raises(UserError, match="group 'langs14': there are no pairs of ara, cmn, ita"):
        bitext.run(Axes(), records, groups=["langs14"])
    with pytest.raises(UserError, match="unknown group 'langs82'; .*did you mean 'langs83'"):
        bitext.run(Axes(), records, groups=["langs82"])
    with pytest.raises(UserError, match="group 'none' is empty"):
        bitext.run(Axes(), records, groups={"none": []})


def test_groups_are_those_of_the_paper():
    path = os.path.join(SHARED, "paper", "results.json")
    if not os.path.exists(path):
        pytest.skip("no ../shared/paper/results.json")
    with open(path, encoding="utf-8") as file:
        paper = json.load(file)
    theirs = paper["groups"]["tatoeba"]
    theirs["langs83"] = theirs.pop("laser_readme_intersection_83")
    assert {k: sorted(v) for k, v in bitext.GROUPS.items()} == {
        k: sorted(v) for k, v in theirs.items()
    }
    # The means of Tables 15 and 16 over our groups are those that were worked out from them.
    rows = paper["table15"]["languages"] | paper["table16"]["languages"]
    recomputed = paper["consistency"]["tatoeba_group_means_recomputed_from_tables_15_16"]
    for model, means in recomputed.items():
        means["langs83"] = means.pop("laser_readme_intersection_83")
        for group, mean in means.items():
            found = np.mean([rows[language][model] for language in bitext.GROUPS[group]])
            assert found == pytest.approx(mean, abs=0.006), (model, group)


def test_intervals_match_the_normal_ones_and_repeat():
    class Coin:
        """Half of the pairs are right, by turns."""

        def texts(self, texts):
            rows = np.zeros((len(texts := list(texts)), 800), np.float32)
            for row, text in zip(rows, texts, strict=True):
                number = int(text.split()[0])
                row[number if "e" in text or number % 2 else (number + 2) % 400 + 400] = 1
            return rows

    records = pairs(*((f"{i} d", f"{i} e") for i in range(400)))
    result = bitext.run(Coin(), records, groups={"one": ["deu"]})
    half = 100 * 1.96 * np.sqrt(0.25 / 400)
    assert result.values["deu"]["accuracy"] == 50.0
    for measure in ("forward", "backward", "accuracy"):
        interval = result.intervals["deu"][measure]
        assert interval == pytest.approx((50 - half, 50 + half), abs=0.8), measure
        assert result.intervals["groups"]["one"][measure] == interval
    assert result.intervals == bitext.run(Coin(), records, groups={"one": ["deu"]}).intervals
    assert result.intervals["deu"] != bitext.run(Coin(), records, seed=1).intervals["deu"]


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(UserError, match="^no records: bitext needs"):
        bitext.run(Axes(), [])
    for texts in ((("en", "0"),), (("en", "0"), ("de", "0"), ("fr", "0")), ()):
        with pytest.raises(UserError, match=f"record 'x' has {len(texts)} texts: bitext expects"):
            bitext.run(Axes(), [Record("x", (), texts)])


def test_embeddings_that_are_not_finite_are_named_by_their_record():
    class Broken(Axes):
        def texts(self, texts):
            rows = super().texts(texts)
            rows[self.seen.index("2"), 0] = np.nan
            return rows

    with pytest.raises(UserError, match="^record 'deu:2': its embedding has length nan: expected"):
        bitext.run(Broken(), right(4))

    class Refusing:
        def texts(self, texts):
            error = UserError("embeddings of texts: the one at position 3 has length nan")
            error.position = 3
            raise error

    # Position 3 among the different texts is the second one of the second pair.
    with pytest.raises(UserError, match="^record 'deu:1': embeddings of texts: the one at"):
        bitext.run(Refusing(), right(4))


# --- the real files -------------------------------------------------------------------------------


def official(*languages):
    if not os.path.isdir(OFFICIAL):
        pytest.skip("no ../shared/data/tatoeba")
    units = tatoeba.plan(OFFICIAL, "test", languages or None)
    return [record for unit in units for record in tatoeba.read(unit)]


def test_identity_finds_the_one_pair_of_equal_strings_of_each_language():
    # Among 88,877 pairs one has the same string on both sides, and no string comes twice.
    records = official()
    equal = [r for r in records if r.texts[0][1] == r.texts[1][1]]
    assert len(equal) == 1 and len(records) == 88877
    language = equal[0].texts[0][0]
    own = [r for r in records if r.texts[0][0] == language]
    values = bitext.run(Identity(), own, draws=10).values[language]
    assert values == pytest.approx(dict.fromkeys(values, 100 / len(own)))
    # The other way round: were each translation the text itself, all would be found.
    same = [Record(r.id, (), (r.texts[0], ("eng", r.texts[0][1]))) for r in own]
    assert bitext.run(Identity(), same, draws=10).values[language]["accuracy"] == 100.0


def test_character_counts_on_real_files_score_as_the_slow_version():
    records = official("tzl", "nov", "ang")
    result = bitext.run(Characters(), records, draws=10)
    assert result.counts["pairs"] == {"ang": 134, "nov": 257, "tzl": 104}
    for language in ("ang", "nov", "tzl"):
        own = [r.texts for r in records if r.texts[0][0] == language]
        counts = [[collections.Counter(text) for _, text in texts] for texts in own]
        for measure, side in (("forward", 0), ("backward", 1)):
            hits = [found(counts, i, side) for i in range(len(counts))]
            assert result.values[language][measure] == pytest.approx(100 * np.mean(hits)), language
    assert result.values["nov"]["accuracy"] > 15  # Novial and English share many words


def found(counts, number, side):
    """Whether a text's translation has a higher cosine than every other one."""
    scores = [cosine(counts[number][side], pair[1 - side]) for pair in counts]
    return all(scores[number] > s + 1e-6 for i, s in enumerate(scores) if i != number)


def cosine(one, other):
    product = sum(n * other[c] for c, n in one.items())
    return product / np.sqrt(sum(n * n for n in one.values()) * sum(n * n for n in other.values()))


class Characters:
    """Embeds a text as how often each character comes in it."""

    def texts(self, texts):
        texts = list(texts)
        axes = {c: i for i, c in enumerate(sorted(set("".join(texts))))}
        rows = np.zeros((len(texts), len(axes)))
        for row, text in zip(rows, texts, strict=True):
            np.add.at(row, [axes[c] for c in text], 1)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)
