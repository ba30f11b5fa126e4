"""`cifar100`: 60,000 images of 32x32 pixels in 100 classes.

Two of the three published versions are supported: the binary version and the Python pickles. Both
versions give the same records. Unpickling never executes code. Images are stored as PNG, which is
lossless. The label is the fine label.

tensorflow-datasets provides this corpus too, but with its own record format and download.
"""

import dataclasses
import io
import os

import numpy as np

from tf_mural.data.records import Record
from tf_mural.datasets import archives, bounded_read
from tf_mural.datasets.classification import unpickle
from tf_mural.errors import UserError, lookup

SPLITS = ("train", "test")
AUGMENTATIONS = ("crop", "flip")
_SIDE = 32
_IMAGE_BYTES = 3 * _SIDE * _SIDE
_ROW_BYTES = 2 + _IMAGE_BYTES  # one byte for each of the two labels, then the pixels
_VERSIONS = {  # {version: (archive, folder in the archive, a file in that folder)}
    "binary": ("cifar-100-binary.tar.gz", "cifar-100-binary", "train.bin"),
    "python": ("cifar-100-python.tar.gz", "cifar-100-python", "train"),
}
_RECORDS_PER_UNIT = 5000


@dataclasses.dataclass(frozen=True)
class Unit:
    """The images [start, end) of a split, and the number of classes."""

    location: archives.ArchiveOrFolder
    version: str
    split: str
    start: int
    end: int
    num_classes: int


def plan(raw_dir: str, split: str):
    """Counts the images of a split and divides them into units.

    Args:
        raw_dir: cifar-100-binary.tar.gz, cifar-100-python.tar.gz, a folder that contains one of
            them, or a folder that one of them unpacks to. The binary version is preferred.
        split: "train" or "test".

    Returns:
        List of `Unit`.

    Raises:
        UserError: files are missing, corrupt or of an unexpected size, or a pickle has unexpected
            contents.
    """
    lookup(dict.fromkeys(SPLITS), split, "split of cifar100")
    location, version = _locate(raw_dir)
    num_classes = len(_class_names(location, version))
    if version == "binary":
        path, file = location.display_path(f"{split}.bin"), location.find(f"{split}.bin")
        if file is None:
            raise UserError(f"{path} is missing; download it again")
        count, remainder = divmod(file.size, _ROW_BYTES)
        if remainder or not count:
            raise UserError(
                f"{path}: expected {_ROW_BYTES:,} bytes per image, got {file.size:,} bytes; "
                "download it again"
            )
    else:
        count = len(_load_pickle(location, split)[1])
    starts = range(0, count, _RECORDS_PER_UNIT)
    ends = (min(start + _RECORDS_PER_UNIT, count) for start in starts)
    return [
        Unit(location, version, split, start, end, num_classes)
        for start, end in zip(starts, ends, strict=True)
    ]


def read(unit):
    """Yields a `Record` per image of a unit. Raises UserError at a label without a class name."""
    rows = _iter_binary(unit) if unit.version == "binary" else _iter_pickled(unit)
    for number, (label, pixels) in enumerate(rows, unit.start):
        if not 0 <= label < unit.num_classes:
            raise UserError(
                f"{unit.location.path}, {unit.split}, image {number}: expected a label below "
                f"{unit.num_classes}, got {label}; download it again"
            )
        yield Record(f"{unit.split}/{number:05d}", (_encode_png(pixels),), label=label)


def classes(raw_dir):
    """Returns the class names in the order of the labels."""
    return _class_names(*_locate(raw_dir))


def fingerprint(raw_dir, split):
    """Returns a hash of the archive, or of the file of the split in an unpacked folder."""
    location, version = _locate(raw_dir)
    name = f"{split}.bin" if version == "binary" else split
    path = location.path if location.is_archive else location.display_path(name)
    if not os.path.isfile(path):
        raise UserError(f"{path} is missing; download it again")
    return archives.fingerprint(path)


def _locate(raw_dir):
    """Returns (`archives.ArchiveOrFolder`, version)."""
    if raw_dir and os.path.isfile(raw_dir):
        version = "python" if "python" in os.path.basename(raw_dir) else "binary"
        return archives.locate(raw_dir, *_VERSIONS[version]), version
    for version, names in _VERSIONS.items():
        if location := archives.locate(raw_dir, *names):
            return location, version
    expected = " or ".join(names[0] for names in _VERSIONS.values())
    raise UserError(
        f"expected {expected} in {raw_dir}; download it from "
        "https://www.cs.toronto.edu/~kriz/cifar.html"
    )


def _class_names(location, version):
    if version == "binary":
        file = "fine_label_names.txt"
        lines = bounded_read.split_lines(location.read(file), location.display_path(file))
        names = [line.strip() for line in lines if line.strip()]
    else:
        meta = _unpickle(location, "meta")
        names = _get_field(meta, b"fine_label_names", list, location.display_path("meta"))
        names = [name.decode() if isinstance(name, bytes) else name for name in names]
    if not names or len(set(names)) != len(names) or not all(isinstance(n, str) for n in names):
        raise UserError(f"{location.path}: the names of the fine labels are empty or not unique")
    return names


def _iter_binary(unit):
    """Yields (label, uint8 (3, 32, 32)) of each image of a unit."""
    file = unit.location.find(f"{unit.split}.bin")
    with archives.open_stream(file.path) as stream:
        archives.skip_to(stream, (file.offset or 0) + unit.start * _ROW_BYTES)
        for _ in range(unit.start, unit.end):
            row = stream.read(_ROW_BYTES)
            if len(row) != _ROW_BYTES:
                raise UserError(f"{unit.location.path} is truncated; download it again")
            yield row[1], np.frombuffer(row, np.uint8, offset=2).reshape(3, _SIDE, _SIDE)


def _iter_pickled(unit):
    """Yields (label, uint8 (3, 32, 32)) of each image of a unit."""
    pixels, labels = _load_pickle(unit.location, unit.split)
    for number in range(unit.start, unit.end):
        yield labels[number], pixels[number].reshape(3, _SIDE, _SIDE)


def _load_pickle(location, split):
    """Returns (uint8 (n, 3072), list of n labels)."""
    path = location.display_path(split)
    data = _unpickle(location, split)
    pixels = unpickle.to_matrix(_get_field(data, b"data", object, path), path)
    labels = _get_field(data, b"fine_labels", list, path)
    if pixels.shape != (len(labels), _IMAGE_BYTES) or not labels:
        raise UserError(
            f"{path}: expected {_IMAGE_BYTES:,} bytes and a label per image, got {pixels.shape} "
            f"bytes and {len(labels):,} labels; download it again"
        )
    if not all(isinstance(label, int) for label in labels):
        raise UserError(f"{path}: expected integer labels; download it again")
    return pixels, labels


def _unpickle(location, name):
    return unpickle.load_plain(io.BytesIO(location.read(name)), location.display_path(name))


def _get_field(data, key, expected_type, path):
    value = None
    if isinstance(data, dict):
        value = data.get(key, data.get(key.decode()))
    if value is None or not isinstance(value, expected_type):
        raise UserError(f"{path}: expected a dict with {key.decode()!r}; download it again")
    return value


def _encode_png(pixels):
    try:
        from PIL import Image
    except ImportError as error:
        raise UserError("writing images needs Pillow: pip install pillow") from error
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(buffer, "PNG")
    return buffer.getvalue()
