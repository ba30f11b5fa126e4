"""Statistics of record sets: quantiles, texts, tokens, images, labels, duplicates, samples."""

import json

import numpy as np
import pytest
from helpers.images import plain_image

from tf_mural import reports
from tf_mural.data import records
from tf_mural.data.records import Record, RecordSet
from tf_mural.errors import UserError
from tf_mural.reports import dataset_stats, statistics
from tf_mural.reports.dataset_stats import DatasetStats, language_counts, shared_records
from tf_mural.reports.statistics import (
    DuplicateCounter,
    ImageStats,
    IntegerCounts,
    TextStats,
    histogram,
    quantiles,
)


def image(width, height, image_format="PNG", mode="RGB", color="black"):
    return plain_image(color, image_format, mode, (width, height))


def write_set(folder, *set_records, **options):
    records.write(folder, set_records, **options)
    return RecordSet.open(folder)


def collect(record_set, tokenizer=None, **options):
    stats = DatasetStats(record_set, tokenizer)
    for _ in stats.collect(**options):
        pass
    return stats


# --- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 19, 20, 21, 100, 997])
def test_quantiles_of_integer_counts_equal_numpy(count):
    values = np.random.default_rng(count).integers(0, 50, count)
    counts = IntegerCounts(values[: count // 2].tolist())
    counts.add(values[count // 2 :].tolist())
    summary = counts.summary()
    shares = list(statistics.QUANTILES.values())
    expected = np.quantile(values, shares, method="inverted_cdf").tolist()
    assert [summary[name] for name in statistics.QUANTILES] == expected
    assert (summary["min"], summary["max"]) == (values.min(), values.max())
    assert summary["mean"] == round(values.mean(), 2)
    assert quantiles(values)["q95"] == expected[-1]


def test_quantiles_of_1_to_20_equal_values_computed_by_hand():
    # Of 20 values, the first is the 5 % quantile, the tenth the median, the 19th the 95 % quantile.
    counts = IntegerCounts(range(1, 21)) + IntegerCounts()
    assert counts.summary() == {
        "min": 1, "mean": 10.5, "max": 20, "q05": 1, "q25": 5, "median": 10, "q75": 15, "q95": 19,
    }  # fmt: skip
    assert IntegerCounts().summary() is None
    assert quantiles([]) is None


def test_histograms_of_integers_floats_and_equal_values():
    assert histogram(np.array([3, 5, 5])) == {
        "counts": [1, 0, 2], "edges": [2.5, 3.5, 4.5, 5.5], "beyond": 0,
    }  # fmt: skip
    assert histogram(np.array([0.0, 1.0, 4.0]), bins=2) == {
        "counts": [2, 1], "edges": [0.0, 2.0, 4.0], "beyond": 0,
    }  # fmt: skip
    assert histogram(np.array([2.0, 2.0])) == {"counts": [2], "edges": [1.95, 2.05], "beyond": 0}
    assert histogram(np.array([])) is None


def test_a_histogram_leaves_out_outliers():
    values = np.concatenate([np.linspace(1, 2, 199), [1000.0]])
    result = histogram(values, bins=10, coverage=0.99)
    assert result["beyond"] == 2 and sum(result["counts"]) == 198  # 198 is 99 % of 200 values
    assert result["edges"][-1] < 2
    assert histogram(values, bins=10)["beyond"] == 0
    assert histogram(np.linspace(1, 2, 200), bins=10, coverage=0.99)["beyond"] == 0


# --- texts ----------------------------------------------------------------------------------------


def test_words_are_counted_if_the_script_has_spaces():
    texts = TextStats()
    texts.add(["ein roter Kreis", "drei"])
    summary = texts.summary()
    assert summary["characters"]["max"] == 15 and summary["characters"]["min"] == 4
    assert summary["words"]["max"] == 3 and summary["words"]["mean"] == 2.0


@pytest.mark.parametrize(
    "text, has_spaces",
    [
        ("två små hus", True),
        ("a pot of 味噌", True),
        ("빨간 원", True),
        ("लाल वृत्त", True),
        ("دائرة حمراء", True),
        ("中文 one", False),  # with the text that the test adds, 5 of 8 letters are Chinese
        ("红色的圆", False),
        ("赤い円 と", False),
        ("วงกลมสีแดง", False),
        ("រង្វង់ក្រហម", False),
        ("စက်ဝိုင်း", False),
        ("ວົງມົນ", False),
        ("སྒོར་ཐིག", False),
    ],
)
def test_scripts_without_spaces_are_recognized(text, has_spaces):
    texts = TextStats()
    texts.add([text, "红" * 3] if text == "中文 one" else [text])
    assert (texts.summary()["words"] is not None) == has_spaces


class LetterTokenizer:
    """Makes one token per letter; the token of "z" is unknown.

    Two of the maximum of 6 tokens are special tokens, and at most 4 are letters of the text.
    """

    vocabulary, max_tokens, size, hash = ("[PAD]", "[UNK]", "x"), 6, 3, "abc"

    def pieces(self, texts):
        import tensorflow as tf

        texts = [text.replace(" ", "") for text in texts]
        flat = [1 if letter == "z" else 2 for text in texts for letter in text]
        return tf.RaggedTensor.from_row_lengths(
            tf.constant(flat, tf.int32), tf.constant([len(text) for text in texts], tf.int64)
        )


def test_tokens_are_counted_per_language(tmp_path):
    texts = (("en", "abc d"), ("de", "z"), ("en", "abcd e"), ("ja", "赤い円"))
    record_set = write_set(
        tmp_path / "a", Record("1", (), texts), Record("2", (), (("de", "zz a"),))
    )
    summary = collect(record_set, LetterTokenizer()).summary()
    english, german = (summary["languages"][code] for code in ("en", "de"))
    assert english["tokens"]["min"] == 4 and english["tokens"]["max"] == 5
    assert english["tokens_per_word"] == 2.25 and english["tokens_per_character"] == 1.0
    assert english["cut_percent"] == 50.0 and english["unknown_percent"] == 0.0
    assert german["tokens"]["max"] == 3 and german["unknown_percent"] == 75.0
    assert german["tokens_per_word"] == round(4 / 3, 6) and german["cut_percent"] == 0.0
    assert summary["languages"]["ja"]["tokens_per_word"] is None
    all_languages = summary["all_languages"]
    assert all_languages["sampled_texts"] == 5 and all_languages["cut_percent"] == 20.0
    assert all_languages["unknown_percent"] == 18.75  # 3 of 16 tokens are unknown
    assert summary["tokenizer"] == {"hash": "abc", "size": 3, "max_tokens": 6}


# --- images, labels, scores -----------------------------------------------------------------------


def test_image_headers_are_counted_by_format_and_size():
    images = ImageStats()
    data = [image(40, 20), image(10, 30, "JPEG"), image(8, 8, "JPEG", "CMYK"), b"no image"]
    truncated = data[0][:-20]  # the header is complete
    for encoded in [*data, truncated]:
        images.add(encoded)
    summary = images.summary()
    assert summary["sampled_images"] == 5
    assert summary["formats"] == {"PNG RGB": 2, "JPEG RGB": 1, "JPEG CMYK": 1}
    assert summary["unreadable"] == {"UnidentifiedImageError": 1}
    assert (summary["width"]["min"], summary["width"]["max"]) == (8, 40)
    assert (summary["height"]["min"], summary["height"]["max"]) == (8, 30)
    assert summary["aspect"]["max"] == 2.0 and summary["aspect"]["min"] == round(1 / 3, 4)
    assert summary["bytes"]["max"] == max(map(len, data[:3])) and summary["bytes"]["min"] == len(
        truncated
    )
    assert ImageStats().summary() is None


def test_a_set_with_unreadable_headers_only_has_no_sizes():
    images = ImageStats()
    images.add(b"")
    summary = images.summary()
    assert summary["width"] is None and summary["histograms"]["width"] is None


def test_labels_and_scores_are_counted(tmp_path):
    labels = [0, 0, 0, 2, 2, 5]
    parts = [Record(str(i), (image(4, 4),), label=n) for i, n in enumerate(labels)]
    summary = collect(write_set(tmp_path / "a", *parts)).summary()["labels"]
    assert summary["counts"] == {"0": 3, "2": 2, "5": 1}
    assert (
        summary["records"] == 6 and summary["classes"] == 3 and summary["per_class"]["median"] == 2
    )
    pair = (("en", "a"), ("de", "b"))
    parts = [Record(str(i), (), pair, score=s) for i, s in enumerate([0.0, 5.0, 5.0, 2.5])]
    summary = collect(write_set(tmp_path / "b", *parts)).summary()["scores"]
    assert summary["mean"] == 3.125 and summary["median"] == 2.5
    assert len(summary["counts"]) == 20 and summary["counts"][0] == 1 and summary["counts"][-1] == 2
    assert (summary["edges"][0], summary["edges"][-1]) == (0.0, 5.0)


def test_a_class_without_records_is_the_smallest(tmp_path):
    record_set = write_set(tmp_path / "a", Record("1", (image(4, 4),), label=1))
    record_set.manifest["classes"] = ["cat", "dog"]
    assert collect(record_set).summary()["labels"]["counts"] == {"0": 0, "1": 1}


# --- duplicates -----------------------------------------------------------------------------------


def test_content_of_several_records_is_counted():
    duplicates = DuplicateCounter()
    for record, content in [(0, b"a"), (1, b"b"), (1, b"b"), (2, b"a"), (3, b"c"), (4, b"a")]:
        duplicates.add(record, content)
    # The content b occurs twice, but in the same record.
    assert duplicates.summary() == {"distinct": 3, "sharing_records": 3}
    other = DuplicateCounter()
    other.add(0, b"b")
    other.add(1, b"d")
    assert (duplicates.records_in(other), other.records_in(duplicates)) == (1, 1)
    assert DuplicateCounter().summary() == {"distinct": 0, "sharing_records": 0}


def test_equal_texts_of_different_languages_are_not_duplicates(tmp_path):
    first, second = image(4, 4), image(4, 4, color="red")
    train = write_set(
        tmp_path / "data" / "train",
        Record("1", (first,), (("en", "gift"), ("de", "Rot"))),
        Record("2", (second,), (("de", "gift"),)),
        Record("3", (first,), (("de", "Rot"),)),
    )
    test = write_set(
        tmp_path / "data" / "test", Record("1", (second,), (("de", "gift"), ("de", "Rot")))
    )
    stats = [collect(train), collect(test)]
    assert stats[0].summary()["same_images"] == {"distinct": 2, "sharing_records": 2}
    assert stats[0].summary()["same_texts"] == {"distinct": 3, "sharing_records": 2}
    assert shared_records(stats) == [
        {"records_of": train.folder, "in": test.folder, "images": 1, "texts": 3},
        {"records_of": test.folder, "in": train.folder, "images": 1, "texts": 1},
    ]


# --- samples --------------------------------------------------------------------------------------


@pytest.fixture
def hundred_records(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_stats, "_MAX_BATCH", 7)
    texts = [(("en", f"text {i}"), *([("de", f"Text {i}")] if i < 40 else [])) for i in range(100)]
    images = [(image(4, 4),) * (i % 3) for i in range(100)]
    parts = [Record(str(i), images[i], texts[i]) for i in range(100)]
    return write_set(tmp_path / "hundred", *parts, shards=3)


def test_language_counts_are_those_of_the_whole_set(hundred_records):
    assert language_counts(hundred_records) == {
        "de": {"records": 40, "images": 39, "texts": 40},
        "en": {"records": 100, "images": 99, "texts": 100},
    }
    summary = collect(hundred_records, limit=10).summary()
    assert list(summary["languages"]) == ["en", "de"], "the most texts first"
    assert summary["languages"]["en"]["texts"] == 100
    assert summary["languages"]["en"]["sampled_texts"] == 10
    assert (summary["sampled_records"], summary["sample"]) == (10, "random")


def test_every_record_is_read_once(hundred_records):
    stats = DatasetStats(hundred_records)
    assert list(stats.collect()) == [*range(7, 99, 7), 100]
    summary = stats.summary()
    assert summary["sample"] == "all"
    assert summary["same_texts"] == {"distinct": 140, "sharing_records": 0}
    assert summary["images_per_record"]["max"] == 2
    json.dumps(summary)  # must not fail


def test_a_sample_depends_on_the_seed_and_has_no_repetitions(hundred_records):
    def sampled_indices(**options):
        stats = DatasetStats(hundred_records)
        indices = []
        stats.add = indices.extend
        list(stats.collect(**options))
        return [int(i) for i in indices]

    first = sampled_indices(limit=30, seed=1)
    assert len(set(first)) == 30
    assert first == sampled_indices(limit=30, seed=1) != sampled_indices(limit=30, seed=2)
    # Each batch is drawn from the whole set. Therefore the records that were read before an
    # interruption are also a random sample.
    assert min(first[:6]) < 30 and max(first[:6]) > 70
    assert (
        sampled_indices(limit=100)
        == sampled_indices(limit=1000)
        == sampled_indices()
        == list(range(100))
    )


def test_an_interrupted_collection_states_what_was_read(hundred_records):
    stats = DatasetStats(hundred_records)
    batches = stats.collect()
    next(batches)
    next(batches)
    summary = stats.summary()
    assert (summary["sampled_records"], summary["sample"]) == (14, "first")
    assert summary["languages"]["en"]["sampled_texts"] == 14


def test_large_records_are_read_in_small_batches(tmp_path):
    record_set = write_set(tmp_path / "a", *(Record(str(i), (bytes(1 << 20),)) for i in range(40)))
    # A batch has at most 32 MiB, and a record has slightly more than 1 MiB.
    assert dataset_stats.batch_size(record_set) == 31
    assert dataset_stats.batch_size(write_set(tmp_path / "b", Record("1"))) == 4096
    assert dataset_stats.batch_size(write_set(tmp_path / "c")) == 1


def test_an_empty_set_has_no_statistics_and_a_damaged_record_is_named(tmp_path):
    summary = collect(write_set(tmp_path / "empty")).summary()
    assert (summary["records"], summary["languages"], summary["image_sizes"]) == (0, {}, None)
    record_set = write_set(tmp_path / "a", Record("1", (), (("en", "a text"),)))
    (shard,) = (tmp_path / "a").glob("*.tfrecord")
    data = bytearray(shard.read_bytes())
    data[12:16] = b"\xff" * 4
    shard.write_bytes(data)
    with pytest.raises(UserError, match="record 0 .* is damaged"):
        collect(record_set)


def test_a_record_with_a_flipped_bit_is_rejected(tmp_path):
    record_set = write_set(tmp_path / "a", Record("1", (b"image",), (("en", "a text"),)))
    (shard,) = (tmp_path / "a").glob("*.tfrecord")
    data = shard.read_bytes()
    shard.write_bytes(data.replace(b"a text", b"a tixt"))
    with pytest.raises(UserError, match="checksum"):
        collect(record_set)
    with pytest.raises(UserError, match="checksum"):
        reports.sample_records(record_set, 1)
