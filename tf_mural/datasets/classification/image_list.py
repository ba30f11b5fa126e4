"""Units and records of listed images; shared by `food101`, `sun397` and `imagenet`."""

import dataclasses
import hashlib

from tf_mural.data.records import Record, Skipped
from tf_mural.datasets import archives, image_files

_RECORDS_PER_UNIT = 2000
_MAX_UNITS = 256  # Reading a record set keeps one file open per shard.
# Each unit decompresses a gzip from its start: 8 units together skip 3.5 times the size of the
# file.
_MAX_GZIP_UNITS = 8


@dataclasses.dataclass(frozen=True)
class LabeledImage:
    """An image that exists: the id and label of its record, and the location of its bytes."""

    id: str
    label: int
    file: archives.FileRange


@dataclasses.dataclass(frozen=True)
class Unit:
    """A unit: listed images that exist, and file names of listed images that do not exist."""

    images: tuple[LabeledImage, ...]
    missing: tuple[str, ...] = ()


def plan_units(location, entries):
    """Locates the listed images and divides them into units.

    Args:
        location: `archives.ArchiveOrFolder`.
        entries: tuples (file name, id, label); no file name occurs twice.

    Returns:
        List of `Unit`. Images of an archive are in the order of the archive, images of a folder in
        the order of `entries`.
    """
    images, missing = [], []
    for name, id, label in entries:
        file = location.find(name)
        if file is None:
            missing.append(name)
        else:
            images.append(LabeledImage(id, label, file))
    if location.is_archive:
        images.sort(key=lambda image: image.file.offset)
    max_units = _MAX_GZIP_UNITS if location.is_gzip else _MAX_UNITS
    count = max(1, min(max_units, -(-len(images) // _RECORDS_PER_UNIT)))
    cuts = [len(images) * number // count for number in range(count + 1)]
    parts = [tuple(images[cuts[n] : cuts[n + 1]]) for n in range(count)]
    return [Unit(part, () if n else tuple(missing)) for n, part in enumerate(parts)]


def read(unit):
    """Yields a `Record` or `Skipped` per image of a unit. Raises UserError for a truncated file."""
    for name in unit.missing:
        yield Skipped("image missing", name)
    contents = archives.iter_images(image.file for image in unit.images)
    for image, content in zip(unit.images, contents, strict=True):
        yield make_record(image.id, content, image.label)


def make_record(id, content, label):
    """Returns the `Record` of an image, or a `Skipped` if the image cannot be used.

    Args:
        id: id of the record.
        content: (bytes of the image file, None) or (None, reason); see `archives.iter_images`.
        label: int.
    """
    data, reason = content
    if reason is None:
        data, reason = image_files.validate_image(data)
    return Skipped(reason, id) if reason else Record(id, (data,), label=label)


def fingerprint(location, entries):
    """Returns a hash of the list, and of the archive or of the sizes of the files in the folder."""
    digest = hashlib.sha256()
    if location.is_archive:
        digest.update(archives.fingerprint(location.path).encode())
    for name, id, label in entries:
        file = None if location.is_archive else location.find(name)
        digest.update(f"{name}\n{id}\n{label}\n{file.size if file else -1}\n".encode())
    return digest.hexdigest()
