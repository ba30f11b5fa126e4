"""Finds the lists and images of `cc3m` and `cc12m`."""

import hashlib
import os

from tf_mural.datasets import archives
from tf_mural.datasets.crawl import shards
from tf_mural.datasets.crawl.join_captions import CaptionList
from tf_mural.errors import UserError, lookup


def find_sources(raw_dir, split, list_names, format, images, captions, by_number):
    """Finds the shards of a split and its list of captions.

    Args:
        raw_dir: folder of the list and the images.
        split: a key of `list_names`.
        list_names: dict from split to the possible names of its list.
        format: a key of `caption_formats.FORMATS`.
        images: folders of images, relative to raw_dir.
        captions: path of the list, relative to raw_dir, or None for a name from `list_names`.
        by_number: see `CaptionList`.

    Returns:
        (tuple of `shards.Shard`, `CaptionList`).

    Raises:
        UserError: the split is unknown, or there is no list or no image.
    """
    names = lookup(list_names, split, "split")
    if not raw_dir or not os.path.isdir(raw_dir):
        raise UserError(f"expected raw_dir to be a folder, got {raw_dir!r}")
    path = os.path.join(raw_dir, captions) if captions else _find_list(raw_dir, names)
    if path is None or not os.path.isfile(path):
        raise UserError(
            f"expected {captions or names[0]} in {raw_dir}, for the captions; download it, or use "
            "the data set crawl, which takes the captions next to the images"
        )
    image_shards = shards.find_split_shards(raw_dir, images, split)
    return image_shards, CaptionList(path, format, by_number)


def list_splits(raw_dir, list_names, images, captions):
    """Returns the splits that have a list and images, or the split in the name `captions`."""
    if captions:
        return (shards.split_of(captions) or "train",)
    if not raw_dir or not os.path.isdir(raw_dir):
        return tuple(list_names)
    image_splits = {shards.split_of(shard.name) for shard in shards.find_shards(raw_dir, images)}
    complete = [
        split
        for split, names in list_names.items()
        if _find_list(raw_dir, names) and image_splits & {None, split}
    ]
    return tuple(complete or list_names)


def fingerprint(image_shards, captions):
    """Returns a hash of the list (size, start and end) and of the names of the shards."""
    list_hash = archives.fingerprint(captions.path)
    return hashlib.sha256(f"{list_hash}\n{shards.fingerprint(image_shards)}".encode()).hexdigest()


def _find_list(raw_dir, names):
    paths = (os.path.join(raw_dir, name) for name in names)
    return next((path for path in paths if os.path.isfile(path)), None)
