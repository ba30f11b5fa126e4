"""Block index of a record set: its rows, its file, and sets opened without other indexes."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from helpers.corpus import CorpusConverter

from tf_mural.data import records
from tf_mural.data.records import BLOCKS, DamagedRecord, Record, RecordSet, blocks, tfrecord
from tf_mural.errors import UserError

COUNT = 50


def make_record(number):
    """Returns a record; every third one has an image and several texts in English."""
    texts = [("en", f"en{number}"), ("de", f"de{number}")][: 1 + number % 2]
    images = ()
    if number % 3 == 0:
        texts, images = [*texts, ("en", "again"), ("en", "and again")], (bytes(100),)
    return Record(str(number), images, tuple(texts))


def write(folder, shards=3, **options):
    records.write(folder, [make_record(i) for i in range(COUNT)], shards=shards, **options)
    return RecordSet.open(folder, max_indexed=0)


def records_of(record_set, number):
    (block,) = record_set.load_blocks([number])
    return [records.deserialize(payload) for payload in block.payloads]


@pytest.mark.parametrize("limits", [dict(block_records=7), dict(block_bytes=700)])
@pytest.mark.parametrize("shards", [1, 3, 60])  # with 60 shards, some are empty
def test_blocks_are_consecutive_ranges_of_the_shards(tmp_path, shards, limits):
    opened = write(tmp_path, shards, **limits)
    joined = []
    for number, row in enumerate(opened.blocks.rows):
        path = tmp_path / opened.manifest["shards"][row["shard"]]["file"]
        data = path.read_bytes()[row["offset"] : row["offset"] + row["bytes"]]
        spans = tfrecord.spans(data, row["records"])
        assert spans[-1][0] + spans[-1][1] + tfrecord.FOOTER == len(data)
        part = [records.deserialize(data[start : start + n]) for start, n in spans]
        assert part == records_of(opened, number)
        assert row["images"] == sum(len(record.images) for record in part)
        assert len(part) <= limits.get("block_records", COUNT)
        assert len(data) <= limits.get("block_bytes", len(data)) or len(part) == 1
        assert opened.blocks.first_record[number] == len(joined)
        joined += part
    assert joined == [make_record(i) for i in range(COUNT)]
    assert opened.blocks.first_record[-1] == COUNT
    assert list(opened.blocks.block_of(opened.blocks.first_record[:-1])) == [*range(number + 1)]


def test_a_record_larger_than_a_block_is_a_block_by_itself(tmp_path):
    sizes = [10, 10, 5000, 10, 10, 10]
    records.write(tmp_path, [Record(str(n), (bytes(n),)) for n in sizes], block_bytes=300)
    assert RecordSet.open(tmp_path).blocks.rows["records"].tolist() == [2, 1, 3]


def test_rows_of_languages_count_records_and_texts(tmp_path):
    opened = write(tmp_path, block_records=4)
    for number in range(len(opened.blocks)):
        part, row = records_of(opened, number), opened.blocks.rows[number]
        first = row["first_language"]
        rows = opened.blocks.languages[first : first + row["languages"]]
        expected = {}
        for code in ("de", "en"):
            counts = [sum(c == code for c, _ in record.texts) for record in part]
            if any(counts):
                expected[code] = (sum(n > 0 for n in counts), sum(counts))
        actual = {opened.languages[r["language"]]: (r["records"], r["texts"]) for r in rows}
        assert actual == expected and set(rows["block"]) == {number}
    texts = np.bincount(opened.blocks.languages["language"], opened.blocks.languages["texts"])
    assert texts.tolist() == list(opened.language_counts.values())
    assert opened.blocks.language_records(2).tolist() == opened.has_language.sum(axis=0).tolist()


def test_set_without_the_file_derives_the_same_blocks(tmp_path):
    written = write(tmp_path, block_records=7).blocks
    os.remove(tmp_path / BLOCKS)
    opened = RecordSet.open(tmp_path, max_indexed=0)
    assert len(opened.blocks) == 3  # one block per shard with the default size
    derived = opened.derive_blocks(block_records=7)
    np.testing.assert_array_equal(derived.rows, written.rows)
    np.testing.assert_array_equal(derived.languages["records"], written.languages["records"])
    assert derived.digest == written.digest != opened.blocks.digest
    derived.save(tmp_path, opened.digest)
    assert RecordSet.open(tmp_path, max_indexed=0).blocks.digest == written.digest


def test_a_large_set_is_opened_and_read_without_the_indexes_of_its_shards(tmp_path):
    write(tmp_path, block_records=7)
    for path in tmp_path.glob("*.npz"):
        path.rename(path.with_suffix(".moved"))
    opened = RecordSet.open(tmp_path, max_indexed=COUNT - 1)
    loaded = opened.load_blocks(range(len(opened.blocks)))
    expected = [records.serialize(make_record(i)) for i in (3, 41, 3)]
    assert list(opened.read([3, 41, 3], verify=True)) == expected
    with pytest.raises(UserError, match="or its index cannot be read"):
        RecordSet.open(tmp_path, max_indexed=COUNT)
    del loaded
    with pytest.raises(UserError, match="or its index cannot be read"):
        opened.read([3])
    for path in tmp_path.glob("*.moved"):
        path.rename(path.with_suffix(".npz"))
    assert list(opened.read([3, 41, 3], verify=True)) == expected
    assert list(opened) == [make_record(i) for i in range(COUNT)]


def test_blocks_in_memory_are_not_read_again(tmp_path):
    opened = write(tmp_path, block_records=7)
    loaded = opened.load_blocks([0, 1])
    for path in tmp_path.glob("*.tfrecord"):
        os.truncate(path, 0)
    assert opened.load_blocks([1, 0]) == [loaded[1], loaded[0]]
    assert opened[0] == make_record(0)


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("part", ["length", "payload"])
def test_a_damaged_frame_damages_one_record(tmp_path, part):
    opened = write(tmp_path, shards=1, block_records=10)
    _, start, length = opened._locate(13)
    flip(tmp_path / "records-00000-of-00001.tfrecord", start + length // 2)
    if part == "length":
        flip(tmp_path / "records-00000-of-00001.tfrecord", start - tfrecord.HEADER)
    (block,) = opened.load_blocks([1])
    assert block.damaged == {3: "the checksum does not match"}
    for number in range(10, 20):
        if number != 13:
            assert opened[number] == make_record(number)
    with pytest.raises(DamagedRecord, match=r"record 13 \(byte .* the checksum does not match"):
        opened.read([13])


def test_without_the_index_a_damaged_length_damages_the_rest_of_the_block(tmp_path):
    opened = write(tmp_path, shards=1, block_records=10)
    flip(tmp_path / "records-00000-of-00001.tfrecord", opened._locate(13)[1] - tfrecord.HEADER)
    os.remove(tmp_path / "records-00000-of-00001.index.npz")
    opened = RecordSet.open(tmp_path, max_indexed=0)
    (block,) = opened.load_blocks([1])
    assert block.damaged == dict.fromkeys(range(3, 10), "the length of a record is damaged")


def test_a_shard_truncated_while_open_damages_its_records(tmp_path):
    opened = write(tmp_path, shards=1, block_records=10)
    path = tmp_path / "records-00000-of-00001.tfrecord"
    os.truncate(path, os.path.getsize(path) // 2)
    (block,) = opened.load_blocks([2])
    lost = min(block.damaged)
    assert set(block.damaged) == set(range(lost, 10)) and lost > 0
    with pytest.raises(DamagedRecord, match=f"record {20 + lost} .* the file ends inside"):
        opened.read([20 + lost])


@pytest.mark.parametrize("missing", [True, False])
def test_records_of_a_lost_part_of_a_shard_are_damaged(tmp_path, missing):
    opened = write(tmp_path, shards=1, block_records=10)
    path = tmp_path / "records-00000-of-00001.tfrecord"
    os.truncate(path, opened._locate(13)[1] + 3)
    reason, lost = "the file ends inside the record", range(3, 10)
    if missing:
        path.unlink()
        reason, lost = "the file is missing", range(10)
    with pytest.raises(UserError, match="it is truncated|cannot be read"):
        RecordSet.open(tmp_path, max_indexed=0)
    opened = RecordSet.open(tmp_path, strict=False, max_indexed=0)
    (block,) = opened.load_blocks([1])
    assert block.damaged == dict.fromkeys(lost, reason)


def change_header(**values):
    def change(path):
        data = bytearray(path.read_bytes())
        header = np.frombuffer(data, blocks.HEADER, 1)
        for key, value in values.items():
            header[key] = value
        path.write_bytes(data)

    return change


def change_row(path):
    flip(path, blocks.HEADER.itemsize + 2 * blocks.BLOCK.itemsize + 28)


def change_language(path):
    flip(path, -16)


@pytest.mark.parametrize(
    "change, message",
    [
        (change_header(version=2), "has version 2 of the format.*reads version 1: update tf_mural"),
        (
            change_header(digest=b"0123456789ab"),
            "another record set: expected the digest .*, got 0",
        ),
        (change_header(magic=b"PNG"), "is not a block index"),
        (change_header(blocks=3), "expected [0-9,]+ bytes, got [0-9,]+"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "expected [0-9,]+ bytes, got"),
        (lambda path: path.write_bytes(b"TFM"), "is truncated: it has 3 bytes"),
        (change_row, "does not fit the shards of the manifest"),
        (change_language, "does not fit the shards of the manifest"),
    ],
)
def test_an_invalid_index_is_refused_with_one_line(tmp_path, change, message):
    write(tmp_path, block_records=7)
    change(tmp_path / BLOCKS)
    with pytest.raises(UserError, match=rf"blocks.index.*{message}.*remove the file") as error:
        RecordSet.open(tmp_path, max_indexed=0)
    assert "\n" not in str(error.value)
    os.remove(tmp_path / BLOCKS)
    assert len(RecordSet.open(tmp_path, max_indexed=0)) == COUNT


def test_a_block_file_of_other_shards_is_refused(tmp_path):
    write(tmp_path / "a", block_records=7), write(tmp_path / "b", shards=2)
    (tmp_path / "a" / BLOCKS).write_bytes((tmp_path / "b" / BLOCKS).read_bytes())
    with pytest.raises(UserError, match="belongs to another record set"):
        RecordSet.open(tmp_path / "a", max_indexed=0)


@pytest.mark.parametrize("shards", [0, 3])
def test_a_set_without_records_has_no_blocks(tmp_path, shards):
    paths = [str(tmp_path / records.shard_name(number, shards)) for number in range(shards)]
    written = [records.write_shard(path, []) for path in paths]
    records.write_manifest(tmp_path, written, "empty", "train")
    assert len(RecordSet.open(tmp_path).blocks) == 0


def test_rows_have_the_documented_sizes():
    sizes = (blocks.HEADER.itemsize, blocks.BLOCK.itemsize, blocks.LANGUAGE.itemsize)
    assert sizes == (64, 40, 16)


def test_the_example_in_the_docs_reads_the_blocks_with_numpy_only(tmp_path):
    opened = write(tmp_path, block_records=7)
    with open(os.path.join(ROOT, "docs", "scale.md"), encoding="utf-8") as file:
        parts = re.findall(r"^```python\n(.*?)^```$", file.read(), re.MULTILINE | re.DOTALL)
    code = "".join(parts)
    assert set(re.findall(r"^import (.*)$", code, re.MULTILINE)) == {"json, sys", "numpy as np"}
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    lines = done.stdout.splitlines()
    rows = [line for line in lines if line.startswith("records-0000")]
    assert len(rows) == len(opened.blocks)
    assert rows[-1] == f"records-00002-of-00003.tfrecord {opened.blocks.rows[-1]} " + str(
        opened.blocks.languages[-2:]
    )
    (block,) = opened.load_blocks([len(rows) - 1])
    assert lines[len(rows) :] == [f"record of {len(p)} bytes" for p in block.payloads]


def test_conversion_writes_blocks_of_the_given_size(tmp_path):
    corpus, unit = CorpusConverter(tmp_path), [make_record(i) for i in range(COUNT)]
    manifest = corpus.convert([unit, unit[:5]], "default")
    assert "steps" not in manifest["made_by"]
    opened = RecordSet.open(tmp_path / "default" / "train", max_indexed=0)
    assert opened.blocks.rows["records"].tolist() == [COUNT, 5]
    manifest = corpus.convert([unit, unit[:5]], "small", block_records=20)
    assert manifest["made_by"]["steps"] == {"block_records": 20}
    opened = RecordSet.open(tmp_path / "small" / "train", max_indexed=0)
    assert opened.blocks.rows["records"].tolist() == [20, 20, 10, 5]
    assert opened.blocks.languages["texts"].sum() == manifest["texts"]
    with pytest.raises(UserError, match="expected block_bytes of 1 or more, got 0"):
        corpus.convert([unit], "none", block_bytes=0)
