"""Vectors, roles and labels of records: bytes, index, manifest, filters and statistics."""

import dataclasses
import os
import pickle
import re

import numpy as np
import pytest
from helpers.corpus import CorpusConverter

from tf_mural import reports
from tf_mural.conversion import hashes
from tf_mural.data import records
from tf_mural.data.records import Record, RecordSet, tfrecord
from tf_mural.errors import UserError
from tf_mural.reports.dataset_stats import DatasetStats

TEXTS = (("en", "a cat"), ("de", "eine Katze"), ("en", "cat"))
MODEL = {"name": "runs/tiny/mural-s0", "fingerprint": "0123"}
DESCRIPTIONS = {
    "image": records.describe_vectors("images", 4, "float32", MODEL),
    "pivot": records.describe_vectors("texts", 3, model=MODEL, languages=("en",)),
    "text": records.describe_vectors("texts", 2, model=MODEL),
}


def rows(count, width, dtype="float16", first=0.0):
    return (first + np.arange(count * width).reshape(count, width) / 4).astype(dtype)


def full_record(name="full", texts=TEXTS, images=(b"one", b"two")):
    english = sum(code == "en" for code, _ in texts)
    vectors = {"text": rows(len(texts), 2), "image": rows(len(images), 4, "float32")}
    vectors["pivot"] = rows(english, 3, first=9.0)
    return Record(name, images, texts, roles=tuple(range(len(texts))), vectors=vectors)


def changed(name, array):
    record = full_record()
    return dataclasses.replace(record, vectors={**record.vectors, name: array})


@pytest.fixture
def folder(tmp_path):
    made = [full_record(str(i), TEXTS[: i % 4], (b"x",) * (i % 3)) for i in range(7)]
    records.write(tmp_path / "set", made, shards=3, vectors=DESCRIPTIONS)
    return tmp_path / "set"


def test_features_are_sorted_and_read_again():
    record = dataclasses.replace(full_record(), label=3, labels=(0, 300), score=0.5)
    data = records.serialize(record)
    example = tfrecord.example_class().FromString(data)
    names = re.findall(rb"\n[\x01-\x20]([a-z]+(?:/[a-z]+)*)\x12", data)
    assert names == sorted(names) and len(names) == 14
    feature = example.features.feature
    assert list(feature["vectors/pivot"].bytes_list.value) == [
        np.array(row, "<f2").tobytes() for row in ([9, 9.25, 9.5], [9.75, 10, 10.25])
    ]
    assert list(feature["vectors/pivot/width"].int64_list.value) == [3]
    assert list(feature["roles"].int64_list.value) == [0, 1, 2]
    read = records.deserialize(data)
    assert read == record and read.vectors["image"].dtype == np.float32
    assert hash(read) == hash(record)


def test_records_with_other_vectors_roles_or_labels_differ():
    record = full_record()
    others = [
        changed("text", rows(3, 2, first=1)),
        changed("text", rows(3, 2, "float32")),
        dataclasses.replace(record, vectors={}),
        dataclasses.replace(record, roles=(2, 1, 0)),
        dataclasses.replace(record, labels=(1,)),
    ]
    for other in others:
        assert other != record and hashes.hash_record(other) != hashes.hash_record(record)
    assert record != "full" and hashes.hash_record(full_record("other")) == hashes.hash_record(
        record
    )


def test_a_record_without_the_optional_parts_has_the_features_of_before():
    data = records.serialize(Record("a", (b"x",), (("en", "y"),), label=1, score=0.5))
    feature = tfrecord.example_class().FromString(data).features.feature
    assert sorted(feature) == ["id", "images", "label", "languages", "score", "texts"]


@pytest.mark.parametrize(
    "record, message",
    [
        (changed("text", rows(3, 2)[0]), "record 'full': expected vectors 'text' as a float16 or"),
        (changed("text", rows(3, 2, "float64")), r"\(k, width\), got float64 \(3, 2\)"),
        (changed("text", np.full((3, 2), np.inf, "float16")), "row 0 of the vectors 'text' is not"),
        (changed("a/b", rows(3, 2)), "the name of vectors is 'a/b', expected letters"),
        (dataclasses.replace(full_record(), roles=(1,)), "expected one role from 0 to 5 for each"),
        (dataclasses.replace(full_record(), roles=(0, 1, 6)), r"got \(0, 1, 6\)"),
        (dataclasses.replace(full_record(), labels=(1, -1)), r"expected labels from 0, got \(1"),
    ],
)
def test_invalid_parts_are_refused(record, message):
    with pytest.raises(UserError, match=message):
        records.serialize(record)


@pytest.mark.parametrize(
    "record, message",
    [
        (changed("text", rows(2, 2)), "expected 3 rows of the vectors 'text', one for each of its"),
        (changed("pivot", rows(3, 3)), "expected 2 rows .* one for each of its texts in en, got 3"),
        (changed("image", rows(1, 4, "float32")), "expected 2 rows of the vectors 'image', one"),
        (changed("text", rows(3, 5)), "expected vectors 'text' of 2 float16 values, got rows of 5"),
        (changed("image", rows(2, 4)), "of 4 float32 values, got rows of 4 float16 values"),
        (changed("new", rows(1, 1)), "the vectors 'new' are not described, the described vectors"),
        (Record("full", texts=TEXTS), "expected 2 rows of the vectors 'pivot'"),
    ],
)
def test_vectors_that_do_not_fit_the_record_are_refused(tmp_path, record, message):
    with pytest.raises(UserError, match=r"records-00000-of-00001.tfrecord: record 'full': .*"):
        records.write(tmp_path / "set", [record], vectors=DESCRIPTIONS)
    with pytest.raises(UserError, match=message):
        records.write(tmp_path / "set", [record], vectors=DESCRIPTIONS)
    # The same record in a set with another manifest is a damaged record.
    own = {
        name: records.describe_vectors("steps", array.shape[1], str(array.dtype))
        for name, array in record.vectors.items()
    }
    records.write(tmp_path / "set", [record], vectors=own)
    record_set = RecordSet.open(tmp_path / "set")
    record_set.vectors = DESCRIPTIONS
    with pytest.raises(
        records.DamagedRecord, match=rf"record 0 \(byte 12\) is damaged: .*{message}"
    ):
        record_set[0]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(of="text", width=2), "unknown value of `of` 'text'; known: images, texts, steps"),
        (dict(of="texts", width=2, dtype="bfloat16"), "unknown dtype of vectors 'bfloat16'"),
        (dict(of="texts", width=0), "width=0: expected the number of values of a row, from 1"),
        (dict(of="images", width=2, languages=("en",)), "only rows of texts have languages"),
    ],
)
def test_invalid_descriptions_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        records.describe_vectors(**arguments)


def test_a_set_describes_and_counts_its_vectors(folder):
    record_set = pickle.loads(pickle.dumps(RecordSet.open(folder)))
    assert record_set.vectors["pivot"] == DESCRIPTIONS["pivot"] | {"rows": 6}
    assert {name: counts.tolist() for name, counts in record_set.vector_counts.items()} == {
        "image": [0, 1, 2, 0, 1, 2, 0],
        "pivot": [0, 1, 1, 2, 0, 1, 1],
        "text": [0, 1, 2, 3, 0, 1, 2],
    }
    assert record_set[3].vectors["text"].tolist() == [[0, 0.25], [0.5, 0.75], [1, 1.25]]


def test_parse_returns_the_rows_in_the_graph(folder):
    parsed = records.parse(RecordSet.open(folder).read(range(7)), ("pivot",))
    expected = [[], [0], [0], [0, 1], [], [0], [0]]
    table = [row.tobytes() for row in rows(2, 3, first=9.0)]
    assert parsed["vectors/pivot"].to_list() == [[table[i] for i in row] for row in expected]


def test_rows_go_with_the_texts_and_images_that_are_kept():
    record = records.keep_texts(full_record(), [1, 2], DESCRIPTIONS)
    assert record.texts == TEXTS[1:] and record.roles == (1, 2)
    assert record.vectors["text"].tolist() == [[0.5, 0.75], [1, 1.25]]
    assert record.vectors["pivot"].tolist() == [[9.75, 10, 10.25]]
    record = records.keep_images(record, [1], DESCRIPTIONS)
    assert record.images == (b"two",) and record.vectors["image"].tolist() == [[1, 1.25, 1.5, 1.75]]
    assert len(record.vectors["text"]) == 2
    assert records.vectors_problem(record, DESCRIPTIONS) is None
    without_images = dataclasses.replace(full_record(), images=())
    assert records.vectors_problem(without_images, DESCRIPTIONS) is None


def test_filters_of_a_conversion_drop_the_rows_of_texts(tmp_path):
    corpus = CorpusConverter(tmp_path)
    corpus.module.vectors = lambda raw_dir: DESCRIPTIONS
    texts = (("en", "one"), ("de", " "), ("en", "one two three"), ("de", "vier fünf"))
    units = [[full_record("0", texts), full_record("1", texts[2:])], [full_record("2", texts)]]
    manifest = corpus.convert(units, max_words=2, texts_per_image=3, shard_records=1)
    assert sum(manifest["ledger"]["dropped_texts"].values()) == 5
    assert manifest["vectors"]["text"]["rows"] == sum(len(r.texts) for r in corpus.records())
    for record in corpus.records():
        position = {text: i for i, (_, text) in enumerate(texts if record.id != "1" else texts[2:])}
        kept = [position[text] for _, text in record.texts]
        assert record.vectors["text"].tolist() == rows(4, 2)[kept].tolist()
        assert record.roles == tuple(kept)
    (pivot,) = corpus.records()[0].vectors["pivot"].tolist()
    assert pivot == [9, 9.25, 9.5]


def test_statistics_count_vectors_roles_and_labels(tmp_path, folder):
    stats = DatasetStats(RecordSet.open(folder))
    list(stats.collect())
    summary = stats.summary()
    assert summary["roles"] == {"caption": 5, "query": 3, "passage": 1}
    text = summary["vectors"]["text"]
    assert text["sampled_rows"] == text["rows"] == 9 and text["lengths"]["min"] == 0.25
    lines = reports.format_stats(summary).splitlines()
    assert "roles of texts: caption 5, query 3, passage 1" in lines
    (line,) = (line for line in lines if line.startswith("pivot"))
    assert line.split()[:6] == ["pivot", "texts", "in", "en", "6", "3"] and MODEL["name"] in line
    several = [Record("a", (b"x",), labels=(1, 4)), Record("b", (b"x",), label=1)]
    records.write(tmp_path / "labels", several)
    stats = DatasetStats(RecordSet.open(tmp_path / "labels"))
    list(stats.collect())
    labels = stats.summary()["labels"]
    assert labels["records"] == 2 and labels["counts"] == {"1": 2, "4": 1}


def test_an_index_without_counts_of_vectors_is_refused(folder):
    path = folder / "records-00000-of-00003.index.npz"
    with np.load(path) as index:
        arrays = {name: index[name] for name in index.files if not name.startswith("vectors/")}
    np.savez(path, **arrays)
    with pytest.raises(UserError, match="index cannot be read"):
        RecordSet.open(folder)
    os.remove(path)
