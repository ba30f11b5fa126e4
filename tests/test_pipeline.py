"""Batches: fields that belong together, shares of replicas and workers, resume, augmentation."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tf_mural.data import image_ops, input_pipeline, records
from tf_mural.data.records import Record, RecordSet
from tf_mural.data.sampling import Stream
from tf_mural.data.tokenizers import Tokenizer
from tf_mural.data.vocabulary import SPECIAL_TOKENS
from tf_mural.errors import UserError

CODES = ("de", "en", "fr")
# A word for each record and language, so that a token tells where its text is from.
WORDS = [f"{code}{i}" for i in range(20) for code in CODES]


def picture(i, size=12):
    """A picture whose colour tells its record; its right half is darker."""
    pixels = np.full((size, size, 3), 10 * i + 40, np.uint8)
    pixels[:, size // 2 :] //= 2
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer([*SPECIAL_TOKENS, *WORDS], max_tokens=4)


@pytest.fixture(scope="module")
def record_set(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records") / "set"
    rows = [
        Record(str(i), (picture(i),), tuple((code, f"{code}{i}") for code in CODES))
        for i in range(20)
    ]
    records.write(folder, rows, shards=3)
    return RecordSet.open(folder)


def dataset(record_set, tokenizer, global_batch=8, flip=False, **options):
    captions = input_pipeline.Source(
        Stream([record_set], 1, ["en"], seed=1, name="captions"),
        {"image": "image", "caption": "text"},
        flip=flip,
    )
    bitext = input_pipeline.Source(
        Stream([record_set], 2, walk="combinations", seed=1, name="bitext"),
        {"source": "text", "target": "text"},
    )
    return input_pipeline.training_dataset(
        [captions, bitext], tokenizer, input_pipeline.Sizes(12, 8), CODES, global_batch, **options
    )


def words(tokens):
    return [WORDS[row[1] - len(SPECIAL_TOKENS)] for row in np.asarray(tokens)]


def steps(data, count):
    return [tf.nest.map_structure(lambda x: x.numpy(), batch) for batch in data.take(count)]


def same(a, b):
    tf.nest.map_structure(np.testing.assert_array_equal, a, b)


def test_no_thread_tunes_it_while_it_runs(record_set, tokenizer):
    assert dataset(record_set, tokenizer).options().autotune.enabled is False


def test_fields_of_a_row_belong_together(record_set, tokenizer):
    for batch in steps(dataset(record_set, tokenizer), 5):
        for row, word in enumerate(words(batch["caption"]["tokens"])):
            assert word.startswith("en")
            level = batch["image"]["pixels"][row].max()
            assert level == 10 * int(word[2:]) + 40
        sources, targets = (words(batch[f]["tokens"]) for f in ("source", "target"))
        for source, target in zip(sources, targets, strict=True):
            assert source[2:] == target[2:] and source[:2] != target[:2]
        for field in ("caption", "source", "target"):
            names = [CODES[i] for i in batch[field]["language"]]
            assert names == [word[:2] for word in words(batch[field]["tokens"])]


def test_shapes_are_static_and_ids_tell_content(record_set, tokenizer):
    data = dataset(record_set, tokenizer)
    spec = data.element_spec
    assert spec["image"]["pixels"] == tf.TensorSpec((8, 8, 8, 3), tf.uint8)
    assert spec["caption"]["tokens"] == tf.TensorSpec((8, 4), tf.int32)
    assert spec["caption"]["language"] == tf.TensorSpec((8,), tf.int32)
    assert spec["target"]["id"] == tf.TensorSpec((8,), tf.int64)
    ids = {}
    for batch in steps(data, 8):
        for field in ("caption", "source", "target"):
            for word, number in zip(words(batch[field]["tokens"]), batch[field]["id"], strict=True):
                assert ids.setdefault(word, number) == number
    assert len(set(ids.values())) == len(ids) > 50


def test_a_later_start_gives_the_same_batches(record_set, tokenizer):
    whole = steps(dataset(record_set, tokenizer), 7)
    same(steps(dataset(record_set, tokenizer, start_step=4), 3), whole[4:])


@pytest.mark.parametrize("replicas, workers", [(2, 1), (1, 2), (2, 2)])
def test_shares_put_together_are_the_whole_batch(record_set, tokenizer, replicas, workers):
    whole = steps(dataset(record_set, tokenizer), 3)
    parts = [
        steps(dataset(record_set, tokenizer, replicas=replicas, workers=(w, workers)), 3 * replicas)
        for w in range(workers)
    ]
    for step, expected in enumerate(whole):
        mine = [parts[w][step * replicas + r] for w in range(workers) for r in range(replicas)]
        same(tf.nest.map_structure(lambda *x: np.concatenate(x), *mine), expected)


def test_flips_happen_only_where_they_are_allowed(record_set, tokenizer):
    def mirrored(flip):
        batches = steps(dataset(record_set, tokenizer, flip=flip), 12)
        pixels = np.concatenate([batch["image"]["pixels"] for batch in batches])
        left, right = pixels[:, 4, 0, 0], pixels[:, 4, -1, 0]
        return np.mean(left < right)

    assert mirrored(False) == 0.0
    assert 0.3 < mirrored(True) < 0.7


def test_crops_move(record_set, tokenizer):
    batches = steps(dataset(record_set, tokenizer), 12)
    pixels = np.concatenate([batch["image"]["pixels"] for batch in batches])
    # The dark half begins at column 6 - left of the crop, and left is one of 0 .. 4.
    edges = [int(np.argmax(row[4, :, 0] < row[4, 0, 0])) for row in pixels]
    assert set(edges) == {2, 3, 4, 5, 6}


def test_resizing_twice_equals_once():
    pixels = np.random.default_rng(0).integers(0, 256, (31, 17, 3)).astype(np.uint8)
    once = image_ops.resize(pixels, 12)
    np.testing.assert_array_equal(image_ops.resize(once, 12), once)
    assert once.dtype == tf.uint8 and once.shape == (12, 12, 3)
    # An image of the right size goes past the operation, whose answer would be the same.
    by_the_operation = tf.image.resize(once, (12, 12), method="bilinear", antialias=False)
    np.testing.assert_array_equal(by_the_operation, once)


def with_bad_images(tmp_path, bad, name="bad"):
    """The record set of `record_set`, but the images of some records do not decode."""
    rows = [
        Record(
            str(i),
            (picture(i)[: 40 if i in bad else None],),
            tuple((code, f"{code}{i}") for code in CODES),
        )
        for i in range(20)
    ]
    records.write(tmp_path / name, rows, shards=3)
    return RecordSet.open(tmp_path / name)


def test_a_bad_image_is_replaced_in_its_row_and_nothing_else_moves(record_set, tokenizer, tmp_path):
    broken, health = with_bad_images(tmp_path, {7}), input_pipeline.Health()
    good, found = (
        steps(dataset(record_set, tokenizer), 8),
        steps(dataset(broken, tokenizer, health=health), 8),
    )
    rows = 0
    for expected, batch in zip(good, found, strict=True):
        for field in ("source", "target"):
            same(batch[field], expected[field])
        bad = np.array([word == "en7" for word in words(expected["caption"]["tokens"])])
        rows += bad.sum()
        for field in ("image", "caption"):
            for key in expected[field]:
                same(batch[field][key][~bad], expected[field][key][~bad])
        for row in np.flatnonzero(bad):
            word = words(batch["caption"]["tokens"])[row]
            assert word != "en7"
            assert batch["image"]["pixels"][row].max() == 10 * int(word[2:]) + 40
    assert rows > 1
    ((place, count),) = health.skipped.items()
    assert "records-00001-of-00003.tfrecord: record 1 (byte" in place
    assert count == {"its image does not decode": count["its image does not decode"]}
    assert sum(count.values()) >= rows  # reading runs ahead of the steps that were looked at
    # A run that begins later finds the same replacements.
    same(steps(dataset(broken, tokenizer, start_step=5), 3), found[5:])


def test_too_many_bad_images_are_an_error_that_names_them(tokenizer, tmp_path):
    health = input_pipeline.Health(limit=0.002)
    steps(dataset(with_bad_images(tmp_path, {7, 9}), tokenizer, health=health), 5)
    with pytest.raises(UserError, match=r"records drawn so far cannot be used.*record 1 .byte"):
        health.check()
    health.limit = 1.0
    total = sum(sum(reasons.values()) for reasons in health.skipped.values())
    logged = health.check()
    assert logged.pop("skipped_records") == total == sum(logged.values())
    name = f"skipped_records/{tmp_path.name}/bad/records-0000"
    assert sorted(logged) == [f"{name}{i}-of-00003" for i in (1,)]


def test_nothing_but_bad_images_ends_the_reading(tokenizer, tmp_path):
    health = input_pipeline.Health()
    data = dataset(with_bad_images(tmp_path, set(range(20))), tokenizer, health=health)
    with pytest.raises(tf.errors.OpError) as caught:
        steps(data, 1)
    assert "8 records in a row cannot be used" in str(health.explain(caught.value))


def test_records_without_an_image_are_not_drawn_for_a_field_of_images(tokenizer, tmp_path):
    rows = [
        Record(str(i), (picture(i),) if i % 2 else (), (("en", f"en{i}"), ("de", f"de{i}")))
        for i in range(20)
    ]
    records.write(tmp_path / "mixed", rows, shards=2)
    mixed = RecordSet.open(tmp_path / "mixed")
    stream = Stream([mixed], 1, ["en"], name="captions", with_image=True)
    assert stream.units == [10]
    source = input_pipeline.Source(stream, {"image": "image", "caption": "text"})
    data = input_pipeline.training_dataset(
        [source], tokenizer, input_pipeline.Sizes(12, 8), CODES, 10
    )
    for batch in steps(data, 2):
        drawn = sorted(int(word[2:]) for word in words(batch["caption"]["tokens"]))
        assert drawn == list(range(1, 20, 2))


def test_a_field_of_images_wants_records_with_images(tmp_path):
    rows = [Record("a", (picture(1),), (("de", "x"),)), Record("b", (), (("en", "y"),))]
    records.write(tmp_path / "set", rows)
    with pytest.raises(UserError, match="no record with the languages en has an image"):
        Stream([RecordSet.open(tmp_path / "set")], 1, ["en"], with_image=True)
