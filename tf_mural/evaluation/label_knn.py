"""Nearest neighbours with labels, exact, against an index that need not fit into memory."""

import numpy as np


class LabelNeighbours:
    """Finds which queries have an item of their own label among their k nearest, by cosine.

    Of the index only what decides this is kept: for each query its best item of the same label and
    its k best of other labels. So it comes in parts of any size, in any order, once, and memory
    grows with the queries alone. Ties count against the query.

    Args:
        queries: float32 (q, d), finite unit rows.
        labels: int (q,).
        k: the most neighbours to ask for, 1 or more.
        tie: scores that are less than this apart are a tie.
        numbers: scores held in memory at once.
    """

    def __init__(self, queries, labels, k, tie, numbers=1 << 26):
        # In the order of the labels, so that the scores of equal labels are rectangles.
        self._order = np.argsort(labels, kind="stable")
        self._queries = np.asarray(queries, np.float32)[self._order]
        self._runs = _runs(np.asarray(labels)[self._order])
        self._k, self._tie, self._numbers = k, tie, numbers
        self._right = np.full(len(queries), -np.inf, np.float32)
        self._wrong = np.full((len(queries), k), -np.inf, np.float32)  # (q, k), the k-th best first
        self._scores = None

    def add(self, items, labels):
        """Takes a part of the index: items float32 (m, d), finite unit rows; labels int (m,)."""
        if not len(self._queries) or not len(items):
            return
        order = np.argsort(labels, kind="stable")
        items, labels = np.asarray(items, np.float32)[order], np.asarray(labels)[order]
        step = max(1, self._numbers // len(self._queries))
        for start in range(0, len(items), step):
            self._block(items[start : start + step], labels[start : start + step])

    def hits(self):
        """Bool (q, k): column j says whether one of the j + 1 nearest items has the label."""
        hits = self._wrong[:, ::-1] < (self._right - np.float32(self._tie))[:, None]
        return hits[np.argsort(self._order)]

    def _block(self, items, labels):
        """Scores some items, which are in the order of their labels, against all queries."""
        scores = self._space(len(items))
        np.matmul(self._queries, items.T, out=scores)
        for label, (first, end) in _runs(labels).items():
            if label in self._runs:
                rows = slice(*self._runs[label])
                own = scores[rows, first:end]
                np.maximum(self._right[rows], own.max(axis=1), out=self._right[rows])
                own[...] = -np.inf  # what is left are the wrong ones
        better = np.flatnonzero(scores.max(axis=1) > self._wrong[:, 0])
        for start in range(0, len(better), 1024):  # by parts: they are copied
            rows = better[start : start + 1024]
            best = np.concatenate([self._wrong[rows], scores[rows]], axis=1)
            best.partition(best.shape[1] - self._k, axis=1)
            self._wrong[rows] = np.sort(best[:, -self._k :], axis=1)

    def _space(self, width):
        """A (q, width) array to write into, the same memory every time."""
        size = len(self._queries) * width
        if self._scores is None or self._scores.size < size:
            self._scores = np.empty(size, np.float32)
        return self._scores[:size].reshape(len(self._queries), width)


def _runs(labels):
    """{label: (first, end)} of sorted labels."""
    values, first = np.unique(labels, return_index=True)
    ends = np.append(first[1:], len(labels))
    return {int(v): (int(f), int(e)) for v, f, e in zip(values, first, ends, strict=True)}
