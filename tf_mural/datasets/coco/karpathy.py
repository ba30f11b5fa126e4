"""Which photographs there are, and in which split: Karpathy's list."""

import os
from typing import NamedTuple

from tf_mural.datasets.coco import files
from tf_mural.errors import UserError

LIST = "dataset_coco.json"
PARTS = ("train2014", "val2014")
_SPLITS = ("train", "val", "test", "restval")
_ARCHIVES = ("caption_datasets.zip",)


class Photograph(NamedTuple):
    """One image of COCO.

    Attributes:
        number: COCO's.
        name: of its file, such as COCO_val2014_000000391895.jpg.
        part: of COCO, train2014 or val2014: not the split.
        split: train, val, test or restval.
        sentences: English captions.
    """

    number: int
    name: str
    part: str
    split: str
    sentences: tuple[str, ...]


def read(raw_dir):
    """All photographs in the order of the list.

    Raises:
        UserError: the list is missing, broken, or has an image twice.
    """
    file = files.find(raw_dir, LIST, _ARCHIVES)
    if file is None:
        raise UserError(
            f"expected {LIST}, or {_ARCHIVES[0]} which has it, in {raw_dir} or in annotations "
            "there; it says which photographs are in which split"
        )
    data = files.read_json(file, _without_tokens)
    images = data.get("images") if isinstance(data, dict) else None
    if not isinstance(images, list) or not images:
        raise UserError(f"{file}: expected an object with a list of images; download it again")
    found, seen = [], set()
    for position, image in enumerate(images):
        try:
            one = _photograph(image)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{file}, images[{position}]: expected cocoid, filepath, filename, split and "
                f"sentences with a raw text; {type(error).__name__}: {error}"
            ) from error
        if not seen.isdisjoint((one.number, one.name)):
            raise UserError(f"{file}, images[{position}]: {one.name} a second time")
        seen.update((one.number, one.name))
        found.append(one)
    return found


def _without_tokens(found):
    """A sentence as its text alone: the words that it was parted into take most of the list."""
    return found["raw"] if "raw" in found else found


def _photograph(image):
    name, part, split = image["filename"], image["filepath"], image["split"]
    if not name or os.path.basename(name) != name:
        raise ValueError(f"{name!r} is no file name")
    for value, known in ((part, PARTS), (split, _SPLITS)):
        if value not in known:
            raise ValueError(f"{value!r} is none of {', '.join(known)}")
    sentences = tuple(sentence.strip() for sentence in image["sentences"])
    return Photograph(int(image["cocoid"]), name, part, split, sentences)
