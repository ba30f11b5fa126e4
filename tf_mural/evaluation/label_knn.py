"""Exact nearest-neighbor search for labels; the index does not need to fit into memory."""

import numpy as np


class LabelKNN:
    """Finds which queries have an item of their own label among their k nearest items, by cosine.

    For each query, only the best score of its own label and the k best scores of other labels are
    stored. The index can therefore be added in parts of any size and in any order, and memory
    grows with the number of queries only. Ties count as misses.

    Args:
        queries: float32 (q, d), finite unit rows.
        labels: int (q,).
        k: Largest number of neighbors, at least 1.
        tie_tolerance: Scores that differ by less than this number count as a tie.
        max_scores: Maximum number of scores in memory.
    """

    def __init__(self, queries, labels, k, tie_tolerance, max_scores=1 << 26):
        # Queries are sorted by label, so that the queries of a label are consecutive rows.
        self._order = np.argsort(labels, kind="stable")
        self._queries = np.asarray(queries, np.float32)[self._order]
        self._label_ranges = _label_ranges(np.asarray(labels)[self._order])
        self._k, self._tie_tolerance, self._max_scores = k, tie_tolerance, max_scores
        self._best_same = np.full(len(queries), -np.inf, np.float32)
        self._best_other = np.full((len(queries), k), -np.inf, np.float32)  # (q, k), ascending
        self._buffer = None

    def add(self, items, labels):
        """Adds a part of the index: items float32 (m, d), finite unit rows; labels int (m,)."""
        if not len(self._queries) or not len(items):
            return
        order = np.argsort(labels, kind="stable")
        items, labels = np.asarray(items, np.float32)[order], np.asarray(labels)[order]
        step = max(1, self._max_scores // len(self._queries))
        for start in range(0, len(items), step):
            self._add_block(items[start : start + step], labels[start : start + step])

    def hits(self):
        """Returns bool (q, k): entry (i, j) is whether query i is a hit for j + 1 neighbors."""
        same = (self._best_same - np.float32(self._tie_tolerance))[:, None]
        hits = self._best_other[:, ::-1] < same
        return hits[np.argsort(self._order)]

    def _add_block(self, items, labels):
        """Scores items, which are sorted by label, against all queries."""
        scores = self._score_buffer(len(items))
        np.matmul(self._queries, items.T, out=scores)
        for label, (first, end) in _label_ranges(labels).items():
            if label in self._label_ranges:
                rows = slice(*self._label_ranges[label])
                same = scores[rows, first:end]
                np.maximum(self._best_same[rows], same.max(axis=1), out=self._best_same[rows])
                same[...] = -np.inf  # only scores of other labels remain
        better = np.flatnonzero(scores.max(axis=1) > self._best_other[:, 0])
        for start in range(0, len(better), 1024):  # limits the memory of the copied rows
            rows = better[start : start + 1024]
            best = np.concatenate([self._best_other[rows], scores[rows]], axis=1)
            best.partition(best.shape[1] - self._k, axis=1)
            self._best_other[rows] = np.sort(best[:, -self._k :], axis=1)

    def _score_buffer(self, width):
        """Returns an uninitialized (q, width) array, whose memory the next call reuses."""
        size = len(self._queries) * width
        if self._buffer is None or self._buffer.size < size:
            self._buffer = np.empty(size, np.float32)
        return self._buffer[:size].reshape(len(self._queries), width)


def _label_ranges(labels):
    """Returns {label: (first, end)}, the range of each label in sorted labels."""
    values, first = np.unique(labels, return_index=True)
    ends = np.append(first[1:], len(labels))
    return {int(v): (int(f), int(e)) for v, f, e in zip(values, first, ends, strict=True)}
