"""Rows of three uint64 on disk, sorted by their first, and what is found among all of a corpus.

A unit's rows are files of at most `_ROWS` rows, so that memory stays flat. Those of a range of keys
are read from all files at once, since the files are sorted: the one group-by of a conversion.
"""

import array
import os

import numpy as np

from tf_mural.data import records

_ROWS = 1 << 20  # of a file
ROWS_AT_ONCE = 1 << 21  # that a range of keys is to hold, about


class Rows:
    """Collects rows into files `<stem>-<number>.npy`.

    Attributes:
        files: paths of the files so far.
        count: rows so far.
    """

    def __init__(self, stem):
        self.files, self.count = [], 0
        self._stem = stem
        self._held = array.array("Q")

    def add(self, key, other, position):
        """Adds a row."""
        self._held.extend((key, other, position))
        if len(self._held) >= 3 * _ROWS:
            self.spill()

    def spill(self):
        """Writes what is held; to be called at the end."""
        if self._held:
            held = np.frombuffer(self._held, np.uint64).reshape(-1, 3)
            self.count += len(held)
            self.files.append(f"{self._stem}-{len(self.files):04d}.npy")
            save(self.files[-1], held[np.argsort(held[:, 0], kind="stable")])
            self._held = array.array("Q")


def save(path, columns):
    """Writes an array, which appears under its name when it is whole."""
    with records.appears_whole(path) as file:
        np.save(file, np.asarray(columns, np.uint64))


def between(files, start, end, width):
    """The rows of all files with a first number in [start, end), as one array."""
    found = [np.zeros((0, width), np.uint64)]
    for path in files:
        held = np.load(path, mmap_mode="r")
        first, last = (np.searchsorted(held[:, 0], _uint64(cut)) for cut in (start, end))
        # The last range ends with the largest number there is, which is in it.
        found.append(np.array(held[first : len(held) if end >= 2**64 else last]))
    return np.concatenate(found)


def key_ranges(count):
    """Ranges [start, end) of keys that hold about `ROWS_AT_ONCE` of `count` spread rows each."""
    parts = max(1, -(-count // ROWS_AT_ONCE))
    return [(2**64 * part // parts, 2**64 * (part + 1) // parts) for part in range(parts)]


def remove(files):
    """Removes files that may be gone."""
    for path in files:
        if os.path.exists(path):
            os.remove(path)


def _uint64(number):
    return np.uint64(min(number, 2**64 - 1))
