"""Image search: an index of image embeddings on disk, and nearest-neighbor search in it.

An index is a folder with these files:

manifest.json            the model and the source of the embeddings, and the parts
part-00000.npy           float32 (n, width), unit-norm rows
part-00000.jsonl         one line per image: {"path"} of a file, or {"record", "id", "texts"}
index.faiss              the same rows as a FAISS index (optional)
index.parquet            the same rows as a table for other programs (optional)
"""

from tf_mural.search.builder import make_index
from tf_mural.search.hard_negatives import MiningOptions
from tf_mural.search.index import Hit, Index
from tf_mural.search.mining import mine
from tf_mural.search.parquet import export_parquet
from tf_mural.search.recall import (
    DEFAULT_QUERIES,
    MIN_RECALL,
    add_recall,
    measure_recall,
    read_queries,
    texts_of_index,
)
from tf_mural.search.sources import FolderSource, RecordsSource, open_source

__all__ = [
    "DEFAULT_QUERIES",
    "MIN_RECALL",
    "UNKNOWN_QUERY",
    "FolderSource",
    "Hit",
    "Index",
    "MiningOptions",
    "RecordsSource",
    "add_recall",
    "export_parquet",
    "make_index",
    "measure_recall",
    "mine",
    "open_source",
    "read_queries",
    "texts_of_index",
]

# Message for a query whose tokens are all unknown.
UNKNOWN_QUERY = "the vocabulary has no part of {!r}: the results are unrelated to it"
