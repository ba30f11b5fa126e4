"""`food101`: 101,000 photographs of 101 dishes; per dish 750 for training and 250 for testing.

The label is the position of the dish in meta/classes.txt; the id is the name in the image lists
("apple_pie/1005649").

tensorflow-datasets provides this corpus too, but with its own record format and download.
"""

import json
import re

from tf_mural.datasets import archives, bounded_read
from tf_mural.datasets.classification import image_list
from tf_mural.datasets.classification.image_list import read
from tf_mural.errors import UserError, lookup

SPLITS = ("train", "test")
AUGMENTATIONS = ("crop", "flip")
_ARCHIVE, _ROOT = "food-101.tar.gz", "food-101"
_CLASSES = "meta/classes.txt"
_NAME = re.compile(r"(\w+)/(\w+)")

__all__ = ["classes", "fingerprint", "plan", "read"]


def plan(raw_dir: str, split: str):
    """Locates the photographs of a split; an archive is scanned once for this.

    Args:
        raw_dir: food-101.tar.gz, a folder that contains it, or the folder that it unpacks to.
        split: "train" or "test".

    Returns:
        List of `image_list.Unit`.

    Raises:
        UserError: the archive is corrupt, or the lists are missing or contradict each other.
    """
    location = _locate(raw_dir)
    return image_list.plan_units(location, _entries(location, split))


def classes(raw_dir):
    """Returns the class names in the order of the labels."""
    return _classes(_locate(raw_dir))


def fingerprint(raw_dir, split):
    """Returns a hash of the list of a split, and of the archive or of the files in the folder."""
    location = _locate(raw_dir)
    return image_list.fingerprint(location, _entries(location, split))


def _locate(raw_dir):
    location = archives.locate(raw_dir, _ARCHIVE, _ROOT, _CLASSES)
    if location is None:
        raise UserError(
            f"expected {_ARCHIVE}, or the folders meta and images, in {raw_dir}; download it from "
            "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101"
        )
    return location


def _classes(location):
    path = location.display_path(_CLASSES)
    lines = bounded_read.split_lines(location.read(_CLASSES), path)
    names = [line.strip() for line in lines if line.strip()]
    if not names or len(set(names)) != len(names):
        raise UserError(f"{path} is empty or contains a name twice; download it again")
    return names


def _entries(location, split):
    """Returns tuples (file name, id, label) of a split."""
    lookup(dict.fromkeys(SPLITS), split, "split of food101")
    labels = {name: label for label, name in enumerate(_classes(location))}
    (other_split,) = (name for name in SPLITS if name != split)
    list_paths, others = _image_names(location, split), _image_names(location, other_split)
    if overlap := list_paths.keys() & others.keys():
        raise UserError(
            f"{location.path}: {min(overlap)} is in both train and test; download it again"
        )
    entries = []
    for name, list_path in list_paths.items():
        match = _NAME.fullmatch(name)
        if match is None or match[1] not in labels:
            raise UserError(
                f"{list_path}: expected a class of {_CLASSES} and a number, such as "
                f"{next(iter(labels))}/1005649, got {name!r}; download it again"
            )
        entries.append((f"images/{name}.jpg", name, labels[match[1]]))
    return entries


def _image_names(location, split):
    """Returns {image name: path of the list, for messages} of a split, in order."""
    name = f"meta/{split}.json"
    if location.find(name) is None:
        name = f"meta/{split}.txt"
    path = location.display_path(name)
    data = location.read(name)
    if name.endswith(".txt"):
        names = [line.strip() for line in bounded_read.split_lines(data, path) if line.strip()]
    else:
        try:
            by_class = json.loads(data)
            names = [name for key in by_class for name in by_class[key]]
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise UserError(f"{path} is not a list of photographs; download it again") from error
    paths = {}
    for name in names:
        if not isinstance(name, str):
            raise UserError(f"{path}: expected the name of an image, got {name!r}; download again")
        if name in paths:
            raise UserError(f"{path} contains {name!r} twice; download it again")
        paths[name] = path
    if not paths:
        raise UserError(f"{path} is empty; download it again")
    return paths
