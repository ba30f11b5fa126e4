"""Image search: an index of image embeddings on disk, and nearest-neighbor search in it.

An index is a folder with these files:

manifest.json            the model and the source of the embeddings, and the parts
part-00000.npy           float32 (n, width), unit-norm rows
part-00000.jsonl         one line per image: {"path"} of a file, or {"record", "id", "texts"}
index.faiss              the same rows as a FAISS index (optional)
"""

from tf_mural.search.builder import make_index
from tf_mural.search.index import Hit, Index
from tf_mural.search.sources import FolderSource, RecordsSource, open_source

__all__ = [
    "UNKNOWN_QUERY",
    "FolderSource",
    "Hit",
    "Index",
    "RecordsSource",
    "make_index",
    "open_source",
]

# Message for a query whose tokens are all unknown.
UNKNOWN_QUERY = "the vocabulary has no part of {!r}: the results are unrelated to it"
