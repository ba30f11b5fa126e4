"""What `food101`, `sun397` and `imagenet` share: from a list of pictures to units and records."""

import dataclasses
import hashlib

from tf_mural.data.records import Dropped, Record
from tf_mural.datasets import image_files
from tf_mural.datasets.classification import archives

_RECORDS_PER_UNIT = 2000
_MOST_UNITS = 256  # Every shard of a set is an open file while it is read.
_MOST_PACKED_UNITS = 8  # A part of a gzip passes over what comes before: 3.5 times it in all.


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture that is there: its record's id and label, and where it is."""

    id: str
    label: int
    file: archives.File


@dataclasses.dataclass(frozen=True)
class Unit:
    """Some pictures, and the names of others that are not there."""

    pictures: tuple[Picture, ...]
    missing: tuple[str, ...] = ()


def plan(place, wanted):
    """Finds pictures and parts them.

    Args:
        place: `archives.Place`.
        wanted: tuples (name of the file, id, label), no name twice.

    Returns:
        List of `Unit`; an archive's pictures come in its order, a folder's in that of `wanted`.
    """
    found, missing = [], []
    for name, id, label in wanted:
        file = place.get(name)
        if file is None:
            missing.append(name)
        else:
            found.append(Picture(id, label, file))
    if place.is_archive:
        found.sort(key=lambda picture: picture.file.offset)
    most = _MOST_PACKED_UNITS if place.is_packed else _MOST_UNITS
    count = max(1, min(most, -(-len(found) // _RECORDS_PER_UNIT)))
    cuts = [len(found) * number // count for number in range(count + 1)]
    parts = [tuple(found[cuts[n] : cuts[n + 1]]) for n in range(count)]
    return [Unit(part, () if n else tuple(missing)) for n, part in enumerate(parts)]


def read(unit):
    """Yields a `Record` or `Dropped` for each picture of a unit. Raises UserError: cut short."""
    for name in unit.missing:
        yield Dropped("image missing", name)
    contents = archives.contents(picture.file for picture in unit.pictures)
    for picture, content in zip(unit.pictures, contents, strict=True):
        yield record(picture.id, content, picture.label)


def record(id, content, label):
    """The `Record` of what `archives.contents` gives of a picture, or `Dropped`."""
    data, reason = content
    if reason is None:
        data, reason = image_files.usable(data)
    return Dropped(reason, id) if reason else Record(id, (data,), label=label)


def fingerprint(place, wanted):
    """A hash of the list, and of the archive or of which files are there."""
    digest = hashlib.sha256()
    if place.is_archive:
        digest.update(archives.identity(place.path).encode())
    for name, id, label in wanted:
        file = None if place.is_archive else place.get(name)
        digest.update(f"{name}\n{id}\n{label}\n{file.size if file else -1}\n".encode())
    return digest.hexdigest()
