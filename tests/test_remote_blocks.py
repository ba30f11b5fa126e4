"""Record sets in S3 that are read in windows of blocks."""

import dataclasses
import os

import numpy as np
import pytest
import tensorflow as tf
from helpers.pipeline import (
    CODES,
    NUM_RECORDS,
    assert_batches_equal,
    make_record,
    make_tokenizer,
    read_batches,
)

from tf_mural import file_io, remote_files, remote_requests
from tf_mural.data import chunk_cache, input_pipeline, records, training_data
from tf_mural.data.block_sampling import BlockSampler
from tf_mural.data.preprocessing import Preprocessing
from tf_mural.data.records import BLOCKS, DamagedRecord, RecordSet, tfrecord
from tf_mural.data.skipped_records import SkippedRecords
from tf_mural.errors import StorageError, StorageUnavailable, UserError

SHARDS, BLOCK_RECORDS, WINDOW_BLOCKS, BATCH = 3, 4, 2, 8
NUM_BLOCKS = 6  # two blocks per shard with 6 or 7 records
FIELDS = {"image": "image", "caption": "text"}
SHARD = "records-00001-of-00003.tfrecord"


def write(folder, order=1):
    examples = [make_record(i) for i in range(NUM_RECORDS)]
    records.write(folder, examples[::order], shards=SHARDS, block_records=BLOCK_RECORDS)


def open_large(folder, **options):
    """Opens a set without the indexes of its shards."""
    return RecordSet.open(folder, max_indexed=0, **options)


@pytest.fixture
def remote(proxied, tmp_path):
    """(`FaultyProxy`, folder of a set in S3); the folder `tmp_path` has the same records."""
    proxy, folder = proxied("s3"), f"s3://bucket/{tmp_path.name}"
    write(folder), write(str(tmp_path))
    proxy.reset()
    return proxy, folder


def make_dataset(record_set, **options):
    sampler = training_data.make_sampler(
        "captions",
        [record_set],
        FIELDS,
        ["en"],
        shuffle_limit=0,
        window_blocks=WINDOW_BLOCKS,
        seed=1,
    )
    assert type(sampler) is BlockSampler
    source = input_pipeline.Source(sampler, FIELDS)
    sizes = Preprocessing(12, 8)
    return input_pipeline.training_dataset(
        [source], make_tokenizer(), sizes, CODES, BATCH, **options
    )


def requests_of(proxy, call):
    """Returns (result of `call`, number of its requests)."""
    start = proxy.requests
    return call(), proxy.requests - start


def serialized_blocks(record_set):
    loaded = record_set.load_blocks(range(NUM_BLOCKS))
    return [list(block.payloads) for block in loaded]


def change_byte(folder, name, position):
    data = bytearray(file_io.read_bytes(f"{folder}/{name}"))
    data[position] ^= 4
    write_file(folder, name, data)


def write_file(folder, name, data):
    with file_io.atomic_write(f"{folder}/{name}") as temporary, open(temporary, "wb") as file:
        file.write(data)


def test_batches_of_windows_in_s3_are_those_of_the_local_copy(remote, tmp_path):
    proxy, folder = remote
    expected = read_batches(make_dataset(open_large(str(tmp_path))), 7)
    assert_batches_equal(read_batches(make_dataset(open_large(folder)), 7), expected)
    later = read_batches(make_dataset(open_large(folder), start_step=5), 2)
    assert_batches_equal(later, expected[5:])
    proxy.reset(rate=0.3, limit=20)
    assert_batches_equal(read_batches(make_dataset(open_large(folder)), 7), expected)
    assert sum(proxy.injected.values()) > 2


def test_an_epoch_has_one_request_per_block_and_none_for_indexes_of_shards(remote, tmp_path):
    proxy, folder = remote
    opened, requests = requests_of(proxy, lambda: open_large(folder))
    assert requests <= 6  # the manifest, a listing and the block index
    sampler = BlockSampler([opened], 1, ["en"], shuffle_limit=0, window_blocks=WINDOW_BLOCKS)
    draws = np.arange(NUM_RECORDS, dtype=np.int64)
    set_index, unit = (x.numpy() for x in sampler.sample(draws))
    payloads, start = [], proxy.requests
    for row in range(NUM_RECORDS):
        part = slice(row, row + 1)
        record, _, _ = sampler.resolve(draws[part], set_index[part], unit[part])
        payloads += [int(record[0]), *opened.read(record, verify=True)]
    assert proxy.requests - start == NUM_BLOCKS
    local = RecordSet.open(str(tmp_path))
    assert sorted(payloads[::2]) == list(range(NUM_RECORDS))
    assert payloads[1::2] == list(local.read(payloads[::2]))
    loaded = [n for n in range(NUM_BLOCKS) if opened._block_reader.loaded(n)]
    assert len(loaded) == 2 * WINDOW_BLOCKS  # two windows are in memory
    # A record outside of the blocks in memory needs the index of its shard.
    other = next(n for n in range(NUM_RECORDS) if opened.blocks.block_of(n) not in loaded)
    assert opened[other] == local[other]


def test_blocks_come_from_the_cache(remote, tmp_path, monkeypatch):
    proxy, folder = remote
    monkeypatch.setenv(chunk_cache.FOLDER_VARIABLE, str(tmp_path / "cache"))
    expected = serialized_blocks(open_large(str(tmp_path)))
    for number_of_requests in (NUM_BLOCKS, 0):
        opened = open_large(folder)
        actual, requests = requests_of(proxy, lambda opened=opened: serialized_blocks(opened))
        assert actual == expected and requests == number_of_requests
    write(folder, -1), write(str(tmp_path), -1)  # new versions of the same files
    expected = serialized_blocks(open_large(str(tmp_path)))
    actual, requests = requests_of(proxy, lambda: serialized_blocks(open_large(folder)))
    assert actual == expected and requests >= NUM_BLOCKS


def test_a_set_in_s3_without_the_block_index_derives_the_blocks_of_the_local_one(remote, tmp_path):
    _, folder = remote
    file_io.remove(f"{folder}/{BLOCKS}"), os.remove(tmp_path / BLOCKS)
    opened, local = open_large(folder), open_large(str(tmp_path))
    assert opened.blocks.digest == local.blocks.digest and len(opened.blocks) == SHARDS
    assert list(opened) == list(local)
    opened.derive_blocks(BLOCK_RECORDS).save(folder, opened.digest)
    assert len(open_large(folder).blocks) == NUM_BLOCKS


def test_sizes_and_the_block_index_in_s3_are_checked(remote):
    _, folder = remote
    change_byte(folder, BLOCKS, 0)
    with pytest.raises(UserError, match=f"^{folder}/{BLOCKS} is not a block index"):
        open_large(folder)
    change_byte(folder, BLOCKS, 0)
    write_file(folder, SHARD, file_io.read_bytes(f"{folder}/{SHARD}")[:-1])
    with pytest.raises(UserError, match=f"^{folder}/{SHARD}: expected .* bytes, got .* truncated"):
        open_large(folder)
    opened = open_large(folder, strict=False)
    last = int(opened._indexes.starts[2]) - 1  # the last record of the truncated shard
    block = opened.load_blocks([int(opened.blocks.block_of(last))])[0]
    assert list(block.damaged.values()) == ["the file ends inside the record"]
    file_io.remove(f"{folder}/{SHARD}")
    with pytest.raises(UserError, match=f"^{folder}/{SHARD} or its index .*the shard is missing"):
        open_large(folder)
    opened = open_large(folder, strict=False)
    block = opened.load_blocks([int(opened.blocks.block_of(last))])[0]
    assert set(block.damaged.values()) == {"the file is missing"}
    with pytest.raises(DamagedRecord, match="the file is missing"):
        opened.read([last])


def test_a_shard_that_is_removed_from_s3_ends_the_reading(remote):
    _, folder = remote
    opened, small = open_large(folder), RecordSet.open(folder)
    file_io.remove(f"{folder}/{SHARD}")
    for call in (lambda: opened.load_blocks(range(NUM_BLOCKS)), lambda: small.read([0, 10])):
        with pytest.raises(StorageError, match=f"^{folder}/{SHARD} was removed while it was read"):
            call()


def test_without_versions_a_removed_shard_damages_only_its_records(remote, tmp_path, monkeypatch):
    """Some https:// servers, and TensorFlow's access to gs://, state no versions."""
    _, folder = remote
    make_info = remote_files._file_info
    monkeypatch.setattr(
        remote_files,
        "_file_info",
        lambda item: dataclasses.replace(make_info(item), version=None),
    )
    opened, small = open_large(folder), RecordSet.open(folder)
    file_io.remove(f"{folder}/{SHARD}")
    reasons = [set(block.damaged.values()) for block in opened.load_blocks(range(NUM_BLOCKS))]
    assert reasons == [set()] * 2 + [{"the file is missing"}] * 2 + [set()] * 2
    local = RecordSet.open(str(tmp_path))
    assert list(opened.read([0, 19])) == list(small.read([0, 19])) == list(local.read([0, 19]))
    with pytest.raises(DamagedRecord, match=f"^{folder}/{SHARD}: .*the file is missing"):
        small.read([19, 10, 0])


def test_a_damaged_frame_in_s3_damages_one_record(remote):
    _, folder = remote
    shard, start, length = open_large(folder)._locate(7)
    name = records.shard_name(shard, SHARDS)
    change_byte(folder, name, start + length // 2)
    change_byte(folder, name, start - tfrecord.HEADER)
    opened = open_large(folder)
    number = int(opened.blocks.block_of(7))
    position = 7 - int(opened.blocks.first_record[number])
    assert opened.load_blocks([number])[0].damaged == {position: "the checksum does not match"}


def test_a_block_that_changes_or_cannot_be_read_ends_the_run_with_one_line(remote, monkeypatch):
    proxy, folder = remote
    for code, expected in ((2, "was changed while"), (75, "the storage did not answer for")):
        skipped_records = SkippedRecords()
        opened = open_large(folder)
        if code == 2:
            write(folder, -1)
            with pytest.raises(StorageError, match=expected):
                opened.load_blocks([0])
        else:
            monkeypatch.setenv(remote_requests.DEADLINE_VARIABLE, "0.3")
            proxy.down = "503"
            with pytest.raises(StorageUnavailable, match=expected):
                opened.load_blocks([0])
        with pytest.raises(tf.errors.OpError) as caught:
            read_batches(make_dataset(opened, skipped_records=skipped_records), 1)
        error = skipped_records.explain(caught.value)
        assert expected in str(error) and error.exit_code == code
        with pytest.raises(UserError, match=expected) as checked:
            skipped_records.check()
        assert checked.value.exit_code == code
