"""Input pipeline: fields of an example, batches of replicas and workers, resume, augmentation."""

import os
import threading

import numpy as np
import pytest
import tensorflow as tf
from helpers.pipeline import (
    CODES,
    NUM_RECORDS,
    assert_batches_equal,
    brightness,
    image,
    make_record,
    make_tokenizer,
    number_of,
    read_batches,
    words_of,
)

from tf_mural.data import image_ops, input_pipeline, records
from tf_mural.data.input_pipeline import disable_autotune
from tf_mural.data.preprocessing import Preprocessing
from tf_mural.data.records import Record, RecordSet
from tf_mural.data.sampling import IndexSampler
from tf_mural.data.skipped_records import SkippedRecords
from tf_mural.errors import UserError
from tf_mural.evaluation.batch_embedder import BatchEmbedder

SIZES = Preprocessing(12, 8)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module")
def record_set(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records") / "set"
    records.write(folder, [make_record(i) for i in range(NUM_RECORDS)], shards=3)
    return RecordSet.open(folder)


def make_dataset(record_set, tokenizer, global_batch=8, flip=False, **options):
    """Returns a training dataset with a source of captions and a source of bitext."""
    captions = input_pipeline.Source(
        IndexSampler([record_set], 1, ["en"], seed=1, name="captions"),
        {"image": "image", "caption": "text"},
        flip=flip,
    )
    bitext = input_pipeline.Source(
        IndexSampler([record_set], 2, epoch_unit="combinations", seed=1, name="bitext"),
        {"source": "text", "target": "text"},
    )
    return input_pipeline.training_dataset(
        [captions, bitext], tokenizer, SIZES, CODES, global_batch, **options
    )


def test_fields_of_a_row_belong_to_one_record(record_set, tokenizer):
    for batch in read_batches(make_dataset(record_set, tokenizer), 5):
        for row, word in enumerate(words_of(batch["caption"]["tokens"])):
            assert word.startswith("en")
            assert batch["image"]["pixels"][row].max() == brightness(number_of(word))
        sources, targets = (words_of(batch[f]["tokens"]) for f in ("source", "target"))
        for source, target in zip(sources, targets, strict=True):
            assert source[2:] == target[2:] and source[:2] != target[:2]
        for field in ("caption", "source", "target"):
            codes = [CODES[i] for i in batch[field]["language"]]
            assert codes == [word[:2] for word in words_of(batch[field]["tokens"])]


def test_shapes_are_static_and_ids_identify_contents(record_set, tokenizer):
    dataset = make_dataset(record_set, tokenizer)
    spec = dataset.element_spec
    assert spec["image"]["pixels"] == tf.TensorSpec((8, 8, 8, 3), tf.uint8)
    assert spec["caption"]["tokens"] == tf.TensorSpec((8, 4), tf.int32)
    assert spec["caption"]["language"] == tf.TensorSpec((8,), tf.int32)
    assert spec["target"]["id"] == tf.TensorSpec((8,), tf.int64)
    ids = {}
    for batch in read_batches(dataset, 8):
        for field in ("caption", "source", "target"):
            words = words_of(batch[field]["tokens"])
            for word, id in zip(words, batch[field]["id"], strict=True):
                assert ids.setdefault(word, id) == id
    assert len(set(ids.values())) == len(ids) > 50


def test_later_start_gives_the_same_batches(record_set, tokenizer):
    expected = read_batches(make_dataset(record_set, tokenizer), 7)
    dataset = make_dataset(record_set, tokenizer, start_step=4)
    assert_batches_equal(read_batches(dataset, 3), expected[4:])


@pytest.mark.parametrize(
    "replicas, workers",
    [
        pytest.param(2, 1, marks=pytest.mark.slow),
        pytest.param(1, 2, marks=pytest.mark.slow),
        (2, 2),
    ],
)
def test_local_batches_form_the_global_batch(record_set, tokenizer, replicas, workers):
    global_batches = read_batches(make_dataset(record_set, tokenizer), 3)
    local_batches = []
    for worker in range(workers):
        dataset = make_dataset(record_set, tokenizer, replicas=replicas, workers=(worker, workers))
        local_batches.append(read_batches(dataset, 3 * replicas))
    for step, expected in enumerate(global_batches):
        parts = [
            local_batches[worker][step * replicas + replica]
            for worker in range(workers)
            for replica in range(replicas)
        ]
        joined = tf.nest.map_structure(lambda *x: np.concatenate(x), *parts)
        assert_batches_equal(joined, expected)


# --- images ---------------------------------------------------------------------------------------


def test_images_are_mirrored_only_if_allowed(record_set, tokenizer):
    def mirrored_share(flip):
        batches = read_batches(make_dataset(record_set, tokenizer, flip=flip), 12)
        pixels = np.concatenate([batch["image"]["pixels"] for batch in batches])
        left, right = pixels[:, 4, 0, 0], pixels[:, 4, -1, 0]
        return np.mean(left < right)

    assert mirrored_share(False) == 0.0
    assert 0.3 < mirrored_share(True) < 0.7


def test_crops_have_all_offsets(record_set, tokenizer):
    batches = read_batches(make_dataset(record_set, tokenizer), 12)
    pixels = np.concatenate([batch["image"]["pixels"] for batch in batches])
    # The dark half of an image begins at column 6. In a crop with offset o, the dark half begins at
    # column 6 - o, and the offsets are 0 to 4.
    edges = [int(np.argmax(row[4, :, 0] < row[4, 0, 0])) for row in pixels]
    assert set(edges) == {2, 3, 4, 5, 6}


def test_resize_is_idempotent():
    pixels = np.random.default_rng(0).integers(0, 256, (31, 17, 3)).astype(np.uint8)
    resized = image_ops.resize(pixels, 12)
    np.testing.assert_array_equal(image_ops.resize(resized, 12), resized)
    assert resized.dtype == tf.uint8 and resized.shape == (12, 12, 3)
    # For images of the requested size, `resize` does not call `tf.image.resize`, because
    # `tf.image.resize` would not change the pixels.
    expected = tf.image.resize(resized, (12, 12), method="bilinear", antialias=False)
    np.testing.assert_array_equal(expected, resized)


def test_image_field_excludes_records_without_an_image(tokenizer, tmp_path):
    rows = [
        Record(str(i), (image(i),) if i % 2 else (), (("en", f"en{i}"), ("de", f"de{i}")))
        for i in range(NUM_RECORDS)
    ]
    records.write(tmp_path / "mixed", rows, shards=2)
    mixed = RecordSet.open(tmp_path / "mixed")
    sampler = IndexSampler([mixed], 1, ["en"], name="captions", with_image=True)
    assert sampler.units_per_epoch == [10]
    source = input_pipeline.Source(sampler, {"image": "image", "caption": "text"})
    dataset = input_pipeline.training_dataset([source], tokenizer, SIZES, CODES, 10)
    for batch in read_batches(dataset, 2):
        numbers = sorted(number_of(word) for word in words_of(batch["caption"]["tokens"]))
        assert numbers == list(range(1, NUM_RECORDS, 2))


def test_image_field_needs_records_with_images(tmp_path):
    rows = [Record("a", (image(1),), (("de", "x"),)), Record("b", (), (("en", "y"),))]
    records.write(tmp_path / "set", rows)
    with pytest.raises(UserError, match="no record with the languages en has an image"):
        IndexSampler([RecordSet.open(tmp_path / "set")], 1, ["en"], with_image=True)


# --- images that do not decode --------------------------------------------------------------------


def with_bad_images(folder, bad):
    """Returns a copy of `record_set` in which the images of the records `bad` are truncated."""
    rows = [make_record(i, image(i)[:40] if i in bad else None) for i in range(NUM_RECORDS)]
    records.write(folder, rows, shards=3)
    return RecordSet.open(folder)


def test_bad_image_is_replaced_and_no_other_row_changes(record_set, tokenizer, tmp_path):
    damaged, skipped_records = with_bad_images(tmp_path / "bad", {7}), SkippedRecords()
    expected_batches = read_batches(make_dataset(record_set, tokenizer), 8)
    batches = read_batches(make_dataset(damaged, tokenizer, skipped_records=skipped_records), 8)
    num_bad = 0
    for expected, batch in zip(expected_batches, batches, strict=True):
        for field in ("source", "target"):
            assert_batches_equal(batch[field], expected[field])
        is_bad = np.array([word == "en7" for word in words_of(expected["caption"]["tokens"])])
        num_bad += is_bad.sum()
        for field in ("image", "caption"):
            for key in expected[field]:
                assert_batches_equal(batch[field][key][~is_bad], expected[field][key][~is_bad])
        for row in np.flatnonzero(is_bad):
            word = words_of(batch["caption"]["tokens"])[row]
            assert word != "en7"
            assert batch["image"]["pixels"][row].max() == brightness(number_of(word))
    assert num_bad > 1
    ((location, reasons),) = skipped_records.skipped.items()
    assert "records-00001-of-00003.tfrecord: record 1 (byte" in location
    assert list(reasons) == ["the image does not decode"]
    # The counts include bad records of prefetched batches.
    assert sum(reasons.values()) >= num_bad
    # A dataset that starts at a later step has the same replacements.
    assert_batches_equal(
        read_batches(make_dataset(damaged, tokenizer, start_step=5), 3), batches[5:]
    )


def test_too_many_bad_images_are_an_error_that_lists_them(tokenizer, tmp_path):
    skipped_records = SkippedRecords(limit=0.002)
    damaged = with_bad_images(tmp_path / "bad", {7, 9})
    read_batches(make_dataset(damaged, tokenizer, skipped_records=skipped_records), 5)
    with pytest.raises(UserError, match=r"records drawn so far cannot be used.*record 1 .byte"):
        skipped_records.check()
    skipped_records.limit = 1.0
    total = sum(sum(reasons.values()) for reasons in skipped_records.skipped.values())
    logs = skipped_records.check()
    assert logs.pop("skipped_records") == total == sum(logs.values())
    # Both bad records are in the same shard.
    assert list(logs) == [f"skipped_records/{tmp_path.name}/bad/records-00001-of-00003"]


def test_set_with_only_bad_images_ends_the_reading(tokenizer, tmp_path):
    skipped_records = SkippedRecords()
    damaged = with_bad_images(tmp_path / "bad", set(range(NUM_RECORDS)))
    dataset = make_dataset(damaged, tokenizer, skipped_records=skipped_records)
    with pytest.raises(tf.errors.OpError) as caught:
        read_batches(dataset, 1)
    assert "8 records in a row cannot be used" in str(skipped_records.explain(caught.value))


# --- autotuning -----------------------------------------------------------------------------------


def test_training_dataset_has_no_tuning_thread(record_set, tokenizer):
    assert make_dataset(record_set, tokenizer).options().autotune.enabled is False


def test_disable_autotune_keeps_the_elements():
    numbers = tf.data.Dataset.range(3).map(lambda x: x + 1, tf.data.AUTOTUNE).prefetch(2)
    assert list(disable_autotune(numbers)) == [1, 2, 3]
    assert disable_autotune(numbers).options().autotune.enabled is False


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_maps_are_parallel_from_the_first_element_without_autotuning():
    barrier = threading.Barrier(2, timeout=30)

    def wait_for_other(x):
        barrier.wait()
        return x

    numbers = tf.data.Dataset.range(2).map(
        lambda x: tf.numpy_function(wait_for_other, [x], tf.int64), tf.data.AUTOTUNE
    )
    assert sorted(int(x) for x in disable_autotune(numbers)) == [0, 1]


def test_embedder_reads_without_tuning_thread(monkeypatch):
    settings = []
    as_numpy_iterator = tf.data.Dataset.as_numpy_iterator

    def record_settings(dataset):
        settings.append(dataset.options().autotune.enabled)
        return as_numpy_iterator(dataset)

    monkeypatch.setattr(tf.data.Dataset, "as_numpy_iterator", record_settings)
    embedder = BatchEmbedder(
        lambda rows: np.ones((len(rows), 2), np.float32),
        None,
        None,
        lambda data: tf.zeros((1, 1, 3), tf.uint8),
        width=2,
        batch_size=2,
    )
    assert embedder.embed_images([b"a", b"b", b"c"]).shape == (3, 2)
    assert settings == [False]
