"""Embeds images into a search index: python tools/index.py --model=runs/tiny/etcl-s0
--images=photos --out=photos.index

--images names a folder that contains images (JPEG, PNG, GIF, BMP or WebP), also in subfolders;
--records names a record set instead. The same command continues a run that was stopped. Images that
cannot be read are skipped, and the output names some of the skipped images.

--export=parquet also writes the embeddings to a Parquet file for vector databases. The command
"python tools/index.py --out=photos.index --export=parquet" exports an existing index.
"""

import os

from absl import flags

from tf_mural.cli import app, embedding_flags
from tf_mural.errors import UserError

FLAGS = flags.FlagValues()
_MODEL = embedding_flags.define_model(FLAGS)
_IMAGES = flags.DEFINE_string("images", None, "Folder of the images to embed.", flag_values=FLAGS)
_RECORDS = flags.DEFINE_string(
    "records",
    None,
    "Record set whose images are embedded, instead of --images, such as data/scenes/test.",
    flag_values=FLAGS,
)
_OUT = flags.DEFINE_string(
    "out", None, "Folder to write the index to. Required.", flag_values=FLAGS
)
_FAISS = flags.DEFINE_enum(
    "faiss",
    "none",
    ["none", "flat", "hnsw"],
    "Also writes an index for the library FAISS (pip install -r requirements-demo.txt). A search "
    "in a flat index is exact. A search in an hnsw index is faster for millions of images, but "
    "misses some of the nearest images; the command measures the recall of text queries.",
    flag_values=FLAGS,
)
_EF_SEARCH = flags.DEFINE_integer(
    "ef_search",
    256,
    "With --faiss=hnsw: number of candidates of a search. A larger number finds more of the "
    "nearest images, and takes longer. Running the command again with another number changes only "
    "the manifest.",
    lower_bound=256,
    flag_values=FLAGS,
)
_QUERIES = flags.DEFINE_string(
    "queries",
    None,
    "With --faiss=hnsw: UTF-8 text file with one query per line, for which the recall is measured. "
    "Default: the texts of the record set, or common queries in several languages.",
    flag_values=FLAGS,
)
_EXPORT = flags.DEFINE_enum(
    "export",
    "",
    ["", "parquet"],
    "Also writes ids, paths, embeddings and the fingerprint of the model to a file "
    "(pip install -r requirements-convert.txt).",
    flag_values=FLAGS,
)
_EXPORT_FILE = flags.DEFINE_string(
    "export_file",
    None,
    "File of --export, which must not exist. Default: index.parquet in the folder --out.",
    flag_values=FLAGS,
)
_DIM = app.define_dim(FLAGS, "Stores only the first values of each embedding, scaled to length 1.")
_BATCH_SIZE, _STRATEGY = embedding_flags.define_batches(FLAGS)
_BACKEND = app.define_backend(FLAGS)


def main(argv=None):
    """Makes or exports an index. `argv` is a list of flags; None means the command line."""
    app.parse(FLAGS, argv, __doc__)
    _check_flags()
    from tf_mural import search

    if not (_EXPORT.value and _is_existing_index()):
        _make_index(search)
    if _EXPORT.value:
        index = search.Index(_OUT.value)
        path = search.export_parquet(index, _EXPORT_FILE.value)
        print(f"{path}: {len(index):,} embeddings")


def _is_existing_index():
    """Returns whether the flags name an existing index and no images, so that it is exported."""
    return not (_MODEL.value or _IMAGES.value or _RECORDS.value)


def _check_flags():
    if _EXPORT_FILE.value and not _EXPORT.value:
        raise UserError("--export_file requires --export=parquet")
    if _EXPORT.value:
        app.require("pyarrow", "requirements-convert.txt", "--export=parquet")
        if _EXPORT_FILE.value and os.path.lexists(_EXPORT_FILE.value):
            raise UserError(f"{_EXPORT_FILE.value} already exists: choose another --export_file")
    if _QUERIES.value and _FAISS.value != "hnsw":
        raise UserError("--queries requires --faiss=hnsw: the other searches are exact")
    if not (_EXPORT.value and _is_existing_index()):
        if bool(_IMAGES.value) == bool(_RECORDS.value):
            raise UserError("name the images: give either --images or --records")
        embedding_flags.check_given(_MODEL)
    embedding_flags.check_given(_OUT)


def _make_index(search):
    folder = _IMAGES.value or _RECORDS.value
    source = search.FolderSource(folder) if _IMAGES.value else search.RecordsSource(folder)
    if source.note:
        print(source.note)
    queries = search.read_queries(_QUERIES.value) if _QUERIES.value else None
    app.import_tensorflow(_BACKEND.value)
    import tf_mural
    from tf_mural import public_models

    embedder = tf_mural.Embedder.load(_MODEL.value, _STRATEGY.value, _BATCH_SIZE.value)
    embedder = embedder.truncated(_DIM.value)
    app.print_size_note(_DIM.value, embedder.dims)
    manifest = search.make_index(
        _OUT.value,
        source,
        lambda images: embedder.embed_images(images, progress=False),
        embedder.fingerprint,
        public_models.absolute_name(_MODEL.value),
        embedder.width,
        _FAISS.value,
        ef_search=_EF_SEARCH.value,
    )
    print(f"{_OUT.value}: {manifest['count']:,} images of {folder}")
    num_skipped = sum(manifest["skipped"].values())
    if num_skipped:
        print(f"{num_skipped:,} images were skipped (reasons, and the first image of each reason):")
        for reason, count in manifest["skipped"].items():
            print(f"  {count:,}: {reason}")
        print("\n".join(f"  {line}" for line in manifest["examples"]))
    if _FAISS.value == "hnsw":
        _measure_recall(search, embedder, queries)


def _measure_recall(search, embedder, queries):
    """Measures and prints the recall of text queries, and warns if it is low."""
    source = _QUERIES.value
    if queries is None:
        queries, source = search.texts_of_index(search.Index(_OUT.value)), "texts of the record set"
    if not queries:
        queries, source = search.DEFAULT_QUERIES, "common queries"
    embeddings = embedder.embed_texts(queries, progress=False, warn=False)
    result = search.add_recall(_OUT.value, embeddings, source)
    recall = result["recall@10"]
    print(f"recall@10 of {len(queries):,} text queries ({source}): {recall:.3f}")
    if recall < search.MIN_RECALL:
        print(
            f"warning: a search misses {1 - recall:.0%} of the 10 nearest images, more than "
            f"{1 - search.MIN_RECALL:.0%}: run this command again with --ef_search="
            f"{2 * _EF_SEARCH.value}, or with --faiss=flat for an exact search"
        )
