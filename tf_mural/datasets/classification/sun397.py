"""`sun397`: photographs of 397 kinds of places, in ten partitions of 19,850 to train and to test.

The label is the line in ClassName.txt, the id is the name in the lists without its first slash
("a/abbey/sun_aaalbzqrimafwbiv.jpg"). Some files are BMP, PNG or GIF in spite of their names; the
bytes say what they are.

tensorflow-datasets has this corpus too, with its own splits and one list for each partition; it
would bring its own format and download for 20 lines.
"""

import hashlib
import os
import zipfile

from tf_mural.datasets import bounded_read, text_lines
from tf_mural.datasets.classification import archives, listed
from tf_mural.datasets.classification.listed import read
from tf_mural.errors import UserError, lookup

SPLITS = ("train", "test")
AUGMENTATIONS = ("crop", "flip")
_ARCHIVE, _TOP = "SUN397.tar.gz", "SUN397"
_PARTITIONS = "Partitions"
_MOST_PARTITIONS = 10
_LISTS = {"train": "Training_{:02d}.txt", "test": "Testing_{:02d}.txt"}
_NAMES = "ClassName.txt"
_HOME = "https://vision.princeton.edu/projects/2010/SUN"

__all__ = ["classes", "fingerprint", "plan", "read"]


def plan(raw_dir: str, split: str, partition: int = 1):
    """Finds the photographs of a split; an archive is read once for it.

    Args:
        raw_dir: a folder that holds SUN397.tar.gz, or the folder SUN397 that it unpacks to, and
            Partitions.zip or the folder Partitions.
        split: train or test.
        partition: which of the ten, from 1. Results are usually reported on the first.

    Returns:
        List of `listed.Unit`.

    Raises:
        UserError: an archive that does not unpack, no such partition, or lists that are missing
            or contradict each other.
    """
    return listed.plan(_find(raw_dir), _wanted(raw_dir, split, partition))


def classes(raw_dir, partition=1):
    """The names of the labels, in order, such as apartment_building/outdoor."""
    return [name[3:] for name in _classes(raw_dir)]


def fingerprint(raw_dir, split, partition=1):
    """A hash of the list of a split, and of the archive or of which photographs there are."""
    found = listed.fingerprint(_find(raw_dir), _wanted(raw_dir, split, partition))
    return hashlib.sha256((found + "\n".join(_classes(raw_dir))).encode()).hexdigest()


def _find(raw_dir):
    if not raw_dir or not os.path.isdir(raw_dir):
        raise UserError(f"expected raw_dir to be a folder; {raw_dir!r} is none")
    place = archives.find(raw_dir, _ARCHIVE, _TOP, "a")
    if place is None:
        raise UserError(
            f"expected {_ARCHIVE}, or the folder {_TOP}, in {raw_dir}; download it from {_HOME}"
        )
    return place


def _classes(raw_dir):
    """The lines of ClassName.txt, such as /a/abbey."""
    where, rows = _list(raw_dir, _NAMES)
    for number, name in enumerate(rows, 1):
        parts = name.split("/")
        if len(parts) < 3 or parts[0] or len(parts[1]) != 1 or ".." in parts or not all(parts[1:]):
            raise UserError(
                f"{where}, line {number}: expected a name such as /a/abbey, got {name!r}; "
                "download it again"
            )
    if len(set(rows)) != len(rows):
        raise UserError(f"{where} has a name twice; download it again")
    return rows


def _wanted(raw_dir, split, partition):
    """Tuples (file, id, label) of a split."""
    lookup(dict.fromkeys(SPLITS), split, "split of sun397")
    if not 1 <= partition <= _MOST_PARTITIONS:
        raise UserError(f"expected a partition of 1 to {_MOST_PARTITIONS}, got {partition}")
    label_of = {name: label for label, name in enumerate(_classes(raw_dir))}
    lists = {key: _list(raw_dir, pattern.format(partition)) for key, pattern in _LISTS.items()}
    if both := set.intersection(*(set(rows) for _, rows in lists.values())):
        raise UserError(
            f"{raw_dir}: {min(both)} is in both lists of partition {partition}; download them again"
        )
    where, rows = lists[split]
    if len(set(rows)) != len(rows):
        raise UserError(f"{where} has a photograph twice; download it again")
    wanted = []
    for number, row in enumerate(rows, 1):
        folder, _, name = row.rpartition("/")
        if folder not in label_of or not name or name == "..":
            raise UserError(
                f"{where}, line {number}: expected a class of {_NAMES} and a file, got {row!r}; "
                "download it again"
            )
        wanted.append((row[1:], row[1:], label_of[folder]))
    return wanted


def _list(raw_dir, name):
    """(what to call it, lines) of a list in Partitions, or Partitions.zip."""
    for folder in (os.path.join(raw_dir, _PARTITIONS), raw_dir):
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            data = bounded_read.read(path)
            break
    else:
        path = os.path.join(raw_dir, f"{_PARTITIONS}.zip")
        if not os.path.isfile(path):
            raise UserError(
                f"expected {_PARTITIONS}.zip, or {name} in the folder {_PARTITIONS}, in {raw_dir}; "
                f"download it from {_HOME}"
            )
        data = _of_zip(path, name)
        path = os.path.join(path, name)
    rows = [row.strip() for row in text_lines.split(data, path) if row.strip()]
    if not rows:
        raise UserError(f"{path} is empty; download it again")
    return path, rows


def _of_zip(path, name):
    with bounded_read.errors(path), zipfile.ZipFile(path) as archive:
        found = [one for one in archive.namelist() if os.path.basename(one) == name]
    found = [one for one in found if not one.startswith("__MACOSX/")]
    if len(found) != 1:
        raise UserError(f"expected one {name} in {path}, found {len(found)}; download it again")
    return bounded_read.of_zip(path, found[0])
