"""Embeds images into an index to search in: python tools/index.py --model=runs/tiny/etcl-s0
--images=photos --out=photos.index

--images is a folder (JPEG, PNG, GIF, BMP, WebP, also in folders below it), --records a record set.
A run that was stopped goes on where it stood when the same command is given again. Images that
cannot be read are left out and named.
"""

import os

import common
from absl import flags

from tf_mural.errors import UserError

_MODEL = flags.DEFINE_string("model", None, "Workdir of a finished run, or a preset. Required.")
_IMAGES = flags.DEFINE_string("images", None, "Folder of images.")
_RECORDS = flags.DEFINE_string("records", None, "Or a record set, such as data/scenes/test.")
_OUT = flags.DEFINE_string("out", None, "Folder of the index. Required.")
_FAISS = flags.DEFINE_enum(
    "faiss",
    "none",
    ["none", "flat", "hnsw"],
    "An index of FAISS beside: flat is exact, hnsw is quicker over millions of images and misses "
    "a few (pip install -r requirements-demo.txt).",
)
_STRATEGY = flags.DEFINE_string("strategy", "one", "Devices: one or mirrored.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images at a time.", lower_bound=1)
_BACKEND = common.define_backend()


def main():
    if bool(_IMAGES.value) == bool(_RECORDS.value):
        raise UserError("say where the images are: either --images or --records")
    for name, value in (("model", _MODEL.value), ("out", _OUT.value)):
        if not value:
            raise UserError(f"--{name} is missing (--help tells what it is)")
    from tf_mural import search

    folder = _IMAGES.value or _RECORDS.value
    kind = search.FolderSource if _IMAGES.value else search.RecordsSource
    source = kind(folder)
    common.import_tensorflow(_BACKEND.value)
    import tf_mural

    embedder = tf_mural.Embedder.load(_MODEL.value, _STRATEGY.value, _BATCH_SIZE.value)
    manifest = search.make_index(
        _OUT.value,
        source,
        lambda images: embedder.images(images, progress=False),
        embedder.fingerprint,
        os.path.abspath(_MODEL.value) if os.path.exists(_MODEL.value) else _MODEL.value,
        embedder.width,
        _FAISS.value,
    )
    print(f"{_OUT.value}: {manifest['count']:,} images of {folder}")
    left_out = sum(manifest["skipped"].values())
    if left_out:
        print(f"{left_out:,} left out, the first of each reason named:")
        for reason, count in manifest["skipped"].items():
            print(f"  {count:,}: {reason}")
        print("\n".join(f"  {line}" for line in manifest["examples"]))


if __name__ == "__main__":
    common.run(main)
