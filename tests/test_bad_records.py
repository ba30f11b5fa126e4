"""Records that are bad in the middle of training: replaced, counted by shard, and when it stops."""

import collections
import os

import numpy as np
import pytest
import tensorflow as tf
from test_pipeline import CODES, picture, same, steps, words
from test_pipeline import tokenizer as tokenizer  # a fixture

from tf_mural.data import input_pipeline, records
from tf_mural.data.example_builder import Rows
from tf_mural.data.fallback_draws import DISTANCE
from tf_mural.data.records import Record, RecordSet, tfrecord
from tf_mural.data.sampling import Stream
from tf_mural.errors import UserError

BATCH = 8


def write(folder, change=lambda i, record: record, count=20):
    rows = []
    for i in range(count):
        texts = tuple((code, f"{code}{i}") for code in CODES)
        rows.append(change(i, Record(str(i), (picture(i),), texts)))
    records.write(folder, rows, shards=3)
    return RecordSet.open(folder)


def with_text(code, text):
    """Function for `write`: record 7 has this text in that language, and none if it is None."""

    def change(i, record):
        texts = [(c, text if c == code else t) for c, t in record.texts]
        texts = tuple((c, t) for c, t in texts if t is not None)
        return Record(record.id, record.images, texts) if i == 7 else record

    return change


def flip(opened, index):
    """Turns over a bit in the middle of a record."""
    with open(opened.shard(index), "r+b") as file:
        place = int(opened._offset[index] + opened._length[index] // 2)
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 4]))


def a_flipped_bit(folder):
    opened = write(folder)
    flip(opened, 7)
    return opened, {7}, "its checksum does not fit"


def a_shard_cut_short(folder):
    opened = write(folder)
    os.truncate(opened.shard(9), int(opened._offset[9]) + 5)  # while it is open
    return opened, {9, 10, 11, 12}, "the file ends inside it"


def a_shard_cut_short_before(folder):
    a_shard_cut_short(folder)
    return RecordSet.open(folder, whole=False), {9, 10, 11, 12}, "the file ends inside it"


def a_shard_that_is_gone(folder):
    os.remove(write(folder).shard(9))
    opened = RecordSet.open(folder, whole=False)
    return opened, {6, 7, 8, 9, 10, 11, 12}, "the file is missing"


def an_image_that_does_not_decode(folder):
    opened = write(folder, lambda i, r: Record(r.id, (r.images[0][:40],), r.texts) if i == 7 else r)
    return opened, {7}, "its image does not decode"


def a_text_of_unknown_tokens(folder):
    opened = write(folder, with_text("en", "♞ ♘"))
    return opened, {7}, "its text in 'en' has no token that the vocabulary knows"


def a_text_that_the_index_promises(folder):
    promise = write(folder / "promise")
    opened = write(folder / "set", with_text("en", None))
    opened.languages, opened.has_language = promise.languages, promise.has_language
    return opened, {7}, "it lacks the text in 'en' that its index promises"


WITH_IMAGES = [
    a_flipped_bit,
    a_shard_cut_short,
    a_shard_cut_short_before,
    a_shard_that_is_gone,
    an_image_that_does_not_decode,
    a_text_of_unknown_tokens,
    a_text_that_the_index_promises,
]
WITHOUT = [a_flipped_bit, a_shard_cut_short, a_text_of_unknown_tokens]


def source(record_set, fields, languages=None):
    texts = list(fields.values()).count("text")
    stream = Stream([record_set], texts, languages, seed=1, name="captions")
    return input_pipeline.Source(stream, fields)


def dataset(source, tokenizer, rows=BATCH, **options):
    sizes = input_pipeline.Sizes(12, 8)
    return input_pipeline.training_dataset([source], tokenizer, sizes, CODES, rows, **options)


def row_of(source, tokenizer, draw):
    """What a draw of an undamaged set is, by itself."""
    rows = Rows(source, tokenizer, input_pipeline.Sizes(12, 8), CODES)
    row = rows.decoded(one_row(rows.parsed(rows.fetched(tf.constant([draw]))), 0))
    for values in row.values():
        values.pop("text", None), values.pop("known", None)
    return row


def check_replaced(found, field, bad, whole, tokenizer):
    """Rows with a bad record became those of the next distant draw without; no other one moved."""
    replaced = 0
    for step, (expected, batch) in enumerate(
        zip(steps(dataset(whole, tokenizer), len(found)), found, strict=True)
    ):
        for row in range(BATCH):
            draw, want, got = step * BATCH + row, *(one_row(b, row) for b in (expected, batch))
            while bad(words([want[field]["tokens"]])[0], want):
                draw += DISTANCE
                want = row_of(whole, tokenizer, draw)
            same(got, want)
            replaced += draw >= DISTANCE
    return replaced


def one_row(batch, row):
    return tf.nest.map_structure(lambda values: values[row], batch)


@pytest.mark.parametrize("damage", WITH_IMAGES)
def test_it_leaves_its_row_to_a_distant_draw_and_is_counted(damage, tokenizer, tmp_path):
    opened, bad, reason = damage(tmp_path / "bad")
    fields, health = {"image": "image", "caption": "text"}, input_pipeline.Health(limit=1.0)
    whole = source(write(tmp_path / "good"), fields, ["en"])
    damaged = source(opened, fields, ["en"])
    found = steps(dataset(damaged, tokenizer, health=health), 6)
    replaced = check_replaced(
        found, "caption", lambda word, _: int(word[2:]) in bad, whole, tokenizer
    )
    assert replaced > 0
    assert {why for reasons in health.skipped.values() for why in reasons} == {reason}
    places = {opened.place(index) for index in bad}
    assert set(health.skipped) <= places and (len(bad) > 1 or set(health.skipped) == places)
    logged = health.check()
    assert logged["skipped_records"] >= replaced
    (shard,) = [name for name in logged if "/" in name]
    assert shard.endswith("/records-00001-of-00003") and logged[shard] == logged["skipped_records"]


@pytest.mark.parametrize("damage", [a_flipped_bit, an_image_that_does_not_decode])
def test_replacements_are_those_of_any_start_and_any_workers(damage, tokenizer, tmp_path):
    opened, _, _ = damage(tmp_path / "bad")
    damaged = source(opened, {"image": "image", "caption": "text"}, ["en"])
    found = steps(dataset(damaged, tokenizer), 6)
    same(steps(dataset(damaged, tokenizer, start_step=4), 2), found[4:])
    parts = [steps(dataset(damaged, tokenizer, replicas=2, workers=(w, 2)), 12) for w in range(2)]
    for step in range(6):
        mine = [parts[w][2 * step + r] for w in range(2) for r in range(2)]
        same(tf.nest.map_structure(lambda *x: np.concatenate(x), *mine), found[step])


@pytest.mark.parametrize("damage", WITHOUT)
def test_so_it_is_for_sources_of_texts_alone(damage, tokenizer, tmp_path):
    opened, bad, reason = damage(tmp_path / "bad")
    fields, health = {"source": "text", "target": "text"}, input_pipeline.Health()
    whole, damaged = source(write(tmp_path / "good"), fields), source(opened, fields)
    found = steps(dataset(damaged, tokenizer, health=health), 6)

    def is_bad(word, row):
        english = CODES.index("en") in (row["source"]["language"], row["target"]["language"])
        return int(word[2:]) in bad and ("'en'" not in reason or english)

    assert check_replaced(found, "source", is_bad, whole, tokenizer) > 0
    assert {why for reasons in health.skipped.values() for why in reasons} == {reason}


def test_a_start_refuses_what_a_resume_takes(tmp_path):
    opened = write(tmp_path / "set")
    shard = opened.shard(9)
    os.truncate(shard, 100)
    with pytest.raises(UserError, match="found 100; it is cut short"):
        RecordSet.open(tmp_path / "set")
    assert len(RecordSet.open(tmp_path / "set", whole=False)) == 20


def test_a_language_that_the_vocabulary_does_not_know_stops_the_run(tokenizer, tmp_path):
    def foreign(i, record):
        return Record(record.id, record.images, (("en", f"en{i}"), ("fr", "♞ ♘")))

    opened = write(tmp_path / "set", foreign)
    health = input_pipeline.Health(limit=1.0, vocabulary="my/vocab.txt")
    steps(dataset(source(opened, {"caption": "text"}), tokenizer, health=health), 8)
    with pytest.raises(UserError) as caught:
        health.check()
    assert "texts in 'fr' drawn so far have no token that my/vocab.txt knows" in str(caught.value)
    assert "--config.vocabulary" in str(caught.value)
    # A source of that language alone never gets a batch.
    health = input_pipeline.Health(limit=1.0, vocabulary="my/vocab.txt")
    with pytest.raises(tf.errors.OpError) as caught:
        steps(dataset(source(opened, {"caption": "text"}, ["fr"]), tokenizer, health=health), 1)
    assert "texts in 'fr' drawn so far have no token" in str(health.explain(caught.value))


def test_a_few_such_texts_do_not(tokenizer, tmp_path):
    opened = write(tmp_path / "set", with_text("fr", "♞"))
    health = input_pipeline.Health(limit=1.0)
    steps(dataset(source(opened, {"caption": "text"}), tokenizer, health=health), 20)
    assert health.check()["skipped_records"] > 0


def test_the_limit_is_a_share_of_what_all_processes_drew():
    ours, theirs = input_pipeline.Health(0.01), input_pipeline.Health()
    rows = collections.namedtuple("Rows", "codes")(("en", "fr"))
    ours.drew(rows, np.zeros((700, 2), int))
    theirs.drew(rows, np.zeros((400, 1), int))
    unusable = input_pipeline.health.Unusable("/a/x/train/s1.tfrecord: record 3 (byte 5)",
                                        "/a/x/train/s1.tfrecord", "why")  # fmt: skip
    other = input_pipeline.health.Unusable("/a/x/train/s2.tfrecord: record 4 (byte 6)",
                                     "/a/x/train/s2.tfrecord", "why")  # fmt: skip
    for _ in range(6):
        ours.skip(unusable)
        theirs.skip(other)
    told = []
    theirs.check(lambda one: told.append(one) or [one])

    def exchange(one):
        return [one, *told]

    expected = {"skipped_records/x/train/s1": 6, "skipped_records/x/train/s2": 6}
    with pytest.raises(UserError) as caught:  # 1,100 were drawn
        ours.check(exchange)
    message = "12 of the 1100 records drawn so far cannot be used, above the limit of 1.00%"
    assert message in str(caught.value)
    for place in (unusable.place, other.place):
        assert f"{place}: why" in str(caught.value)
    ours.drew(rows, np.zeros((100, 2), int))
    assert ours.check(exchange) == {"skipped_records": 12, **expected}
    places = {unusable.place: {"why": 12}, other.place: {"why": 6}}
    assert ours.total(lambda one: [one, one, theirs.skipped]) == places
    assert ours.check() == {"skipped_records": 6, "skipped_records/x/train/s1": 6}


def test_what_is_read_ahead_counts_with_what_was_drawn_for_it(tokenizer, tmp_path):
    opened = write(tmp_path / "set", with_text("en", "♞"))  # one record of twenty
    health = input_pipeline.Health(limit=0.08)
    reading = source(opened, {"caption": "text"}, ["en"])
    steps(dataset(reading, tokenizer, 2000, health=health), 1)
    logged = health.check()["skipped_records"]
    assert 0.03 * health.drawn < logged and health.drawn > 2000


def test_an_error_of_one_process_is_raised_by_all():
    ours = input_pipeline.Health()
    with pytest.raises(UserError, match="^it broke there$"):
        ours.check(lambda one: [one, {**one, "error": "it broke there"}])


def test_places_are_kept_within_bounds():
    health = input_pipeline.Health(limit=3.0)
    for i in range(3000):
        health.skip(input_pipeline.health.Unusable(f"/a/b/s: record {i}", "/a/b/s", "why"))
    assert len(health.skipped) == 1001 and health.skipped["/a/b/s"] == {"why": 2000}
    assert health.check()["skipped_records"] == 3000


def test_bytes_of_another_program_stop_the_run(tokenizer, tmp_path):
    opened = write(tmp_path / "set")
    for index in range(20):
        payload = b"\xff" * int(opened._length[index])
        with open(opened.shard(index), "r+b") as file:
            file.seek(int(opened._offset[index]) - tfrecord.HEADER)
            file.write(tfrecord.frame(payload))  # with a checksum that fits
    health = input_pipeline.Health(folders=(opened.folder,))
    data = dataset(source(opened, {"caption": "text"}), tokenizer, health=health)
    with pytest.raises((tf.errors.OpError, UnicodeDecodeError)) as caught:
        steps(data, 1)
    assert str(health.explain(caught.value)) == (
        f"a record is not of this package, though its checksum fits, in {opened.folder}; convert "
        "the data set again"
    )
