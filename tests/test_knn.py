"""The nearest-neighbor task and its search."""

import numpy as np
import pytest
from helpers.embedders import unit_rows

from tf_mural.data.records import Record
from tf_mural.errors import UserError
from tf_mural.evaluation import knn, metrics
from tf_mural.evaluation.label_knn import LabelKNN


class RowEmbedder:
    """Embeds the image b"7" as row 7 of an array, and records the size of each call."""

    def __init__(self, rows):
        self._rows = np.asarray(rows, np.float32)
        self.sizes = []

    def embed_images(self, encoded):
        rows = self._rows[[int(image) for image in encoded]].reshape(-1, self._rows.shape[1])
        self.sizes.append(len(rows))
        return rows


def records(rows, labels, prefix="q"):
    """Returns records of images that are embedded as these rows, with labels."""
    pairs = zip(rows, labels, strict=True)
    return [Record(f"{prefix}{row}", (b"%d" % row,), label=int(label)) for row, label in pairs]


def random_case(queries=40, items=150, labels=7, seed=0):
    """Returns (rows, query records, index records); most labels follow the first coordinate."""
    rows = unit_rows(queries + items, 5, seed=seed)
    random = np.random.default_rng(seed)
    row_labels = np.where(
        random.random(len(rows)) < 0.7, (rows[:, 0] * 3.4 + 3).astype(int), random.integers(labels)
    )
    query_records = records(range(queries), row_labels[:queries])
    index = records(range(queries, len(rows)), row_labels[queries:], "i")
    return rows, query_records, index


def naive_hits(queries, items, query_labels, item_labels, k):
    """Computes hits one query at a time in double precision; correct if no scores tie."""
    hits = []
    for query, label in zip(queries.astype(np.float64), query_labels, strict=True):
        nearest = np.argsort(-(items.astype(np.float64) @ query))[:k]
        hits.append(label in np.asarray(item_labels)[nearest])
    return np.array(hits)


def test_scores_equal_values_computed_by_hand():
    # Queries 0, 1 and 2 are axes 0, 1 and 2 with the labels 5, 6 and 7. In the index, axis 1 has
    # the label 5.
    rows = np.eye(4)
    index = records([0, 1, 2, 3], [5, 5, 7, 6], "i")
    result = knn.run(RowEmbedder(rows), records([0, 1, 2], [5, 6, 7]), index, k=(1, 4))
    assert (result.task, result.protocol) == ("knn", "knn/v1")
    assert result.values["all"]["r1"] == pytest.approx(200 / 3)
    assert result.values["all"]["r4"] == 100.0  # one correct image among all four is a hit
    # Of the four images of the index, 2, 1 and 1 are correct for queries 0, 1 and 2.
    assert result.values["all"]["chance"] == pytest.approx(100 / 3)
    assert result.counts == {
        "images": 3,
        "index": 4,
        "labels": 3,
        "without_neighbour": 0,
        "shared_ids": 0,
    }
    low, high = result.intervals["all"]["r1"]
    assert low < 200 / 3 < high
    assert result.intervals["all"]["r4"] == (100.0, 100.0)


@pytest.mark.parametrize("chunk_size", [1, 13, 1000])
def test_any_chunk_size_equals_a_naive_implementation(chunk_size):
    rows, queries, index = random_case()
    embedder = RowEmbedder(rows)
    values = knn.run(embedder, queries, index, k=(1, 3, 10), chunk_size=chunk_size).values["all"]
    assert max(embedder.sizes[1:]) == min(chunk_size, 150)
    labels = [record.label for record in queries], [record.label for record in index]
    for k in (1, 3, 10):
        expected = 100 * naive_hits(rows[:40], rows[40:], *labels, k).mean()
        assert values[f"r{k}"] == pytest.approx(expected)
    assert 0 < values["r1"] < values["r3"] < values["r10"] <= 100


@pytest.mark.parametrize("k", [1, 4, 40])
def test_any_block_size_gives_the_ranks_of_retrieval(k):
    queries, items = unit_rows(60, 5), unit_rows(300, 5, seed=1)
    items[::9] = items[0]  # ties
    query_labels = np.random.default_rng(2).integers(12, size=60)
    item_labels = np.random.default_rng(3).integers(12, size=300)
    ranks = metrics.retrieval_ranks(queries, items, query_labels, item_labels)
    for max_scores in (1, 60 * 7, 1 << 20):
        search = LabelKNN(queries, query_labels, k, metrics.TIE_TOLERANCE, max_scores)
        for start in range(0, 300, 77):
            search.add(items[start : start + 77], item_labels[start : start + 77])
        np.testing.assert_array_equal(search.hits(), ranks[:, None] < np.arange(1, k + 1))


def test_many_neighbours_are_sorted():
    # np.partition selects the best scores of thousands, but does not sort the selected scores.
    queries, items = unit_rows(60, 5), unit_rows(4000, 5, seed=1)
    labels = np.arange(4000) % 500
    search = LabelKNN(queries, labels[:60], 1000, metrics.TIE_TOLERANCE)
    search.add(items, labels)
    ranks = metrics.retrieval_ranks(queries, items, labels[:60], labels)
    np.testing.assert_array_equal(search.hits(), ranks[:, None] < np.arange(1, 1001))
    assert 0 < np.sum(ranks < 1000) and ranks.min() < 100


def test_results_equal_scikit_learn():
    neighbors = pytest.importorskip("sklearn.neighbors", reason="needs scikit-learn")
    rows, queries, index = random_case(queries=200, items=500, seed=4)
    labels = np.array([record.label for record in queries])
    items = np.array([record.label for record in index])
    values = knn.run(RowEmbedder(rows), queries, index, k=(1, 5)).values["all"]
    classifier = neighbors.KNeighborsClassifier(1, metric="cosine").fit(rows[200:], items)
    assert values["r1"] == pytest.approx(100 * classifier.score(rows[:200], labels))
    search = neighbors.NearestNeighbors(n_neighbors=5, metric="cosine").fit(rows[200:])
    nearest = items[search.kneighbors(rows[:200], return_distance=False)]
    assert values["r5"] == pytest.approx(100 * (nearest == labels[:, None]).any(axis=1).mean())
    assert 0 < values["r1"] < values["r5"] < 100


def test_a_collapsed_encoder_scores_zero():
    rows = np.ones((30, 3)) / np.sqrt(3)
    query, index = records(range(10), [0, 1] * 5), records(range(10, 30), [0, 1] * 10, "i")
    values = knn.run(RowEmbedder(rows), query, index, k=(1, 5)).values["all"]
    assert values == {"r1": 0.0, "r5": 0.0, "chance": 50.0}


def test_ties_with_another_label_are_misses():
    rows = np.eye(3)[[0, 0, 0, 1, 2]]
    query = records([0], [5])
    # All images equal the query. If all images have the label of the query, the query is a hit at
    # 1. If some images have another label, the query is a miss at 1.
    assert knn.run(RowEmbedder(rows), query, records([1, 2], [5, 5])).values["all"]["r1"] == 100.0
    values = knn.run(RowEmbedder(rows), query, records([1, 2, 3], [5, 6, 6]), k=(1, 2)).values[
        "all"
    ]
    assert (values["r1"], values["r2"]) == (0.0, 100.0)
    # The correct image has a higher score than the wrong image. The difference is less than the
    # tolerance for rounding errors, so the two images tie.
    near = np.array([[1, 0], [1, 0], [np.cos(1e-3), np.sin(1e-3)]])
    assert knn.run(RowEmbedder(near), query, records([1, 2], [5, 6])).values["all"]["r1"] == 0.0


def test_a_single_item_is_a_hit():
    result = knn.run(RowEmbedder(np.eye(2)), records([0], [3]), records([1], [3], "i"))
    assert result.values["all"] == {"r1": 100.0, "chance": 100.0}


def test_queries_without_a_neighbour_and_shared_ids_are_counted():
    rows = np.eye(4)
    queries = records([0, 1, 2], [5, 6, 9])
    result = knn.run(RowEmbedder(rows), queries, records([0, 1, 3], [5, 6, 7]), chunk_size=1)
    assert result.counts["without_neighbour"] == 1  # label 9
    assert result.counts["shared_ids"] == 2
    assert result.values["all"]["r1"] == pytest.approx(200 / 3)


def test_chance_at_k_equals_the_formula():
    # 3 of 10 items are correct. Two random items are both wrong with probability 7/10 * 6/9.
    rows, labels = unit_rows(11, 5), [1] * 3 + [2] * 7
    result = knn.run(RowEmbedder(rows), records([0], [1]), records(range(1, 11), labels), k=2)
    assert result.values["all"]["chance"] == pytest.approx(100 * (1 - 42 / 90))


def test_records_and_k_that_cannot_be_scored_are_rejected():
    embedder, valid = RowEmbedder(np.eye(4)), records([0, 1], [5, 6])
    with pytest.raises(UserError, match="^no records: knn"):
        knn.run(embedder, [], valid)
    with pytest.raises(UserError, match="^no records of the index: knn"):
        knn.run(embedder, valid, [])
    with pytest.raises(UserError, match="record 'a' has no label"):
        knn.run(embedder, valid, [Record("a", (b"0",))])
    with pytest.raises(UserError, match="record 'a' has 2 images"):
        knn.run(embedder, [Record("a", (b"0", b"1"), label=1)], valid)
    with pytest.raises(UserError, match="k is 3, but the index holds 2 images"):
        knn.run(embedder, valid, valid, k=3)
    for k in (0, (), (1, -1), (1.5,)):
        with pytest.raises(UserError, match="expected k to be 1 or more"):
            knn.run(embedder, valid, valid, k=k)
    with pytest.raises(UserError, match="none of the queries' labels occurs in the index"):
        knn.run(embedder, valid, records([2], [8]))


def test_errors_of_embeddings_name_the_record():
    rows = np.eye(4)
    rows[3, 0] = np.nan
    valid = records([0, 1], [5, 6])
    with pytest.raises(UserError, match="record 'i3': its embedding has length nan"):
        knn.run(RowEmbedder(rows), valid, records([0, 1, 2, 3], [5, 6, 5, 6], "i"), chunk_size=2)
    with pytest.raises(UserError, match="record 'q3': its embedding has length nan"):
        knn.run(RowEmbedder(rows), records([3], [5]), valid)
    with pytest.raises(UserError, match="record 'q1': its embedding has length 2.0"):
        knn.run(RowEmbedder(np.diag([1.0, 2.0])), valid, valid)


def test_an_undecodable_image_of_a_later_chunk_is_named_by_its_record():
    class RejectingEmbedder(RowEmbedder):
        def embed_images(self, encoded):
            encoded = list(encoded)
            if b"3" in encoded:
                error = UserError("cannot be read")
                error.position = encoded.index(b"3")
                raise error
            return super().embed_images(encoded)

    index = records([0, 1, 2, 3], [5, 6, 5, 6], "i")
    with pytest.raises(UserError, match="^record 'i3': cannot be read"):
        knn.run(RejectingEmbedder(np.eye(4)), records([0], [5]), index, chunk_size=2)
