"""Fallback draws: diagnoses records that cannot be used and picks replacement draws."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf

from tf_mural.data import image_ops
from tf_mural.data.records import DamagedRecord, deserialize
from tf_mural.data.skipped_records import BadRecord
from tf_mural.errors import StorageError, UserError

ATTEMPTS = 8  # maximum number of draws that are tried per row


def with_fallback(builder, skipped_records):
    """Returns a function that replaces draws, int64 (b,), by draws whose records can be used.

    For each row, the function tries the original draw, and then the draws whose numbers are larger
    by `fallback_distance` of the sampler, by twice this distance, and so on. The function returns
    the first draw whose record can be used, and counts the records of the previous draws as
    skipped. The function runs eagerly, and only for batches with a bad record.

    Args:
        builder: `ExampleBuilder`.
        skipped_records: `SkippedRecords`. Reading fails if no record of `ATTEMPTS` draws of a row
            can be used.
    """

    def find(draws):
        draws, rows = draws.copy(), np.arange(len(draws))
        for attempt in range(ATTEMPTS):
            draws[rows] += builder.sampler.fallback_distance * (attempt > 0)
            results = _diagnose(builder, draws[rows], skipped_records, count=attempt > 0)
            rows = rows[[bad_record is not None for bad_record in results]]
            bad_records = [bad_record for bad_record in results if bad_record]
            for bad_record in bad_records:
                skipped_records.skip(bad_record)
            if not bad_records:
                return draws
        raise skipped_records.fail(skipped_records.exhausted(ATTEMPTS, bad_records[-1]))

    def find_or_fail(draws):
        try:
            return find(draws)
        except (StorageError, UserError) as error:
            raise skipped_records.fail(error) from error

    def usable_draws(draws):
        replaced = tf.numpy_function(find_or_fail, [draws], tf.int64, stateful=False)
        return tf.ensure_shape(replaced, draws.shape)

    return usable_draws


def _diagnose(builder, draws, skipped_records, count):
    """Returns a list with a `BadRecord` for each draw, or None if the record can be used.

    Args:
        builder: `ExampleBuilder`.
        draws: int64 (b,), numbers of draws.
        skipped_records: `SkippedRecords`.
        count: whether `skipped_records` counts the draws, which may be counted already.
    """
    with tf.device("CPU"):
        draws = tf.constant(draws)
        set_index, unit = (x.numpy() for x in builder.sampler.sample(draws))
        record, language, _ = builder.sampler.resolve(draws.numpy(), set_index, unit)
        batch = builder.parse(builder.fetch(draws, skipped_records, count))
    batch = tf.nest.map_structure(lambda values: values.numpy(), batch)

    def diagnose(row):
        record_set, number = builder.sampler.sets[set_index[row]], int(record[row])
        problem = _record_problem(record_set, number, bool(builder.vectors))
        codes = [builder.language_codes[position] for position in language[row]]
        if builder.sampler.batch_size and len(set(codes)) < len(codes):
            problem = problem or _pair_problem(record_set, number, codes[0])
        for code, field in zip(codes, builder.fields["text"], strict=False):
            columns = batch[field]
            problem = problem or _text_problem(
                code, columns["text"][row], columns["known"][row], field in builder.code_switch
            )
        for field in builder.fields["image"]:
            problem = problem or _image_problem(batch[field]["data"][row])
        for field in builder.vectors:
            if not problem and not batch[field]["known"][row]:
                problem = (f"a row of the vectors of the field {field!r} is missing or not finite",)
        if not problem:
            return None
        return BadRecord(record_set.location(number), record_set.shard_path(number), *problem)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        return list(threads.map(diagnose, range(len(set_index))))


# Each of the following functions returns the arguments of `BadRecord` after `shard`, or None if
# there is no problem.


def _record_problem(record_set, number, with_vectors):
    try:
        if with_vectors:
            record_set[number]  # also compares the vectors with the manifest
        else:
            record_set.read([number], verify=True)
    except DamagedRecord as error:
        return (error.reason,)
    return None


def _pair_problem(record_set, number, code):
    record = deserialize(record_set.read([number], verify=True)[0])
    if sum(language == code for language, _ in record.texts) > 1:
        return None
    return (f"the record has only one text in {code!r}, a pair needs 2",)


def _text_problem(code, text, known, is_code_switched):
    if not text:
        return (f"the text in {code!r} that the index lists is missing",)
    if not known:
        kind = "code-switched text" if is_code_switched else "text"
        return f"the {kind} in {code!r} contains no token of the vocabulary", code
    return None


def _image_problem(data):
    try:
        with tf.device("CPU"):
            image_ops.decode(data)
    except tf.errors.OpError:
        return ("the image does not decode",)
    return None
