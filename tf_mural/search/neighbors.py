"""Finds the nearest rows of queries: exactly with NumPy or FAISS, or approximately with FAISS.

The inner products that NumPy and FAISS compute differ in the last bits, and depend on the position
of a row and on the number of queries. Therefore these products only select candidates. The scores
of the candidates are computed again in float64, row by row, and rounded to float32. Equal rows thus
have equal scores in every engine, and equal scores are sorted by row.
"""

import numpy as np

MIN_EF_SEARCH = 256
_BLOCK = 1 << 14  # Number of rows that are scored at a time.
_ROWS_PER_SUM = 1 << 12  # Number of rows that are in memory as float64 at a time.


def search_blocks(queries, k, blocks):
    """Finds the k best rows of each query by the inner products with all rows.

    Args:
        queries: float32 (q, width).
        k: number of rows per query, at least 1.
        blocks: iterable of float32 arrays (n, width), the consecutive rows.

    Returns:
        List of q pairs (scores, rows), float32 and int64 (k,) each, best first; shorter if there
        are fewer rows.
    """
    margins = _margins(queries)
    best = [(np.zeros(0, np.float32), np.zeros(0, np.int64)) for _ in queries]
    offset = 0
    for whole in blocks:
        for start in range(0, len(whole), _BLOCK):
            block = np.asarray(whole[start : start + _BLOCK])
            products = queries @ block.T  # (q, block)
            for i, query in enumerate(queries):
                best[i] = _add_block(best[i], query, products[i], block, offset, k, margins[i])
            offset += len(block)
    return best


def search_flat(faiss_index, queries, k, read_rows):
    """Returns the results of `search_blocks`, but None for some of the queries.

    The result of a query is None if rows that FAISS has not returned may be as good as the k-th
    row; `search_blocks` must answer this query.

    Args:
        faiss_index: `faiss.IndexFlatIP`.
        queries, k: see `search_blocks`.
        read_rows: function from row numbers, int64 (n,), to float32 (n, width).
    """
    limit = min(2 * k + 16, faiss_index.ntotal)
    products, rows = faiss_index.search(queries, limit)
    results = []
    for i, margin in enumerate(_margins(queries)):
        may_miss_ties = (
            limit < faiss_index.ntotal and products[i, -1] >= products[i, k - 1] - margin
        )
        if may_miss_ties:
            results.append(None)
        else:
            results.append(_rank(queries[i], products[i], rows[i], k, margin, read_rows))
    return results


def search_hnsw(faiss_index, queries, k, read_rows, ef_search):
    """Returns approximate results in the form of `search_blocks`, but None for some queries.

    FAISS returns the `ef_search` best rows that it visits, and these rows do not depend on k.
    Therefore the results of a smaller k are always the first results of a larger k. The result of a
    query is None if `search_blocks` must answer the query: FAISS finds fewer than `ef_search` rows,
    or all rows that it finds have the same score, and other rows with this score may precede them.

    Args:
        faiss_index: `faiss.IndexHNSWFlat` with the inner product, and with more than `ef_search`
            rows.
        queries: see `search_blocks`.
        k: number of rows per query, at most `ef_search`.
        read_rows: see `search_flat`.
        ef_search: number of candidates.
    """
    import faiss

    # The parameters are passed with each search, because the demo page searches in several threads.
    parameters = faiss.SearchParametersHNSW(efSearch=ef_search)
    products, rows = faiss_index.search(queries, ef_search, params=parameters)
    results = []
    for i, margin in enumerate(_margins(queries)):
        if rows[i, -1] < 0 or products[i, 0] - products[i, -1] <= margin:
            results.append(None)
        else:
            results.append(_rank(queries[i], products[i], rows[i], k, margin, read_rows))
    return results


def _margins(queries):
    """Returns twice the largest rounding error of float32 inner products with unit rows: (q,)."""
    norms = np.linalg.norm(queries.astype(np.float64), axis=1)
    return (queries.shape[1] + 1) * np.finfo(np.float32).eps * np.maximum(norms, 1)


def _add_block(best, query, products, block, offset, k, margin):
    """Returns the k best rows among the best rows so far and the rows of one block."""
    if len(best[0]) == k:
        local = np.flatnonzero(products >= best[0][-1] - margin)
    else:
        local = np.arange(len(block))
    if not len(local):
        return best
    scores, local = _rank(query, products[local], local, k, margin, lambda rows: block[rows])
    scores, rows = np.concatenate([best[0], scores]), np.concatenate([best[1], offset + local])
    order = np.lexsort((rows, -scores))[:k]
    return scores[order], rows[order]


def _rank(query, products, rows, k, margin, read_rows):
    """Returns (scores, rows) of the k best candidates, best first, equal scores by row.

    Args:
        query: float32 (width,).
        products: float32 (n,), inner products of the candidates with rounding errors of at most
            `margin / 2`.
        rows: int64 (n,), the candidates.
        k, read_rows: see `search_flat`.
        margin: see `_margins`.
    """
    if len(rows) > k:
        rows = rows[products >= np.partition(products, -k)[-k] - margin]
    query = query.astype(np.float64)
    sums = [
        (read_rows(rows[start : start + _ROWS_PER_SUM]) * query).sum(axis=1)
        for start in range(0, len(rows), _ROWS_PER_SUM)
    ]
    scores = np.concatenate(sums).astype(np.float32)
    order = np.lexsort((rows, -scores))[:k]
    return scores[order], rows[order]
