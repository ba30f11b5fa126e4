"""Fields that are read from stored vectors: rows of the drawn text or image, and errors."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
from helpers import pipeline, vector_records
from helpers.pipeline import CODES, assert_batches_equal, number_of, read_batches, words_of

from tf_mural.data import input_pipeline, mined_negatives, records, training_data
from tf_mural.data.preprocessing import Preprocessing
from tf_mural.data.records import RecordSet
from tf_mural.data.skipped_records import SkippedRecords
from tf_mural.errors import UserError
from tf_mural.experiment import config_loading, stored_vectors

FIELDS = {"image": "image", "caption": "text", "text": "vectors", "english": "vectors"}
FIELDS["picture"] = "vectors"
# {field: (name of its vectors, width, modality of its tower)}
TEXT, PICTURE = ("text", 2, "vectors"), ("image", 3, "vectors")
VECTORS = {"text": TEXT, "english": ("english", None, "vectors"), "picture": PICTURE}


@pytest.fixture(scope="module")
def tokenizer():
    return pipeline.make_tokenizer()


@pytest.fixture(scope="module")
def record_set(tmp_path_factory):
    return vector_records.write(tmp_path_factory.mktemp("vectors") / "set")


def make_source(sets, fields=None, vectors=None, **options):
    fields = FIELDS if fields is None else fields
    vectors = VECTORS if vectors is None else vectors
    sampler = training_data.make_sampler("source", sets, fields, vectors=vectors, **options)
    return training_data.make_source(sampler, fields, False, vectors)


def batches(source, tokenizer, count=3, **options):
    sizes = Preprocessing(12, 8)
    dataset = input_pipeline.training_dataset([source], tokenizer, sizes, CODES, 8, **options)
    return read_batches(dataset, count)


def write_mined(folder, record_set, rows):
    """Writes mined negatives of a record set as tools/mine_negatives.py does; returns `folder`."""
    part = {"folder": record_set.folder, "digest": record_set.digest, "count": len(record_set)}
    manifest = {"schema": mined_negatives.SCHEMA, "digest": "0", "records": part}
    manifest |= {"candidates": part, "options": {"num_negatives": rows.shape[1]}}
    folder.mkdir()
    (folder / mined_negatives.MANIFEST).write_text(json.dumps(manifest))
    np.save(folder / mined_negatives.NEGATIVES, rows)
    return folder


def join_texts(record, other):
    """Returns a record with the texts of two records, and their rows."""
    rows = np.concatenate([record.vectors["text"], other.vectors["text"]])
    texts = (*record.texts, *other.texts)
    return dataclasses.replace(record, texts=texts, vectors={"text": rows})


def test_rows_are_those_of_the_drawn_text_and_image(record_set, tokenizer):
    for batch in batches(make_source([record_set]), tokenizer):
        words = words_of(batch["caption"]["tokens"])
        numbers = [number_of(word) for word in words]
        positions = [CODES.index(word[:2]) for word in words]
        expected = np.stack([numbers, positions], axis=1)
        np.testing.assert_array_equal(batch["text"]["vectors"], expected)
        np.testing.assert_array_equal(batch["english"]["vectors"], [[n, 50] for n in numbers])
        np.testing.assert_array_equal(batch["picture"]["vectors"], [[n, 7, 8] for n in numbers])
        np.testing.assert_array_equal(batch["text"]["id"], batch["caption"]["id"])
        assert len(set(batch["picture"]["id"].tolist())) == len(set(numbers))
        assert {str(batch[f]["vectors"].dtype) for f in VECTORS} == {"float32"}


def test_other_fields_and_the_order_of_examples_do_not_change(record_set, tokenizer, tmp_path):
    fields = {"image": "image", "caption": "text"}
    plain = [pipeline.make_record(i) for i in range(pipeline.NUM_RECORDS)]
    records.write(tmp_path / "plain", plain, shards=2)
    expected = batches(make_source([RecordSet.open(tmp_path / "plain")], fields, {}), tokenizer)
    actual = batches(make_source([record_set]), tokenizer)
    for batch in actual:
        for field in VECTORS:
            del batch[field]
    assert_batches_equal(actual, expected)
    later = batches(make_source([record_set]), tokenizer, 1, start_step=2)
    assert_batches_equal(later[0]["caption"], expected[2]["caption"])


def test_a_text_is_drawn_for_vectors_without_a_text_field(record_set, tokenizer):
    vectors = {"text": TEXT}
    source = make_source([record_set], {"text": "vectors"}, vectors, languages=("de", "fr"))
    seen = np.concatenate([b["text"]["vectors"] for b in batches(source, None, 8)])
    assert set(seen[:, 1]) == {CODES.index("de"), CODES.index("fr")}
    assert source.sampler.text_fields == 1
    picture = make_source([record_set], {"picture": "vectors"}, {"picture": PICTURE})
    assert picture.sampler.text_fields == 0
    assert batches(picture, None, 1)[0]["picture"]["vectors"][:, 1:].tolist() == [[7, 8]] * 8


@pytest.mark.parametrize("tower", [TEXT, ("text", None, "text")])
@pytest.mark.parametrize("languages_of", ["draw", "same", "cross"])
def test_two_fields_of_texts_read_the_rows_of_the_two_drawn_texts(
    record_set, tokenizer, languages_of, tower, tmp_path
):
    if languages_of == "same":  # a pair in one language needs two texts of a record
        made = [vector_records.make_record(i) for i in range(pipeline.NUM_RECORDS)]
        made = [join_texts(a, b) for a, b in zip(made[::2], made[1::2], strict=True)]
        descriptions = {"text": vector_records.DESCRIPTIONS["text"]}
        records.write(tmp_path / "set", made, vectors=descriptions)
        record_set = RecordSet.open(tmp_path / "set")
    options = dict(batch_size=8, languages_of=languages_of)
    texts = make_source([record_set], {"a": "text", "b": "text"}, {}, **options)
    vectors = {"a": tower, "b": tower}
    stored = make_source([record_set], {"a": "vectors", "b": "vectors"}, vectors, **options)
    for expected, actual in zip(batches(texts, tokenizer), batches(stored, None), strict=True):
        for field in "ab":
            words = words_of(expected[field]["tokens"])
            rows = [[number_of(word), CODES.index(word[:2])] for word in words]
            assert actual[field]["vectors"].tolist() == rows
            for key in ("id", "language"):
                np.testing.assert_array_equal(actual[field][key], expected[field][key])
        assert (actual["a"]["id"] != actual["b"]["id"]).all()


def test_a_text_tower_with_stored_features_reads_another_text_than_a_text_field(
    record_set, tokenizer
):
    """The teacher reads the row of the text field, the text tower that of the second text."""
    fields = {"stored": "vectors", "text": "text", "teacher": "vectors"}
    vectors = {"stored": ("text", None, "text"), "teacher": TEXT}
    source = make_source([record_set], fields, vectors)
    assert source.sampler.text_fields == 2
    for batch in batches(source, tokenizer):
        words = words_of(batch["text"]["tokens"])
        rows = [[number_of(word), CODES.index(word[:2])] for word in words]
        assert batch["teacher"]["vectors"].tolist() == rows
        other = batch["stored"]["vectors"]
        assert other[:, 0].tolist() == [number for number, _ in rows]
        assert (other[:, 1] != np.array(rows)[:, 1]).all()
        np.testing.assert_array_equal(batch["stored"]["language"], other[:, 1])


def test_a_config_with_stored_features_of_one_of_two_text_towers_names_its_modality():
    config = config_loading.load_config("mural", "tiny")
    config.model.towers.second = dict(modality="text", **config.model.text)
    config.model.towers.second.update(adapt="frozen", vectors="bert")
    config.sources.bitext.fields.source = "second"
    assert stored_vectors.field_vectors(config) == {"source": ("bert", None, "text")}
    config.model.image.vectors, config.model.image.adapt = "lite0", "last:0"
    assert stored_vectors.field_vectors(config)["image"] == ("lite0", None, "image")


def test_more_texts_than_a_source_may_draw_are_refused(record_set):
    message = "field 'c' of the source 'source' needs more than 2 texts of an example.*'text'"
    fields = dict.fromkeys("abc", "vectors")
    with pytest.raises(UserError, match=message):
        make_source([record_set], fields, dict.fromkeys("abc", TEXT))
    fields = {"a": "text", "b": "text", "c": "vectors"}
    with pytest.raises(UserError, match=message):
        make_source([record_set], fields, {"c": ("text", None, "text")})


@pytest.mark.parametrize(
    "fields, vectors, parts",
    [
        ({"picture": "vectors"}, {"picture": PICTURE}, "a row of the vectors 'image'"),
        (
            {"image": "image", "stored": "vectors"},
            {"stored": ("text", None, "text")},
            "an image",
        ),
    ],
)
def test_negatives_without_an_image_or_its_row_are_not_drawn(fields, vectors, parts, tmp_path):
    """Odd records have no image; two of them are mined negatives of record 0."""
    made = [vector_records.make_record(i) for i in range(pipeline.NUM_RECORDS)]
    without = [vector_records.make_record(i, images=()) for i in range(pipeline.NUM_RECORDS)]
    for record in without:
        del record.vectors["image"]
    made[1::2] = without[1::2]
    rows = np.full((len(made), 3), -1, np.int32)
    rows[0] = 1, 4, 3

    def make_sampler(name, made):
        records.write(tmp_path / name, made, vectors=vector_records.DESCRIPTIONS)
        record_set = RecordSet.open(tmp_path / name)
        mined = str(write_mined(tmp_path / f"mined {name}", record_set, rows))
        base = training_data.make_sampler("base", [record_set], {"caption": "text"})
        return training_data.make_negative_sampler("hard", base, [mined], fields, 0, vectors)

    sampler, draws = make_sampler("some", made), np.arange(400)
    set_index, unit = (x.numpy() for x in sampler.sample(tf.constant(draws)))
    record = sampler.base.resolve(draws, set_index, unit)[0]
    negative, language, _ = sampler.resolve(draws, set_index, unit)
    assert set(negative[record == 0]) == {4}
    assert set(negative) == set(range(0, len(made), 2))
    assert language.shape[1] == sampler.text_fields == int("stored" in fields)
    with pytest.raises(UserError, match=f"none: no record has {parts}, so none is a negative"):
        make_sampler("none", without)


def test_the_images_may_be_missing(tmp_path, tokenizer):
    record_set = vector_records.write(tmp_path / "set", images=())
    vectors = {"picture": PICTURE}
    source = make_source([record_set], {"picture": "vectors", "caption": "text"}, vectors)
    for batch in batches(source, tokenizer):
        numbers = [number_of(word) for word in words_of(batch["caption"]["tokens"])]
        assert batch["picture"]["vectors"][:, 0].tolist() == numbers


def test_records_without_a_row_are_not_drawn(tmp_path, tokenizer):
    with_rows = [vector_records.make_record(i) for i in range(4)]
    without = [vector_records.make_record(i, images=()) for i in range(4, 8)]
    for record in without:
        del record.vectors["image"]
    folder = tmp_path / "set"
    records.write(folder, with_rows + without, vectors=vector_records.DESCRIPTIONS)
    vectors = {"picture": PICTURE}
    fields = {"picture": "vectors", "caption": "text"}
    for options in ({}, {"language_temperature": 2.0}):
        source = make_source([RecordSet.open(folder)], fields, vectors, **options)
        seen = np.concatenate([b["picture"]["vectors"] for b in batches(source, tokenizer, 4)])
        assert set(seen[:, 0]) == {0, 1, 2, 3}
    records.write(folder, without, vectors=vector_records.DESCRIPTIONS)
    with pytest.raises(UserError, match="no record that can be drawn has a row of the vectors 'im"):
        make_source([RecordSet.open(folder)], fields, vectors)


def test_a_record_with_too_few_rows_is_replaced_and_named(tmp_path, tokenizer):
    folder, bad = tmp_path / "set", vector_records.make_record(3)
    bad.vectors["text"] = bad.vectors["text"][:2]
    steps = {name: {**d, "of": "steps"} for name, d in vector_records.DESCRIPTIONS.items()}
    made = [vector_records.make_record(i) for i in range(pipeline.NUM_RECORDS)]
    made[3] = bad
    records.write(folder, made, vectors={**vector_records.DESCRIPTIONS, "text": steps["text"]})
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["vectors"]["text"]["of"] = "texts"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    skipped = SkippedRecords(limit=1.0)
    source = make_source([RecordSet.open(folder)])
    for batch in batches(source, tokenizer, 5, skipped_records=skipped):
        words = words_of(batch["caption"]["tokens"])
        assert 3 not in [number_of(word) for word in words]
        assert batch["text"]["vectors"][:, 0].tolist() == [number_of(word) for word in words]
    (reasons,) = skipped.skipped.values()
    assert list(reasons) == [
        "expected 3 rows of the vectors 'text', one for each of its texts, got 2"
    ]


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"teacher": ("teacher", 2, "vectors")},
            "no vectors 'teacher', which the field 'teacher' of the sour",
        ),
        (
            {"teacher": ("english", None, "text")},
            "'english' are those of texts in en, but .* needs the features of all texts: make the",
        ),
        ({"teacher": ("image", 3, "text")}, "are those of images, but .* features of all texts"),
        ({"teacher": ("text", 2, "image")}, "are those of texts, but .* features of all images"),
        (
            {"teacher": ("text", 5, "vectors")},
            "the vectors 'text' have the width 2, but .* expects 5: set",
        ),
    ],
)
def test_vectors_that_do_not_fit_are_refused(record_set, change, message):
    with pytest.raises(UserError, match=message):
        make_source([record_set], {"teacher": "vectors"}, change)


def test_sets_with_vectors_of_two_models_or_with_sequences_are_refused(record_set, tmp_path):
    other = {name: {**d, "model": {}} for name, d in vector_records.DESCRIPTIONS.items()}
    other_set = vector_records.write(tmp_path / "other", other)
    with pytest.raises(UserError, match="'text' of .*set and .*other differ in 'model': .*runs/a"):
        make_source([record_set, other_set])
    steps = {name: {**d, "of": "steps"} for name, d in vector_records.DESCRIPTIONS.items()}
    for description in steps.values():
        description.pop("languages", None)
    with pytest.raises(UserError, match="the vectors 'text' are sequences, but the field 'text'"):
        make_source([vector_records.write(tmp_path / "steps", steps)])
