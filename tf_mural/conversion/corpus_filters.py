"""Filters that need corpus-wide counts: duplicates, texts per image, images per text.

A corpus filter works like a group-by. In pass 1, `keys` maps each record to (key, value) pairs,
which are spilled to sorted files as entries (key, value, position of the record) of three uint64.
Between the passes, `select` gets all entries of a range of keys and selects the records and texts
to drop. In pass 2, a `DropList` drops the selected records and texts of one unit.
"""

import array
import dataclasses
import os
from collections.abc import Callable

import numpy as np

from tf_mural import file_io
from tf_mural.conversion import hashes
from tf_mural.conversion.record_filters import replace_texts
from tf_mural.data.records import Skipped

_HASH_BITS = 64
# Multiplication by this odd factor spreads keys over 64 bits and keeps different keys different.
_SPREAD = 0x9E3779B97F4A7C15
_ENTRIES_PER_FILE = 1 << 20
ENTRIES_PER_RANGE = 1 << 21  # Approximate number of entries in memory at a time.


@dataclasses.dataclass(frozen=True)
class CorpusFilter:
    """A filter that needs all records of the corpus.

    Attributes:
        keys: callable (record, filters) that returns an iterable of (key, value).
        select: callable (keys, values, positions, filters) that returns (positions, text hashes) of
            the texts to drop; a text hash of 0 drops the whole record. The arguments are (n,)
            uint64 arrays with one number per entry, the results are (m,) uint64 arrays.
        reason: callable (filters) that returns the reason for the ledger.
    """

    keys: Callable
    select: Callable
    reason: Callable


# --- duplicates -----------------------------------------------------------------------------------


def _record_key(record, filters):
    yield hashes.hash_record(record), 0


def _select_repeated(keys, values, positions, filters):
    """Selects all records that share a key except the first of them."""
    order = np.lexsort((positions, keys))
    later = positions[order][1:][keys[order][1:] == keys[order][:-1]]
    return later, np.zeros_like(later)


def _phash_bands(record, filters):
    """Yields (key, pHash) for each image and each of the `near_distance` + 1 bands of its pHash.

    A band is a range of adjacent bits. The key identifies the band and the values of its bits.

    By the pigeonhole principle, two hashes that differ in at most `near_distance` bits agree in at
    least one band.
    """
    count = filters.near_distance + 1
    cuts = [_HASH_BITS * band // count for band in range(count + 1)]
    for image in record.images:
        phash = hashes.perceptual_hash(image)
        if isinstance(phash, str):  # An image that does not decode has no duplicates.
            continue
        for band in range(count):
            value = (phash >> cuts[band]) & ((1 << (cuts[band + 1] - cuts[band])) - 1)
            yield (value * count + band) * _SPREAD % 2**_HASH_BITS, phash


def _select_near(keys, phashes, positions, filters):
    """Selects records with an image that is similar to an image of an earlier record."""
    order = np.lexsort((positions, phashes, keys))
    keys, phashes, positions = keys[order], phashes[order], positions[order]
    repeated = np.zeros(len(keys), bool)
    repeated[1:] = (keys[1:] == keys[:-1]) & (phashes[1:] == phashes[:-1])
    first = positions[~repeated][np.cumsum(~repeated) - 1]
    selected = [positions[repeated & (positions != first)]]
    # To save comparisons, only the first of several entries with equal key and hash remains.
    keys, phashes, positions = keys[~repeated], phashes[~repeated], positions[~repeated]
    order = np.lexsort((positions, keys))
    keys, phashes, positions = keys[order], phashes[order], positions[order]
    near = np.zeros(len(keys), bool)
    first = np.arange(len(keys))
    for step in range(1, len(keys)):
        first = first[: np.searchsorted(first, len(keys) - step)]
        first = first[keys[first] == keys[first + step]]
        if not len(first):
            break
        distances = np.bitwise_count(phashes[first] ^ phashes[first + step])
        similar = distances <= filters.near_distance
        similar &= positions[first] != positions[first + step]
        near[first[similar] + step] = True
    selected.append(positions[near])
    later = np.unique(np.concatenate(selected))
    return later, np.zeros_like(later)


# --- texts per image, images per text -------------------------------------------------------------


def _texts_by_image(record, filters):
    texts = [hashes.hash_text(text) for _, text in record.texts]
    for image in map(hashes.hash_bytes, record.images):
        for text in texts:
            yield image, text


def _images_by_text(record, filters):
    for image, text in _texts_by_image(record, filters):
        yield text, image


def _exceeds_count(keys, values, maximum):
    """Returns (n,) bool: entries whose key has more than `maximum` different values."""
    order = np.lexsort((values, keys))
    keys, values = keys[order], values[order]
    first = np.ones(len(keys), bool)
    first[1:] = keys[1:] != keys[:-1]
    new = first.copy()
    new[1:] |= values[1:] != values[:-1]
    group = np.cumsum(first) - 1
    exceeds = np.zeros(len(keys), bool)
    exceeds[order] = (np.bincount(group, weights=new) > maximum)[group] if len(keys) else False
    return exceeds


def _select_frequent_images(keys, values, positions, filters):
    selected = np.unique(positions[_exceeds_count(keys, values, filters.texts_per_image)])
    return selected, np.zeros_like(selected)


def _select_frequent_texts(keys, values, positions, filters):
    exceeds = _exceeds_count(keys, values, filters.images_per_text)
    selected = np.unique(np.stack([positions[exceeds], keys[exceeds]], axis=1), axis=0)
    return selected[:, 0], selected[:, 1]


CORPUS_FILTERS = {
    "texts per image": CorpusFilter(
        _texts_by_image,
        _select_frequent_images,
        lambda filters: f"image of more than {filters.texts_per_image} texts",
    ),
    "images per text": CorpusFilter(
        _images_by_text,
        _select_frequent_texts,
        lambda filters: f"text of more than {filters.images_per_text} images",
    ),
    "exact": CorpusFilter(_record_key, _select_repeated, lambda filters: "exact duplicate"),
    "near": CorpusFilter(_phash_bands, _select_near, lambda filters: "near duplicate"),
}


class DropList:
    """A record filter (see `record_filters`) that applies the result of a corpus filter to a unit.

    Args:
        reason: reason for the ledger.
        indices: (m,) uint64, indices of records in the unit, in any order.
        text_hashes: (m,) uint64, hashes of the texts that are dropped; 0 for the whole record.
        vectors: {name: description} of the vectors of the records, or None.
    """

    def __init__(self, reason, indices, text_hashes, vectors=None):
        order = np.argsort(indices, kind="stable")
        self._reason, self._vectors = reason, vectors or {}
        self._indices, self._text_hashes, self._next = indices[order], text_hashes[order], 0

    def __call__(self, index, record, skip):
        """Returns the record, possibly with fewer texts, or None if it is dropped.

        The index must be greater at each call.
        """
        start = self._next
        while start < len(self._indices) and self._indices[start] < index:
            start += 1
        end = start
        while end < len(self._indices) and self._indices[end] == index:
            end += 1
        self._next = end
        if start == end:
            return record
        dropped = set(self._text_hashes[start:end].tolist())
        if 0 in dropped:
            return skip(Skipped(self._reason, record.id))
        kept = []
        for position, (code, text) in enumerate(record.texts):
            if hashes.hash_text(text) in dropped:
                skip(Skipped(self._reason, f"{record.id}, {code}: {text}", text_only=True))
            else:
                kept.append(position)
        return replace_texts(record, kept, skip, self._vectors)


# --- sorted files of entries ----------------------------------------------------------------------


class SpillWriter:
    """Collects entries (key, value, position) into files `<stem>-<number>.npy`, sorted by key.

    A file has at most `_ENTRIES_PER_FILE` entries, which limits the use of memory.

    Attributes:
        files: paths of the files written.
        count: number of entries written.
    """

    def __init__(self, stem):
        self.files, self.count = [], 0
        self._stem = stem
        self._buffer = array.array("Q")

    def add(self, key, value, position):
        """Adds an entry of three integers in [0, 2^64)."""
        self._buffer.extend((key, value, position))
        if len(self._buffer) >= 3 * _ENTRIES_PER_FILE:
            self.flush()

    def flush(self):
        """Writes the buffered entries to a new file. Must be called after the last `add`."""
        if self._buffer:
            entries = np.frombuffer(self._buffer, np.uint64).reshape(-1, 3)
            self.count += len(entries)
            self.files.append(f"{self._stem}-{len(self.files):04d}.npy")
            save_sorted(self.files[-1], entries)
            self._buffer = array.array("Q")


def save_sorted(path, entries):
    """Writes an (n, k) uint64 array, sorted by its first column, to a .npy file atomically."""
    entries = np.asarray(entries, np.uint64)
    with file_io.atomic_write(path, sync=False) as temporary, open(temporary, "wb") as file:
        np.save(file, entries[entries[:, 0].argsort(kind="stable")])


def read_range(files, start, end, width):
    """Reads from several sorted files the entries whose first number is in [start, end).

    Args:
        files: paths of (n, width) uint64 arrays, each sorted by its first column.
        start, end: integers in [0, 2^64]; an end of 2^64 includes the largest uint64.
        width: number of columns.

    Returns:
        An (m, width) uint64 array.
    """
    parts = [np.zeros((0, width), np.uint64)]
    for path in files:
        entries = np.load(path, mmap_mode="r")
        first = np.searchsorted(entries[:, 0], _to_uint64(start))
        last = np.searchsorted(entries[:, 0], _to_uint64(end))
        parts.append(np.array(entries[first : len(entries) if end >= 2**64 else last]))
    return np.concatenate(parts)


def key_ranges(count):
    """Divides the keys of `count` entries into ranges of about `ENTRIES_PER_RANGE` entries.

    Keys are assumed to be spread evenly over [0, 2^64).

    Returns:
        A list of (start, end); the end does not belong to the range.
    """
    ranges = max(1, -(-count // ENTRIES_PER_RANGE))
    return [(2**64 * i // ranges, 2**64 * (i + 1) // ranges) for i in range(ranges)]


def remove_files(files):
    """Removes files; ignores missing ones."""
    for path in files:
        if os.path.exists(path):
            os.remove(path)


def _to_uint64(number):
    return np.uint64(min(number, 2**64 - 1))
