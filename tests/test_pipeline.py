"""Batches: fields that belong together, shares of replicas and workers, resume, augmentation."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tf_mural import images, pipeline, records
from tf_mural.records import Record, RecordSet
from tf_mural.sampling import Stream
from tf_mural.text import SPECIAL_TOKENS, Tokenizer

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
    captions = pipeline.Source(
        Stream([record_set], 1, ["en"], seed=1, name="captions"),
        {"image": "image", "caption": "text"},
        flip=flip,
    )
    bitext = pipeline.Source(
        Stream([record_set], 2, walk="combinations", seed=1, name="bitext"),
        {"source": "text", "target": "text"},
    )
    return pipeline.training_dataset(
        [captions, bitext], tokenizer, pipeline.Sizes(12, 8), CODES, global_batch, **options
    )


def words(tokens):
    return [WORDS[row[1] - len(SPECIAL_TOKENS)] for row in np.asarray(tokens)]


def steps(data, count):
    return [tf.nest.map_structure(lambda x: x.numpy(), batch) for batch in data.take(count)]


def same(a, b):
    tf.nest.map_structure(np.testing.assert_array_equal, a, b)


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
    once = images.resize(pixels, 12)
    np.testing.assert_array_equal(images.resize(once, 12), once)
    assert once.dtype == tf.uint8 and once.shape == (12, 12, 3)
