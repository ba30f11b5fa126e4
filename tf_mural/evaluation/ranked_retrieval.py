"""Retrieval by the rules of mteb: nDCG at 10 and hit rates of rankings without ties.

The task `retrieval` uses these functions for the protocols "mteb" and "mteb-unique":

- Records are not merged: an image that occurs twice is two candidates.
- Each text is a query of its own, and each text of an image is relevant for the image. In
  "mteb-unique", equal texts of a language are one query or candidate with several relevant images.
- Equal scores are ordered by id, descending: by the id of the record for images, and by the id and
  the number of the text for texts.
- nDCG at 10 has linear gains and the ideal ranking of all relevant candidates; see
  `metrics.ranking`. The hit rate at k is the share of queries with a relevant candidate among the
  first k; mteb calls it `hit_rate_at_k`. Values are not rounded; mteb rounds to 5 decimals.

mteb also strips the texts that are candidates, but not those that are queries, and keeps the best
1,000 candidates of a query. The first matters only for encoders that distinguish outer white space,
the second only if a group of equal scores crosses rank 1,000.
"""

import numpy as np

from tf_mural.evaluation import metrics


def score_language(images, ids, texts, text_images, embed_texts, unique=False):
    """Scores the images that have a text in a language.

    Args:
        images: float32 (n, d), unit rows.
        ids: ids of the n records.
        texts: list of m strings.
        text_images: int (m,), the row of `images` that each text describes.
        embed_texts: function from a list of strings to unit rows.
        unique: whether equal texts are one query or candidate.

    Returns:
        Tuple ({metric: value in percent}, {metric: (low, high)}, number of images, of texts,
        items, see `results.Result`).
    """
    candidates, pair_images = np.unique(text_images, return_inverse=True)
    ids = [ids[candidate] for candidate in candidates]
    row_of_text, pair_texts = {}, np.arange(len(texts))
    if unique:
        pair_texts = np.array([row_of_text.setdefault(text, len(row_of_text)) for text in texts])
        texts = list(row_of_text)
        pairs = np.unique(np.stack([pair_images, pair_texts]), axis=1)
        pair_images, pair_texts = pairs
        text_order = np.arange(len(texts))
    else:
        text_order = _order_texts(ids, pair_images)
    image_order = _descending(ids)
    embeddings = embed_texts(texts)
    images = images[candidates]
    per_query = {
        "i2t": _score(images, embeddings, pair_images, pair_texts, text_order),
        "t2i": _score(embeddings, images, pair_texts, pair_images, image_order),
    }
    # A resampled image contributes its own value and those of its texts.
    first_image = np.full(len(texts), len(candidates))
    np.minimum.at(first_image, pair_texts, pair_images)
    groups = {"i2t": np.arange(len(candidates)), "t2i": first_image}
    values, intervals, items = {}, {}, {}
    for direction, columns in per_query.items():
        resampled = metrics.grouped_bootstrap(
            np.stack(list(columns.values()), axis=1), groups[direction], len(candidates)
        )
        for column, (name, per_item) in enumerate(columns.items()):
            values[f"{direction}_{name}"] = float(per_item.mean())
            bounds = metrics.percentile_interval(resampled[:, column])
            intervals[f"{direction}_{name}"] = bounds
            items[f"{direction}_{name}"] = metrics.group_items(
                per_item, groups[direction], len(candidates)
            )
    return values, intervals, len(candidates), len(texts), items


def _score(queries, items, pair_queries, pair_items, order):
    """Returns {metric: values of the queries in percent}; `order`: the items by tied rank."""
    position = np.empty(len(order), np.int64)
    position[order] = np.arange(len(order))
    ranks = metrics.relevant_ranks(queries, items[order], pair_queries, position[pair_items])
    hits = metrics.hits(ranks, pair_queries, len(queries))
    columns = {f"hit{k}": 100.0 * hits[:, i] for i, k in enumerate(metrics.HIT_KS)}
    ndcg = metrics.ndcg(ranks, pair_queries, len(queries))
    return {f"ndcg{metrics.NDCG_K}": 100.0 * ndcg, **columns}


def _order_texts(ids, text_images):
    """Returns the texts in descending order of "<id of the image>-<number of the text>"."""
    counts, names = {}, []
    for image in text_images:
        number = counts[image] = counts.get(image, -1) + 1
        names.append(f"{ids[image]}-{number}")
    return _descending(names)


def _descending(names):
    """Returns the positions of names in descending order of their UTF-8 bytes."""
    encoded = [name.encode() for name in names]
    return np.array(sorted(range(len(encoded)), key=encoded.__getitem__, reverse=True), np.int64)
