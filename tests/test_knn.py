import numpy as np
import pytest

from tf_mural.data.records import Record
from tf_mural.errors import UserError
from tf_mural.evaluation import knn, metrics
from tf_mural.evaluation.label_knn import LabelNeighbours


class Vectors:
    """Embeds the image b"7" as row 7 of some vectors."""

    def __init__(self, rows):
        self._all = np.asarray(rows, np.float32)
        self.sizes = []

    def images(self, encoded):
        rows = self._all[[int(image) for image in encoded]].reshape(-1, self._all.shape[1])
        self.sizes.append(len(rows))
        return rows


def unit(count, width=5, seed=0):
    rows = np.random.default_rng(seed).normal(size=(count, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def records(rows, labels, name="q"):
    pairs = zip(rows, labels, strict=True)
    return [Record(f"{name}{row}", (b"%d" % row,), label=int(label)) for row, label in pairs]


def case(queries=40, items=150, labels=7, seed=0):
    """Vectors, and records of queries and of an index; labels follow the first coordinates."""
    rows = unit(queries + items, seed=seed)
    random = np.random.default_rng(seed)
    of_row = np.where(
        random.random(len(rows)) < 0.7, (rows[:, 0] * 3.4 + 3).astype(int), random.integers(labels)
    )
    query = records(range(queries), of_row[:queries])
    return rows, query, records(range(queries, len(rows)), of_row[queries:], "i")


def slow_hits(queries, items, query_labels, item_labels, k):
    """One query at a time, in double precision: without ties, the k nearest are these."""
    hits = []
    for query, label in zip(queries.astype(np.float64), query_labels, strict=True):
        nearest = np.argsort(-(items.astype(np.float64) @ query))[:k]
        hits.append(label in np.asarray(item_labels)[nearest])
    return np.array(hits)


def test_scores_known_beforehand():
    # Queries 0..2 on the axes of labels 5, 6, 7; the index has the axis of 6 labelled as 5.
    rows = np.eye(4)
    index = records([0, 1, 2, 3], [5, 5, 7, 6], "i")
    result = knn.run(Vectors(rows), records([0, 1, 2], [5, 6, 7]), index, k=(1, 4))
    assert (result.task, result.protocol) == ("knn", "knn/v1")
    assert result.values["all"]["r1"] == pytest.approx(200 / 3)
    assert result.values["all"]["r4"] == 100.0  # a hit needs one of all four
    # A random one of the four: 2, 1 and 1 of them are right.
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


@pytest.mark.parametrize("chunk", [1, 13, 1000])
def test_chunks_and_a_slow_version_agree(chunk):
    rows, queries, index = case()
    embed = Vectors(rows)
    values = knn.run(embed, queries, index, k=(1, 3, 10), chunk=chunk).values["all"]
    assert max(embed.sizes[1:]) == min(chunk, 150)
    labels = [record.label for record in queries], [record.label for record in index]
    for k in (1, 3, 10):
        expected = 100 * slow_hits(rows[:40], rows[40:], *labels, k).mean()
        assert values[f"r{k}"] == pytest.approx(expected)
    assert 0 < values["r1"] < values["r3"] < values["r10"] <= 100


@pytest.mark.parametrize("k", [1, 4, 40])
def test_blocks_of_any_size_give_the_ranks_of_retrieval(k):
    queries, items = unit(60), unit(300, seed=1)
    items[::9] = items[0]  # ties
    query_labels = np.random.default_rng(2).integers(12, size=60)
    item_labels = np.random.default_rng(3).integers(12, size=300)
    ranks = metrics.retrieval_ranks(queries, items, query_labels, item_labels)
    for numbers in (1, 60 * 7, 1 << 20):
        search = LabelNeighbours(queries, query_labels, k, metrics.TIE, numbers)
        for start in range(0, 300, 77):
            search.add(items[start : start + 77], item_labels[start : start + 77])
        np.testing.assert_array_equal(search.hits(), ranks[:, None] < np.arange(1, k + 1))


def test_many_neighbours_are_in_order():
    # Of thousands of scores, the best ones come out of a partition in no order.
    queries, items, labels = unit(60), unit(4000, seed=1), np.arange(4000) % 500
    search = LabelNeighbours(queries, labels[:60], 1000, metrics.TIE)
    search.add(items, labels)
    ranks = metrics.retrieval_ranks(queries, items, labels[:60], labels)
    np.testing.assert_array_equal(search.hits(), ranks[:, None] < np.arange(1, 1001))
    assert 0 < np.sum(ranks < 1000) and ranks.min() < 100


def test_scikit_learn_gives_the_same():
    neighbors = pytest.importorskip("sklearn.neighbors", reason="needs scikit-learn")
    rows, queries, index = case(queries=200, items=500, seed=4)
    labels = np.array([record.label for record in queries])
    items = np.array([record.label for record in index])
    values = knn.run(Vectors(rows), queries, index, k=(1, 5)).values["all"]
    one = neighbors.KNeighborsClassifier(1, metric="cosine").fit(rows[200:], items)
    assert values["r1"] == pytest.approx(100 * one.score(rows[:200], labels))
    five = neighbors.NearestNeighbors(n_neighbors=5, metric="cosine").fit(rows[200:])
    found = items[five.kneighbors(rows[:200], return_distance=False)]
    assert values["r5"] == pytest.approx(100 * (found == labels[:, None]).any(axis=1).mean())
    assert 0 < values["r1"] < values["r5"] < 100


def test_the_collapsed_encoder_scores_nothing():
    rows = np.ones((30, 3)) / np.sqrt(3)
    query, index = records(range(10), [0, 1] * 5), records(range(10, 30), [0, 1] * 10, "i")
    values = knn.run(Vectors(rows), query, index, k=(1, 5)).values["all"]
    assert values == {"r1": 0.0, "r5": 0.0, "chance": 50.0}


def test_ties_and_duplicates():
    rows = np.eye(3)[[0, 0, 0, 1, 2]]
    query = records([0], [5])
    # The same image under its own label, twice: a hit. Under another label as well: a miss at 1.
    assert knn.run(Vectors(rows), query, records([1, 2], [5, 5])).values["all"]["r1"] == 100.0
    values = knn.run(Vectors(rows), query, records([1, 2, 3], [5, 6, 6]), k=(1, 2)).values["all"]
    assert (values["r1"], values["r2"]) == (0.0, 100.0)
    # The right one is nearer, but by less than the rounding of other products: a tie too.
    near = np.array([[1, 0], [1, 0], [np.cos(1e-3), np.sin(1e-3)]])
    assert knn.run(Vectors(near), query, records([1, 2], [5, 6])).values["all"]["r1"] == 0.0


def test_one_item():
    result = knn.run(Vectors(np.eye(2)), records([0], [3]), records([1], [3], "i"))
    assert result.values["all"] == {"r1": 100.0, "chance": 100.0}


def test_what_says_that_something_is_wrong_is_counted():
    rows = np.eye(4)
    queries = records([0, 1, 2], [5, 6, 9])
    result = knn.run(Vectors(rows), queries, records([0, 1, 3], [5, 6, 7]), chunk=1)
    assert result.counts["without_neighbour"] == 1  # label 9
    assert result.counts["shared_ids"] == 2
    assert result.values["all"]["r1"] == pytest.approx(200 / 3)


def test_chance_at_k():
    # 3 of 10 items are right: two random ones miss with probability 7/10 * 6/9.
    rows, labels = unit(11), [1] * 3 + [2] * 7
    values = knn.run(Vectors(rows), records([0], [1]), records(range(1, 11), labels), k=2)
    assert values.values["all"]["chance"] == pytest.approx(100 * (1 - 42 / 90))


def test_what_cannot_be_scored_is_refused():
    embed, some = Vectors(np.eye(4)), records([0, 1], [5, 6])
    with pytest.raises(UserError, match="^no records: knn"):
        knn.run(embed, [], some)
    with pytest.raises(UserError, match="^no records of the index: knn"):
        knn.run(embed, some, [])
    with pytest.raises(UserError, match="record 'a' has no label"):
        knn.run(embed, some, [Record("a", (b"0",))])
    with pytest.raises(UserError, match="record 'a' has 2 images"):
        knn.run(embed, [Record("a", (b"0", b"1"), label=1)], some)
    with pytest.raises(UserError, match="k is 3, but the index holds 2 images"):
        knn.run(embed, some, some, k=3)
    for k in (0, (), (1, -1), (1.5,)):
        with pytest.raises(UserError, match="expected k to be 1 or more"):
            knn.run(embed, some, some, k=k)
    with pytest.raises(UserError, match="none of the queries' labels occurs in the index"):
        knn.run(embed, some, records([2], [8]))


def test_embeddings_that_are_not_finite_are_refused_by_name():
    rows = np.eye(4)
    rows[3, 0] = np.nan
    some = records([0, 1], [5, 6])
    with pytest.raises(UserError, match="record 'i3': its embedding has length nan"):
        knn.run(Vectors(rows), some, records([0, 1, 2, 3], [5, 6, 5, 6], "i"), chunk=2)
    with pytest.raises(UserError, match="record 'q3': its embedding has length nan"):
        knn.run(Vectors(rows), records([3], [5]), some)
    with pytest.raises(UserError, match="record 'q1': its embedding has length 2.0"):
        knn.run(Vectors(np.diag([1.0, 2.0])), some, some)


def test_an_unreadable_image_of_a_later_chunk_is_named_by_its_record():
    class Broken(Vectors):
        def images(self, encoded):
            encoded = list(encoded)
            if b"3" in encoded:
                error = UserError("cannot be read")
                error.position = encoded.index(b"3")
                raise error
            return super().images(encoded)

    index = records([0, 1, 2, 3], [5, 6, 5, 6], "i")
    with pytest.raises(UserError, match="^record 'i3': cannot be read"):
        knn.run(Broken(np.eye(4)), records([0], [5]), index, chunk=2)
