"""Nearest-neighbor classification of images by the cosine of image embeddings, without texts.

Protocol knn/v1. A query is a hit at k if one of its k nearest images in the index has the label of
the query. An image of another label with the same score counts as nearer, so ties are misses. For
k = 1, which the paper reports, the share of hits is the accuracy of the nearest neighbor's label.
There is no majority vote among the k neighbors. The search is exact.
"""

import numpy as np

from tf_mural.errors import UserError
from tf_mural.evaluation import metrics
from tf_mural.evaluation.label_knn import LabelKNN
from tf_mural.evaluation.labelled import embed_labelled
from tf_mural.evaluation.results import Result

PROTOCOL = "knn/v1"


def run(embedder, records, index, k=1, chunk_size=16_384):
    """Evaluates labelled images by the labels of their neighbors.

    The index is embedded and searched in chunks, which are not stored. Memory holds only the
    queries and one chunk.

    Args:
        embedder: See `retrieval.run`; the method `embed_texts` is not used.
        records: Iterable of Record with one image and a label, the queries; consumed once.
        index: Iterable of Record with one image and a label, the neighbors; consumed once.
        k: Number of neighbors, or a sequence of several such numbers.
        chunk_size: Number of images of the index that are embedded at once.

    Returns:
        Result. values: {"all": {"r1", ..., "chance"}} in percent, one "r<k>" for each k; "chance"
        is the expected percentage of hits at the first k if the index is in random order. counts:
            "images": number of queries;
            "index": number of images of the index;
            "labels": number of different labels in the index;
            "without_neighbour": number of queries whose label does not occur in the index, and
            which are therefore misses;
            "shared_ids": number of queries whose id occurs in the index; if the images with these
            ids are the same, the score is meaningless.
        intervals: {"all": {"r1": (low, high), ...}}, 95 %, by bootstrap over the queries.

    Raises:
        UserError: There are no queries or no records of the index, a record has no label or not
            exactly one image, an image cannot be decoded, k is below 1 or above the size of the
            index, or no query label occurs in the index.
    """
    ks = [k] if isinstance(k, int) else list(dict.fromkeys(k))
    if not ks or not all(isinstance(k, int) and k >= 1 for k in ks):
        raise UserError(f"knn: expected k to be 1 or more, or several such numbers; got {k!r}")
    (queries,) = embed_labelled(embedder, records, "knn")
    search = LabelKNN(queries.embeddings, queries.labels, max(ks), metrics.TIE_TOLERANCE)
    queries.embeddings = None  # frees memory, because the search has its own sorted copy
    label_counts, query_ids, num_shared = {}, set(queries.ids), 0
    for part in embed_labelled(embedder, index, "knn", chunk_size, "records of the index"):
        search.add(part.embeddings, part.labels)
        for label, count in zip(*np.unique(part.labels, return_counts=True), strict=True):
            label_counts[int(label)] = label_counts.get(int(label), 0) + int(count)
        num_shared += sum(id in query_ids for id in part.ids)
    total = sum(label_counts.values())
    if max(ks) > total:
        raise UserError(f"knn: k is {max(ks)}, but the index holds {total} images; use a smaller k")
    same_label = np.array([label_counts.get(int(label), 0) for label in queries.labels])
    if not same_label.any():
        raise UserError(
            "knn: none of the queries' labels occurs in the index, such as "
            f"{queries.labels[0]}; are both of the same data set?"
        )
    values, intervals, hits = {}, {}, search.hits()
    for k in ks:
        values[f"r{k}"] = float(100.0 * hits[:, k - 1].mean())
        intervals[f"r{k}"] = metrics.mean_interval(100.0 * hits[:, k - 1])
    values["chance"] = _chance(same_label, total, ks[0])
    counts = {
        "images": len(same_label),
        "index": total,
        "labels": len(label_counts),
        "without_neighbour": int(np.sum(same_label == 0)),
        "shared_ids": num_shared,
    }
    return Result("knn", PROTOCOL, {"all": values}, counts, {"all": intervals})


def _chance(same_label, total, k):
    """Returns the expected percentage of hits at k if the index is in random order.

    Args:
        same_label: (q,) number of items of the index that have the label of each query.
        total: Number of items of the index.
        k: Number of neighbors.
    """
    miss = np.ones(len(same_label))
    for rank in range(k):
        miss *= np.maximum(total - same_label - rank, 0) / (total - rank)
    return float(100.0 * np.mean(1.0 - miss))
