"""`crawl`: images of the web with their alt-texts, as img2dataset downloads them.

Any list of links, such as LAION's or COYO's, in any format of img2dataset: webdataset, files,
parquet, tfrecord. Tars of .jpg and .txt files that others host are read likewise. The caption is
the one that lies beside the image; `cc3m`, `cc12m` and `uc2` take theirs from the official files.

A link that img2dataset tried in vain is counted, with the status that img2dataset gives, where its
Parquet files lie beside the images. A file that is cut short, as a stopped run leaves one, is kept
as far as it is whole.
"""

import dataclasses

from tf_mural.data.records import is_language
from tf_mural.datasets.crawl import shards, to_records
from tf_mural.errors import UserError, lookup

SPLITS = ("train", "val", "test")
AUGMENTATIONS = ("crop", "flip")
USUAL_AUGMENTATIONS = ("crop",)  # A caption may say left or right.


@dataclasses.dataclass(frozen=True)
class Unit:
    """Some shards, and the language of their captions."""

    shards: tuple[shards.Shard, ...]
    language: str


def plan(raw_dir: str, split: str, language: str = "en", images: tuple[str, ...] = ()):
    """Finds the images; reads none.

    Args:
        raw_dir: folder of what img2dataset wrote, at any depth.
        split: train, val or test. Files whose path names no split are taken for train.
        language: code of the captions' language.
        images: folders, relative to raw_dir, to search in its place.

    Returns:
        List of `Unit`.

    Raises:
        UserError: no images, or a language that is no code.
    """
    if not is_language(language):
        raise UserError(f"expected a language code such as en, got {language!r}")
    lookup(dict.fromkeys(SPLITS), split, "split of crawl")
    return [Unit(some, language) for some in shards.parted(_of(raw_dir, split, images))]


def read(unit):
    """Yields a `Record` or `Dropped` for each image, and for each link that gave none."""
    for shard in unit.shards:
        yield from to_records.of_shard(shard, _Beside(unit.language))


def splits(raw_dir, images=(), **_):
    """The splits that the names of the files speak of, or train."""
    there = {shards.split_of(shard.name) or "train" for shard in shards.find(raw_dir, images)}
    return tuple(split for split in SPLITS if split in there)


def fingerprint(raw_dir, split, images=(), **_):
    """A hash of which files there are, and how large each is."""
    return shards.fingerprint(_of(raw_dir, split, images))


def _of(raw_dir, split, images):
    found = shards.find(raw_dir, images)
    found = [shard for shard in found if (shards.split_of(shard.name) or "train") == split]
    if not found:
        raise UserError(f"no file of images in {raw_dir} is of the split {split} by its name")
    return tuple(found)


class _Beside:
    """Captions that lie beside the images."""

    expected = ()

    def __init__(self, language):
        self._language = language

    def texts(self, sample):
        """The (language, text) pairs of a sample, and why there are none where there are none."""
        text = (sample.text or "").strip()
        return (((self._language, text),), None) if text else ((), "no caption")
