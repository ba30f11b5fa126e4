"""Readers of the four formats of img2dataset: webdataset (tar), tfrecord, files and parquet.

Each reader is a function (path, images=True) that yields a `Sample` for each image in order, a
`Skipped` if a file is damaged, and `InputParts` for the members of a tar or the files of a folder.
With images=False the reader does not read the images themselves. Tars of .jpg, .txt and .json files
that other programs wrote are also supported; see `sample_files`.
"""

import os
import struct
import tarfile

from tf_mural.data.records import Skipped, tfrecord
from tf_mural.datasets.bounded_read import BrokenParquetError, open_parquet
from tf_mural.datasets.crawl.sample_files import (
    IMAGE_EXTENSIONS,
    FileCounts,
    Sample,
    SampleFiles,
    captions_of_json,
    parse_name,
)

_MAX_BYTES = 256 << 20  # maximum size of a member of a tar or a record of a TFRecord
_MAX_MEMBER = 1 << 60  # Larger numbers of bytes are not offsets in a file.
_BATCH_ROWS, _BATCH_ROWS_WITHOUT_IMAGES = 64, 1 << 14
_PARQUET_COLUMNS = ("key", "url", "caption", "txt", "status", "error_message")


# --- tar (webdataset) -----------------------------------------------------------------------------


def read_tar(path, images=True):
    """Yields each `Sample` of a tar, and a `Skipped` if the tar ends early.

    The tar is read as a stream, member by member, and nothing is unpacked to the disk. The members
    of a sample must follow each other. Complete samples of a truncated tar are kept.
    """
    counts, files, previous, last = FileCounts("members"), SampleFiles(), None, "nothing"
    try:
        for name, data in _tar_members(path, images, counts):
            if not files.accepts(name):
                yield files.sample(counts)
                previous, files = files.names, SampleFiles()
            if files.add(name, data):
                counts.ignore("a later member has their name", f"{last}.{name.extension}")
            last = files.key
    except tarfile.TarError as error:
        # The last sample is complete if it has all files that the previous sample has.
        if previous and previous <= files.names:
            yield files.sample(counts)
        elif files.names:
            for extension, _ in files.names:
                counts.ignore("the tar is cut short or broken", f"{last}.{extension}")
        yield Skipped("tar is cut short or broken", f"{path}, after {last}: {error}")
        files = SampleFiles()
    if files.names:
        yield files.sample(counts)
    yield from counts.parts()


def _tar_members(path, images, counts):
    """Yields (`FileName`, bytes) of the members of samples, and counts the other members."""
    with (
        open(path, "rb") as file,
        tarfile.open(fileobj=file, mode="r:", tarinfo=_StrictTarInfo) as tar,
    ):
        while (info := tar.next()) is not None:
            tar.members.clear()  # Saves memory: members are not accessed by name.
            if info.isdir():
                continue
            name = parse_name(info.name)
            if not info.isreg():
                counts.ignore("they are links or devices", info.name)
            elif name is None:
                counts.ignore("they are neither images nor captions", info.name)
            elif info.size > _MAX_BYTES:
                counts.ignore(f"they have more than {_MAX_BYTES:,} bytes", info.name)
            else:
                is_read = images or not name.is_image
                yield name, _read_member(tar, info) if is_read else b""


def _read_member(tar, info):
    """Returns the content of a member. Raises TarError if the tar is damaged."""
    try:
        return tar.extractfile(info).read()
    except (ValueError, OverflowError, MemoryError) as error:  # wrong offsets in a sparse file
        raise tarfile.ReadError(str(error)) from error


class _StrictTarInfo(tarfile.TarInfo):
    """Raises an error for a damaged header, which tarfile would interpret as the end of the tar."""

    @classmethod
    def fromtarfile(cls, tar):
        try:
            info = super().fromtarfile(tar)
        except tarfile.EOFHeaderError:
            raise
        except (tarfile.HeaderError, ValueError, IndexError, OverflowError) as error:
            # Invalid numbers in pax headers raise a ValueError, and in sparse files an IndexError.
            raise tarfile.ReadError(str(error)) from error
        if not 0 <= info.size < _MAX_MEMBER:
            raise tarfile.ReadError(f"a member has {info.size} bytes")
        return info


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
    captions = () if caption is None else ((None, caption),)
    return Sample(key, image, captions, strings["url"], problem=problem)


# --- files ----------------------------------------------------------------------------------------


def read_folder(path, images=True):
    """Yields each `Sample` of a folder (an image with its .txt and .json), sorted by name."""
    counts, names = FileCounts("files"), []
    for base in sorted(os.listdir(path)):
        name = parse_name(base)
        if name is not None:
            names.append((name, base))
        elif not base.startswith(".") and os.path.isfile(os.path.join(path, base)):
            counts.ignore("they are neither images nor captions", base)
    with_image = {name.keys[0] for name, _ in names if name.is_image}
    samples = {}
    for name, base in names:
        key = next((key for key in name.keys if key in with_image), name.keys[0])
        samples.setdefault(key, []).append((name, base))
    for key in sorted(samples):
        yield _sample_of_key(path, key, samples[key], images, counts)
    yield from counts.parts()


def _sample_of_key(path, key, names, images, counts):
    files = SampleFiles()
    for name, base in sorted(names, key=lambda item: not item[0].is_image):
        data = b""
        if images or not name.is_image:
            try:
                with open(os.path.join(path, base), "rb") as file:
                    data = file.read()
            except OSError:
                counts.used += len(names)
                return Sample(key, problem="file may not be read")
        if files.add(name, data):
            counts.ignore("another file has their name in other letter case", base)
    return files.sample(counts)


def contains_images(names):
    """Returns whether there are images among the names of files."""
    return any(name.rpartition(".")[2].lower() in IMAGE_EXTENSIONS for name in names)


# --- parquet --------------------------------------------------------------------------------------


def read_parquet(path, images=True):
    """Yields each `Sample` of a Parquet file; `image` is None if it was not downloaded.

    Yields a single `Skipped` if the file is truncated, because no row can be read in this case.
    """
    try:
        yield from read_parquet_rows(path, images)
    except BrokenParquetError as error:
        yield Skipped("parquet is cut short or broken", f"{path}: {error.reason}")


def read_parquet_rows(path, images):
    """Yields the samples of `read_parquet`, but raises `BrokenParquetError` for a truncated file.

    The Parquet files that img2dataset writes next to its other formats have a row for each link and
    no column of images.
    """
    with open_parquet(path) as file:
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
    with open_parquet(path) as file:
        return not set(IMAGE_EXTENSIONS).isdisjoint(file.schema_arrow.names)


def _sample_of_row(row, image_columns, number):
    strings = {
        name: value
        for name, value in row.items()
        if name in _PARQUET_COLUMNS and isinstance(value, str)
    }
    image = next((row[name] for name in image_columns if row[name]), None)
    is_bytes = image is None or isinstance(image, bytes)
    return Sample(
        key=strings.get("key", f"{number:09d}"),
        image=image if is_bytes else None,
        captions=tuple(captions_of_json(row.get("txt") or row.get("caption"))),
        url=strings.get("url"),
        status=strings.get("status"),
        error=strings.get("error_message"),
        problem=None if is_bytes else "image is not stored as bytes",
    )


READERS = {
    "tar": read_tar,
    "tfrecord": read_tfrecord,
    "parquet": read_parquet,
    "folder": read_folder,
}
