"""Ranks of relevant items without ties, nDCG and hit rate: the rules of trec_eval and mteb.

Items are sorted by descending score. Items with exactly equal float32 scores keep their order, so
the caller decides ties by the order of the items; mteb orders them by id, descending.
"""

import numpy as np
from numpy.typing import ArrayLike

from tf_mural.errors import UserError
from tf_mural.evaluation.metrics.ranks import check_embeddings

HIT_KS = (1, 5, 10)
NDCG_K = 10

_MAX_SCORES = 1 << 22  # maximum number of scores in memory


def relevant_ranks(
    queries: ArrayLike, items: ArrayLike, pair_queries: ArrayLike, pair_items: ArrayLike
) -> np.ndarray:
    """Returns the rank of each relevant item in the ranking of its query.

    Args:
        queries: float (q, d), unit rows.
        items: float (n, d), unit rows. Equal rows get equal scores.
        pair_queries, pair_items: int (p,), rows of the queries and of their relevant items.

    Returns:
        int64 (p,), ranks from 0, see `ranks_of_scores`.

    Raises:
        UserError: Values are not finite, or a pair is not a row of `queries` and of `items`.
    """
    queries, items = check_embeddings(queries, "queries"), check_embeddings(items, "items")
    # BLAS may compute scores of equal rows with different rounding at different positions.
    unique, item_rows = np.unique(items, axis=0, return_inverse=True)
    item_rows = item_rows.reshape(-1)
    if len(unique) == len(items):
        unique = items
    pair_queries, pair_items = _check_pairs(pair_queries, pair_items, len(queries), len(items))
    ranks = np.empty(len(pair_queries), np.int64)
    order = np.argsort(pair_queries, kind="stable")
    step = max(1, _MAX_SCORES // max(1, len(items)))
    starts = np.searchsorted(pair_queries[order], np.arange(0, len(queries) + step, step))
    for block, start in enumerate(range(0, len(queries), step)):
        scores = queries[start : start + step] @ unique.T
        if len(unique) < len(items):
            scores = scores[:, item_rows]
        pairs = order[starts[block] : starts[block + 1]]
        ranks[pairs] = ranks_of_scores(scores, pair_queries[pairs] - start, pair_items[pairs])
    return ranks


def ranks_of_scores(
    scores: ArrayLike, pair_queries: ArrayLike, pair_items: ArrayLike
) -> np.ndarray:
    """Returns the rank of each relevant item, given the scores of all items.

    The rank is the number of items that score higher, plus the number of earlier items with the
    same score.

    Args:
        scores: (q, n); compared as float32, as trec_eval does.
        pair_queries, pair_items: int (p,), rows and columns of the relevant items.

    Returns:
        int64 (p,), ranks from 0.
    """
    scores = np.asarray(scores).astype(np.float32, copy=False)
    pair_queries, pair_items = _check_pairs(pair_queries, pair_items, *scores.shape)
    own = scores[pair_queries, pair_items]
    ranks = np.empty(len(own), np.int64)
    for pair, (query, item) in enumerate(zip(pair_queries, pair_items, strict=True)):
        row = scores[query]
        ranks[pair] = np.count_nonzero(row > own[pair])
        ranks[pair] += np.count_nonzero(row[:item] == own[pair])
    return ranks


def ndcg(ranks: ArrayLike, pair_queries: ArrayLike, count: int, k: int = NDCG_K) -> np.ndarray:
    """Returns nDCG at k of each query: float64 (count,).

    The gain of a relevant item is 1, the discount of rank r from 0 is 1 / log2(r + 2), and the
    ideal ranking has all relevant items of the query first.

    Args:
        ranks: int (p,), see `relevant_ranks`.
        pair_queries: int (p,), the query of each rank.
        count: number of queries; each needs a relevant item.
        k: number of items that count.

    Raises:
        UserError: A query has no relevant item.
    """
    ranks, pair_queries = np.asarray(ranks), np.asarray(pair_queries)
    gains = np.where(ranks < k, 1.0 / np.log2(ranks + 2.0), 0.0)
    total = np.bincount(pair_queries, weights=gains, minlength=count)
    relevant = _count_relevant(pair_queries, count)
    ideal = np.cumsum(1.0 / np.log2(np.arange(k) + 2.0))
    return total / ideal[np.minimum(relevant, k) - 1]


def hits(
    ranks: ArrayLike, pair_queries: ArrayLike, count: int, ks: tuple[int, ...] = HIT_KS
) -> np.ndarray:
    """Returns whether each query has a relevant item among its first k: float64 (count, len(ks)).

    See `ndcg` for the arguments and errors.
    """
    pair_queries = np.asarray(pair_queries)
    _count_relevant(pair_queries, count)
    best = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(best, pair_queries, np.asarray(ranks))
    return (best[:, None] < np.array(ks)).astype(np.float64)


def first_best(queries: ArrayLike, items: ArrayLike) -> np.ndarray:
    """Returns the item with the highest score of each query, and the first of equal ones: (q,).

    Args:
        queries: float (q, d), unit rows.
        items: float (n, d), unit rows. Equal rows get equal scores.
    """
    queries, items = check_embeddings(queries, "queries"), check_embeddings(items, "items")
    unique, first = np.unique(items, axis=0, return_index=True)
    order = np.argsort(first)  # the unique rows in the order of their first items
    step = max(1, _MAX_SCORES // max(1, len(unique)))
    best = [
        np.argmax(queries[start : start + step] @ unique[order].T, axis=1)
        for start in range(0, len(queries), step)
    ]
    return first[order][np.concatenate(best)]


def _count_relevant(pair_queries, count):
    relevant = np.bincount(pair_queries, minlength=count)
    if count == 0 or relevant.min() == 0:
        raise UserError(
            f"{np.sum(relevant == 0)} of {count} queries have no relevant item: leave them out"
        )
    return relevant


def _check_pairs(pair_queries, pair_items, num_queries, num_items):
    pair_queries, pair_items = np.asarray(pair_queries), np.asarray(pair_items)
    for name, rows, count in (
        ("queries", pair_queries, num_queries),
        ("items", pair_items, num_items),
    ):
        inside = not rows.size or 0 <= rows.min() <= rows.max() < count
        if rows.shape != pair_queries.shape or not inside:
            raise UserError(f"pairs of shape {rows.shape}: expected rows of the {count} {name}")
    return pair_queries.astype(np.int64), pair_items.astype(np.int64)
