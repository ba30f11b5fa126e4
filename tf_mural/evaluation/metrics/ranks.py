"""Ranks of correct candidates by cosine similarity, and differences of ranks between languages."""

import numpy as np
from numpy.typing import ArrayLike

from tf_mural.errors import UserError

# Cosines that differ by less than this number count as a tie. Float32 products of equal vectors can
# differ in the last digits, depending on the position of the vectors in the matrix; these digits
# must not break a tie.
TIE_TOLERANCE = 1e-6

# Maximum number of scores in memory.
_MAX_SCORES = 1 << 23


def retrieval_ranks(
    queries: ArrayLike, items: ArrayLike, query_groups: ArrayLike, item_groups: ArrayLike
) -> np.ndarray:
    """Counts, for each query, the wrong items that score at least as high as its best correct item.

    An item is correct for the queries of its group. Ranks are counted from 0. Ties count against
    the query, so an encoder that maps all inputs to one point gets the worst ranks.

    Args:
        queries: float (q, d), unit rows.
        items: float (m, d), unit rows.
        query_groups: int (q,).
        item_groups: int (m,).

    Returns:
        int64 (q,).

    Raises:
        UserError: Shapes do not match, values are not finite, or a query has no correct item.
    """
    queries, items = check_embeddings(queries, "queries"), check_embeddings(items, "items")
    query_groups, item_groups = np.asarray(query_groups), np.asarray(item_groups)
    _check_same_width(queries, items, "queries", "items")
    for rows, groups, name in ((queries, query_groups, "query"), (items, item_groups, "item")):
        if groups.shape != (len(rows),):
            raise UserError(
                f"{name}_groups has shape {groups.shape}: expected one group per row, "
                f"{(len(rows),)}"
            )
    unmatched = np.flatnonzero(~np.isin(query_groups, item_groups))
    if unmatched.size:
        raise UserError(
            f"{unmatched.size} of {len(queries)} queries have no correct item, the first is query "
            f"{unmatched[0]}: leave them out"
        )
    ranks = np.empty(len(queries), np.int64)
    step = max(1, _MAX_SCORES // max(1, len(items)))
    for start in range(0, len(queries), step):
        rows = slice(start, start + step)
        scores = queries[rows] @ items.T  # (step, m)
        is_correct = query_groups[rows, None] == item_groups
        best = np.where(is_correct, scores, -np.inf).max(axis=1, keepdims=True)
        ranks[rows] = np.sum((scores >= best - TIE_TOLERANCE) & ~is_correct, axis=1)
    return ranks


def image_text_ranks(
    images: ArrayLike, texts: ArrayLike, text_images: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Computes the ranks of both directions of cross-modal retrieval from one score matrix.

    Args:
        images: float (n, d), unit rows.
        texts: float (m, d), unit rows.
        text_images: int (m,), the row of `images` that each text describes. Every image needs a
            text.

    Returns:
        Tuple (image-to-text ranks (n,), text-to-image ranks (m,)), int64; see `retrieval_ranks`.

    Raises:
        UserError: Shapes do not match, values are not finite, an image has no text, or a value of
            `text_images` is not an index of `images`.
    """
    images, texts, text_images = _check_pairs(images, texts, text_images)
    text_best = _pair_scores(texts, images, text_images)
    image_best = np.full(len(images), -np.inf, np.float32)
    np.maximum.at(image_best, text_images, text_best)
    if np.isinf(image_best).any():
        raise UserError(
            f"{np.isinf(image_best).sum()} of {len(images)} images have no text, the first is "
            f"image {np.argmax(np.isinf(image_best))}: leave them out"
        )
    image_ranks = np.empty(len(images), np.int64)
    text_ranks = np.zeros(len(texts), np.int64)
    for rows, scores in _wrong_score_blocks(images, texts, text_images):
        # np.sum would convert booleans to int64; np.count_nonzero and a uint8 sum do not.
        is_above = scores >= image_best[rows, None] - TIE_TOLERANCE
        image_ranks[rows] = [np.count_nonzero(row) for row in is_above]
        np.greater_equal(scores, text_best - TIE_TOLERANCE, out=is_above)
        text_ranks += is_above.view(np.uint8).sum(axis=0, dtype=np.uint8)
    return image_ranks, text_ranks


def rank_bounds(
    images: ArrayLike, texts: ArrayLike, text_images: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the lowest and the highest possible rank of each text's image among all images.

    Args:
        images, texts, text_images: See `image_text_ranks`, but an image may have no text.

    Returns:
        Tuple (low, high), int64 (m,), ranks from 0. `low` is the number of wrong images that score
        higher than the text's image. `high` also counts the wrong images that tie with the text's
        image, like `image_text_ranks`.

    Raises:
        UserError: Shapes do not match, values are not finite, or a value of `text_images` is not an
            index of `images`.
    """
    images, texts, text_images = _check_pairs(images, texts, text_images)
    pair_scores = _pair_scores(texts, images, text_images)
    low, high = np.zeros((2, len(texts)), np.int64)
    for _, scores in _wrong_score_blocks(images, texts, text_images):
        is_above = scores > pair_scores + TIE_TOLERANCE
        low += is_above.view(np.uint8).sum(axis=0, dtype=np.uint8)
        np.greater_equal(scores, pair_scores - TIE_TOLERANCE, out=is_above)
        high += is_above.view(np.uint8).sum(axis=0, dtype=np.uint8)
    return low, high


def first_results(images: ArrayLike, texts: ArrayLike) -> np.ndarray:
    """Returns the image with the highest score for each text.

    Args:
        images: float (n, d), unit rows.
        texts: float (m, d), unit rows.

    Returns:
        int64 (m,), rows of `images`; -1 if several images tie for the highest score.

    Raises:
        UserError: Shapes do not match, or values are not finite.
    """
    images, texts = check_embeddings(images, "images"), check_embeddings(texts, "texts")
    _check_same_width(texts, images, "texts", "images")
    first = np.empty(len(texts), np.int64)
    step = max(1, _MAX_SCORES // max(1, len(images)))
    for start in range(0, len(texts), step):
        scores = texts[start : start + step] @ images.T
        best = scores.argmax(axis=1)
        limit = scores[np.arange(len(scores)), best] - TIE_TOLERANCE
        is_tied = np.count_nonzero(scores >= limit[:, None], axis=1) > 1
        first[start : start + step] = np.where(is_tied, -1, best)
    return first


def agreement(first: ArrayLike) -> np.ndarray:
    """Returns the share of the other languages whose first result is that of a language.

    Args:
        first: float (n, L), the first result of the text of image i in language l; negative if
            several images tie; NaN if no text in language l describes the image.

    Returns:
        float64 (n, L), from 0 to 1. Ties agree with nothing. NaN as for `rank_spreads`. The mean of
        row i is the mean over the pairs of languages of image i.
    """
    first = np.asarray(first, np.float64)
    is_present = ~np.isnan(first)
    equal = np.zeros_like(first)
    for column in range(first.shape[1]):
        same = (first == first[:, column, None]) & (first >= 0)
        same[:, column] = False
        equal += same
    num_others = is_present.sum(axis=1, keepdims=True) - 1
    has_others = is_present & (num_others > 0)
    return np.divide(equal, num_others, out=np.full_like(first, np.nan), where=has_others)


def rank_spreads(low: ArrayLike, high: ArrayLike) -> np.ndarray:
    """Returns the mean difference of the log ranks of an image between languages.

    A log rank is log2 of a rank, which is counted from 1. A difference of 1 therefore means that
    one rank is twice the other rank. If images tie, a log rank is only known to lie between two
    bounds, and the largest difference that the bounds allow is used as the difference of two log
    ranks. Therefore a model for which all images tie has the largest possible spread.

    Args:
        low, high: float (n, L), bounds of the log rank of image i in language l; NaN if no text in
            language l describes the image.

    Returns:
        float64 (n, L): mean difference between the log rank of image i in language l and its log
        ranks in its other languages. NaN if image i has no text in language l, or has texts only in
        language l. The mean of row i is the mean over the pairs of languages of image i.
    """
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    is_present = ~np.isnan(low)
    num_others = is_present.sum(axis=1, keepdims=True) - 1
    total = np.zeros_like(low)
    # The loop over languages needs memory for n * L numbers, not for n * L * L.
    for column in range(low.shape[1]):
        difference = np.maximum(high - low[:, column, None], high[:, column, None] - low)  # (n, L)
        difference[:, column] = 0.0
        total += np.where(is_present & is_present[:, column, None], difference, 0.0)
    has_others = is_present & (num_others > 0)
    return np.divide(total, num_others, out=np.full_like(low, np.nan), where=has_others)


def rank_lags(log_ranks: ArrayLike) -> np.ndarray:
    """Returns how much worse the rank of an image is in each language than in its other languages.

    Args:
        log_ranks: float (n, L), log2 of the rank of image i in language l, from 1; NaN if no text
            in language l describes the image.

    Returns:
        float64 (n, L): log rank of image i in language l minus its mean log rank in its other
        languages, in doublings of the rank. A positive number means that the rank is worse in
        language l. NaN if image i has no text in language l, or has texts only in language l.
    """
    log_ranks = np.asarray(log_ranks, np.float64)
    is_present = ~np.isnan(log_ranks)
    num_others = is_present.sum(axis=1, keepdims=True) - 1
    sum_others = np.nansum(log_ranks, axis=1, keepdims=True) - np.nan_to_num(log_ranks)
    has_others = is_present & (num_others > 0)
    mean = np.divide(sum_others, num_others, out=np.full_like(log_ranks, np.nan), where=has_others)
    return log_ranks - mean


def chance_spread(count: int) -> float:
    """Returns the expected difference of two independent random log ranks among `count` images."""
    log_ranks = np.log2(np.arange(1, count + 1))
    # The log ranks are sorted: value i is the larger value in i pairs of different values, and the
    # smaller value in count - 1 - i pairs.
    return float(2 * np.sum((2 * np.arange(count) - count + 1) * log_ranks) / count**2)


def check_embeddings(array: ArrayLike, name: str) -> np.ndarray:
    """Returns `array` as finite float32 (n, d).

    Args:
        array: Array-like.
        name: Name of the rows, for error messages.

    Raises:
        UserError: `array` does not have two dimensions, or a row is not finite.
    """
    array = np.asarray(array, np.float32)
    if array.ndim != 2:
        raise UserError(f"{name} have shape {array.shape}: expected (rows, width)")
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if bad.size:
        raise UserError(
            f"{bad.size} of {len(array)} {name} are not finite, the first is row {bad[0]}: "
            "the weights or the input contain NaN or infinity"
        )
    return array


def _check_pairs(images, texts, text_images):
    """Returns the arguments as arrays, and checks that their shapes and indices match."""
    images = check_embeddings(images, "image embeddings")
    texts = check_embeddings(texts, "text embeddings")
    text_images = np.asarray(text_images)
    _check_same_width(texts, images, "texts", "images")
    if text_images.shape != (len(texts),):
        raise UserError(
            f"text_images has shape {text_images.shape}: expected one image per text, "
            f"{(len(texts),)}"
        )
    outside = (text_images < 0) | (text_images >= len(images))
    if outside.any():
        first = int(np.argmax(outside))
        raise UserError(
            f"text {first} belongs to image {text_images[first]} of {len(images)}: expected 0 to "
            f"{len(images) - 1}"
        )
    return images, texts, text_images.astype(np.int64)


def _check_same_width(rows, others, name, other_name):
    """Raises a UserError if embeddings differ in width."""
    if rows.shape[1] != others.shape[1]:
        raise UserError(
            f"{name} are {rows.shape[1]} wide and {other_name} {others.shape[1]}: "
            "expected one width; do both come from the same model?"
        )


def _pair_scores(texts, images, text_images):
    """Returns the score of each text with its own image, float32 (m,)."""
    scores = np.empty(len(texts), np.float32)
    step = max(1, _MAX_SCORES // max(1, texts.shape[1]))
    for start in range(0, len(texts), step):
        rows = slice(start, start + step)
        np.einsum("nd,nd->n", texts[rows], images[text_images[rows]], out=scores[rows])
    return scores


def _wrong_score_blocks(images, texts, text_images):
    """Yields (slice of images, scores (rows, m) of these images with all texts).

    The scores of correct pairs are replaced by -inf.

    The memory of the scores is reused for the next block. A block has at most 255 rows, so that a
    count of rows fits into a byte.
    """
    step = min(255, max(1, _MAX_SCORES // max(1, len(texts))), max(1, len(images)))
    by_image = np.argsort(text_images, kind="stable")
    bounds = np.searchsorted(text_images[by_image], np.arange(0, len(images) + step, step))
    buffer = np.empty((step, len(texts)), np.float32)
    for block, start in enumerate(range(0, len(images), step)):
        rows = slice(start, min(start + step, len(images)))
        scores = np.matmul(images[rows], texts.T, out=buffer[: rows.stop - start])
        correct = by_image[bounds[block] : bounds[block + 1]]
        scores[text_images[correct] - start, correct] = -np.inf
        yield rows, scores
