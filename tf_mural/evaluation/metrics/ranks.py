"""Ranks of right candidates among all candidates, by cosine."""

import numpy as np

from tf_mural.errors import UserError

# Cosines of unit rows nearer than this are a tie: float32 products of the very same vectors differ
# in their last digits with their place in the matrix, and a tie must not be won by such luck.
TIE = 1e-6

# Scores held in memory at once, in numbers.
_CHUNK = 1 << 23


def retrieval_ranks(queries, items, query_groups, item_groups):
    """Counts, for each query, the wrong items that score at least as high as its best right item.

    An item is right for a query of the same group. Rank 0 is a hit at 1. Ties count against the
    query, so an encoder that maps everything to one point misses everything.

    Args:
        queries: float (q, d), unit rows.
        items: float (m, d), unit rows.
        query_groups: int (q,).
        item_groups: int (m,).

    Returns:
        int64 (q,).

    Raises:
        UserError: shapes that do not fit, values that are not finite, a query without a right item.
    """
    queries, items = checked_rows(queries, "queries"), checked_rows(items, "items")
    query_groups, item_groups = np.asarray(query_groups), np.asarray(item_groups)
    _fitting(queries, items, "queries", "items")
    for rows, groups, name in ((queries, query_groups, "query"), (items, item_groups, "item")):
        if groups.shape != (len(rows),):
            raise UserError(
                f"{name}_groups has shape {groups.shape}: expected one group a row, {(len(rows),)}"
            )
    lonely = np.flatnonzero(~np.isin(query_groups, item_groups))
    if lonely.size:
        raise UserError(
            f"{lonely.size} of {len(queries)} queries have no right item, the first is query "
            f"{lonely[0]}: leave them out"
        )
    ranks = np.empty(len(queries), np.int64)
    step = max(1, _CHUNK // max(1, len(items)))
    for start in range(0, len(queries), step):
        rows = slice(start, start + step)
        scores = queries[rows] @ items.T  # (step, m)
        right = query_groups[rows, None] == item_groups
        best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
        ranks[rows] = np.sum((scores >= best - TIE) & ~right, axis=1)
    return ranks


def image_text_ranks(images, texts, text_images):
    """Ranks in both directions of cross-modal retrieval, each score computed once for both.

    Args:
        images: float (n, d), unit rows.
        texts: float (m, d), unit rows.
        text_images: int (m,), the row of `images` that each text describes; every image needs one.

    Returns:
        (image to text (n,), text to image (m,)), int64, as those of `retrieval_ranks`.

    Raises:
        UserError: as `retrieval_ranks`, and an index outside of `images`.
    """
    images, texts, text_images = _described(images, texts, text_images)
    text_own = _own_scores(texts, images, text_images)
    image_own = np.full(len(images), -np.inf, np.float32)
    np.maximum.at(image_own, text_images, text_own)
    if np.isinf(image_own).any():
        raise UserError(
            f"{np.isinf(image_own).sum()} of {len(images)} images have no text, the first is "
            f"image {np.argmax(np.isinf(image_own))}: leave them out"
        )
    image_ranks = np.empty(len(images), np.int64)
    text_ranks = np.zeros(len(texts), np.int64)
    for rows, scores in _blocks(images, texts, text_images):
        # np.sum over booleans goes through int64; these two ways do not.
        found = scores >= image_own[rows, None] - TIE
        image_ranks[rows] = [np.count_nonzero(row) for row in found]
        np.greater_equal(scores, text_own - TIE, out=found)
        text_ranks += found.view(np.uint8).sum(axis=0, dtype=np.uint8)
    return image_ranks, text_ranks


def rank_bounds(images, texts, text_images):
    """The best and the worst rank, from 0, of each text's image among all images.

    Args:
        images, texts, text_images: see `image_text_ranks`; an image may be without a text.

    Returns:
        (low, high), int64 (m,): wrong images that score higher, and those that tie too. `high` is
        what `image_text_ranks` gives.

    Raises:
        UserError: as `image_text_ranks`.
    """
    images, texts, text_images = _described(images, texts, text_images)
    own = _own_scores(texts, images, text_images)
    low, high = np.zeros((2, len(texts)), np.int64)
    for _, scores in _blocks(images, texts, text_images):
        found = scores > own + TIE
        low += found.view(np.uint8).sum(axis=0, dtype=np.uint8)
        np.greater_equal(scores, own - TIE, out=found)
        high += found.view(np.uint8).sum(axis=0, dtype=np.uint8)
    return low, high


def _described(images, texts, text_images):
    """The three arguments as arrays that fit."""
    images, texts = checked_rows(images, "image embeddings"), checked_rows(texts, "text embeddings")
    text_images = np.asarray(text_images)
    _fitting(texts, images, "texts", "images")
    if text_images.shape != (len(texts),):
        raise UserError(
            f"text_images has shape {text_images.shape}: expected one image a text, {(len(texts),)}"
        )
    outside = (text_images < 0) | (text_images >= len(images))
    if outside.any():
        first = int(np.argmax(outside))
        raise UserError(
            f"text {first} belongs to image {text_images[first]} of {len(images)}: expected 0 to "
            f"{len(images) - 1}"
        )
    return images, texts, text_images.astype(np.int64)


def _own_scores(texts, images, text_images):
    """The score of each text with its own image, float32 (m,)."""
    own = np.empty(len(texts), np.float32)
    step = max(1, _CHUNK // max(1, texts.shape[1]))
    for start in range(0, len(texts), step):
        rows = slice(start, start + step)
        np.einsum("nd,nd->n", texts[rows], images[text_images[rows]], out=own[rows])
    return own


def _blocks(images, texts, text_images):
    """Yields (a slice of images, their scores (rows, m)), where right pairs score -inf.

    The scores are written over by the next block. It has at most 255 rows: a count of them is a
    byte.
    """
    step = min(255, max(1, _CHUNK // max(1, len(texts))), max(1, len(images)))
    by_image = np.argsort(text_images, kind="stable")
    bounds = np.searchsorted(text_images[by_image], np.arange(0, len(images) + step, step))
    room = np.empty((step, len(texts)), np.float32)
    for block, start in enumerate(range(0, len(images), step)):
        rows = slice(start, min(start + step, len(images)))
        scores = np.matmul(images[rows], texts.T, out=room[: rows.stop - start])
        own = by_image[bounds[block] : bounds[block + 1]]
        scores[text_images[own] - start, own] = -np.inf
        yield rows, scores


def _fitting(rows, others, name, other):
    """Refuses embeddings of two widths."""
    if rows.shape[1] != others.shape[1]:
        raise UserError(
            f"{name} are {rows.shape[1]} wide and {other} {others.shape[1]}: "
            "expected one width; do both come from the same model?"
        )


def checked_rows(array, name):
    """`array` as finite float32 (n, d).

    Raises:
        UserError: it has another number of dimensions, or a row that is not finite; `name` says
            of what.
    """
    array = np.asarray(array, np.float32)
    if array.ndim != 2:
        raise UserError(f"{name} have shape {array.shape}: expected (rows, width)")
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if bad.size:
        raise UserError(
            f"{bad.size} of {len(array)} {name} are not finite, the first is row {bad[0]}: "
            "the weights or the input hold NaN or infinity"
        )
    return array
