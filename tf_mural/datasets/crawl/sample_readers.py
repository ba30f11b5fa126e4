"""Readers of the four formats of img2dataset: webdataset (tar), tfrecord, files and parquet.

Each reader is a function (path, images=True) that yields a `Sample` for each image in order, and
a `Skipped` if a file is damaged. With images=False the reader does not read the images themselves.
Tars of .jpg, .txt and .json files that other programs wrote are also supported.
"""

import contextlib
import json
import os
import posixpath
import struct
import tarfile
from typing import NamedTuple

from tf_mural.data.records import Skipped, tfrecord
from tf_mural.errors import UserError

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
_EXTENSIONS = (*IMAGE_EXTENSIONS, "txt", "json")
_MAX_BYTES = 256 << 20  # maximum size of a member of a tar or a record of a TFRecord
_BATCH_ROWS, _BATCH_ROWS_WITHOUT_IMAGES = 64, 1 << 14
_PARQUET_COLUMNS = ("key", "url", "caption", "txt", "status", "error_message")


class Sample(NamedTuple):
    """One image and its metadata, or the metadata of an image that was not downloaded.

    Attributes:
        key: name of the sample in its file.
        image: bytes of the image file; b"" if the reader has images=False; None without an image.
        text: the caption next to the image, or None.
        url: URL of the image, or None.
        status: img2dataset's status ("success", "failed_to_download"), or None.
        error: img2dataset's error message, or None.
        problem: the reason why the sample is unusable, in a few words; None for a usable sample.
    """

    key: str
    image: bytes | None = None
    text: str | None = None
    url: str | None = None
    status: str | None = None
    error: str | None = None
    problem: str | None = None


def _sample_of_files(key, files):
    """Returns the `Sample` of files that share a name.

    Args:
        key: the shared name.
        files: dict from extension to bytes: an image, "txt" (a caption) and "json" (an object that
            may have a caption and a url).
    """
    image = next((files[extension] for extension in IMAGE_EXTENSIONS if extension in files), None)
    meta, problem = {}, None
    if "json" in files:
        try:
            meta = json.loads(files["json"])
        except (ValueError, RecursionError):  # A UnicodeDecodeError is a ValueError.
            problem = "json does not parse"
        meta = meta if isinstance(meta, dict) else {}
    caption, url = (
        value if isinstance(value := meta.get(name), str) else None for name in ("caption", "url")
    )
    key, url = _valid_unicode(key), None if url is None else _valid_unicode(url)
    if "txt" in files:
        try:
            caption = files["txt"].decode("utf-8-sig")
        except UnicodeDecodeError:
            problem = "caption is not UTF-8"
    return Sample(key, image, caption, url, problem=problem)


def _valid_unicode(name):
    """Replaces characters that are not valid Unicode, such as lone surrogates in JSON, by "?"."""
    return name.encode(errors="replace").decode()


# --- tar (webdataset) -----------------------------------------------------------------------------


def read_tar(path, images=True):
    """Yields each `Sample` of a tar, and a `Skipped` if the tar ends early.

    The tar is read as a stream, member by member, and nothing is unpacked to the disk. Complete
    samples of a truncated tar are kept.
    """
    key, files, previous = None, {}, None
    try:
        for name, extension, data in _tar_members(path, images):
            if name != key:
                if key is not None:
                    yield _sample_of_files(key, files)
                    previous = set(files)
                key, files = name, {}
            files[extension] = data
    except tarfile.TarError as error:
        # The last sample is complete if it has all files that the previous sample has.
        if previous and previous <= set(files):
            yield _sample_of_files(key, files)
        yield Skipped("tar is cut short or broken", f"{path}, after {key or 'nothing'}: {error}")
        return
    if key is not None:
        yield _sample_of_files(key, files)


def _tar_members(path, images):
    """Yields (name of the sample, extension, bytes)."""
    with (
        open(path, "rb") as file,
        tarfile.open(fileobj=file, mode="r:", tarinfo=_StrictTarInfo) as tar,
    ):
        while (info := tar.next()) is not None:
            tar.members.clear()  # Saves memory: members are not accessed by name.
            folder, base = posixpath.split(info.name)
            stem, _, extension = base.partition(".")
            extension = extension.lower()
            if not info.isreg() or not stem or extension not in _EXTENSIONS:
                continue
            if info.size > _MAX_BYTES:
                continue
            is_read = images or extension not in IMAGE_EXTENSIONS
            data = tar.extractfile(info).read() if is_read else b""
            yield posixpath.join(folder, stem), extension, data


class _StrictTarInfo(tarfile.TarInfo):
    """Raises an error for a damaged header, which tarfile would interpret as the end of the tar."""

    @classmethod
    def fromtarfile(cls, tar):
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from error


# --- tfrecord -------------------------------------------------------------------------------------


def read_tfrecord(path, images=True):
    """Yields each `Sample` of an uncompressed TFRecord file of tf.train.Examples.

    Also yields a `Skipped` for each damaged record, and if the file ends early.
    """
    from google.protobuf.message import DecodeError

    with open(path, "rb") as file:
        number = 0
        while header := file.read(tfrecord.HEADER):
            where = f"{path}, record {number}"
            if len(header) < tfrecord.HEADER or not tfrecord.is_intact(header[:8], header[8:]):
                yield Skipped("tfrecord is cut short or broken", where)
                return
            length = struct.unpack("<Q", header[:8])[0]
            payload = file.read(length) if length <= _MAX_BYTES else b""
            footer = file.read(tfrecord.FOOTER)
            if len(payload) != length or len(footer) != tfrecord.FOOTER:
                yield Skipped("tfrecord is cut short or broken", where)
                return
            number += 1
            try:
                if not tfrecord.is_intact(payload, footer):
                    raise DecodeError("checksum")
                example = tfrecord.example_class().FromString(payload)
                yield _sample_of_example(example, number - 1, images)
            except DecodeError:
                yield Skipped("record is damaged", where)


def _sample_of_example(example, number, images):
    feature = example.features.feature
    values = {
        name: bytes(value) for name in feature for value in feature[name].bytes_list.value[:1]
    }
    problem, strings = None, {}
    for name in ("txt", "caption", "url", "key"):
        try:
            strings[name] = values[name].decode() if name in values else None
        except UnicodeDecodeError:
            strings[name], problem = None, f"{name} is not UTF-8"
    encoded = [values[extension] for extension in IMAGE_EXTENSIONS if extension in values]
    image = (encoded[0] if images else b"") if encoded else None
    caption = strings["caption"] if strings["txt"] is None else strings["txt"]
    key = strings["key"] or f"{number:09d}"
    return Sample(key, image, caption, strings["url"], problem=problem)


# --- files ----------------------------------------------------------------------------------------


def read_folder(path, images=True):
    """Yields each `Sample` of a folder (an image with its .txt and .json), sorted by name."""
    extensions = {}
    for name in os.listdir(path):
        stem, dot, extension = name.rpartition(".")
        if dot and extension.lower() in _EXTENSIONS:
            extensions.setdefault(stem, []).append(extension)
    for stem in sorted(extensions):
        if not stem.startswith("."):
            yield _sample_of_stem(path, stem, extensions[stem], images)


def _sample_of_stem(path, stem, extensions, images):
    files = {}
    for extension in sorted(extensions):
        if not images and extension.lower() in IMAGE_EXTENSIONS:
            files[extension.lower()] = b""
            continue
        try:
            with open(os.path.join(path, f"{stem}.{extension}"), "rb") as file:
                files[extension.lower()] = file.read()
        except OSError:
            return Sample(stem, problem="file may not be read")
    return _sample_of_files(stem, files)


def contains_images(names):
    """Returns whether there are images among the names of files."""
    return any(name.rpartition(".")[2].lower() in IMAGE_EXTENSIONS for name in names)


# --- parquet --------------------------------------------------------------------------------------


class BrokenParquetError(Exception):
    """The file is not valid Parquet, for example because it was truncated before its footer."""


def read_parquet(path, images=True):
    """Yields each `Sample` of a Parquet file; `image` is None if it was not downloaded.

    Yields a single `Skipped` if the file is truncated, because no row can be read in this case.
    """
    try:
        yield from read_parquet_rows(path, images)
    except BrokenParquetError as error:
        yield Skipped("parquet is cut short or broken", f"{path}: {error}")


def read_parquet_rows(path, images):
    """Yields the samples of `read_parquet`, but raises `BrokenParquetError` for a truncated file.

    The Parquet files that img2dataset writes next to its other formats have a row for each link and
    no column of images.
    """
    with _open_parquet(path) as file:
        names = set(file.schema_arrow.names)
        image_columns = [name for name in IMAGE_EXTENSIONS if name in names and images]
        columns = [name for name in (*_PARQUET_COLUMNS, *image_columns) if name in names]
        batch_rows = _BATCH_ROWS if image_columns else _BATCH_ROWS_WITHOUT_IMAGES
        number = 0
        for batch in file.iter_batches(batch_rows, columns=columns):
            for row in batch.to_pylist():
                yield _sample_of_row(row, image_columns, number)
                number += 1


def has_image_column(path):
    """Returns whether a Parquet file has a column of images. Raises `BrokenParquetError`."""
    with _open_parquet(path) as file:
        return not set(IMAGE_EXTENSIONS).isdisjoint(file.schema_arrow.names)


def _sample_of_row(row, image_columns, number):
    strings = {
        name: value
        for name, value in row.items()
        if name in _PARQUET_COLUMNS and isinstance(value, str)
    }
    return Sample(
        key=strings.get("key", f"{number:09d}"),
        image=next((row[name] for name in image_columns if row[name]), None),
        text=strings.get("txt") or strings.get("caption"),
        url=strings.get("url"),
        status=strings.get("status"),
        error=strings.get("error_message"),
    )


@contextlib.contextmanager
def _open_parquet(path):
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(f"reading {path} needs pyarrow: pip install pyarrow") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield file
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise BrokenParquetError(error) from error


READERS = {
    "tar": read_tar,
    "tfrecord": read_tfrecord,
    "parquet": read_parquet,
    "folder": read_folder,
}
