"""Rows that cannot be made: why not, and which draws take their places."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf

from tf_mural.data import image_ops
from tf_mural.data.records import DamagedRecord
from tf_mural.data.skipped_records import Unusable

# How far away the draw is that replaces one whose row cannot be made. A prime: the shuffle sees
# 32 bits of an epoch's number, and epochs a power of two apart would visit records in one order.
DISTANCE = (1 << 40) + 15
ATTEMPTS = 8  # draws tried for one row


def replaced(rows, health):
    """Function of draws (b,) int64 to draws whose rows can be made.

    Of each row it is the first of its own draw and the distant ones; those before it are counted in
    `health`. What is called here runs operation by operation, and for the batches that could not be
    made at once.

    Args:
        rows: `Rows`.
        health: `Health`; ends the reading where `ATTEMPTS` draws of a row are of no use.
    """

    def find(draws):
        draws, rest = draws.copy(), np.arange(len(draws))
        for attempt in range(ATTEMPTS):
            draws[rest] += DISTANCE * (attempt > 0)
            faults = _faults(rows, draws[rest], health if attempt else None)
            rest = rest[[fault is not None for fault in faults]]
            faults = [fault for fault in faults if fault]
            for fault in faults:
                health.skip(fault)
            if not faults:
                return draws
        raise health.end(health.hopeless(ATTEMPTS, faults[-1]))

    def usable(draws):
        found = tf.numpy_function(find, [draws], tf.int64, stateful=False)
        return tf.ensure_shape(found, draws.shape)

    return usable


def _faults(rows, draws, health):
    """What is wrong with each of some draws: list of `Unusable` or None.

    Languages of their texts are told to `health`, if there is one.
    """
    with tf.device("CPU"):
        draws = tf.constant(draws)
        which, unit = (x.numpy() for x in rows.stream.draw(draws))
        record, language, _ = rows.stream.locate(draws.numpy(), which, unit)
        if health:
            health.drew(rows, language)
        batch = rows.parsed(rows.fetched(draws))
    batch = tf.nest.map_structure(lambda values: values.numpy(), batch)

    def fault(row):
        record_set, number = rows.stream.sets[which[row]], int(record[row])
        about = _of_record(record_set, number)
        for position, field in enumerate(rows.text_fields):
            code = rows.codes[language[row, position]]
            about = about or _of_text(code, batch[field]["text"][row], batch[field]["known"][row])
        for field in rows.image_fields:
            about = about or _of_image(batch[field]["data"][row])
        return about and Unusable(record_set.place(number), record_set.shard(number), *about)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        return list(threads.map(fault, range(len(which))))


# Each of these gives what `Unusable` is to say after the place, or None.


def _of_record(record_set, number):
    try:
        record_set.read([number], verify=True)
    except DamagedRecord as error:
        return (error.reason,)
    return None


def _of_text(code, text, known):
    if not text:
        return (f"it lacks the text in {code!r} that its index promises",)
    if not known:
        return f"its text in {code!r} has no token that the vocabulary knows", code
    return None


def _of_image(data):
    try:
        with tf.device("CPU"):
            image_ops.decode(data)
    except tf.errors.OpError:
        return ("its image does not decode",)
    return None
