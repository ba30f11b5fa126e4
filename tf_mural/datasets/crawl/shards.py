"""Finds the shards of a crawl: the files or folders that contain its images."""

import dataclasses
import hashlib
import itertools
import os
import re

from tf_mural.data.records import MANIFEST, InputParts
from tf_mural.datasets.bounded_read import BrokenParquetError
from tf_mural.datasets.crawl import sample_readers
from tf_mural.datasets.crawl.sample_files import Sample
from tf_mural.errors import UserError

_SPLIT_WORDS = {
    "train": {"train", "training"},
    "val": {"val", "valid", "validation"},
    "test": {"test", "testing"},
}
_MAX_UNITS = 512  # limited, because a reader keeps every shard of a record set open


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file or a folder with some thousands of samples.

    Attributes:
        name: path of the shard, relative to the searched folder, without its extension.
        kind: a key of `sample_readers.READERS`.
        path: path of the shard.
        sidecar: path of the Parquet file next to the shard, in which img2dataset writes the status
            of each link; "" if there is none.
    """

    name: str
    kind: str
    path: str
    sidecar: str = ""

    def samples(self):
        """Yields each `Sample` in order, `InputParts`, and a `Skipped` if the file is damaged."""
        return sample_readers.READERS[self.kind](self.path)

    def sidecar_samples(self):
        """Yields a `Sample` without image for each link in the sidecar, if there is one."""
        if self.sidecar:
            try:
                yield from sample_readers.read_parquet_rows(self.sidecar, False)
            except BrokenParquetError:
                return  # The shard is then truncated as well; the reader of the shard reports this.

    def names(self):
        """Yields (url or None, key) of each sample, including images that were not downloaded."""
        has_sidecar = False
        for sample in self.sidecar_samples():
            has_sidecar = True
            yield sample.url, sample.key
        if not has_sidecar:
            for sample in sample_readers.READERS[self.kind](self.path, images=False):
                if isinstance(sample, Sample):
                    yield sample.url, sample.key


def find_shards(raw_dir, images=()):
    """Finds all shards.

    Args:
        raw_dir: folder to which `images` is relative.
        images: folders to search at any depth. Default: raw_dir itself.

    Returns:
        A tuple of `Shard`, sorted by name.

    Raises:
        UserError: a folder does not exist or contains no shards.
    """
    by_path = {}
    folders = [os.path.normpath(os.path.join(raw_dir or "", name)) for name in images or ("",)]
    for folder in folders:
        if not raw_dir or not os.path.isdir(folder):
            option, value = ("images", folder) if images else ("raw_dir", raw_dir)
            raise UserError(f"expected {option} to be a folder, got {value!r}")
        for shard in _walk(folder):
            by_path.setdefault(os.path.abspath(shard.path), shard)
    if not by_path:
        raise UserError(
            f"no images in {' or '.join(folders)}; expected tars, TFRecords, Parquet or folders "
            "as img2dataset writes them, or tars of .jpg and .txt"
        )
    return tuple(sorted(by_path.values(), key=lambda shard: (shard.name, shard.path)))


def find_split_shards(raw_dir, images, split, default=None):
    """Finds the shards of a split by their names.

    Args:
        raw_dir, images: as for `find_shards`.
        split: name of the split.
        default: the split of shards whose name contains no split; None: such shards belong to every
            split.

    Returns:
        A tuple of `Shard`.

    Raises:
        UserError: no shard belongs to the split, or as for `find_shards`.
    """
    shards = tuple(
        shard
        for shard in find_shards(raw_dir, images)
        if (split_of(shard.name) or default or split) == split
    )
    if not shards:
        raise UserError(f"no file of images in {raw_dir} has the split {split} in its name")
    return shards


def file_parts(raw_dir, images, used, captions=""):
    """Returns the `InputParts` of the files below the searched folders.

    The files in a folder of images are not included, because the reader of the folder counts them.
    Hidden files are not counted.

    Args:
        raw_dir, images: as for `find_shards`.
        used: the shards of the split.
        captions: path of the list of captions, or "".
    """
    shards = find_shards(raw_dir, images)
    kinds = dict.fromkeys(map(_absolute, shards), "they are in another split")
    kinds |= dict.fromkeys(map(_absolute, used))
    kinds |= {os.path.abspath(captions): None} if captions else {}
    sidecars = {os.path.abspath(shard.sidecar) for shard in shards if shard.sidecar}
    folders = {os.path.abspath(shard.path) for shard in shards if shard.kind == "folder"}
    parts = []
    for top in [os.path.normpath(os.path.join(raw_dir, name)) for name in images or ("",)]:
        for folder, subfolders, names in os.walk(top):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            if MANIFEST in names or os.path.abspath(folder) in folders:
                continue
            for name in sorted(names):
                path = os.path.abspath(os.path.join(folder, name))
                is_metadata = path in sidecars or name.endswith("_stats.json")
                if not (name.startswith(".") or is_metadata):
                    reason = kinds.get(path, "they are neither images nor captions")
                    parts.append(
                        InputParts("files", 1, reason, reason and os.path.relpath(path, top) or "")
                    )
    return tuple(parts)


def _absolute(shard):
    return os.path.abspath(shard.path)


def split_of(name):
    """Returns the last split that a path names, such as train for cc3m-train-0000, or None."""
    words = reversed(re.findall("[a-z]+", name.lower()))
    return next((s for w in words for s, names in _SPLIT_WORDS.items() if w in names), None)


def group_shards(shards):
    """Divides shards, in order, into at most `_MAX_UNITS` tuples."""
    count = min(len(shards), _MAX_UNITS)
    cuts = [len(shards) * number // count for number in range(count + 1)]
    return [shards[start:end] for start, end in itertools.pairwise(cuts)]


def fingerprint(shards):
    """Returns a hash of the names and sizes of shards (for a folder, its number of files)."""
    digest = hashlib.sha256()
    for shard in shards:
        is_folder = shard.kind == "folder"
        size = len(os.listdir(shard.path)) if is_folder else os.path.getsize(shard.path)
        facts = f"{shard.name}\n{shard.kind}\n{size}\n{bool(shard.sidecar)}\n"
        digest.update(facts.encode(errors="surrogateescape"))  # as Python decodes names of files
    return digest.hexdigest()


def _walk(top):
    """Yields the shards in a folder and in those below it."""
    for folder, subfolders, names in os.walk(top):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        if MANIFEST in names:  # a record set
            subfolders.clear()
            continue
        extensions = {}
        for name in names:
            stem, _, extension = name.rpartition(".")
            if stem and not name.startswith("."):
                extensions.setdefault(stem, set()).add(extension)
        # A folder is a shard if img2dataset's statistics or Parquet file is next to it. The folder
        # is not listed, because it may contain thousands of files.
        shard_names = [name for name in subfolders if extensions.keys() & {name, f"{name}_stats"}]
        subfolders[:] = [name for name in subfolders if name not in shard_names]
        for stem in {*extensions, *shard_names}:
            yield from _shards_of_stem(
                top, folder, stem, extensions.get(stem, set()), stem in shard_names
            )
        if sample_readers.contains_images(names):
            name = os.path.basename(os.path.abspath(top)) if folder == top else ""
            yield Shard(name or os.path.relpath(folder, top), "folder", folder)


def _shards_of_stem(top, folder, stem, extensions, is_folder):
    """Yields the shards among files of one name and different extensions."""
    path = os.path.join(folder, stem)
    name = os.path.relpath(path, top)
    parquet = f"{path}.parquet" if "parquet" in extensions else ""
    paths = {kind: f"{path}.{kind}" for kind in ("tar", "tfrecord") if kind in extensions}
    if is_folder:
        paths["folder"] = path
    for kind, shard_path in paths.items():
        yield Shard(name, kind, shard_path, parquet)
    if parquet and not paths and _has_images(parquet):
        yield Shard(name, "parquet", parquet)


def _has_images(path):
    """Returns whether a Parquet file, which has no shard next to it, contains images."""
    try:
        return sample_readers.has_image_column(path)
    except BrokenParquetError:
        return os.path.basename(path).removesuffix(".parquet").isdigit()
