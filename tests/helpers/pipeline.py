"""Record sets and batches for tests of the input pipeline.

A record has an image whose brightness encodes the number of the record, and a text of one word per
language. Each word is one token, from which a test can tell the record and the language.
"""

import numpy as np
import tensorflow as tf

from helpers import images
from tf_mural.data.records import Record
from tf_mural.data.tokenizers import SPECIAL_TOKENS, Tokenizer

CODES = ("de", "en", "fr")
NUM_RECORDS = 20
WORDS = [f"{code}{i}" for i in range(NUM_RECORDS) for code in CODES]


def make_tokenizer():
    """Returns a tokenizer whose pieces are `WORDS`."""
    return Tokenizer([*SPECIAL_TOKENS, *WORDS], max_tokens=4)


def brightness(number):
    """Returns the maximum pixel value of the image of a record."""
    return 10 * number + 40


def image(number, size=12):
    """Returns the PNG bytes of the image of a record; the right half of the image is darker."""
    pixels = np.full((size, size, 3), brightness(number), np.uint8)
    pixels[:, size // 2 :] //= 2
    return images.encode(pixels)


def make_record(number, image_bytes=None):
    """Returns record `number`; `image_bytes` replaces the usual image."""
    texts = tuple((code, f"{code}{number}") for code in CODES)
    return Record(str(number), (image(number) if image_bytes is None else image_bytes,), texts)


def words_of(tokens):
    """Returns the first word of each row of token ids."""
    return [WORDS[row[1] - len(SPECIAL_TOKENS)] for row in np.asarray(tokens)]


def number_of(word):
    """Returns the record number of a word."""
    return int(word[2:])


def read_batches(dataset, count):
    """Returns the first `count` batches of a dataset as nested dicts of arrays."""
    return [tf.nest.map_structure(lambda x: x.numpy(), batch) for batch in dataset.take(count)]


def assert_batches_equal(actual, expected):
    """Asserts that two nested structures of arrays are equal."""
    tf.nest.map_structure(np.testing.assert_array_equal, actual, expected)
