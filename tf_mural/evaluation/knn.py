"""Which label the nearest images of another record set have, by cosine: no text is involved.

Protocol knn/v1. A query is a hit at k if one of the k images of the index that are nearest to it
has its label. Another label's image that comes as near counts as nearer: ties are misses. At k = 1,
the number of the paper, this is the accuracy of the nearest neighbour's label. No votes are taken.
The search is exact.
"""

import numpy as np

from tf_mural.errors import UserError
from tf_mural.evaluation import metrics
from tf_mural.evaluation.label_knn import LabelNeighbours
from tf_mural.evaluation.labelled import embed_labelled
from tf_mural.evaluation.results import Result

PROTOCOL = "knn/v1"


def run(embed, records, index, k=1, chunk=16_384):
    """Scores labelled images by the labels of their neighbours.

    The index is embedded and searched in chunks, and none of it stays: memory is that of the
    queries and of one chunk.

    Args:
        embed: see `retrieval.run`; its `texts` is not used.
        records: iterable of Record, the queries, each one image and a label; read once.
        index: iterable of Record, the same, to look neighbours up in; read once.
        k: how many neighbours, or a sequence of such numbers.
        chunk: images of the index to embed at once.

    Returns:
        Result. values: {"all": {"r1", ..., "chance"}} in percent, one "r<k>" for each k; "chance"
        is what a random order gives at the first of them. counts: "images" (queries), "index",
        "labels" (that occur in the index), "without_neighbour" (queries whose label does not occur
        in the index: misses), "shared_ids" (queries whose id occurs in the index: when they are the
        same images, the score says nothing). intervals: {"all": {"r1": (low, high), ...}}, 95 %,
        by bootstrap over the queries.

    Raises:
        UserError: no queries or no index, a record without an image or a label, an image that
            cannot be read, k below 1 or above the size of the index, no label in common.
    """
    ks = [k] if isinstance(k, int) else list(dict.fromkeys(k))
    if not ks or not all(isinstance(one, int) and one >= 1 for one in ks):
        raise UserError(f"knn: expected k to be 1 or more, or several such numbers; got {k!r}")
    (queries,) = embed_labelled(embed, records, "knn")
    search = LabelNeighbours(queries.rows, queries.labels, max(ks), metrics.TIE)
    queries.rows = None  # the search has its own
    sizes, ids, shared = {}, set(queries.ids), 0  # sizes: {label: items}
    for part in embed_labelled(embed, index, "knn", chunk, "records of the index"):
        search.add(part.rows, part.labels)
        for label, count in zip(*np.unique(part.labels, return_counts=True), strict=True):
            sizes[int(label)] = sizes.get(int(label), 0) + int(count)
        shared += sum(name in ids for name in part.ids)
    total = sum(sizes.values())
    if max(ks) > total:
        raise UserError(
            f"knn: k is {max(ks)}, but the index holds {total} images; take a smaller k"
        )
    own = np.array([sizes.get(int(label), 0) for label in queries.labels])
    if not own.any():
        raise UserError(
            "knn: none of the queries' labels occurs in the index, such as "
            f"{queries.labels[0]}; are both of the same data set?"
        )
    values, intervals, hits = {}, {}, search.hits()
    for one in ks:
        values[f"r{one}"] = float(100.0 * hits[:, one - 1].mean())
        intervals[f"r{one}"] = metrics.mean_interval(100.0 * hits[:, one - 1])
    values["chance"] = _chance(own, total, ks[0])
    counts = {
        "images": len(own),
        "index": total,
        "labels": len(sizes),
        "without_neighbour": int(np.sum(own == 0)),
        "shared_ids": shared,
    }
    return Result("knn", PROTOCOL, {"all": values}, counts, {"all": intervals})


def _chance(own, total, k):
    """Hits at k, in percent, of a random order; own: (q,) items of the index of each's label."""
    miss = np.ones(len(own))
    for place in range(k):
        miss *= np.maximum(total - own - place, 0) / (total - place)
    return float(100.0 * np.mean(1.0 - miss))
