"""Selection of hard negatives: the most similar records that are not true positives."""

import dataclasses

import numpy as np

from tf_mural.errors import UserError, lookup

PARTS = ("images", "texts")
SAMPLING = ("top", "random")
# Numbers of rows whose similarities are computed at a time, 64 MB of float32 values.
_ANCHOR_ROWS, _CANDIDATE_ROWS = 1024, 16384


@dataclasses.dataclass(frozen=True)
class MiningOptions:
    """Which negatives are mined; `mine_hard_negatives` of sentence-transformers has the same names.

    The similarity of two records is the largest cosine similarity between a row of the anchor and a
    row of the candidate.

    Attributes:
        anchors: "images" or "texts": the parts of a record for which similar candidates are found,
            the field `x` of a term.
        negatives: "images" or "texts": the parts of the candidates, the field of the negatives.
        num_negatives: number of negatives of a record.
        range_min: number of most similar candidates that are skipped, because they may be true
            positives. True positives that are known do not count.
        range_max: number of most similar candidates of which negatives are chosen. None:
            `range_min` + 10 * `num_negatives` with a limit of the scores, otherwise `range_min` +
            `num_negatives`.
        max_score, min_score: largest and smallest similarity of a negative.
        absolute_margin, relative_margin: a negative's similarity is at most p - `absolute_margin`
            and at most p - `relative_margin` * |p|, where p is the smallest similarity between an
            anchor and another part of its own record.
        sampling: "top" chooses the most similar candidates, and "random" any of them.
        seed: seed of the random choice.
        languages: codes of the languages of the texts, at least one; None: all texts.

    Raises:
        UserError: a value is invalid, or two values contradict each other.
    """

    anchors: str
    negatives: str
    num_negatives: int = 3
    range_min: int = 0
    range_max: int | None = None
    max_score: float | None = None
    min_score: float | None = None
    absolute_margin: float | None = None
    relative_margin: float | None = None
    sampling: str = "top"
    seed: int = 0
    languages: tuple | None = None

    def __post_init__(self):
        for name in ("anchors", "negatives"):
            lookup(dict.fromkeys(PARTS), getattr(self, name), f"value of `{name}`")
        lookup(dict.fromkeys(SAMPLING), self.sampling, "value of `sampling`")
        if self.num_negatives < 1 or self.range_min < 0:
            raise UserError(
                f"num_negatives is {self.num_negatives} and range_min is {self.range_min}: "
                "expected numbers from 1 and from 0"
            )
        if self.depth - self.range_min < self.num_negatives:
            raise UserError(
                f"range_min={self.range_min} and range_max={self.range_max} leave fewer than "
                f"num_negatives={self.num_negatives} candidates: set `range_max` to at least "
                f"{self.range_min + self.num_negatives}"
            )
        if None not in (self.min_score, self.max_score) and self.min_score > self.max_score:
            raise UserError(
                f"min_score={self.min_score} is larger than max_score={self.max_score}: no "
                "candidate has such a similarity"
            )
        if self.languages is not None and not self.languages:
            raise UserError("`languages` is empty: expected codes of languages, such as en")
        if self.languages and "texts" not in (self.anchors, self.negatives):
            raise UserError(f"`languages` selects texts, but only {self.anchors} are compared")

    @property
    def has_margin(self):
        """Whether negatives are compared with the positives of their record."""
        return self.absolute_margin is not None or self.relative_margin is not None

    @property
    def depth(self):
        """Number of most similar candidates that are ranked."""
        if self.range_max is not None:
            return self.range_max
        is_limited = self.has_margin or self.max_score is not None or self.min_score is not None
        return self.range_min + self.num_negatives * (10 if is_limited else 1)


@dataclasses.dataclass(frozen=True)
class Rows:
    """Embeddings of images or texts of consecutive records.

    Attributes:
        rows: float32 (r, width), rows of length 1.
        owners: int64 (r,), ascending numbers of the records of the rows.
        ids, id_owners: int64 (m,), hashes of all images and texts of the records, and the numbers
            of their records.
    """

    rows: np.ndarray
    owners: np.ndarray
    ids: np.ndarray
    id_owners: np.ndarray


class HardNegatives:
    """The most similar candidates of some records, which `add` compares with all candidates.

    Args:
        anchors: `Rows` of the records.
        first, count: number of the first record, and number of records.
        options: `MiningOptions`.
    """

    def __init__(self, anchors, first, count, options):
        self._first, self._options = first, options
        self._blocks = _divide(anchors.rows, anchors.owners, _ANCHOR_ROWS)
        order = np.argsort(anchors.ids, kind="stable")
        self._ids, self._id_owners = anchors.ids[order], anchors.id_owners[order]
        shape = (count, options.depth)
        self.scores = np.full(shape, -np.inf, np.float32)
        self.records = np.full(shape, -1, np.int64)

    def add(self, candidates):
        """Compares the records with candidates, `Rows`; the order of the calls has no effect."""
        chunks = _divide(candidates.rows, candidates.owners, _CANDIDATE_ROWS)
        positives = self._shared(candidates)
        for rows, owners in self._blocks:
            own, starts = np.unique(owners, return_index=True)
            for other_rows, other_owners in chunks:
                others, other_starts = np.unique(other_owners, return_index=True)
                scores = rows @ other_rows.T
                scores = np.maximum.reduceat(scores, other_starts, axis=1)
                scores = np.maximum.reduceat(scores, starts, axis=0)  # (records, candidates)
                _exclude(scores, own, others, *positives)
                self._merge(own - self._first, scores, others)

    def _shared(self, candidates):
        """Returns the pairs (record, candidate) that share an image or a text."""
        left = np.searchsorted(self._ids, candidates.ids, side="left")
        counts = np.searchsorted(self._ids, candidates.ids, side="right") - left
        other = np.repeat(candidates.id_owners, counts)
        steps = np.arange(len(other)) - np.repeat(np.cumsum(counts) - counts, counts)
        return self._id_owners[np.repeat(left, counts) + steps], other

    def _merge(self, own, scores, others):
        """Keeps the `depth` largest scores of each record; equal scores by number of record."""
        depth = self._options.depth
        limits = self.scores[own, -1]  # smaller scores cannot be kept
        if scores.shape[1] > depth and np.isneginf(limits).any():
            limits = np.maximum(limits, np.partition(scores, -depth, axis=1)[:, -depth])
        rows, columns = np.nonzero((scores >= limits[:, None]) & np.isfinite(scores))
        counts = np.bincount(rows, minlength=len(own))
        if not len(rows):
            return
        # The scores that may be kept are moved to the first columns.
        columns_of_row = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        kept_scores = np.full((len(own), counts.max()), -np.inf, np.float32)
        kept_records = np.full(kept_scores.shape, -1, np.int64)
        kept_scores[rows, columns_of_row] = scores[rows, columns]
        kept_records[rows, columns_of_row] = others[columns]
        scores = np.concatenate([self.scores[own], kept_scores], axis=1)
        records = np.concatenate([self.records[own], kept_records], axis=1)
        order = np.lexsort((records, -scores), axis=1)[:, :depth]
        self.scores[own] = np.take_along_axis(scores, order, axis=1)
        self.records[own] = np.take_along_axis(records, order, axis=1)

    def select(self, positives):
        """Chooses the negatives of each record.

        Args:
            positives: float32 (count,), the similarity p of `MiningOptions`; nan for a record
                without another part, to which the margins do not apply.

        Returns:
            (records int32 (count, num_negatives), scores float32), with -1 and -inf for missing
            negatives, which are the last ones of a row.
        """
        options = self._options
        scores = self.scores[:, options.range_min :].copy()
        records = np.where(np.isfinite(scores), self.records[:, options.range_min :], -1)
        limits = np.full(len(scores), np.inf)
        if options.max_score is not None:
            limits = np.minimum(limits, options.max_score)
        if options.absolute_margin is not None:
            limits = np.fmin(limits, positives - options.absolute_margin)
        if options.relative_margin is not None:
            limits = np.fmin(limits, positives - options.relative_margin * np.abs(positives))
        bad = scores > limits[:, None]
        if options.min_score is not None:
            bad |= scores < options.min_score
        scores[bad | (records < 0)] = -np.inf
        keys = -scores.astype(np.float64)
        if options.sampling == "random":
            numbers = _random_numbers(options.seed, self._first, scores.shape)
            keys = np.where(np.isfinite(scores), numbers, np.inf)
        chosen = np.argsort(keys, axis=1, kind="stable")[:, : options.num_negatives]
        scores = np.take_along_axis(scores, chosen, axis=1)
        records = np.take_along_axis(records, chosen, axis=1)
        records = np.where(np.isfinite(scores), records, -1)
        order = np.argsort(-scores, axis=1, kind="stable")  # the most similar one first
        scores, records = (np.take_along_axis(x, order, axis=1) for x in (scores, records))
        return records.astype(np.int32), scores


def positive_scores(anchors, negatives, first, count, same_part):
    """Returns the smallest similarity between an anchor and another part of its own record.

    Args:
        anchors, negatives: `Rows` of the same records.
        first, count: number of the first record, and number of records.
        same_part: whether `negatives` has the same rows as `anchors`; a row is not compared with
            itself.

    Returns:
        float32 (count,); nan for a record without such a pair.
    """
    result = np.full(count, np.nan, np.float32)
    for record in np.intersect1d(anchors.owners, negatives.owners):
        a, b = (
            x.rows[slice(*np.searchsorted(x.owners, (record, record + 1)))]
            for x in (anchors, negatives)
        )
        scores = a @ b.T
        if same_part:
            scores = scores[~np.eye(len(scores), dtype=bool)]
        if scores.size:
            result[record - first] = scores.min()
    return result


def _exclude(scores, own, others, positive_own, positive_others):
    """Sets the scores of true positives to -inf."""
    i, j = np.searchsorted(own, positive_own), np.searchsorted(others, positive_others)
    i, j = np.minimum(i, len(own) - 1), np.minimum(j, len(others) - 1)
    is_here = (own[i] == positive_own) & (others[j] == positive_others)
    scores[i[is_here], j[is_here]] = -np.inf


def _divide(rows, owners, size):
    """Returns parts (rows, owners) of about `size` rows; a record is never divided."""
    parts, start = [], 0
    while start < len(owners):
        end = min(start + size, len(owners))
        end = int(np.searchsorted(owners, owners[end - 1], side="right"))
        parts.append((rows[start:end], owners[start:end]))
        start = end
    return parts


def _random_numbers(seed, first, shape):
    """Returns random numbers (count, depth), which depend on the seed and the record's number."""
    rows = [np.random.default_rng((seed, first + i)).random(shape[1]) for i in range(shape[0])]
    return np.array(rows).reshape(shape)
