import io
import json

import numpy as np
import pytest
from PIL import Image

from tf_mural import reports
from tf_mural.data import records
from tf_mural.data.records import Record, RecordSet
from tf_mural.errors import UserError
from tf_mural.reports import dataset_stats, statistics
from tf_mural.reports.dataset_stats import Statistics, language_counts, shared
from tf_mural.reports.statistics import Images, Repeats, Spread, Texts, histogram, quantiles


def picture(width, height, kind="PNG", mode="RGB", colour=0):
    file = io.BytesIO()
    Image.new(mode, (width, height), colour).save(file, kind)
    return file.getvalue()


def opened(folder, *parts, **how):
    records.write(folder, parts, **how)
    return RecordSet.open(folder)


def read(record_set, tokenizer=None, **how):
    found = Statistics(record_set, tokenizer)
    for _ in found.run(**how):
        pass
    return found


# --- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 19, 20, 21, 100, 997])
def test_quantiles_of_a_spread_are_those_of_numpy(count):
    values = np.random.default_rng(count).integers(0, 50, count)
    spread = Spread(values[: count // 2].tolist())
    spread.add(values[count // 2 :].tolist())
    found = spread.summary()
    shares = list(statistics.QUANTILES.values())
    expected = np.quantile(values, shares, method="inverted_cdf").tolist()
    assert [found[name] for name in statistics.QUANTILES] == expected
    assert (found["min"], found["max"]) == (values.min(), values.max())
    assert found["mean"] == round(values.mean(), 2)
    assert quantiles(values)["q95"] == expected[-1]


def test_spreads_by_hand():
    # Of 20 values the first is 5 %, the tenth half, the nineteenth 95 %.
    spread = Spread(range(1, 21)) + Spread()
    assert spread.summary() == {
        "min": 1, "mean": 10.5, "max": 20, "q05": 1, "q25": 5, "median": 10, "q75": 15, "q95": 19,
    }  # fmt: skip
    assert Spread().summary() is None
    assert quantiles([]) is None


def test_histograms():
    assert histogram(np.array([3, 5, 5])) == {
        "counts": [1, 0, 2], "edges": [2.5, 3.5, 4.5, 5.5], "beyond": 0,
    }  # fmt: skip
    assert histogram(np.array([0.0, 1.0, 4.0]), bins=2) == {
        "counts": [2, 1], "edges": [0.0, 2.0, 4.0], "beyond": 0,
    }  # fmt: skip
    assert histogram(np.array([2.0, 2.0])) == {"counts": [2], "edges": [1.95, 2.05], "beyond": 0}
    assert histogram(np.array([])) is None


def test_a_histogram_leaves_out_what_would_squeeze_the_rest():
    values = np.concatenate([np.linspace(1, 2, 199), [1000.0]])
    found = histogram(values, bins=10, most=0.99)
    assert found["beyond"] == 2 and sum(found["counts"]) == 198  # 99 % of 200
    assert found["edges"][-1] < 2
    assert histogram(values, bins=10)["beyond"] == 0
    assert histogram(np.linspace(1, 2, 200), bins=10, most=0.99)["beyond"] == 0


# --- texts ----------------------------------------------------------------------------------------


def test_words_are_counted_where_the_script_has_spaces():
    texts = Texts()
    texts.add(["ein roter Kreis", "drei"])
    found = texts.summary()
    assert found["characters"]["max"] == 15 and found["characters"]["min"] == 4
    assert found["words"]["max"] == 3 and found["words"]["mean"] == 2.0


@pytest.mark.parametrize(
    "text, spaced",
    [
        ("två små hus", True),
        ("a pot of 味噌", True),
        ("빨간 원", True),
        ("लाल वृत्त", True),
        ("دائرة حمراء", True),
        ("中文 one", False),  # of 5 letters 2 are Chinese: see below
        ("红色的圆", False),
        ("赤い円 と", False),
        ("วงกลมสีแดง", False),
        ("រង្វង់ក្រហម", False),
        ("စက်ဝိုင်း", False),
        ("ວົງມົນ", False),
        ("སྒོར་ཐིག", False),
    ],
)
def test_which_scripts_have_spaces(text, spaced):
    texts = Texts()
    texts.add([text, "红" * 3] if text == "中文 one" else [text])
    assert (texts.summary()["words"] is not None) == spaced


class Tokenizer:
    """A token a letter; z is unknown. Rows of 6 tokens hold 4 of a text."""

    vocabulary, max_tokens, size, hash = ("[PAD]", "[UNK]", "x"), 6, 3, "abc"

    def pieces(self, texts):
        import tensorflow as tf

        texts = [text.replace(" ", "") for text in texts]
        flat = [1 if letter == "z" else 2 for text in texts for letter in text]
        return tf.RaggedTensor.from_row_lengths(
            tf.constant(flat, tf.int32), tf.constant([len(text) for text in texts], tf.int64)
        )


def test_tokens_of_each_language(tmp_path):
    texts = (("en", "abc d"), ("de", "z"), ("en", "abcd e"), ("ja", "赤い円"))
    record_set = opened(tmp_path / "a", Record("1", (), texts), Record("2", (), (("de", "zz a"),)))
    found = read(record_set, Tokenizer()).summary()
    english, german = (found["languages"][code] for code in ("en", "de"))
    assert english["tokens"]["min"] == 4 and english["tokens"]["max"] == 5
    assert english["tokens_per_word"] == 2.25 and english["tokens_per_character"] == 1.0
    assert english["cut_percent"] == 50.0 and english["unknown_percent"] == 0.0
    assert german["tokens"]["max"] == 3 and german["unknown_percent"] == 75.0
    assert german["tokens_per_word"] == round(4 / 3, 6) and german["cut_percent"] == 0.0
    assert found["languages"]["ja"]["tokens_per_word"] is None
    everything = found["all_languages"]
    assert everything["sampled_texts"] == 5 and everything["cut_percent"] == 20.0
    assert everything["unknown_percent"] == 18.75  # 3 of 16
    assert found["tokenizer"] == {"hash": "abc", "size": 3, "max_tokens": 6}


# --- images, labels, scores -----------------------------------------------------------------------


def test_headers_of_images():
    images = Images()
    data = [picture(40, 20), picture(10, 30, "JPEG"), picture(8, 8, "JPEG", "CMYK"), b"no image"]
    cut = data[0][:-20]  # inside the pixels: the header is whole
    for one in [*data, cut]:
        images.add(one)
    found = images.summary()
    assert found["sampled_images"] == 5
    assert found["formats"] == {"PNG RGB": 2, "JPEG RGB": 1, "JPEG CMYK": 1}
    assert found["unreadable"] == {"UnidentifiedImageError": 1}
    assert (found["width"]["min"], found["width"]["max"]) == (8, 40)
    assert (found["height"]["min"], found["height"]["max"]) == (8, 30)
    assert found["aspect"]["max"] == 2.0 and found["aspect"]["min"] == round(1 / 3, 4)
    assert found["bytes"]["max"] == max(map(len, data[:3])) and found["bytes"]["min"] == len(cut)
    assert Images().summary() is None


def test_headers_alone_that_cannot_be_read():
    images = Images()
    images.add(b"")
    found = images.summary()
    assert found["width"] is None and found["histograms"]["width"] is None


def test_labels_and_scores(tmp_path):
    labels = [0, 0, 0, 2, 2, 5]
    parts = [Record(str(i), (picture(4, 4),), label=n) for i, n in enumerate(labels)]
    found = read(opened(tmp_path / "a", *parts)).summary()["labels"]
    assert found["counts"] == {"0": 3, "2": 2, "5": 1}
    assert found["records"] == 6 and found["classes"] == 3 and found["per_class"]["median"] == 2
    pair = (("en", "a"), ("de", "b"))
    parts = [Record(str(i), (), pair, score=s) for i, s in enumerate([0.0, 5.0, 5.0, 2.5])]
    found = read(opened(tmp_path / "b", *parts)).summary()["scores"]
    assert found["mean"] == 3.125 and found["median"] == 2.5
    assert len(found["counts"]) == 20 and found["counts"][0] == 1 and found["counts"][-1] == 2
    assert (found["edges"][0], found["edges"][-1]) == (0.0, 5.0)


def test_a_class_without_records_is_the_smallest(tmp_path):
    record_set = opened(tmp_path / "a", Record("1", (picture(4, 4),), label=1))
    record_set.manifest["classes"] = ["cat", "dog"]
    assert read(record_set).summary()["labels"]["counts"] == {"0": 0, "1": 1}


# --- what records share ---------------------------------------------------------------------------


def test_records_that_share_something():
    repeats = Repeats()
    for owner, thing in [(0, b"a"), (1, b"b"), (1, b"b"), (2, b"a"), (3, b"c"), (4, b"a")]:
        repeats.add(owner, thing)
    # b comes twice, but in one record.
    assert repeats.summary() == {"distinct": 3, "sharing_records": 3}
    other = Repeats()
    other.add(0, b"b")
    other.add(1, b"d")
    assert (repeats.records_in(other), other.records_in(repeats)) == (1, 1)
    assert Repeats().summary() == {"distinct": 0, "sharing_records": 0}


def test_texts_are_the_same_in_one_language_only(tmp_path):
    one, two = picture(4, 4), picture(4, 4, colour=9)
    train = opened(
        tmp_path / "data" / "train",
        Record("1", (one,), (("en", "gift"), ("de", "Rot"))),
        Record("2", (two,), (("de", "gift"),)),
        Record("3", (one,), (("de", "Rot"),)),
    )
    test = opened(tmp_path / "data" / "test", Record("1", (two,), (("de", "gift"), ("de", "Rot"))))
    both = [read(train), read(test)]
    assert both[0].summary()["same_images"] == {"distinct": 2, "sharing_records": 2}
    assert both[0].summary()["same_texts"] == {"distinct": 3, "sharing_records": 2}
    assert shared(both) == [
        {"records_of": train.folder, "in": test.folder, "images": 1, "texts": 3},
        {"records_of": test.folder, "in": train.folder, "images": 1, "texts": 1},
    ]


# --- walking through a set ------------------------------------------------------------------------


@pytest.fixture
def hundred(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_stats, "_BATCH", 7)
    texts = [(("en", f"text {i}"), *([("de", f"Text {i}")] if i < 40 else [])) for i in range(100)]
    images = [(picture(4, 4),) * (i % 3) for i in range(100)]
    parts = [Record(str(i), images[i], texts[i]) for i in range(100)]
    return opened(tmp_path / "hundred", *parts, shards=3)


def test_counts_of_languages_are_of_the_whole_set(hundred):
    assert language_counts(hundred) == {
        "de": {"records": 40, "images": 39, "texts": 40},
        "en": {"records": 100, "images": 99, "texts": 100},
    }
    found = read(hundred, limit=10).summary()
    assert list(found["languages"]) == ["en", "de"], "the most texts first"
    assert found["languages"]["en"]["texts"] == 100
    assert found["languages"]["en"]["sampled_texts"] == 10
    assert (found["sampled_records"], found["sample"]) == (10, "random")


def test_all_records_are_read_once(hundred):
    walk = Statistics(hundred)
    assert list(walk.run()) == [*range(7, 99, 7), 100]
    found = walk.summary()
    assert found["sample"] == "all"
    assert found["same_texts"] == {"distinct": 140, "sharing_records": 0}
    assert found["images_per_record"]["max"] == 2
    json.dumps(found)  # plain data


def test_a_sample_is_of_the_seed_and_without_repeats(hundred):
    def numbers(**how):
        walk = Statistics(hundred)
        seen = []
        walk.add = seen.extend
        list(walk.run(**how))
        return [int(i) for i in seen]

    first = numbers(limit=30, seed=1)
    assert len(set(first)) == 30
    assert first == numbers(limit=30, seed=1) != numbers(limit=30, seed=2)
    # Each batch is spread over the set, so that an interrupted walk is a sample too.
    assert min(first[:6]) < 30 and max(first[:6]) > 70
    assert numbers(limit=100) == numbers(limit=1000) == numbers() == list(range(100))


def test_a_walk_that_is_left_early_says_what_it_read(hundred):
    walk = Statistics(hundred)
    steps = walk.run()
    next(steps)
    next(steps)
    found = walk.summary()
    assert (found["sampled_records"], found["sample"]) == (14, "first")
    assert found["languages"]["en"]["sampled_texts"] == 14


def test_large_records_are_read_few_at_a_time(tmp_path):
    record_set = opened(tmp_path / "a", *(Record(str(i), (bytes(1 << 20),)) for i in range(40)))
    assert dataset_stats.batch_size(record_set) == 31  # of 32 MiB and a little
    assert dataset_stats.batch_size(opened(tmp_path / "b", Record("1"))) == 4096
    assert dataset_stats.batch_size(opened(tmp_path / "c")) == 1


def test_an_empty_set_and_a_damaged_record(tmp_path):
    found = read(opened(tmp_path / "empty")).summary()
    assert (found["records"], found["languages"], found["image_sizes"]) == (0, {}, None)
    record_set = opened(tmp_path / "a", Record("1", (), (("en", "a text"),)))
    (shard,) = (tmp_path / "a").glob("*.tfrecord")
    data = bytearray(shard.read_bytes())
    data[12:16] = b"\xff" * 4
    shard.write_bytes(data)
    with pytest.raises(UserError, match="record 0 .* is damaged"):
        read(record_set)


def test_a_record_with_a_flipped_bit_is_not_counted(tmp_path):
    record_set = opened(tmp_path / "a", Record("1", (b"image",), (("en", "a text"),)))
    (shard,) = (tmp_path / "a").glob("*.tfrecord")
    data = shard.read_bytes()
    shard.write_bytes(data.replace(b"a text", b"a tixt"))
    with pytest.raises(UserError, match="checksum"):
        read(record_set)
    with pytest.raises(UserError, match="checksum"):
        reports.sheet_sample(record_set, 1)
