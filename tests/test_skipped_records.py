"""Records that become unusable during training: replacements, counts per shard, and the limit."""

import collections
import os

import numpy as np
import pytest
import tensorflow as tf
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

from tf_mural.data import input_pipeline, records
from tf_mural.data.example_builder import ExampleBuilder
from tf_mural.data.preprocessing import Preprocessing
from tf_mural.data.records import Record, RecordSet, tfrecord
from tf_mural.data.sampling import IndexSampler
from tf_mural.data.skipped_records import BadRecord, SkippedRecords
from tf_mural.errors import UserError

BATCH = 8
SIZES = Preprocessing(12, 8)
WITH_IMAGE = {"image": "image", "caption": "text"}


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def write(folder, change=lambda record: record):
    """Writes a record set in three shards; the function `change` is applied to each record."""
    records.write(folder, [change(make_record(i)) for i in range(NUM_RECORDS)], shards=3)
    return RecordSet.open(folder)


def change_text(code, text):
    """Returns a function for `write` that replaces a text of record 7, or removes it for None."""

    def change(record):
        texts = [(c, text if c == code else t) for c, t in record.texts]
        texts = tuple((c, t) for c, t in texts if t is not None)
        return Record(record.id, record.images, texts) if record.id == "7" else record

    return change


def flip_bit(record_set, index):
    """Flips a bit in the middle of a record."""
    with open(record_set.shard_path(index), "r+b") as file:
        _, start, length = record_set._locate(index)
        offset = start + length // 2
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 4]))


# Each of the following functions returns (record set, numbers of the bad records, expected reason).


def flipped_bit(folder):
    record_set = write(folder)
    flip_bit(record_set, 7)
    return record_set, {7}, "the checksum does not match"


def shard_truncated_while_open(folder):
    record_set = write(folder)
    os.truncate(record_set.shard_path(9), record_set._locate(9)[1] + 5)
    return record_set, {9, 10, 11, 12}, "the file ends inside the record"


def shard_truncated_before(folder):
    shard_truncated_while_open(folder)
    return RecordSet.open(folder, strict=False), {9, 10, 11, 12}, "the file ends inside the record"


def missing_shard(folder):
    os.remove(write(folder).shard_path(9))
    record_set = RecordSet.open(folder, strict=False)
    return record_set, {6, 7, 8, 9, 10, 11, 12}, "the file is missing"


def truncated_image(folder):
    record_set = write(folder, lambda r: make_record(7, image(7)[:40]) if r.id == "7" else r)
    return record_set, {7}, "the image does not decode"


def text_without_known_token(folder):
    record_set = write(folder, change_text("en", "♞ ♘"))
    return record_set, {7}, "the text in 'en' contains no token of the vocabulary"


def text_missing_despite_index(folder):
    complete = write(folder / "complete")
    record_set = write(folder / "set", change_text("en", None))
    record_set.languages, record_set.has_language = complete.languages, complete.has_language
    return record_set, {7}, "the text in 'en' that the index lists is missing"


DAMAGES = [
    flipped_bit,
    shard_truncated_while_open,
    shard_truncated_before,
    missing_shard,
    truncated_image,
    text_without_known_token,
    text_missing_despite_index,
]


def make_source(record_set, fields, languages=None):
    text_fields = list(fields.values()).count("text")
    sampler = IndexSampler([record_set], text_fields, languages, seed=1, name="captions")
    return input_pipeline.Source(sampler, fields)


def make_dataset(source, tokenizer, rows=BATCH, **options):
    return input_pipeline.training_dataset([source], tokenizer, SIZES, CODES, rows, **options)


def row_of(batch, row):
    return tf.nest.map_structure(lambda values: values[row], batch)


def build_row(source, tokenizer, draw):
    """Returns the example of a single draw from an intact source."""
    builder = ExampleBuilder(source, tokenizer, SIZES, CODES)
    batch = builder.parse(builder.fetch(tf.constant([draw])))
    row = builder.decode(row_of(batch, 0))
    for values in row.values():
        values.pop("text", None), values.pop("known", None)
    return row


def check_replacements(batches, field, is_bad, intact, tokenizer):
    """Checks that rows of bad records were replaced, and that no other row changed.

    Args:
        batches: batches of the damaged source.
        field: a text field.
        is_bad: callable that takes the word of `field` and the whole row, and returns whether the
            record of the row is bad.
        intact: the same source without damage.
        tokenizer: `Tokenizer`.

    Returns:
        The number of replaced rows.
    """
    num_replaced = 0
    expected_batches = read_batches(make_dataset(intact, tokenizer), len(batches))
    for step, (expected_batch, batch) in enumerate(zip(expected_batches, batches, strict=True)):
        for row in range(BATCH):
            draw, expected = step * BATCH + row, row_of(expected_batch, row)
            while is_bad(words_of([expected[field]["tokens"]])[0], expected):
                draw += IndexSampler.fallback_distance
                expected = build_row(intact, tokenizer, draw)
            assert_batches_equal(row_of(batch, row), expected)
            num_replaced += draw >= IndexSampler.fallback_distance
    return num_replaced


def reasons_of(skipped_records):
    return {reason for reasons in skipped_records.skipped.values() for reason in reasons}


# --- replacements ---------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", DAMAGES)
def test_bad_record_is_replaced_by_a_distant_draw_and_counted(damage, tokenizer, tmp_path):
    record_set, bad, reason = damage(tmp_path / "bad")
    skipped_records = SkippedRecords(limit=1.0)
    intact = make_source(write(tmp_path / "good"), WITH_IMAGE, ["en"])
    damaged = make_source(record_set, WITH_IMAGE, ["en"])
    dataset = make_dataset(damaged, tokenizer, skipped_records=skipped_records)
    batches = read_batches(dataset, 6)
    num_replaced = check_replacements(
        batches, "caption", lambda word, _: number_of(word) in bad, intact, tokenizer
    )
    assert num_replaced > 0
    assert reasons_of(skipped_records) == {reason}
    locations, skipped = {record_set.location(i) for i in bad}, set(skipped_records.skipped)
    assert skipped <= locations and (len(bad) > 1 or skipped == locations)
    logs = skipped_records.check()
    assert logs["skipped_records"] >= num_replaced
    (shard,) = [name for name in logs if "/" in name]
    assert shard.endswith("/records-00001-of-00003") and logs[shard] == logs["skipped_records"]


@pytest.mark.parametrize(
    "damage", [flipped_bit, pytest.param(truncated_image, marks=pytest.mark.slow)]
)
def test_replacements_do_not_depend_on_start_or_workers(damage, tokenizer, tmp_path):
    record_set, _, _ = damage(tmp_path / "bad")
    damaged = make_source(record_set, WITH_IMAGE, ["en"])
    expected = read_batches(make_dataset(damaged, tokenizer), 6)
    later = read_batches(make_dataset(damaged, tokenizer, start_step=4), 2)
    assert_batches_equal(later, expected[4:])
    local_batches = [
        read_batches(make_dataset(damaged, tokenizer, replicas=2, workers=(worker, 2)), 12)
        for worker in range(2)
    ]
    for step in range(6):
        parts = [
            local_batches[worker][2 * step + replica] for worker in range(2) for replica in range(2)
        ]
        joined = tf.nest.map_structure(lambda *x: np.concatenate(x), *parts)
        assert_batches_equal(joined, expected[step])


@pytest.mark.parametrize(
    "damage", [flipped_bit, shard_truncated_while_open, text_without_known_token]
)
def test_bad_record_is_replaced_in_a_source_of_texts(damage, tokenizer, tmp_path):
    record_set, bad, reason = damage(tmp_path / "bad")
    fields, skipped_records = {"source": "text", "target": "text"}, SkippedRecords()
    intact = make_source(write(tmp_path / "good"), fields)
    damaged = make_source(record_set, fields)
    dataset = make_dataset(damaged, tokenizer, skipped_records=skipped_records)

    def is_bad(word, row):
        has_english = CODES.index("en") in (row["source"]["language"], row["target"]["language"])
        return number_of(word) in bad and ("'en'" not in reason or has_english)

    batches = read_batches(dataset, 6)
    assert check_replacements(batches, "source", is_bad, intact, tokenizer) > 0
    assert reasons_of(skipped_records) == {reason}


def test_strict_open_refuses_a_truncated_shard(tmp_path):
    shard = write(tmp_path / "set").shard_path(9)
    os.truncate(shard, 100)
    with pytest.raises(UserError, match="got 100; it is truncated"):
        RecordSet.open(tmp_path / "set")
    assert len(RecordSet.open(tmp_path / "set", strict=False)) == NUM_RECORDS


# --- errors ---------------------------------------------------------------------------------------


def test_language_that_the_vocabulary_does_not_cover_stops_the_run(tokenizer, tmp_path):
    def add_french(record):
        return Record(record.id, record.images, (("en", f"en{record.id}"), ("fr", "♞ ♘")))

    record_set = write(tmp_path / "set", add_french)
    skipped_records = SkippedRecords(limit=1.0, vocabulary="my/vocab.txt")
    source = make_source(record_set, {"caption": "text"})
    read_batches(make_dataset(source, tokenizer, skipped_records=skipped_records), 8)
    with pytest.raises(UserError) as caught:
        skipped_records.check()
    assert "texts in 'fr' drawn so far have no token that my/vocab.txt knows" in str(caught.value)
    assert "`config.vocabulary`" in str(caught.value)
    # A source with only French texts gives no batch at all.
    skipped_records = SkippedRecords(limit=1.0, vocabulary="my/vocab.txt")
    source = make_source(record_set, {"caption": "text"}, ["fr"])
    with pytest.raises(tf.errors.OpError) as caught:
        read_batches(make_dataset(source, tokenizer, skipped_records=skipped_records), 1)
    message = str(skipped_records.explain(caught.value))
    assert "texts in 'fr' drawn so far have no token" in message


def test_few_texts_without_known_tokens_do_not_stop_the_run(tokenizer, tmp_path):
    source = make_source(write(tmp_path / "set", change_text("fr", "♞")), {"caption": "text"})
    skipped_records = SkippedRecords(limit=1.0)
    read_batches(make_dataset(source, tokenizer, skipped_records=skipped_records), 20)
    assert skipped_records.check()["skipped_records"] > 0


def test_limit_applies_to_the_draws_of_all_processes():
    own, peer = SkippedRecords(0.01), SkippedRecords()
    builder = collections.namedtuple("Builder", "language_codes")(("en", "fr"))
    own.count_drawn(builder, np.zeros((700, 2), int))
    peer.count_drawn(builder, np.zeros((400, 1), int))
    shards = [f"/a/x/train/s{i}.tfrecord" for i in (1, 2)]
    own_record = BadRecord(f"{shards[0]}: record 3 (byte 5)", shards[0], "why")
    peer_record = BadRecord(f"{shards[1]}: record 4 (byte 6)", shards[1], "why")
    for _ in range(6):
        own.skip(own_record)
        peer.skip(peer_record)
    peer_states = []
    peer.check(lambda state: peer_states.append(state) or [state])

    def all_gather_object(state):
        return [state, *peer_states]

    with pytest.raises(UserError) as caught:  # 12 of 1,100 records cannot be used
        own.check(all_gather_object)
    message = "12 of the 1100 records drawn so far cannot be used, above the limit of 1.00%"
    assert message in str(caught.value)
    for bad_record in (own_record, peer_record):
        assert f"{bad_record.location}: why" in str(caught.value)
    own.count_drawn(builder, np.zeros((100, 2), int))
    by_shard = {"skipped_records/x/train/s1": 6, "skipped_records/x/train/s2": 6}
    assert own.check(all_gather_object) == {"skipped_records": 12, **by_shard}
    totals = {own_record.location: {"why": 12}, peer_record.location: {"why": 6}}
    assert own.total(lambda skipped: [skipped, skipped, peer.skipped]) == totals
    assert own.check() == {"skipped_records": 6, "skipped_records/x/train/s1": 6}


def test_prefetched_rows_count_as_drawn(tokenizer, tmp_path):
    record_set = write(tmp_path / "set", change_text("en", "♞"))  # changes 1 of 20 records
    skipped_records = SkippedRecords(limit=0.08)
    source = make_source(record_set, {"caption": "text"}, ["en"])
    read_batches(make_dataset(source, tokenizer, 2000, skipped_records=skipped_records), 1)
    num_skipped = skipped_records.check()["skipped_records"]
    assert 0.03 * skipped_records.drawn < num_skipped and skipped_records.drawn > 2000


def test_all_processes_raise_the_error_of_one():
    with pytest.raises(UserError, match="^it broke there$"):
        SkippedRecords().check(lambda state: [state, {**state, "error": ("it broke there", 2)}])


def test_number_of_counted_locations_is_bounded():
    skipped_records = SkippedRecords(limit=3.0)
    for i in range(3000):
        skipped_records.skip(BadRecord(f"/a/b/s: record {i}", "/a/b/s", "why"))
    assert len(skipped_records.skipped) == 1001
    assert skipped_records.skipped["/a/b/s"] == {"why": 2000}
    assert skipped_records.check()["skipped_records"] == 3000


def test_records_of_another_format_stop_the_run(tokenizer, tmp_path):
    record_set = write(tmp_path / "set")
    for index in range(NUM_RECORDS):
        payload = b"\xff" * record_set._locate(index)[2]
        with open(record_set.shard_path(index), "r+b") as file:
            file.seek(record_set._locate(index)[1] - tfrecord.HEADER)
            file.write(tfrecord.frame(payload))  # a frame with a valid checksum
    skipped_records = SkippedRecords(folders=(record_set.folder,))
    source = make_source(record_set, {"caption": "text"})
    dataset = make_dataset(source, tokenizer, skipped_records=skipped_records)
    with pytest.raises((tf.errors.OpError, UnicodeDecodeError)) as caught:
        read_batches(dataset, 1)
    assert str(skipped_records.explain(caught.value)) == (
        "a record has another format, though its checksum matches, in "
        f"{record_set.folder}; convert the data set again"
    )
