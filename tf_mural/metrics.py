"""What an evaluation measures, as pure functions of numpy arrays."""

import numpy as np

from tf_mural.base import UserError

RECALLS = (1, 5, 10)

# Cosines of unit rows nearer than this are a tie: float32 products of the very same vectors differ
# in their last digits with their place in the matrix, and a tie must not be won by such luck.
TIE = 1e-6

# Scores held in memory at once, in numbers.
_CHUNK = 1 << 22


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
    queries, items = _rows(queries, "queries"), _rows(items, "items")
    query_groups, item_groups = np.asarray(query_groups), np.asarray(item_groups)
    if queries.shape[1] != items.shape[1]:
        raise UserError(
            f"queries are {queries.shape[1]} wide and items {items.shape[1]}: "
            "expected one width; do both come from the same model?"
        )
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


def recall_at(ranks, ks=RECALLS):
    """Share of the ranks below each k, in percent: float64 (len(ks),).

    Raises:
        UserError: there is no rank.
    """
    ranks = np.asarray(ranks)
    if ranks.size == 0:
        raise UserError("no queries to score: the recall of nothing is not defined")
    return np.array([100.0 * np.mean(ranks < k) for k in ks])


def image_text_ranks(images, texts, text_images):
    """Ranks in both directions of cross-modal retrieval.

    Args:
        images: float (n, d), unit rows.
        texts: float (m, d), unit rows.
        text_images: int (m,), the row of `images` that each text describes; every image needs one.

    Returns:
        (image to text (n,), text to image (m,)), as `retrieval_ranks`.

    Raises:
        UserError: as `retrieval_ranks`, and an index outside of `images`.
    """
    images, texts = _rows(images, "image embeddings"), _rows(texts, "text embeddings")
    text_images = np.asarray(text_images)
    outside = (text_images < 0) | (text_images >= len(images))
    if outside.any():
        first = int(np.argmax(outside))
        raise UserError(
            f"text {first} belongs to image {text_images[first]} of {len(images)}: expected 0 to "
            f"{len(images) - 1}"
        )
    names = np.arange(len(images))
    return (
        retrieval_ranks(images, texts, names, text_images),
        retrieval_ranks(texts, images, text_images, names),
    )


def recalls(image_ranks, text_ranks):
    """The six recalls in percent, `i2t_r1` to `t2i_r10`, and their mean, `average_recall`."""
    values = {}
    for direction, ranks in (("i2t", image_ranks), ("t2i", text_ranks)):
        for k, recall in zip(RECALLS, recall_at(ranks), strict=True):
            values[f"{direction}_r{k}"] = float(recall)
    return values | {"average_recall": float(np.mean(list(values.values())))}


def retrieval(images, texts, text_images):
    """`recalls` of the `image_text_ranks`: the retrieval protocol on embeddings."""
    return recalls(*image_text_ranks(images, texts, text_images))


def average_recall_interval(image_ranks, text_ranks, text_images, draws=1000, seed=0):
    """95 % interval of the average recall by bootstrap over images, each with its texts.

    The candidates stay as they are: the interval tells how much other query images would change
    the value, not another size of the collection. The same arguments give the same interval.

    Args:
        image_ranks: int (n,), text_ranks: int (m,), text_images: int (m,), see `image_text_ranks`.
        draws: number of resamples.
        seed: of the resampling.

    Returns:
        (low, high) in percent.
    """
    count = len(image_ranks)
    # The mean over k of the recalls is the mean over queries of these.
    image_hits = np.mean([np.asarray(image_ranks) < k for k in RECALLS], axis=0)
    text_hits = np.mean([np.asarray(text_ranks) < k for k in RECALLS], axis=0)
    text_hits = np.bincount(text_images, weights=text_hits, minlength=count)  # summed by image
    texts = np.bincount(text_images, minlength=count)
    random = np.random.default_rng(seed)
    values = np.empty(draws)
    for draw in range(draws):
        chosen = random.integers(count, size=count)
        recall_of_texts = text_hits[chosen].sum() / texts[chosen].sum()
        values[draw] = 50.0 * (image_hits[chosen].mean() + recall_of_texts)
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def chance_average_recall(images, texts_per_image=1):
    """Expected average recall, in percent, of candidates in random order.

    A text finds its image among n at k with probability k / n. An image with c of the m texts
    misses all of them at k with probability C(m - c, k) / C(m, k).

    Args:
        images: number of images.
        texts_per_image: a number, or one number for each image, 1 or more.
    """
    own = np.broadcast_to(np.asarray(texts_per_image, np.float64), (images,))
    texts = own.sum()
    values = []
    for k in RECALLS:
        miss = np.ones(images)
        for place in range(min(k, int(texts))):
            miss *= np.maximum(texts - own - place, 0) / (texts - place)
        values += [np.mean(1.0 - miss), min(1.0, k / images)]
    return float(100.0 * np.mean(values))


def group_means(values, groups):
    """Mean over the languages of each group.

    Args:
        values: {language: number}.
        groups: {name of a group: languages}.

    Returns:
        {name of a group: mean}.

    Raises:
        UserError: a group is empty, or holds a language without a value.
    """
    means = {}
    for name, languages in groups.items():
        missing = [language for language in languages if language not in values]
        if missing or not languages:
            raise UserError(
                f"group {name!r}: " + (f"no value for {', '.join(missing)}" if missing else "empty")
            )
        means[name] = float(np.mean([values[language] for language in languages]))
    return means


def _rows(array, name):
    """`array` as finite float32 (n, d)."""
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
