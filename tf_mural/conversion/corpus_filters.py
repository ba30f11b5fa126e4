"""Questions to the whole corpus: the same image again, a text of too many images.

Each question has rows of three uint64, (key, other, position), which are brought together by key:
`rows` gives those of one record, and `drops` what is to go of all rows with some of the keys.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from tf_mural.conversion import hashes
from tf_mural.conversion.record_filters import with_texts
from tf_mural.data.records import Dropped

_BITS = 64
_SPREAD = 0x9E3779B97F4A7C15  # odd, so that keys stay different, and are spread over 64 bits


@dataclasses.dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        rows: function of (record, steps) to an iterable of (key, other).
        drops: function of (key, other, position, steps), (n,) uint64 each, to (positions, texts):
            (m,) uint64 each, where a text is its hash, or 0 for the whole record.
        reason: function of the steps to what the ledger says.
    """

    rows: Callable
    drops: Callable
    reason: Callable


def _of_whole_record(record, steps):
    yield hashes.of_record(record), 0


def _first_of_each(key, other, position, steps):
    order = np.lexsort((position, key))
    later = position[order][1:][key[order][1:] == key[order][:-1]]
    return later, np.zeros_like(later)


def _of_bands(record, steps):
    """Hashes of `near_distance` bits between them share one of as many bands and one more."""
    count = steps.near_distance + 1
    cuts = [_BITS * band // count for band in range(count + 1)]
    for image in record.images:
        looks = hashes.perceptual(image)
        if isinstance(looks, str):  # It looks like no other.
            continue
        for band in range(count):
            value = (looks >> cuts[band]) & ((1 << (cuts[band + 1] - cuts[band])) - 1)
            yield (value * count + band) * _SPREAD % 2**_BITS, looks


def _near_an_earlier_one(key, looks, position, steps):
    order = np.lexsort((position, looks, key))
    key, looks, position = key[order], looks[order], position[order]
    again = np.zeros(len(key), bool)
    again[1:] = (key[1:] == key[:-1]) & (looks[1:] == looks[:-1])
    first = position[~again][np.cumsum(~again) - 1]
    found = [position[again & (position != first)]]
    # Of those that look the same the first is left, which keeps the pairs to compare few.
    key, looks, position = key[~again], looks[~again], position[~again]
    order = np.lexsort((position, key))
    key, looks, position = key[order], looks[order], position[order]
    near = np.zeros(len(key), bool)
    first = np.arange(len(key))
    for step in range(1, len(key)):
        first = first[: np.searchsorted(first, len(key) - step)]
        first = first[key[first] == key[first + step]]
        if not len(first):
            break
        bits = np.bitwise_count(looks[first] ^ looks[first + step])
        alike = (bits <= steps.near_distance) & (position[first] != position[first + step])
        near[first[alike] + step] = True
    found.append(position[near])
    later = np.unique(np.concatenate(found))
    return later, np.zeros_like(later)


def _of_images(record, steps):
    texts = [hashes.of_text(text) for _, text in record.texts]
    for image in map(hashes.of_bytes, record.images):
        for text in texts:
            yield image, text


def _of_texts(record, steps):
    for image, text in _of_images(record, steps):
        yield text, image


def _with_too_many(key, other, most):
    """(n,) bool: rows whose key comes with more than `most` different others; rows sorted so."""
    order = np.lexsort((other, key))
    key, other = key[order], other[order]
    first = np.ones(len(key), bool)
    first[1:] = key[1:] != key[:-1]
    new = first.copy()
    new[1:] |= other[1:] != other[:-1]
    group = np.cumsum(first) - 1
    out = np.zeros(len(key), bool)
    out[order] = (np.bincount(group, weights=new) > most)[group] if len(key) else False
    return out


def _of_many_texts(key, other, position, steps):
    found = np.unique(position[_with_too_many(key, other, steps.texts_per_image)])
    return found, np.zeros_like(found)


def _of_many_images(key, other, position, steps):
    many = _with_too_many(key, other, steps.images_per_text)
    found = np.unique(np.stack([position[many], key[many]], axis=1), axis=0)
    return found[:, 0], found[:, 1]


QUESTIONS = {
    "texts per image": Question(
        _of_images, _of_many_texts, lambda s: f"image of more than {s.texts_per_image} texts"
    ),
    "images per text": Question(
        _of_texts, _of_many_images, lambda s: f"text of more than {s.images_per_text} images"
    ),
    "exact": Question(_of_whole_record, _first_of_each, lambda s: "exact duplicate"),
    "near": Question(_of_bands, _near_an_earlier_one, lambda s: "near duplicate"),
}


class Answer:
    """A check, see `filters`, that takes away what a question found in one unit.

    Args:
        reason: for the ledger.
        rows: (m,) rows of the unit, in any order.
        texts: (m,) hashes of texts, 0 for the whole record.
    """

    def __init__(self, reason, rows, texts):
        order = np.argsort(rows, kind="stable")
        self._reason = reason
        self._rows, self._texts, self._next = rows[order], texts[order], 0

    def __call__(self, row, record, drop):
        """The record, the record without some texts, or None. Rows must come in order."""
        rows, start = self._rows, self._next
        while start < len(rows) and rows[start] < row:
            start += 1
        end = start
        while end < len(rows) and rows[end] == row:
            end += 1
        self._next = end
        if start == end:
            return record
        texts = set(self._texts[start:end].tolist())
        if 0 in texts:
            return drop(Dropped(self._reason, record.id))
        left = []
        for code, text in record.texts:
            if hashes.of_text(text) in texts:
                drop(Dropped(self._reason, f"{record.id}, {code}: {text}", text=True))
            else:
                left.append((code, text))
        return with_texts(record, left, drop)
