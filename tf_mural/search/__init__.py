"""An index of images on disk, and what is nearest to a query in it.

manifest.json            whose embeddings these are, of what, and the parts
part-00000.npy           float32 (n, width), unit rows
part-00000.jsonl         a line each: {"path"} of a file, or {"record", "id", "texts"} of a set
index.faiss              the same rows for FAISS, where it was asked for
"""

from tf_mural.search.builder import make_index
from tf_mural.search.index import Hit, Index
from tf_mural.search.sources import FolderSource, RecordsSource, open_source

__all__ = ["FolderSource", "Hit", "Index", "RecordsSource", "make_index", "open_source"]
