"""Miniature crawls in the layouts of img2dataset, as its writers make them."""

import io
import json
import os
import tarfile

import pytest
from PIL import Image

from tf_mural.data.records import tfrecord


def picture(color, kind="JPEG", size=(6, 4)):
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, kind)
    return buffer.getvalue()


RED, GREEN, BLUE = picture("red"), picture("green"), picture("blue")


def url(name):
    return f"http://example.org/{name}.jpg?size=large"


def row(key, image=None, caption=None, name=None, status="success", error=None):
    """What img2dataset writes of a link: its columns in order, and the image."""
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


def failed(key, name=None, status="failed_to_download", error="HTTP Error 404: Not Found"):
    return row(key, None, "caption of a dead link", name, status, error)


def members(rows, kind="jpg"):
    """(name, bytes) of the files of all images, in webdataset's order."""
    for image, meta in rows:
        if image is not None:
            yield f"{meta['key']}.{kind}", image
            yield f"{meta['key']}.json", json.dumps(meta, indent=4).encode()
            yield f"{meta['key']}.txt", (meta["caption"] or "").encode()


def write_tar(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_parquet(path, rows, kind=None):
    """The Parquet file beside a shard, or with `kind` one that has the images."""
    pa = pytest.importorskip("pyarrow", reason="Parquet is written with pyarrow")
    import pyarrow.parquet

    columns = ["caption", "url", "key", "status", "error_message", "sha256"]
    fields = [pa.field(name, pa.string()) for name in columns]
    fields += [pa.field(name, pa.int32()) for name in ("width", "height")]
    lines = [meta for _, meta in rows]
    if kind:
        fields += [pa.field(kind, pa.binary()), pa.field("txt", pa.string())]
        lines = [
            {**meta, kind: image, "txt": None if image is None else meta["caption"] or ""}
            for image, meta in rows
        ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pa.Table.from_pylist(lines, pa.schema(fields)), path)
    return path


def example(image, meta, kind="jpg"):
    """A tf.train.Example as img2dataset fills it."""
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
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = [tfrecord.frame(example(*one, kind)) for one in rows if one[0] is not None]
    path.write_bytes(b"".join(frames))
    return path


def write(folder, form, rows, stem="00000", kind="jpg", told=True):
    """One shard in a format of img2dataset, with what it writes beside."""
    folder.mkdir(parents=True, exist_ok=True)
    if form == "webdataset":
        write_tar(folder / f"{stem}.tar", members(rows, kind))
    elif form == "tfrecord":
        write_tfrecord(folder / f"{stem}.tfrecord", rows, kind)
    elif form == "files":
        os.mkdir(folder / stem)
        for name, data in members(rows, kind):
            (folder / stem / name).write_bytes(data)
    else:
        write_parquet(folder / f"{stem}.parquet", rows, kind)
    if told and form != "parquet":
        write_parquet(folder / f"{stem}.parquet", rows)
    (folder / f"{stem}_stats.json").write_text(json.dumps({"count": len(rows)}))
    return folder
