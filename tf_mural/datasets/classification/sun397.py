"""`sun397`: photographs of 397 kinds of places, in ten partitions.

Each partition has 19,850 training images and 19,850 test images.

The label is the line number in ClassName.txt, counted from 0; the id is the name in the image lists
without its leading slash ("a/abbey/sun_aaalbzqrimafwbiv.jpg"). Some files are BMP, PNG or GIF
although their names end in .jpg; the format is detected from their bytes.

tensorflow-datasets provides this corpus too, but with other splits, and with its own record
format and download.
"""

import hashlib
import os
import zipfile

from tf_mural.datasets import archives, bounded_read
from tf_mural.datasets.classification import image_list
from tf_mural.datasets.classification.image_list import read
from tf_mural.errors import UserError, lookup

SPLITS = ("train", "test")
AUGMENTATIONS = ("crop", "flip")
_ARCHIVE, _ROOT = "SUN397.tar.gz", "SUN397"
_PARTITIONS = "Partitions"
_NUM_PARTITIONS = 10
_LISTS = {"train": "Training_{:02d}.txt", "test": "Testing_{:02d}.txt"}
_CLASSES = "ClassName.txt"
_HOMEPAGE = "https://vision.princeton.edu/projects/2010/SUN"

__all__ = ["classes", "fingerprint", "plan", "read"]


def plan(raw_dir: str, split: str, partition: int = 1):
    """Locates the photographs of a split; an archive is scanned once for this.

    Args:
        raw_dir: a folder that contains SUN397.tar.gz, or the folder SUN397 that it unpacks to, and
            Partitions.zip or the folder Partitions.
        split: "train" or "test".
        partition: number of the partition, from 1 to 10. Results are usually reported for
            partition 1.

    Returns:
        List of `image_list.Unit`.

    Raises:
        UserError: an archive is corrupt, the partition does not exist, or the lists are missing or
            contradict each other.
    """
    return image_list.plan_units(_locate(raw_dir), _entries(raw_dir, split, partition))


def classes(raw_dir, partition=1):
    """Returns the class names, such as apartment_building/outdoor, in the order of the labels."""
    return [name[3:] for name in _class_paths(raw_dir)]


def fingerprint(raw_dir, split, partition=1):
    """Returns a hash of the list of a split, and of the archive or of the files in the folder."""
    digest = image_list.fingerprint(_locate(raw_dir), _entries(raw_dir, split, partition))
    return hashlib.sha256((digest + "\n".join(_class_paths(raw_dir))).encode()).hexdigest()


def _locate(raw_dir):
    archives.check_raw_dir(raw_dir)
    location = archives.locate(raw_dir, _ARCHIVE, _ROOT, "a")
    if location is None:
        raise UserError(
            f"expected {_ARCHIVE}, or the folder {_ROOT}, in {raw_dir}; "
            f"download it from {_HOMEPAGE}"
        )
    return location


def _class_paths(raw_dir):
    """Returns the lines of ClassName.txt, such as /a/abbey."""
    path, lines = _read_list(raw_dir, _CLASSES)
    for number, name in enumerate(lines, 1):
        parts = name.split("/")
        if len(parts) < 3 or parts[0] or len(parts[1]) != 1 or ".." in parts or not all(parts[1:]):
            raise UserError(
                f"{path}, line {number}: expected a name such as /a/abbey, got {name!r}; "
                "download it again"
            )
    if len(set(lines)) != len(lines):
        raise UserError(f"{path} contains a name twice; download it again")
    return lines


def _entries(raw_dir, split, partition):
    """Returns tuples (file name, id, label) of a split."""
    lookup(dict.fromkeys(SPLITS), split, "split of sun397")
    if not 1 <= partition <= _NUM_PARTITIONS:
        raise UserError(f"expected a partition from 1 to {_NUM_PARTITIONS}, got {partition}")
    labels = {name: label for label, name in enumerate(_class_paths(raw_dir))}
    lists = {key: _read_list(raw_dir, pattern.format(partition)) for key, pattern in _LISTS.items()}
    if overlap := set.intersection(*(set(lines) for _, lines in lists.values())):
        raise UserError(
            f"{raw_dir}: {min(overlap)} is in both lists of partition {partition}; "
            "download them again"
        )
    path, lines = lists[split]
    if len(set(lines)) != len(lines):
        raise UserError(f"{path} contains a photograph twice; download it again")
    entries = []
    for number, line in enumerate(lines, 1):
        folder, _, name = line.rpartition("/")
        if folder not in labels or not name or name == "..":
            raise UserError(
                f"{path}, line {number}: expected a class of {_CLASSES} and a file, got {line!r}; "
                "download it again"
            )
        entries.append((line[1:], line[1:], labels[folder]))
    return entries


def _read_list(raw_dir, name):
    """Returns (path for messages, lines) of a list in Partitions or Partitions.zip."""
    for folder in (os.path.join(raw_dir, _PARTITIONS), raw_dir):
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            data = bounded_read.read_bytes(path)
            break
    else:
        path = os.path.join(raw_dir, f"{_PARTITIONS}.zip")
        if not os.path.isfile(path):
            raise UserError(
                f"expected {_PARTITIONS}.zip, or {name} in the folder {_PARTITIONS}, in {raw_dir}; "
                f"download it from {_HOMEPAGE}"
            )
        data = _read_zip_member(path, name)
        path = os.path.join(path, name)
    lines = [line.strip() for line in bounded_read.split_lines(data, path) if line.strip()]
    if not lines:
        raise UserError(f"{path} is empty; download it again")
    return path, lines


def _read_zip_member(path, name):
    with bounded_read.file_errors(path), zipfile.ZipFile(path) as archive:
        members = [member for member in archive.namelist() if os.path.basename(member) == name]
    members = [member for member in members if not member.startswith("__MACOSX/")]
    if len(members) != 1:
        raise UserError(f"expected one {name} in {path}, found {len(members)}; download it again")
    return bounded_read.read_zip_member(path, members[0])
