"""The images of MS-COCO and their splits, from the list of Karpathy."""

import os
from typing import NamedTuple

from tf_mural.datasets.coco import source_files
from tf_mural.errors import UserError

LIST = "dataset_coco.json"
FOLDERS = ("train2014", "val2014")
_SPLITS = ("train", "val", "test", "restval")
_ARCHIVES = ("caption_datasets.zip",)


class CocoImage(NamedTuple):
    """One image.

    Attributes:
        image_id: the number of the image in MS-COCO.
        file_name: name of the image file, such as COCO_val2014_000000391895.jpg.
        folder: "train2014" or "val2014"; does not determine the split.
        split: "train", "val", "test" or "restval".
        sentences: English captions.
    """

    image_id: int
    file_name: str
    folder: str
    split: str
    sentences: tuple[str, ...]


def load_images(raw_dir):
    """Returns all images as a list of `CocoImage`, in the order of the list.

    Raises:
        UserError: the list is missing or corrupt, or contains an image twice.
    """
    file = source_files.find(raw_dir, LIST, _ARCHIVES)
    if file is None:
        raise UserError(
            f"expected {LIST}, or {_ARCHIVES[0]} which contains it, in {raw_dir} or in its folder "
            "annotations; it defines the split of each photograph"
        )
    data = source_files.read_json(file, _drop_tokens)
    entries = data.get("images") if isinstance(data, dict) else None
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{file}: expected an object with a list of images; download it again")
    images, seen = [], set()
    for position, entry in enumerate(entries):
        try:
            image = _parse_image(entry)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{file}, images[{position}]: expected cocoid, filepath, filename, split and "
                f"sentences with a raw text; {type(error).__name__}: {error}"
            ) from error
        if not seen.isdisjoint((image.image_id, image.file_name)):
            raise UserError(f"{file}, images[{position}]: {image.file_name} occurs a second time")
        seen.update((image.image_id, image.file_name))
        images.append(image)
    return images


def _drop_tokens(entry):
    """Replaces a sentence object by its text, because the tokens take up most of the list."""
    return entry["raw"] if "raw" in entry else entry


def _parse_image(entry):
    name, folder, split = entry["filename"], entry["filepath"], entry["split"]
    if not name or os.path.basename(name) != name:
        raise ValueError(f"{name!r} is not a file name")
    for value, allowed in ((folder, FOLDERS), (split, _SPLITS)):
        if value not in allowed:
            raise ValueError(f"expected one of {', '.join(allowed)}, got {value!r}")
    sentences = tuple(sentence.strip() for sentence in entry["sentences"])
    return CocoImage(int(entry["cocoid"]), name, folder, split, sentences)
