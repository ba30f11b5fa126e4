"""Training batches from record sets that are read in windows of blocks."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from helpers.backends import backend_environment
from helpers.pipeline import (
    CODES,
    NUM_RECORDS,
    assert_batches_equal,
    image,
    make_record,
    make_tokenizer,
    number_of,
    read_batches,
    words_of,
)

from tf_mural.data import input_pipeline, records, training_data
from tf_mural.data.block_sampling import BlockSampler
from tf_mural.data.negative_sampler import NegativeSampler
from tf_mural.data.preprocessing import Preprocessing
from tf_mural.data.records import Record, RecordSet
from tf_mural.data.skipped_records import SkippedRecords
from tf_mural.errors import UserError
from tf_mural.training.metric_writer import _skipped_note

BATCH, SIZES = 8, Preprocessing(12, 8)
FIELDS = {"image": "image", "caption": "text"}


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def without_english(record):
    return Record(record.id, record.images, record.texts[:1]) if int(record.id) % 2 else record


def write(folder, change=lambda record: record):
    examples = [change(make_record(i)) for i in range(NUM_RECORDS)]
    records.write(folder, examples, shards=3, block_records=4)
    return RecordSet.open(folder, max_indexed=0)


def make_dataset(record_set, tokenizer, **options):
    sampler = training_data.make_sampler(
        "captions", [record_set], FIELDS, ["en"], shuffle_limit=0, window_blocks=2, seed=1
    )
    assert type(sampler) is BlockSampler
    source = input_pipeline.Source(sampler, FIELDS)
    return input_pipeline.training_dataset([source], tokenizer, SIZES, CODES, BATCH, **options)


def numbers_of(batches):
    return [[number_of(word) for word in words_of(b["caption"]["tokens"])] for b in batches]


def flip_bit(record_set, number):
    _, start, length = record_set._locate(number)
    with open(record_set.shard_path(number), "r+b") as file:
        file.seek(start + length // 2)
        byte = file.read(1)[0]
        file.seek(start + length // 2)
        file.write(bytes([byte ^ 4]))


def undecodable(record):
    return make_record(7, image(7)[:40]) if record.id == "7" else record


# Functions that write a set to a folder and return it, and a reason of a record that is replaced.
def intact(folder):
    return write(folder), None


def filtered(folder):
    return write(folder, without_english), None


def damaged(folder):
    flip_bit(write(folder), 7)
    return RecordSet.open(folder, max_indexed=0), "the checksum does not match"


def with_bad_image(folder):
    return write(folder, undecodable), "the image does not decode"


@pytest.mark.parametrize("make", [intact, filtered, damaged, with_bad_image])
def test_batches_do_not_depend_on_start_or_workers(make, tokenizer, tmp_path):
    record_set, reason = make(tmp_path)
    skipped_records = SkippedRecords(limit=1.0)
    expected = read_batches(make_dataset(record_set, tokenizer, skipped_records=skipped_records), 6)
    later = read_batches(make_dataset(record_set, tokenizer, start_step=4), 2)
    assert_batches_equal(later, expected[4:])
    parts = [
        read_batches(make_dataset(record_set, tokenizer, replicas=2, workers=(worker, 2)), 12)
        for worker in range(2)
    ]
    for step in range(6):
        local = [parts[w][2 * step + replica] for w in range(2) for replica in range(2)]
        joined = tf.nest.map_structure(lambda *x: np.concatenate(x), *local)
        assert_batches_equal(joined, expected[step])
    reasons = {reason for reasons in skipped_records.skipped.values() for reason in reasons}
    assert reasons == ({reason} if reason else set())


def test_an_epoch_contains_each_example_once(tokenizer, tmp_path):
    batches = read_batches(make_dataset(write(tmp_path), tokenizer), 5)
    numbers = np.array(numbers_of(batches)).ravel()
    for epoch in range(2):
        part = numbers[epoch * NUM_RECORDS : (epoch + 1) * NUM_RECORDS]
        assert sorted(part) == list(range(NUM_RECORDS))


@pytest.mark.parametrize("make", [damaged, with_bad_image])
def test_bad_record_is_replaced_and_no_other_row_changes(make, tokenizer, tmp_path):
    original = write(tmp_path / "intact")
    expected = numbers_of(read_batches(make_dataset(original, tokenizer), 5))
    record_set, reason = make(tmp_path / "bad")
    skipped_records = SkippedRecords(limit=1.0)
    dataset = make_dataset(record_set, tokenizer, skipped_records=skipped_records)
    order, actual = np.ravel(expected), np.ravel(numbers_of(read_batches(dataset, 5)))
    bad = order == 7
    assert bad.sum() == 2 and (order[~bad] == actual[~bad]).all() and 7 not in actual
    assert skipped_records.skipped[record_set.location(7)].keys() == {reason}
    assert skipped_records.check()["skipped_records"] >= 2


def test_replaced_slots_are_counted_in_the_log(tokenizer, tmp_path):
    skipped_records = SkippedRecords()
    dataset = make_dataset(
        write(tmp_path, without_english), tokenizer, skipped_records=skipped_records
    )
    numbers = np.array(numbers_of(read_batches(dataset, 5)))
    assert (numbers % 2 == 0).all()
    logs = skipped_records.check()
    # Batches that are read ahead are counted, too.
    assert skipped_records.drawn / 2 - 8 <= logs["replaced_slots"] <= skipped_records.drawn / 2 + 8
    assert logs["skipped_records"] == 0
    assert _skipped_note(logs) == f"  {logs['replaced_slots']} slots replaced"
    both = skipped_records.check(lambda state: [state, state])
    assert both["replaced_slots"] == 2 * skipped_records.replaced_slots


def test_source_that_no_record_fits_ends_with_the_error_of_the_sampler(tokenizer, tmp_path):
    def alternate(record):
        return Record(
            record.id, *((record.images, ()) if int(record.id) % 2 else ((), record.texts))
        )

    skipped_records = SkippedRecords()
    dataset = make_dataset(write(tmp_path, alternate), tokenizer, skipped_records=skipped_records)
    with pytest.raises(tf.errors.OpError) as caught:
        read_batches(dataset, 1)
    with pytest.raises(UserError, match="no usable record in 64 windows fits the source"):
        raise skipped_records.explain(caught.value)


def test_negatives_of_a_source_in_windows_are_replaced_in_the_window(tmp_path, monkeypatch):
    record_set = write(tmp_path)
    base = BlockSampler([record_set], 1, ["en"], shuffle_limit=0, window_blocks=2)
    table = np.arange(NUM_RECORDS)[:, None]  # each record is its own negative
    module = "tf_mural.data.negative_sampler"
    manifest = {
        "digest": "0",
        "records": {"digest": record_set.digest},
        "candidates": {"folder": record_set.folder, "digest": record_set.digest},
    }
    monkeypatch.setattr(f"{module}.read_mined", lambda folder: manifest)
    monkeypatch.setattr(f"{module}.read_negatives", lambda folder, manifest: table)
    sampler = NegativeSampler(base, ["mined"], 1)
    assert sampler.fallback_distance == base.fallback_distance
    draws = np.arange(40, dtype=np.int64)
    set_index, unit = (x.numpy() for x in sampler.sample(draws))
    expected, _, _ = base.resolve(draws, set_index, unit)
    np.testing.assert_array_equal(sampler.resolve(draws, set_index, unit)[0], expected)


# --- training -------------------------------------------------------------------------------------


def train(backend, data_dir, workdir):
    """Runs MURAL with four steps, and record sets that are read in windows."""
    command = [sys.executable, os.path.join(ROOT, "tools", "train.py"), f"--backend={backend}"]
    command += [f"--config={os.path.join(ROOT, 'tests', 'small_config.py')}", "--stage=mural"]
    command += [f"--data_dir={data_dir}", f"--workdir={workdir}"]
    for source in ("captions", "bitext"):
        command += [
            f"--config.sources.{source}.{v}" for v in ("shuffle_limit=20", "window_blocks=3")
        ]
    environment = backend_environment(backend)
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_training_in_windows_resumes_and_refuses_other_blocks(backend, data_dir, tmp_path):
    scenes = tmp_path / "data" / "scenes"
    shutil.copytree(data_dir / "scenes", scenes)
    for split in ("train", "bitext"):
        opened = RecordSet.open(scenes / split)
        opened.derive_blocks(block_records=8).save(opened.folder, opened.digest)
    done = train(backend, tmp_path / "data", tmp_path / "whole")
    assert done.returncode == 0, done.stderr
    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    for path in [*(tmp_path / "part").glob("**/step-4.*"), *(tmp_path / "part").glob("*.npz")]:
        path.unlink()
    (tmp_path / "part" / "results.json").unlink()
    done = train(backend, tmp_path / "data", tmp_path / "part")
    assert done.returncode == 0 and "resuming at step 2" in done.stdout, done.stderr
    expected, actual = (np.load(tmp_path / run / "weights.npz") for run in ("whole", "part"))
    for name in expected.files:
        np.testing.assert_array_equal(actual[name], expected[name], err_msg=name)
    if backend == "jax":  # the same code refuses on all backends
        return
    (scenes / "train" / records.BLOCKS).unlink()
    (tmp_path / "part" / "results.json").unlink()
    done = train(backend, tmp_path / "data", tmp_path / "part")
    assert done.returncode == 2
    assert "restore the records of the start of the run" in done.stderr
