import itertools
import math

import numpy as np
import pytest

from tf_mural.data.records import Record
from tf_mural.errors import UserError
from tf_mural.evaluation import consistency, metrics


class Line:
    """Embeds b"3" as point 3 on a line of `count`; the text "3:5" is nearest to images 3, then 5.

    "3:5,7" puts image 5 second and 7 third: the numbers are images in the order of their cosines.
    """

    def __init__(self, count):
        self.count = count

    def images(self, encoded):
        return np.eye(self.count, dtype=np.float32)[[int(image) for image in encoded]]

    def texts(self, texts):
        rows = np.zeros((len(texts := list(texts)), self.count), np.float32)
        for row, text in zip(rows, texts, strict=True):
            if text == "level":  # with all images
                row[:] = 1
                continue
            named = [int(number) for number in text.split()[0].split(",")]
            rest = [number for number in range(self.count) if number not in named]
            row[named + rest] = np.arange(self.count, 0, -1)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def at(image, rank, count=8):
    """A text that finds its image at this rank, from 1."""
    others = [number for number in range(count) if number != image]
    return ",".join(map(str, [*others[: rank - 1], image]))


def record(image, **ranks):
    """An image whose text in each language finds it at a rank, or texts at several ranks."""
    texts = [
        (language, f"{at(image, rank)} {language}{number}")
        for language, given in ranks.items()
        for number, rank in enumerate(given if isinstance(given, list) else [given])
    ]
    return Record(f"r{image}", (b"%d" % image,), tuple(texts))


def fill(*records):
    """The records, and images up to eight that one language alone describes."""
    return [*records, *(record(i, en=1) for i in range(len(records), 8))]


def test_scores_by_hand():
    # Places (log2 of the rank): 0 1 3 and 2 2 0. Distances of pairs: 1 3 2 and 0 2 2.
    records = fill(record(0, en=1, de=2, fr=8), record(1, en=4, de=4, fr=1))
    result = consistency.run(Line(8), records)
    assert (result.task, result.protocol) == ("consistency", "consistency/v1")
    everything = result.values["groups"]["all"]
    assert everything["spread"] == pytest.approx((2 + 4 / 3) / 2)
    assert everything["range"] == pytest.approx((3 + 2) / 2)
    assert everything["r1_any"] == 100.0 and everything["r1_all"] == 0.0
    assert everything["chance"] == pytest.approx(metrics.chance_spread(8))
    # To the other two: en 1 3 and 0 2; de 1 2 and 0 2; fr 3 2 and 2 2.
    spreads = {k: result.values[k]["spread"] for k in ("de", "en", "fr")}
    assert spreads == pytest.approx({"en": 1.5, "de": 1.25, "fr": 2.25})
    # Less the mean of the other two: en 0 - 2, 2 - 1; de 1 - 1.5, 2 - 1; fr 3 - 0.5, 0 - 2.
    lags = {k: result.values[k]["lag"] for k in ("de", "en", "fr")}
    assert lags == pytest.approx({"en": -0.5, "de": 0.25, "fr": 0.25})
    assert result.counts == {
        "candidates": 8,
        "images": 2,
        "languages": {"de": 2, "en": 2, "fr": 2},
        "texts": 12,
        "worst": result.counts["worst"],
    }
    assert result.counts["worst"][2] == "en"


def test_equal_ranks_are_consistent_even_where_they_are_bad():
    result = consistency.run(Line(8), fill(record(0, en=5, de=5), record(1, en=1, de=1)))
    everything = result.values["groups"]["all"]
    assert everything["spread"] == everything["range"] == 0.0
    assert everything["r1_any"] == everything["r1_all"] == 50.0
    assert result.intervals["groups"]["all"]["spread"] == (0.0, 0.0)


def test_several_texts_in_a_language_count_as_their_mean_place():
    # English places 0 and 2, the mean 1; German 3.
    result = consistency.run(Line(8), fill(record(0, en=[1, 4], de=8)))
    assert result.values["groups"]["all"]["spread"] == pytest.approx(2.0)


def test_images_differ_in_their_languages():
    records = fill(record(0, en=1, de=2), record(1, de=1, fr=4), record(2, fr=8))
    result = consistency.run(Line(8), records)
    assert result.values["groups"]["all"]["spread"] == pytest.approx((1 + 2) / 2)
    assert {k: result.values[k]["lag"] for k in ("en", "de", "fr")} == pytest.approx(
        {"en": -1.0, "de": (1 - 2) / 2, "fr": 2.0}
    )
    assert result.counts["languages"] == {"de": 2, "en": 1, "fr": 1}


def test_a_tie_counts_as_the_last_place_that_it_allows():
    tied = Record("r0", (b"0",), (("en", at(0, 4)), ("de", "level")))
    result = consistency.run(Line(8), fill(tied))
    # German is anywhere from 0 to 3: as far as 2 from the English place of 2.
    assert result.values["groups"]["all"]["spread"] == pytest.approx(2.0)
    assert result.values["de"]["lag"] == pytest.approx(1.0)


@pytest.mark.parametrize("noise", [0.0, 1e-8])
def test_a_collapsed_encoder_is_the_worst_and_not_the_most_consistent(noise):
    class Collapsed:
        def images(self, encoded):
            rows = np.ones((len(list(encoded)), 64)) / 8
            return rows + noise * np.random.default_rng(0).normal(size=rows.shape)

        texts = images

    records = [record(i, en=1, de=2, fr=3) for i in range(8)]
    result = consistency.run(Collapsed(), records)
    everything = result.values["groups"]["all"]
    assert everything["spread"] == everything["range"] == 3.0  # log2 of 8
    assert everything["spread"] > everything["chance"]
    assert everything["r1_any"] == 0.0


def test_random_ranks_score_chance():
    random = np.random.default_rng(0)

    class Random:
        def images(self, encoded):
            rows = random.normal(size=(len(list(encoded)), 16))
            return rows / np.linalg.norm(rows, axis=1, keepdims=True)

        texts = images

    records = [
        Record(f"{i}", (b"",), tuple((code, f"{i}{code}") for code in ("en", "de", "fr", "cs")))
        for i in range(400)
    ]
    everything = consistency.run(Random(), records).values["groups"]["all"]
    assert everything["spread"] == pytest.approx(everything["chance"], abs=0.12)


def test_the_worst_five_are_named_worst_first():
    ranks = {"en": 1, "aa": 2, "bb": 8, "cc": 3, "dd": 4, "ee": 5, "ff": 6}
    result = consistency.run(Line(8), fill(record(0, **ranks)))
    assert result.counts["worst"] == ["bb", "ff", "ee", "dd", "cc"]


def test_languages_are_chosen():
    records = fill(record(0, en=1, de=8, fr=2))
    result = consistency.run(Line(8), records, languages=["en", "fr"])
    assert list(result.values) == ["en", "fr", "groups"]
    assert result.values["groups"]["all"]["spread"] == 1.0
    with pytest.raises(UserError, match="no image has a text in it; .* languages: de, en, fr"):
        consistency.run(Line(8), records, languages=["en", "it"])


def test_intervals_hold_the_values_and_repeat():
    random = np.random.default_rng(0)
    records = [record(i, **{k: int(random.integers(1, 9)) for k in "ab"}) for i in range(8)]
    result = consistency.run(Line(8), records)
    for name, measures in {**result.intervals, **result.intervals["groups"]}.items():
        values = result.values["groups"].get(name) or result.values[name]
        for measure, (low, high) in measures.items() if name != "groups" else ():
            assert low < values[measure] < high, (name, measure)
    assert result.intervals == consistency.run(Line(8), records).intervals
    assert result.intervals != consistency.run(Line(8), records, seed=1).intervals


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(UserError, match="^no records: consistency needs"):
        consistency.run(Line(8), [])
    with pytest.raises(UserError, match="none of the 1 records has an image"):
        consistency.run(Line(8), [Record("a", (), (("en", "0"),))])
    with pytest.raises(UserError, match="record 'two' has 2 images: consistency expects one"):
        consistency.run(Line(8), [Record("two", (b"0", b"1"), (("en", "0"),))])
    with pytest.raises(UserError, match="none of the 8 images has texts in two of en: consist"):
        consistency.run(Line(8), fill())


def test_embeddings_that_are_not_finite_are_named_by_their_record():
    class Broken(Line):
        def images(self, encoded):
            rows = super().images(encoded)
            rows[5, 1] = np.nan
            return rows

    records = fill(record(0, en=1, de=2))
    with pytest.raises(UserError, match="^record 'r5': its embedding has length nan"):
        consistency.run(Broken(8), records)

    class BrokenTexts(Line):
        def texts(self, texts):
            rows = super().texts(texts := list(texts))
            rows[texts.index(f"{at(2, 1)} en0")] = np.nan
            return rows

    with pytest.raises(UserError, match="^record 'r2': its embedding has length nan"):
        consistency.run(BrokenTexts(8), records)

    class Unreadable(Line):
        def images(self, encoded):
            error = UserError("image at position 1 cannot be read")
            error.position = len(list(encoded)) - 1
            raise error

    with pytest.raises(UserError, match="^record 'r7': image at position 1"):
        consistency.run(Unreadable(8), records)


# --- the functions --------------------------------------------------------------------------------


def test_spreads_and_lags_equal_the_slow_version():
    random = np.random.default_rng(0)
    low = random.uniform(0, 9, (30, 6))
    high = low + random.choice([0, 0, 2.0], low.shape)
    absent = random.random(low.shape) < 0.4
    low[absent] = high[absent] = np.nan
    spreads, lags = metrics.pair_spreads(low, high), metrics.lags(high)
    for i, own in itertools.product(range(30), range(6)):
        others = [k for k in range(6) if k != own and not absent[i, k]]
        if absent[i, own] or not others:
            assert np.isnan(spreads[i, own]) and np.isnan(lags[i, own])
            continue
        apart = [max(high[i, own] - low[i, k], high[i, k] - low[i, own]) for k in others]
        assert spreads[i, own] == pytest.approx(np.mean(apart))
        assert lags[i, own] == pytest.approx(high[i, own] - np.mean(high[i, others]))


@pytest.mark.parametrize("count", [1, 2, 3, 50])
def test_chance_is_the_mean_over_all_pairs_of_ranks(count):
    ranks = range(1, count + 1)
    every = [abs(math.log2(a / b)) for a, b in itertools.product(ranks, ranks)]
    assert metrics.chance_spread(count) == pytest.approx(np.mean(every))
