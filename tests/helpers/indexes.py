"""Indexes of given vectors, without images or a model."""

import numpy as np

from tf_mural import search

MODEL = "m" * 32


class VectorSource:
    """A source whose "images" are the numbers of the rows of `vectors`."""

    skipped = ()

    def __init__(self, vectors, texts=None):
        self.vectors, self._texts = np.asarray(vectors, np.float32), texts
        self.spec = {"records": "vectors", "digest": "0"}

    def __len__(self):
        return len(self.vectors)

    def item(self, index):
        texts = self._texts[index] if self._texts else []
        return {"record": index, "id": f"row {index}", "texts": texts}

    def read(self, item):
        return str(item["record"]).encode()

    def display_name(self, item):
        return item["id"]


def make_vector_index(folder, vectors, kind="none", texts=None, **options):
    """Builds an index of vectors, float32 (n, width), and opens it."""
    source = VectorSource(vectors, texts)

    def embed(images):
        return source.vectors[[int(data) for data in images]]

    width = source.vectors.shape[1]
    options = {"images_per_part": 700, "print_fn": str, **options}
    search.make_index(str(folder), source, embed, MODEL, "runs/m", width, kind, **options)
    return search.Index(str(folder))


def unit_rows(count, width, seed=0):
    """Returns random rows of norm 1, float32 (count, width)."""
    rows = np.random.default_rng(seed).normal(size=(count, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def hit_rows(results):
    """Returns the row numbers of the results of `Index.search`, a list of lists."""
    return [[hit.row for hit in hits] for hits in results]
