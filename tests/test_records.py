"""Records: checksums, serialization, record sets on disk, and damaged files."""

import collections
import gc
import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tf_mural.data import records
from tf_mural.data.records import Record, RecordSet, shard_files, tfrecord
from tf_mural.errors import UserError

RECORDS = [
    Record("plain"),
    Record("pair", (b"\x89PNG one",), (("en", "a cat"), ("de", "eine Katze"), ("en", "cat"))),
    Record("bitext", (), (("zh-Hant", "貓"), ("chr", "ᏪᏌ"))),
    Record("labelled", (b"",), (), label=0),
    Record("scored", (b"a", b"b"), (("de", "x"),), label=7, score=-0.5),
]


def write(folder, shards=2, **options):
    records.write(folder, RECORDS, shards=shards, **options)
    return RecordSet.open(folder)


def shards_of(folder):
    return sorted(str(path) for path in folder.glob("*.tfrecord"))


# These are the test vectors of RFC 3720, appendix B.4, and the check value of the CRC catalogue.
@pytest.mark.parametrize(
    "data, crc",
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_crc_equals_published_vectors(data, crc):
    assert tfrecord.crc32c(data) == crc


@pytest.mark.parametrize("length", [1, 65, 5000])
def test_crc_equals_the_crc_bit_by_bit(length):
    data = np.random.default_rng(length).bytes(length)
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    assert tfrecord.crc32c(data) == crc ^ 0xFFFFFFFF


@pytest.mark.parametrize("longest", [3, 1500])
def test_frames_of_a_list_equal_single_frames(longest):
    random = np.random.default_rng(longest)
    payloads = [random.bytes(length) for length in random.integers(0, longest, 150)]
    payloads += [b"", bytes(4)]
    assert tfrecord.frames(payloads) == b"".join(map(tfrecord.frame, payloads))
    assert tfrecord.frames([]) == b""


def protobuf_bytes(record):
    """Serializes a record with the protobuf runtime."""
    example = tfrecord.example_class()()
    feature = example.features.feature
    feature["id"].bytes_list.value.append(record.id.encode())
    feature["images"].bytes_list.value.extend(record.images)
    feature["texts"].bytes_list.value.extend(text.encode() for _, text in record.texts)
    feature["languages"].bytes_list.value.extend(code.encode() for code, _ in record.texts)
    if record.label is not None:
        feature["label"].int64_list.value.append(record.label)
    if record.score is not None:
        feature["score"].float_list.value.append(record.score)
    return example.SerializeToString(deterministic=True)


@pytest.mark.parametrize("size", [0, 1, 100, 127, 128, 16_000, 16_384, 70_000])
@pytest.mark.parametrize("label", [None, 0, 127, 128, 2**63 - 1])
def test_serialized_bytes_equal_those_of_the_protobuf_runtime(size, label):
    texts = (("en", "x"), ("zh-Hant", "貓" * (1 + size // 3)), ("en", "y"))
    for record in (
        Record("x" * size, label=label, score=size / 3),
        Record("ä", (bytes(size), b""), texts, label=label),
        Record("", (), texts[:2], score=-3.4e38),
    ):
        assert records.serialize(record) == protobuf_bytes(record)


def test_file_equals_that_of_tensorflow(tmp_path):
    import tensorflow as tf

    payloads = [records.serialize(record) for record in RECORDS] + [os.urandom(3000)]
    with tf.io.TFRecordWriter(str(tmp_path / "tf")) as writer:
        for payload in payloads:
            writer.write(payload)
    assert (tmp_path / "tf").read_bytes() == b"".join(map(tfrecord.frame, payloads))


def test_serialized_record_is_a_tf_train_example():
    import tensorflow as tf

    def bytes_feature(*values):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))

    feature = {
        "id": bytes_feature(b"scored"),
        "images": bytes_feature(b"a", b"b"),
        "texts": bytes_feature(b"x"),
        "languages": bytes_feature(b"de"),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[7])),
        "score": tf.train.Feature(float_list=tf.train.FloatList(value=[-0.5])),
    }
    expected = tf.train.Example(features=tf.train.Features(feature=feature))
    data = records.serialize(RECORDS[4])
    assert tf.train.Example.FromString(data) == expected
    assert data == expected.SerializeToString(deterministic=True)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.id)
def test_deserialize_inverts_serialize(record):
    assert records.deserialize(records.serialize(record)) == record


@pytest.mark.parametrize("text", ["e\u0301", "\u00e9", " spaces stay ", "a\u2028b\x00", "👩‍🚀"])
def test_texts_are_not_normalized(text):
    record = Record("r", texts=(("en", text),))
    assert records.deserialize(records.serialize(record)).texts[0][1] == text


def test_parse_gives_ragged_fields_in_the_graph():
    import tensorflow as tf

    parsed = tf.function(records.parse)(tf.constant([records.serialize(r) for r in RECORDS]))
    assert parsed["id"].numpy().tolist() == [r.id.encode() for r in RECORDS]
    assert parsed["images"].to_list() == [[], [b"\x89PNG one"], [], [b""], [b"a", b"b"]]
    assert parsed["texts"].to_list()[1] == [b"a cat", b"eine Katze", b"cat"]
    assert parsed["languages"].to_list() == [[], [b"en", b"de", b"en"], [b"zh-Hant", b"chr"], [],
                                             [b"de"]]  # fmt: skip
    assert parsed["label"].dtype == tf.int64 and parsed["score"].dtype == tf.float32
    assert parsed["label"].numpy().tolist() == [-1, -1, -1, 0, 7]
    np.testing.assert_array_equal(parsed["score"].numpy(), [np.nan] * 4 + [-0.5])


@pytest.mark.parametrize("code", ["de", "chr", "zh-Hant", "pt-BR", "es-419", "no"])
def test_language_code_is_accepted(code):
    assert records.is_language(code)


@pytest.mark.parametrize("code", ["", "d", "kind", "de_AT", "de-", "de AT", "dé", "12", "en\n"])
def test_other_string_is_not_a_language_code(code):
    assert not records.is_language(code)


@pytest.mark.parametrize(
    "record, message",
    [
        (Record("r1", texts=(("german", "x"),)), "record 'r1': expected a language code"),
        (Record("r1", texts=(("de", " \u00a0\n"),)), "record 'r1': the text in 'de' is blank"),
        (Record("r1", label=-1), "record 'r1': expected a label from 0, got -1"),
        (Record("r1", score=float("nan")), "record 'r1': expected a finite score, got nan"),
    ],
)
def test_serialize_refuses_invalid_values(record, message):
    with pytest.raises(UserError, match=message):
        records.serialize(record)


@pytest.mark.parametrize("data", [b"\x0a\xff", b"", b"text", b"\n\x08\n\x06\n\x02id\x12\x00"])
def test_deserialize_refuses_other_bytes(data):
    with pytest.raises(ValueError):
        records.deserialize(data)


@pytest.mark.parametrize("shards", [1, 2, 5, 9])  # with 9 shards, some are empty
def test_set_is_read_in_order_and_at_random(tmp_path, shards):
    opened = write(tmp_path, shards)
    assert len(opened) == 5 and list(opened) == RECORDS
    data = opened.read(np.array([4, 0, 0, 3, 1]))
    assert data.dtype == object and data.shape == (5,)
    assert [records.deserialize(item) for item in data] == [RECORDS[i] for i in (4, 0, 0, 3, 1)]
    assert opened.read([]).shape == (0,)


@pytest.mark.parametrize("shards", [1, 2, 9])
def test_set_is_a_sequence_of_records(tmp_path, shards):
    opened = write(tmp_path, shards)
    assert [opened[index] for index in range(5)] == RECORDS
    assert [opened[index] for index in range(-5, 0)] == RECORDS
    assert opened[np.int64(4)] == opened[np.uint8(4)] == opened[np.int8(-1)] == RECORDS[4]
    for index in (5, -6, np.int64(2**40)):
        with pytest.raises(IndexError, match=f"has 5 records, got the index {index}$"):
            opened[index]


@pytest.mark.parametrize(
    "index, message",
    [
        (slice(0, 2), r"got slice\(0, 2, None\); `read` reads several records"),
        (1.0, "expected an integer as index of a record, got 1.0$"),
        (np.arange(2), "expected an integer as index of a record, got array"),
        ("plain", "expected an integer as index of a record, got 'plain'"),
        (None, "expected an integer as index of a record, got None"),
    ],
)
def test_an_index_that_is_not_an_integer_is_refused(tmp_path, index, message):
    with pytest.raises(TypeError, match=message):
        write(tmp_path)[index]


@pytest.fixture
def count_open_files(monkeypatch):
    """A function that returns the number of open files; no file of another test is counted."""
    gc.collect()  # closes the files of other tests
    monkeypatch.setattr(shard_files, "_num_open_with_sets", 0)
    monkeypatch.setattr(shard_files, "_open_files", collections.OrderedDict())
    before = len(os.listdir("/proc/self/fd"))
    return lambda: len(os.listdir("/proc/self/fd")) - before


@pytest.mark.parametrize("strict", [True, False])
def test_a_pickled_set_opens_the_same_files(tmp_path, strict, count_open_files):
    write(tmp_path)
    if not strict:
        os.remove(shards_of(tmp_path)[1])
    opened = RecordSet.open(tmp_path, strict)
    before = count_open_files()
    copy = pickle.loads(pickle.dumps(opened))
    assert count_open_files() == before + (2 if strict else 1)
    assert copy[1] == RECORDS[1] and (len(copy), copy.digest) == (5, opened.digest)
    assert copy.manifest == opened.manifest and copy.languages == opened.languages
    if strict:
        assert list(copy) == RECORDS
    else:
        with pytest.raises(records.DamagedRecord, match="the file is missing"):
            copy[4]


def test_set_knows_its_languages(tmp_path):
    opened = write(tmp_path)
    assert opened.languages == ("chr", "de", "en", "zh-Hant")
    assert opened.language_counts == {"chr": 1, "de": 2, "en": 2, "zh-Hant": 1}
    expected = [[0, 0, 0, 0], [0, 1, 1, 0], [1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]]
    assert opened.has_language.dtype == bool
    np.testing.assert_array_equal(opened.has_language, expected)


def test_has_language_works_with_more_languages_than_bits_in_a_byte(tmp_path):
    codes = [f"a{chr(97 + i)}" for i in range(11)]
    records.write(tmp_path, [Record(c, texts=((c, "x"),)) for c in reversed(codes)], shards=3)
    opened = RecordSet.open(tmp_path)
    assert opened.languages == tuple(codes)
    np.testing.assert_array_equal(opened.has_language, np.eye(11, dtype=bool)[::-1])


def test_manifest_has_counts_and_checksums(tmp_path):
    manifest = write(tmp_path, dataset="d", split="s", augmentations=("flip", "crop")).manifest
    assert manifest == json.loads((tmp_path / "manifest.json").read_text())
    assert (manifest["schema"], manifest["dataset"], manifest["split"]) == (2, "d", "s")
    assert (manifest["records"], manifest["images"], manifest["texts"]) == (5, 4, 6)
    assert manifest["augmentations"] == ["crop", "flip"]
    assert [shard["records"] for shard in manifest["shards"]] == [2, 3]
    for shard in manifest["shards"]:
        assert os.path.getsize(tmp_path / shard["file"]) == shard["bytes"]
    output = subprocess.check_output(["sha256sum", *shards_of(tmp_path)], text=True)
    assert output.split()[::2] == [shard["sha256"] for shard in manifest["shards"]]


@pytest.mark.parametrize("shards", [0, 3])
def test_set_without_records_can_be_opened(tmp_path, shards):
    paths = [str(tmp_path / records.shard_name(number, shards)) for number in range(shards)]
    written = [records.write_shard(path, []) for path in paths]
    records.write_manifest(tmp_path, written, "empty", "train")
    opened = RecordSet.open(tmp_path)
    assert len(opened) == 0 and list(opened) == [] and opened.languages == ()
    assert opened.has_language.shape == (0, 0) and opened.read([]).shape == (0,)


def test_digest_depends_on_the_contents(tmp_path):
    first, same = write(tmp_path / "a"), write(tmp_path / "b")
    records.write(tmp_path / "c", RECORDS[:4], shards=2)
    assert first.digest == same.digest != RecordSet.open(tmp_path / "c").digest


def test_same_records_give_the_same_bytes(tmp_path):
    write(tmp_path / "a"), write(tmp_path / "b")
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert len(list((tmp_path / "a").iterdir())) == 6


def test_many_threads_read_the_same_as_one(tmp_path):
    many = [Record(str(i), (bytes([i % 256]) * (1 + i * 7 % 501),)) for i in range(300)]
    records.write(tmp_path, many, shards=4)
    opened = RecordSet.open(tmp_path)
    orders = [np.random.default_rng(seed).integers(0, 300, 500) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for order, data in zip(orders, pool.map(opened.read, orders), strict=True):
            assert [records.deserialize(item).id for item in data] == [str(i) for i in order]


def test_descriptors_are_closed_with_the_set(tmp_path, count_open_files):
    opened = write(tmp_path)
    assert count_open_files() == 2
    del opened
    assert count_open_files() == 0


@pytest.mark.parametrize("indices", [[5], [0, -1]])
def test_position_out_of_range_is_refused(tmp_path, indices):
    with pytest.raises(IndexError, match=r"expected positions in \[0, 5\)"):
        write(tmp_path).read(indices)


def test_damaged_record_is_named(tmp_path):
    write(tmp_path)
    path = shards_of(tmp_path)[1]
    data = bytearray(open(path, "rb").read())
    data[-6] ^= 1  # changes the last record, which still parses
    open(path, "wb").write(data)
    opened = RecordSet.open(tmp_path)
    with pytest.raises(UserError, match=r"00001-of-00002.tfrecord: record 2 \(byte \d+\) is dam"):
        list(opened)
    with pytest.raises(UserError, match="the checksum does not match"):
        opened.read([0, 4], verify=True)
    with pytest.raises(UserError, match="the checksum does not match"):
        opened[4]
    assert len(opened.read([0, 1, 2, 3], verify=True)) == 4


def test_record_with_other_bytes_is_named(tmp_path):
    write(tmp_path)
    path = shards_of(tmp_path)[0]
    length = os.path.getsize(path)
    first = len(records.serialize(RECORDS[0]))
    rest = open(path, "rb").read()[first + 16 :]
    open(path, "wb").write(tfrecord.frame(b"\xff" * first) + rest)
    assert os.path.getsize(path) == length
    with pytest.raises(UserError, match=r"record 0 \(byte 12\) is damaged: not a tf.train.Example"):
        list(RecordSet.open(tmp_path))


def test_many_shards_are_read_with_at_most_64_open_files(tmp_path, count_open_files):
    records.write(tmp_path, [Record(f"r{n}") for n in range(200)], shards=100)
    opened, other = RecordSet.open(tmp_path), RecordSet.open(tmp_path)
    order = np.random.default_rng(0).permutation(200)
    with ThreadPoolExecutor(8) as pool:
        for record_set in (opened, other):
            assert [r.id for r in pool.map(record_set.__getitem__, order)] == [
                f"r{n}" for n in order
            ]
            assert 0 < count_open_files() <= 64
    del opened, other, record_set
    assert count_open_files() == 0


def test_shard_truncated_while_open_is_detected(tmp_path):
    opened = write(tmp_path)
    os.truncate(shards_of(tmp_path)[1], 30)
    with pytest.raises(UserError, match="the file ends inside the record"):
        opened.read([4])


def test_open_refuses_a_folder_without_a_set(tmp_path):
    with pytest.raises(UserError, match="no record set in .*nowhere: manifest.json is missing"):
        RecordSet.open(tmp_path / "nowhere")
    write(tmp_path / "data" / "train")
    with pytest.raises(UserError, match="it holds the splits train: name one of them"):
        RecordSet.open(tmp_path / "data")


@pytest.mark.parametrize("text", ["", "[]", "{}", "{"])
def test_open_refuses_an_invalid_manifest(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="is not a manifest of a record set"):
        RecordSet.open(tmp_path)


def test_open_refuses_another_schema(tmp_path):
    write(tmp_path)
    path = tmp_path / "manifest.json"
    text = path.read_text()
    for schema, message in (
        (1, "expected schema 2, got 1; convert again"),
        (3, "has schema 3, and this version of tf_mural reads schema 2: update tf_mural"),
    ):
        path.write_text(text.replace('"schema": 2', f'"schema": {schema}'))
        with pytest.raises(UserError, match=message):
            RecordSet.open(tmp_path)


def test_open_refuses_an_incomplete_set(tmp_path):
    write(tmp_path)
    shard = shards_of(tmp_path)[0]
    index = shard.replace(".tfrecord", ".index.npz")
    shard_data, index_data = open(shard, "rb").read(), open(index, "rb").read()

    def check_refused(match):
        """Checks that the record set is refused, and then restores the files of the set."""
        with pytest.raises(UserError, match=match):
            RecordSet.open(tmp_path)
        open(shard, "wb").write(shard_data), open(index, "wb").write(index_data)
        assert list(RecordSet.open(tmp_path)) == RECORDS

    open(shard, "wb").write(shard_data[:-1])
    check_refused(f"expected {len(shard_data)} bytes, got {len(shard_data) - 1}")
    os.remove(shard)
    check_refused("cannot be read")
    os.remove(index)
    check_refused("cannot be read")
    open(index, "wb").write(index_data[:100])
    check_refused("cannot be read")
    other = shards_of(tmp_path)[1].replace(".tfrecord", ".index.npz")
    open(index, "wb").write(open(other, "rb").read())
    check_refused("is not the index of its shard")


def test_interrupted_shard_leaves_no_file(tmp_path):
    def stream():
        yield RECORDS[1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        records.write_shard(str(tmp_path / "shard.tfrecord"), stream())
    assert list(tmp_path.iterdir()) == []


def test_unknown_augmentation_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"unknown augmentations \['mirror'\]; known: crop, flip"):
        records.write(tmp_path, RECORDS, augmentations=("mirror",))
    assert not (tmp_path / "manifest.json").exists()


def test_reading_and_writing_do_not_import_tensorflow():
    code = (
        "import sys, tf_mural.conversion, tf_mural.datasets\n"
        "from tf_mural.data import records\n"
        "record = records.Record('a', (b'b',), (('en', 'c'),))\n"
        "assert records.deserialize(records.serialize(record)) == record\n"
        "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules"
    )
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
