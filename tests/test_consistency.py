"""The cross-lingual consistency task and its metrics."""

import itertools
import math

import numpy as np
import pytest
from helpers.embedders import rejecting_embed

from tf_mural.data.records import Record
from tf_mural.errors import UserError
from tf_mural.evaluation import consistency, metrics


class RankEmbedder:
    """Embeds the image b"3" as axis 3, and the text "3,5 x" so that images 3 and 5 rank first.

    The numbers in a text are the images with the highest cosines, in descending order. The text
    "level" has the same cosine with all images.
    """

    def __init__(self, count):
        self.count = count

    def embed_images(self, encoded):
        return np.eye(self.count, dtype=np.float32)[[int(image) for image in encoded]]

    def embed_texts(self, texts):
        rows = np.zeros((len(texts := list(texts)), self.count), np.float32)
        for row, text in zip(rows, texts, strict=True):
            if text == "level":
                row[:] = 1
                continue
            first = [int(number) for number in text.split()[0].split(",")]
            others = [number for number in range(self.count) if number not in first]
            row[first + others] = np.arange(self.count, 0, -1)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def text_at_rank(image, rank, count=8):
    """Returns a text for which the image has this rank; the best image has rank 1."""
    others = [number for number in range(count) if number != image]
    return ",".join(map(str, [*others[: rank - 1], image]))


def record(image, **ranks):
    """Returns a record whose image has these ranks for its texts: {language: rank or ranks}."""
    texts = [
        (language, f"{text_at_rank(image, rank)} {language}{number}")
        for language, values in ranks.items()
        for number, rank in enumerate(values if isinstance(values, list) else [values])
    ]
    return Record(f"r{image}", (b"%d" % image,), tuple(texts))


def with_candidates(*records):
    """Returns eight records: the given records, then records with a text in only one language."""
    return [*records, *(record(i, en=1) for i in range(len(records), 8))]


def test_scores_equal_values_computed_by_hand():
    # The log ranks in en, de and fr are 0, 1, 3 for image 0 and 2, 2, 0 for image 1. The
    # differences of the log ranks between en and de, en and fr, and de and fr are 1, 3, 2 for image
    # 0 and 0, 2, 2 for image 1.
    records = with_candidates(record(0, en=1, de=2, fr=8), record(1, en=4, de=4, fr=1))
    result = consistency.run(RankEmbedder(8), records)
    assert (result.task, result.protocol) == ("consistency", "consistency/v1")
    overall = result.values["groups"]["all"]
    assert overall["spread"] == pytest.approx((2 + 4 / 3) / 2)
    assert overall["range"] == pytest.approx((3 + 2) / 2)
    assert overall["r1_any"] == 100.0 and overall["r1_all"] == 0.0
    assert overall["chance"] == pytest.approx(metrics.chance_spread(8))
    # The spread of a language is the mean difference to the two other languages. The differences of
    # image 0 and image 1 are 1, 3 and 0, 2 for en, 1, 2 and 0, 2 for de, and 3, 2 and 2, 2 for fr.
    spreads = {k: result.values[k]["spread"] for k in ("de", "en", "fr")}
    assert spreads == pytest.approx({"en": 1.5, "de": 1.25, "fr": 2.25})
    # The lag of a language is its log rank minus the mean log rank of the two other languages. The
    # lags of image 0 and of image 1 are 0 - 2 and 2 - 1 in en, 1 - 1.5 and 2 - 1 in de, and 3 - 0.5
    # and 0 - 2 in fr.
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


def test_equal_ranks_are_consistent_even_if_they_are_low():
    result = consistency.run(
        RankEmbedder(8), with_candidates(record(0, en=5, de=5), record(1, en=1, de=1))
    )
    overall = result.values["groups"]["all"]
    assert overall["spread"] == overall["range"] == 0.0
    assert overall["r1_any"] == overall["r1_all"] == 50.0
    assert result.intervals["groups"]["all"]["spread"] == (0.0, 0.0)


def test_several_texts_in_a_language_count_with_their_mean_log_rank():
    # The English log ranks are 0 and 2, with the mean 1. The German log rank is 3.
    result = consistency.run(RankEmbedder(8), with_candidates(record(0, en=[1, 4], de=8)))
    assert result.values["groups"]["all"]["spread"] == pytest.approx(2.0)


def test_images_may_have_different_languages():
    records = with_candidates(record(0, en=1, de=2), record(1, de=1, fr=4), record(2, fr=8))
    result = consistency.run(RankEmbedder(8), records)
    assert result.values["groups"]["all"]["spread"] == pytest.approx((1 + 2) / 2)
    assert {k: result.values[k]["lag"] for k in ("en", "de", "fr")} == pytest.approx(
        {"en": -1.0, "de": (1 - 2) / 2, "fr": 2.0}
    )
    assert result.counts["languages"] == {"de": 2, "en": 1, "fr": 1}


def test_a_tie_counts_with_the_largest_difference_that_it_allows():
    tied = Record("r0", (b"0",), (("en", text_at_rank(0, 4)), ("de", "level")))
    result = consistency.run(RankEmbedder(8), with_candidates(tied))
    # The English log rank is 2, and the German log rank is between 0 and 3. The two log ranks
    # therefore differ by at most 2.
    assert result.values["groups"]["all"]["spread"] == pytest.approx(2.0)
    assert result.values["de"]["lag"] == pytest.approx(1.0)


@pytest.mark.parametrize("noise", [0.0, 1e-8])
def test_a_collapsed_encoder_is_the_worst_and_not_the_most_consistent(noise):
    class CollapsedEmbedder:
        def embed_images(self, encoded):
            rows = np.ones((len(list(encoded)), 64)) / 8
            return rows + noise * np.random.default_rng(0).normal(size=rows.shape)

        embed_texts = embed_images

    records = [record(i, en=1, de=2, fr=3) for i in range(8)]
    result = consistency.run(CollapsedEmbedder(), records)
    overall = result.values["groups"]["all"]
    assert overall["spread"] == overall["range"] == 3.0  # log2 of 8
    assert overall["spread"] > overall["chance"]
    assert overall["r1_any"] == 0.0


def test_random_ranks_have_the_spread_of_chance():
    random = np.random.default_rng(0)

    class RandomEmbedder:
        def embed_images(self, encoded):
            rows = random.normal(size=(len(list(encoded)), 16))
            return rows / np.linalg.norm(rows, axis=1, keepdims=True)

        embed_texts = embed_images

    records = [
        Record(f"{i}", (b"",), tuple((code, f"{i}{code}") for code in ("en", "de", "fr", "cs")))
        for i in range(400)
    ]
    overall = consistency.run(RandomEmbedder(), records).values["groups"]["all"]
    assert overall["spread"] == pytest.approx(overall["chance"], abs=0.12)


def test_the_five_languages_with_the_largest_lag_are_listed():
    ranks = {"en": 1, "aa": 2, "bb": 8, "cc": 3, "dd": 4, "ee": 5, "ff": 6}
    result = consistency.run(RankEmbedder(8), with_candidates(record(0, **ranks)))
    assert result.counts["worst"] == ["bb", "ff", "ee", "dd", "cc"]


def test_languages_can_be_selected():
    records = with_candidates(record(0, en=1, de=8, fr=2))
    result = consistency.run(RankEmbedder(8), records, languages=["en", "fr"])
    assert list(result.values) == ["en", "fr", "groups"]
    assert result.values["groups"]["all"]["spread"] == 1.0
    with pytest.raises(UserError, match="no image has a text in it; languages .*: de, en, fr"):
        consistency.run(RankEmbedder(8), records, languages=["en", "it"])


def test_intervals_contain_the_values_and_are_reproducible():
    random = np.random.default_rng(0)
    records = [record(i, **{k: int(random.integers(1, 9)) for k in "ab"}) for i in range(8)]
    result = consistency.run(RankEmbedder(8), records)
    for name, intervals in {**result.intervals, **result.intervals["groups"]}.items():
        values = result.values["groups"].get(name) or result.values[name]
        for metric, (low, high) in intervals.items() if name != "groups" else ():
            assert low < values[metric] < high, (name, metric)
    assert result.intervals == consistency.run(RankEmbedder(8), records).intervals
    assert result.intervals != consistency.run(RankEmbedder(8), records, seed=1).intervals


def test_records_that_cannot_be_scored_are_rejected():
    with pytest.raises(UserError, match="^no records: consistency needs"):
        consistency.run(RankEmbedder(8), [])
    with pytest.raises(UserError, match="none of the 1 records has an image"):
        consistency.run(RankEmbedder(8), [Record("a", (), (("en", "0"),))])
    with pytest.raises(UserError, match="record 'two' has 2 images: consistency expects one"):
        consistency.run(RankEmbedder(8), [Record("two", (b"0", b"1"), (("en", "0"),))])
    with pytest.raises(UserError, match="none of the 8 images has texts in two of en: consist"):
        consistency.run(RankEmbedder(8), with_candidates())


def test_errors_of_embeddings_name_the_record():
    class NanImageEmbedder(RankEmbedder):
        def embed_images(self, encoded):
            rows = super().embed_images(encoded)
            rows[5, 1] = np.nan
            return rows

    records = with_candidates(record(0, en=1, de=2))
    with pytest.raises(UserError, match="^record 'r5': its embedding has length nan"):
        consistency.run(NanImageEmbedder(8), records)

    class NanTextEmbedder(RankEmbedder):
        def embed_texts(self, texts):
            rows = super().embed_texts(texts := list(texts))
            rows[texts.index(f"{text_at_rank(2, 1)} en0")] = np.nan
            return rows

    with pytest.raises(UserError, match="^record 'r2': its embedding has length nan"):
        consistency.run(NanTextEmbedder(8), records)

    class RejectingEmbedder(RankEmbedder):
        embed_images = rejecting_embed(7, "image at position 7 cannot be read")

    with pytest.raises(UserError, match="^record 'r7': image at position 7"):
        consistency.run(RejectingEmbedder(8), records)


# --- metrics --------------------------------------------------------------------------------------


def test_spreads_and_lags_equal_a_naive_implementation():
    random = np.random.default_rng(0)
    low = random.uniform(0, 9, (30, 6))
    high = low + random.choice([0, 0, 2.0], low.shape)
    is_missing = random.random(low.shape) < 0.4
    low[is_missing] = high[is_missing] = np.nan
    spreads, lags = metrics.rank_spreads(low, high), metrics.rank_lags(high)
    for i, j in itertools.product(range(30), range(6)):
        others = [k for k in range(6) if k != j and not is_missing[i, k]]
        if is_missing[i, j] or not others:
            assert np.isnan(spreads[i, j]) and np.isnan(lags[i, j])
            continue
        differences = [max(high[i, j] - low[i, k], high[i, k] - low[i, j]) for k in others]
        assert spreads[i, j] == pytest.approx(np.mean(differences))
        assert lags[i, j] == pytest.approx(high[i, j] - np.mean(high[i, others]))


@pytest.mark.parametrize("count", [1, 2, 3, 50])
def test_chance_spread_is_the_mean_over_all_pairs_of_ranks(count):
    ranks = range(1, count + 1)
    differences = [abs(math.log2(a / b)) for a, b in itertools.product(ranks, ranks)]
    assert metrics.chance_spread(count) == pytest.approx(np.mean(differences))


# --- agreement ------------------------------------------------------------------------------------


def test_agreement_is_the_share_of_pairs_with_the_same_first_result():
    def text(first, language):
        return f"{first} {language}"

    records = [
        # The first results of image 0 are 0, 0 and 3: one of three pairs agrees.
        Record("r0", (b"0",), tuple((k, text(n, k)) for k, n in (("en", 0), ("de", 0), ("fr", 3)))),
        # Equal wrong results agree; only the first text of a language counts.
        Record(
            "r1", (b"1",), (("en", text(2, "en")), ("en", text(1, "en2")), ("de", text(2, "de")))
        ),
        *(record(i, en=1) for i in range(2, 8)),
    ]
    result = consistency.run(RankEmbedder(8), records)
    assert result.values["groups"]["all"]["agreement"] == pytest.approx((100 / 3 + 100) / 2)
    per_language = {code: result.values[code]["agreement"] for code in ("en", "de", "fr")}
    assert per_language == pytest.approx({"en": 75.0, "de": 75.0, "fr": 0.0})


def test_agreement_equals_plain_loops():
    rng = np.random.default_rng(0)
    first = rng.integers(-1, 4, (60, 5)).astype(float)
    first[rng.random(first.shape) < 0.3] = np.nan
    expected = np.full(first.shape, np.nan)
    for i, row in enumerate(first):
        present = [k for k in range(5) if not math.isnan(row[k])]
        for k in present:
            others = [j for j in present if j != k]
            if others:
                expected[i, k] = np.mean([row[j] == row[k] >= 0 for j in others])
    np.testing.assert_allclose(metrics.agreement(first), expected)


def test_texts_with_tied_images_have_no_first_result():
    images = np.eye(3, dtype=np.float32)[[0, 1, 1]]
    texts = np.array([[1, 0, 0], [0, 1, 0], [0.6, 0.8, 0], [0.8, 0.6, 0]], np.float32)
    assert metrics.first_results(images, texts).tolist() == [0, -1, -1, 0]
    collapsed = np.ones((4, 3), np.float32) / np.sqrt(3)
    assert metrics.first_results(collapsed, collapsed).tolist() == [-1] * 4
    assert metrics.agreement(np.full((4, 3), -1.0)).tolist() == [[0.0] * 3] * 4
