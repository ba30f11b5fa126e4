"""Embeds images into a search index: python tools/index.py --model=runs/tiny/etcl-s0
--images=photos --out=photos.index

--images names a folder that contains images (JPEG, PNG, GIF, BMP or WebP), also in subfolders;
--records names a record set instead. The same command continues a run that was stopped. Images that
cannot be read are skipped, and the output names some of the skipped images.
"""

import os

from absl import flags

from tf_mural.cli import app
from tf_mural.errors import UserError

FLAGS = flags.FlagValues()
_MODEL = flags.DEFINE_string(
    "model", None, "Workdir of a finished run, or a preset. Required.", flag_values=FLAGS
)
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
    "misses some of the nearest images.",
    flag_values=FLAGS,
)
_STRATEGY = flags.DEFINE_string(
    "strategy", "one", "Devices to embed on: one, or mirrored (all GPUs).", flag_values=FLAGS
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 64, "Number of images per batch.", lower_bound=1, flag_values=FLAGS
)
_BACKEND = app.define_backend(FLAGS)


def main(argv=None):
    """Makes an index. `argv` is a list of flags; None means the command line."""
    app.parse(FLAGS, argv, __doc__)
    if bool(_IMAGES.value) == bool(_RECORDS.value):
        raise UserError("name the images: give either --images or --records")
    for name, value in (("model", _MODEL.value), ("out", _OUT.value)):
        if not value:
            raise UserError(f"--{name} is missing (--help describes this flag)")
    from tf_mural import search

    folder = _IMAGES.value or _RECORDS.value
    source = search.FolderSource(folder) if _IMAGES.value else search.RecordsSource(folder)
    if source.note:
        print(source.note)
    app.import_tensorflow(_BACKEND.value)
    import tf_mural

    embedder = tf_mural.Embedder.load(_MODEL.value, _STRATEGY.value, _BATCH_SIZE.value)
    manifest = search.make_index(
        _OUT.value,
        source,
        lambda images: embedder.embed_images(images, progress=False),
        embedder.fingerprint,
        os.path.abspath(_MODEL.value) if os.path.exists(_MODEL.value) else _MODEL.value,
        embedder.width,
        _FAISS.value,
    )
    print(f"{_OUT.value}: {manifest['count']:,} images of {folder}")
    num_skipped = sum(manifest["skipped"].values())
    if num_skipped:
        print(f"{num_skipped:,} images were skipped (reasons, and the first image of each reason):")
        for reason, count in manifest["skipped"].items():
            print(f"  {count:,}: {reason}")
        print("\n".join(f"  {line}" for line in manifest["examples"]))
