"""`food101`: 101,000 photographs of 101 dishes; 750 a dish to train on, 250 to test on.

The label is the place of the dish in meta/classes.txt, the id is the name in the lists
("apple_pie/1005649").

tensorflow-datasets has this corpus too; it would bring its own format and download for 20 lines.
"""

import json
import re

from tf_mural.datasets import text_lines
from tf_mural.datasets.classification import archives, listed
from tf_mural.datasets.classification.listed import read
from tf_mural.errors import UserError, lookup

SPLITS = ("train", "test")
AUGMENTATIONS = ("crop", "flip")
_ARCHIVE, _TOP = "food-101.tar.gz", "food-101"
_CLASSES = "meta/classes.txt"
_NAME = re.compile(r"(\w+)/(\w+)")

__all__ = ["classes", "fingerprint", "plan", "read"]


def plan(raw_dir: str, split: str):
    """Finds the photographs of a split; an archive is read once for it.

    Args:
        raw_dir: food-101.tar.gz, a folder that holds it, or what it unpacks to.
        split: train or test.

    Returns:
        List of `listed.Unit`.

    Raises:
        UserError: an archive that does not unpack, or lists that are missing or contradict each
            other.
    """
    place = _find(raw_dir)
    return listed.plan(place, _wanted(place, split))


def classes(raw_dir):
    """The names of the labels, in order."""
    return _classes(_find(raw_dir))


def fingerprint(raw_dir, split):
    """A hash of the list of a split, and of the archive or of which photographs there are."""
    place = _find(raw_dir)
    return listed.fingerprint(place, _wanted(place, split))


def _find(raw_dir):
    place = archives.find(raw_dir, _ARCHIVE, _TOP, _CLASSES)
    if place is None:
        raise UserError(
            f"expected {_ARCHIVE}, or meta and images, in {raw_dir}; download it from "
            "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101"
        )
    return place


def _classes(place):
    where = place.where(_CLASSES)
    found = [row.strip() for row in text_lines.split(place.bytes(_CLASSES), where) if row.strip()]
    if not found or len(set(found)) != len(found):
        raise UserError(f"{where} is empty or has a name twice; download it again")
    return found


def _wanted(place, split):
    """Tuples (file, id, label) of a split."""
    lookup(dict.fromkeys(SPLITS), split, "split of food101")
    label_of = {name: label for label, name in enumerate(_classes(place))}
    here, other = (_names(place, one) for one in (split, *(s for s in SPLITS if s != split)))
    if both := here.keys() & other.keys():
        raise UserError(
            f"{place.path}: {min(both)} is both in train and in test; download it again"
        )
    wanted = []
    for name, where in here.items():
        match = _NAME.fullmatch(name)
        if match is None or match[1] not in label_of:
            raise UserError(
                f"{where}: expected a class of {_CLASSES} and a number, such as "
                f"{next(iter(label_of))}/1005649, got {name!r}; download it again"
            )
        wanted.append((f"images/{name}.jpg", name, label_of[match[1]]))
    return wanted


def _names(place, split):
    """The names in the list of a split: dict from each to the list's file."""
    path = f"meta/{split}.json"
    if place.get(path) is None:
        path = f"meta/{split}.txt"
    where = place.where(path)
    data = place.bytes(path)
    if path.endswith(".txt"):
        names = [row.strip() for row in text_lines.split(data, where) if row.strip()]
    else:
        try:
            by_class = json.loads(data)
            names = [name for key in by_class for name in by_class[key]]
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise UserError(f"{where} is no list of photographs; download it again") from error
    found = {}
    for name in names:
        if not isinstance(name, str) or name in found:
            raise UserError(f"{where}: {name!r} is no name, or there twice; download it again")
        found[name] = where
    if not found:
        raise UserError(f"{where} is empty; download it again")
    return found
