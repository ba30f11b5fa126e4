"""Exact and approximate search: ties, prefixes, the measured recall, and the export to Parquet."""

import json
import os
import threading

import numpy as np
import pytest
from conftest import ROOT
from helpers.indexes import MODEL, hit_rows, make_vector_index, unit_rows

from tf_mural import search
from tf_mural.errors import UserError
from tf_mural.search import neighbors

KINDS = ("none", "flat", "hnsw")
VECTORS = os.path.join(ROOT, "..", "shared", "data", "inputs", "12_index", "vectors.npz")


def require_faiss(kind):
    if kind != "none":
        pytest.importorskip("faiss", reason="pip install -r requirements-demo.txt")


def sorted_rows(vectors, queries, k):
    """Returns the rows by a full sort of float64 scores, rounded to float32; ties by row."""
    scores = (queries.astype(np.float64) @ vectors.T.astype(np.float64)).astype(np.float32)
    return np.argsort(-scores, axis=1, kind="stable")[:, :k].tolist()


@pytest.fixture(scope="module")
def given():
    """The vectors of ../shared/data/inputs/12_index, with their exact nearest neighbors."""
    if not os.path.exists(VECTORS):
        pytest.skip("no ../shared/data/inputs/12_index")
    with np.load(VECTORS) as file:
        return {name: file[name] for name in file.files}


@pytest.mark.parametrize("kind", KINDS)
def test_given_neighbors_and_ties_are_found(given, tmp_path, kind):
    require_faiss(kind)
    index = make_vector_index(tmp_path / "index", given["items"], kind)
    for name in ("text", "image"):
        queries, top50 = given[f"{name}_queries"], given[f"{name}_top50"]
        rows = hit_rows(index.search(queries, 50))
        if kind == "hnsw":
            overlap = [len({*a[:10]} & {*b[:10]}) / 10 for a, b in zip(rows, top50, strict=True)]
            assert np.mean(overlap) >= 0.95
            assert search.measure_recall(index, queries) == pytest.approx(np.mean(overlap))
            assert [r[:5] for r in hit_rows(index.search(queries, 100))] == hit_rows(
                index.search(queries, 5)
            )
        else:
            np.testing.assert_array_equal(rows, top50)
    ties = make_vector_index(tmp_path / "ties", given["tie_items"], kind)
    np.testing.assert_array_equal(
        hit_rows(ties.search(given["tie_queries"], 10)), given["tie_top10"]
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 255, 256, 257, 300])
def test_an_index_of_any_size_returns_the_nearest_rows(tmp_path, kind, count):
    require_faiss(kind)
    vectors, queries = unit_rows(count, 16), unit_rows(7, 16, seed=1)
    index = make_vector_index(tmp_path / "index", vectors, kind)
    for k in (1, 10, 256, 1000):
        rows = hit_rows(index.search(queries, k))
        assert rows == sorted_rows(vectors, queries, k)
        assert all(len(row) == min(k, count) for row in rows)
    assert index.search(queries, 0) == [[]] * 7 and index.search(queries[:0], 5) == []
    assert index.is_approximate == (kind == "hnsw" and count > 256)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_rows_are_sorted_by_position_whatever_their_block(tmp_path, kind):
    require_faiss(kind)
    # The width and the part sizes are odd, so that matrix products use different code for the last
    # rows of a part.
    distinct = unit_rows(90, 37)
    order = np.random.default_rng(2).integers(0, 90, 2000)
    index = make_vector_index(tmp_path / "index", distinct[order], kind, images_per_part=333)
    queries = unit_rows(20, 37, seed=3)
    for hits, query in zip(index.search(queries, 60), queries, strict=True):
        pairs = [(-hit.score, hit.row) for hit in hits]
        assert pairs == sorted(pairs)
        by_vector = {}
        for hit in hits:
            by_vector.setdefault(order[hit.row], set()).add(hit.score)
        assert all(len(scores) == 1 for scores in by_vector.values())
        if kind != "hnsw":
            (expected,) = sorted_rows(distinct[order], query[None], 60)
            assert [hit.row for hit in hits] == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 5, 256, 300])
def test_rows_that_are_all_equal_are_returned_from_the_first(tmp_path, kind, k):
    require_faiss(kind)
    index = make_vector_index(tmp_path / "index", np.tile(unit_rows(1, 24), (700, 1)), kind)
    assert hit_rows(index.search(unit_rows(3, 24, seed=1), k)) == [list(range(k))] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_scores_do_not_depend_on_the_number_of_queries(tmp_path, kind):
    require_faiss(kind)
    index = make_vector_index(tmp_path / "index", unit_rows(1500, 48), kind)
    queries = unit_rows(33, 48, seed=1)
    together = index.search(queries, 20)
    assert [index.search(query[None], 20)[0] for query in queries] == together


def test_results_of_a_smaller_k_are_the_first_results(tmp_path):
    require_faiss("hnsw")
    vectors = unit_rows(3000, 24)
    index = make_vector_index(tmp_path / "index", vectors, "hnsw")
    queries = unit_rows(50, 24, seed=1)
    rows = hit_rows(index.search(queries, 256))
    for k in (1, 5, 50, 255):
        assert hit_rows(index.search(queries, k)) == [row[:k] for row in rows]
    # A k above efSearch, and a search with exact=True, are exact.
    assert hit_rows(index.search(queries, 257)) == sorted_rows(vectors, queries, 257)
    assert hit_rows(index.search(queries, 5, exact=True)) == sorted_rows(vectors, queries, 5)


def test_the_manifest_contains_the_number_of_candidates(tmp_path):
    require_faiss("hnsw")
    vectors = unit_rows(600, 8)
    index = make_vector_index(tmp_path / "index", vectors, "hnsw")
    assert index.manifest["efSearch"] == index.ef_search == 256 == neighbors.MIN_EF_SEARCH
    search.add_recall(index.folder, unit_rows(5, 8, seed=1), "a test")
    modified = os.stat(tmp_path / "index" / "index.faiss").st_mtime_ns
    index = make_vector_index(tmp_path / "index", vectors, "hnsw", ef_search=512)
    assert index.ef_search == 512 and "text_recall" not in index.manifest
    assert os.stat(tmp_path / "index" / "index.faiss").st_mtime_ns == modified
    index = make_vector_index(tmp_path / "index", vectors, "flat")
    assert "efSearch" not in index.manifest and not index.is_approximate
    assert os.stat(tmp_path / "index" / "index.faiss").st_mtime_ns != modified
    with pytest.raises(UserError, match="ef_search is 64, expected at least 256"):
        make_vector_index(tmp_path / "other", vectors, "hnsw", ef_search=64)


def test_an_index_without_a_number_of_candidates_uses_256(tmp_path):
    require_faiss("hnsw")
    index = make_vector_index(tmp_path / "index", unit_rows(300, 8), "hnsw")
    path = tmp_path / "index" / "manifest.json"
    manifest = {key: value for key, value in index.manifest.items() if key != "efSearch"}
    path.write_text(json.dumps(manifest))
    assert search.Index(index.folder).ef_search == 256
    path.write_text(json.dumps({**manifest, "efSearch": "many"}))
    with pytest.raises(UserError, match="is damaged or not of an index"):
        search.Index(index.folder)


def test_threads_get_the_results_of_single_searches(tmp_path):
    require_faiss("hnsw")
    index = make_vector_index(tmp_path / "index", unit_rows(1500, 16), "hnsw")
    queries, results = unit_rows(16, 16, seed=1), {}

    def run(k):
        results[k] = hit_rows(index.search(queries, k))

    threads = [threading.Thread(target=run, args=[k]) for k in (3, 50, 200, 300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {k: hit_rows(index.search(queries, k)) for k in results}


# --- recall ---------------------------------------------------------------------------------------


class FixedResults:
    """A fake approximate index that replaces `missed` of the ten nearest rows by other rows."""

    def __init__(self, missed):
        self._missed = missed

    def __len__(self):
        return 100

    def search(self, queries, k, exact=False):
        scores = [1 - 0.01 * row for row in range(k)]
        if not exact:
            scores[k - self._missed :] = [0.1] * self._missed
        return [[search.Hit(score, row, {}) for row, score in enumerate(scores)] for _ in queries]


@pytest.mark.parametrize("missed", [0, 1, 4])
def test_recall_is_the_share_of_the_ten_nearest_images_that_is_found(missed):
    assert search.measure_recall(FixedResults(missed), np.zeros((3, 2))) == 1 - missed / 10


def test_recall_counts_other_images_with_the_same_score(tmp_path):
    vectors = np.repeat(unit_rows(30, 8), 20, axis=0)
    index = make_vector_index(tmp_path / "index", vectors)
    assert search.measure_recall(index, unit_rows(5, 8, seed=1)) == 1
    result = search.add_recall(index.folder, unit_rows(5, 8, seed=1), "a test")
    assert result == {"recall@10": 1.0, "queries": 5, "source": "a test"}
    assert search.Index(index.folder).manifest["text_recall"] == result


def test_queries_are_read_from_a_file_or_from_the_texts_of_an_index(tmp_path):
    path = tmp_path / "queries.txt"
    path.write_bytes("\ufeffa dog\r\n\n  ein Hund \n".encode())
    assert search.read_queries(path) == ["a dog", "ein Hund"]
    for data, message in (
        (b" \n\n", "contains no query"),
        ("für".encode("latin-1"), "is not UTF-8"),
    ):
        path.write_bytes(data)
        with pytest.raises(UserError, match=message):
            search.read_queries(path)
    with pytest.raises(UserError, match="cannot be read: No such file"):
        search.read_queries(tmp_path / "nothing")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        search.read_queries(tmp_path)
    texts = [[["en", f"text {i}"], ["de", f"Text {i}"]] for i in range(700)]
    index = make_vector_index(tmp_path / "index", unit_rows(700, 4), texts=texts)
    texts = search.texts_of_index(index)
    assert (
        len(texts) == len(set(texts)) == 1000 and texts[0] == "text 0" and texts[-1] == "Text 699"
    )
    assert search.texts_of_index(make_vector_index(tmp_path / "other", unit_rows(3, 4))) == []
    assert len(set(search.DEFAULT_QUERIES)) >= 75 and all(search.DEFAULT_QUERIES)


# --- Parquet --------------------------------------------------------------------------------------


@pytest.fixture
def parquet():
    return pytest.importorskip("pyarrow.parquet", reason="pip install -r requirements-convert.txt")


def test_a_parquet_file_contains_ids_paths_vectors_and_the_model(tmp_path, parquet):
    vectors = unit_rows(5000, 12)
    index = make_vector_index(tmp_path / "index", vectors)
    path = search.export_parquet(index)
    assert path == str(tmp_path / "index" / "index.parquet")
    table = parquet.read_table(path)
    assert table["row"].to_pylist() == list(range(5000))
    assert table["id"][4999].as_py() == "row 4999" and table["path"][7].as_py() == "vectors#7"
    assert table["model"].unique().to_pylist() == [MODEL]
    assert str(table.schema.field("vector").type).startswith("fixed_size_list<")
    read = table["vector"].combine_chunks().flatten().to_numpy().reshape(5000, 12)
    np.testing.assert_array_equal(read, vectors)
    metadata = table.schema.metadata
    assert metadata[b"tf_mural.model"] == MODEL.encode()
    assert metadata[b"tf_mural.model_path"] == b"runs/m"
    assert search.export_parquet(index) == path  # An earlier export in the index is replaced.
    assert len(search.Index(index.folder)) == 5000


def test_images_of_a_folder_are_exported_with_their_paths(tmp_path, parquet):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "ü.png").write_bytes(b"a")
    (photos / os.fsdecode(b"\xff.png")).write_bytes(b"b")

    def embed(images):
        return unit_rows(len(images), 4)

    folder = str(tmp_path / "index")
    source = search.FolderSource(str(photos))
    search.make_index(folder, source, embed, MODEL, "runs/m", 4, print_fn=str)
    table = parquet.read_table(search.export_parquet(search.Index(folder), str(tmp_path / "x")))
    assert table["id"].to_pylist() == ["ü.png", "\ufffd.png"]
    assert table["path"].to_pylist() == [f"{photos}/ü.png", f"{photos}/\ufffd.png"]


def test_an_unusable_parquet_file_is_refused_and_nothing_is_written(tmp_path, parquet, monkeypatch):
    index = make_vector_index(tmp_path / "index", unit_rows(3, 4))
    existing = tmp_path / "existing.parquet"
    existing.write_bytes(b"precious")
    with pytest.raises(UserError, match="existing.parquet already exists"):
        search.export_parquet(index, str(existing))
    assert existing.read_bytes() == b"precious"
    with pytest.raises(UserError, match="already exists"):
        search.export_parquet(index, str(tmp_path))
    with pytest.raises(UserError, match="the folder .*/missing does not exist"):
        search.export_parquet(index, str(tmp_path / "missing" / "x.parquet"))
    with pytest.raises(UserError, match="the folder .*existing.parquet does not exist"):
        search.export_parquet(index, str(existing / "x.parquet"))

    def fail(self, table):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parquet.ParquetWriter, "write_table", fail)
    with pytest.raises(UserError, match="x.parquet cannot be written: No space left"):
        search.export_parquet(index, str(tmp_path / "x.parquet"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["existing.parquet", "index"]
