"""Small crawls in the formats of img2dataset, as its writers produce them."""

import io
import json
import os
import tarfile

import pytest

from helpers.images import plain_image
from tf_mural.data.records import tfrecord

FORMATS = ("webdataset", "files", "parquet", "tfrecord")
RED, GREEN, BLUE = plain_image("red"), plain_image("green"), plain_image("blue")


def url(name):
    """Returns the URL of an image."""
    return f"http://example.org/{name}.jpg?size=large"


def row(key, image=None, caption=None, name=None, status="success", error=None):
    """Returns (image, metadata) of a link; the metadata has img2dataset's columns in order.

    Args:
        key: name of the sample.
        image: content of the image file, or None.
        caption: str, or None.
        name: name of the image in its URL; by default the key.
        status, error: img2dataset's status and error message.
    """
    meta = {
        "caption": caption,
        "url": url(name or key),
        "key": key,
        "status": status,
        "error_message": error,
        "width": 6 if image else None,
        "height": 4 if image else None,
        "sha256": "0" * 64 if image else None,
    }
    return image, meta


def failed_row(key, name=None, status="failed_to_download", error="HTTP Error 404: Not Found"):
    """Returns the `row` of a link without an image."""
    return row(key, None, "caption of a dead link", name, status, error)


def members(rows, kind="jpg"):
    """Yields (name, bytes) of the files of all images in the order of webdataset."""
    for image, meta in rows:
        if image is not None:
            yield f"{meta['key']}.{kind}", image
            yield f"{meta['key']}.json", json.dumps(meta, indent=4).encode()
            yield f"{meta['key']}.txt", (meta["caption"] or "").encode()


def write_tar(path, files):
    """Writes a tar of (name, bytes) pairs, whose names may repeat, and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_parquet(path, rows, kind=None):
    """Writes a Parquet file with the status of each link, and returns its path.

    Args:
        path: `pathlib.Path`.
        rows: list of results of `row`.
        kind: extension of the images, which adds columns of images and captions; None: no images.
    """
    pa = pytest.importorskip("pyarrow", reason="Parquet is written with pyarrow")
    import pyarrow.parquet

    columns = ["caption", "url", "key", "status", "error_message", "sha256"]
    fields = [pa.field(name, pa.string()) for name in columns]
    fields += [pa.field(name, pa.int32()) for name in ("width", "height")]
    table = [meta for _, meta in rows]
    if kind:
        fields += [pa.field(kind, pa.binary()), pa.field("txt", pa.string())]
        table = [
            {**meta, kind: image, "txt": None if image is None else meta["caption"] or ""}
            for image, meta in rows
        ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pa.Table.from_pylist(table, pa.schema(fields)), path)
    return path


def _example(image, meta, kind):
    """Returns the bytes of the tf.train.Example that img2dataset writes."""
    message = tfrecord.example_class()()
    feature = message.features.feature
    for name, value in {kind: image, "txt": meta["caption"] or "", **meta}.items():
        if isinstance(value, int):
            feature[name].int64_list.value.append(value)
        else:
            data = value if isinstance(value, bytes) else (value or "").encode()
            feature[name].bytes_list.value.append(data)
    return message.SerializeToString()


def write_tfrecord(path, rows, kind="jpg"):
    """Writes a TFRecord file of the images and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    examples = (_example(image, meta, kind) for image, meta in rows if image is not None)
    path.write_bytes(b"".join(map(tfrecord.frame, examples)))
    return path


def write_shard(folder, format, rows, stem="00000", kind="jpg", sidecar=True):
    """Writes one shard, with the files that img2dataset writes next to it.

    Args:
        folder: `pathlib.Path`.
        format: one of `FORMATS`.
        rows: list of results of `row`.
        stem: name of the shard.
        kind: extension of the images.
        sidecar: whether to write the Parquet file with the status of each link.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if format == "webdataset":
        write_tar(folder / f"{stem}.tar", members(rows, kind))
    elif format == "tfrecord":
        write_tfrecord(folder / f"{stem}.tfrecord", rows, kind)
    elif format == "files":
        os.mkdir(folder / stem)
        for name, data in members(rows, kind):
            (folder / stem / name).write_bytes(data)
    else:
        write_parquet(folder / f"{stem}.parquet", rows, kind)
    if sidecar and format != "parquet":
        write_parquet(folder / f"{stem}.parquet", rows)
    (folder / f"{stem}_stats.json").write_text(json.dumps({"count": len(rows)}))
    return folder
