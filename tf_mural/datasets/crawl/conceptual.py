"""What `cc3m` and `cc12m` share: where their lists and images are."""

import hashlib
import os

from tf_mural.datasets.classification import archives
from tf_mural.datasets.crawl import shards
from tf_mural.datasets.crawl.join_captions import Listing
from tf_mural.errors import UserError, lookup


def sources(raw_dir, split, names, form, images, given, by_number):
    """The shards of a split and its list.

    Args:
        raw_dir: folder.
        split: a key of `names`.
        names: dict from split to what its list may be called.
        form: of `rows.FORMS`.
        images: folders of images relative to raw_dir.
        given: the list relative to raw_dir, or None.
        by_number: as in `Listing`.

    Returns:
        (tuple of `shards.Shard`, `Listing`).

    Raises:
        UserError: an unknown split, no list, or no images.
    """
    known = lookup(names, split, "split")
    if not raw_dir or not os.path.isdir(raw_dir):
        raise UserError(f"expected raw_dir to be a folder; {raw_dir!r} is none")
    path = os.path.join(raw_dir, given) if given else _list(raw_dir, known)
    if path is None or not os.path.isfile(path):
        raise UserError(
            f"expected {given or known[0]} in {raw_dir}, for the captions; download it, or take "
            "the data set crawl, which has the captions that lie beside the images"
        )
    found = shards.find(raw_dir, images)
    found = tuple(shard for shard in found if shards.split_of(shard.name) in (None, split))
    if not found:
        raise UserError(f"no file of images in {raw_dir} is of the split {split} by its name")
    return found, Listing(path, form, by_number)


def splits(raw_dir, names, images, given):
    """The splits that have a list and images; of a list that is given what its name says."""
    if given:
        return (shards.split_of(given) or "train",)
    if not raw_dir or not os.path.isdir(raw_dir):
        return tuple(names)
    parts = {shards.split_of(shard.name) for shard in shards.find(raw_dir, images)}
    there = [split for split in names if _list(raw_dir, names[split]) and parts & {None, split}]
    return tuple(there or names)


def fingerprint(found, listing):
    """A hash of the list's size and two ends, and of which shards there are."""
    of_list = archives.identity(listing.path)
    return hashlib.sha256(f"{of_list}\n{shards.fingerprint(found)}".encode()).hexdigest()


def _list(raw_dir, names):
    paths = (os.path.join(raw_dir, name) for name in names)
    return next((path for path in paths if os.path.isfile(path)), None)
