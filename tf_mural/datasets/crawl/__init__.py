"""`crawl`: web images with their alt-texts, as img2dataset downloads them.

Supports any list of links, such as LAION's or COYO's, in any format of img2dataset: webdataset,
files, parquet, tfrecord. Tars of .jpg and .txt files that other programs wrote are also supported.
The caption of an image is in the file next to it; `cc3m`, `cc12m` and `uc2` use official lists
instead.

If img2dataset's Parquet files are next to the images, links that could not be downloaded are
counted by their status. If a file is truncated, for example because img2dataset was stopped, its
complete samples are kept.
"""

import dataclasses

from tf_mural import languages
from tf_mural.data.records import InputParts
from tf_mural.datasets.crawl import shards, to_records
from tf_mural.errors import lookup

SPLITS = ("train", "val", "test")
VERSION = 2
AUGMENTATIONS = ("crop", "flip")
USUAL_AUGMENTATIONS = ("crop",)  # Flipped images may contradict captions.
_DEFAULT_SPLIT = "train"


@dataclasses.dataclass(frozen=True)
class Unit:
    """A unit: shards, their language, and in the first unit the `InputParts` of the files."""

    shards: tuple[shards.Shard, ...]
    language: str
    parts: tuple[InputParts, ...] = ()


def plan(raw_dir: str, split: str, language: str = "en", images: tuple[str, ...] = ()):
    """Finds the images without reading them.

    Args:
        raw_dir: folder that contains the output of img2dataset at any depth.
        split: "train", "val" or "test". Files whose path names no split belong to "train".
        language: language code of the captions. A caption in a file such as a.de.txt, or under its
            language in a JSON file, has that language instead.
        images: folders to search, relative to raw_dir. Default: raw_dir.

    Returns:
        A list of `Unit`.

    Raises:
        UserError: there are no images, or there is no such language.
    """
    language = languages.canonicalize(language, "the option language")
    lookup(dict.fromkeys(SPLITS), split, "split of crawl")
    image_shards = shards.find_split_shards(raw_dir, images, split, _DEFAULT_SPLIT)
    units = [Unit(group, language) for group in shards.group_shards(image_shards)]
    parts = shards.file_parts(raw_dir, images, image_shards)
    return [dataclasses.replace(units[0], parts=parts), *units[1:]]


def read(unit):
    """Yields a `Record` or `Skipped` for each image and each link, and `InputParts`."""
    yield from unit.parts
    for shard in unit.shards:
        yield from to_records.shard_to_records(shard, to_records.AdjacentCaptions(unit.language))


def splits(raw_dir, images=(), **_):
    """Returns the splits that file names contain; files without a split belong to `train`."""
    image_shards = shards.find_shards(raw_dir, images)
    names = {shards.split_of(shard.name) or _DEFAULT_SPLIT for shard in image_shards}
    return tuple(split for split in SPLITS if split in names)


def fingerprint(raw_dir, split, images=(), **_):
    """Returns a hash of the names and sizes of the files."""
    return shards.fingerprint(shards.find_split_shards(raw_dir, images, split, _DEFAULT_SPLIT))
