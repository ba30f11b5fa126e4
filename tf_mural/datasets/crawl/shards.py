"""The files that hold the images of a crawl: found, and read one sample after another."""

import dataclasses
import hashlib
import itertools
import os
import re

from tf_mural.data.records import Dropped
from tf_mural.datasets.crawl import folders, parquets, tars, tfrecords
from tf_mural.errors import UserError

_READERS = {
    "tar": tars.samples,
    "tfrecord": tfrecords.samples,
    "parquet": parquets.samples,
    "folder": folders.samples,
}
_SPLIT_WORDS = {
    "train": {"train", "training"},
    "val": {"val", "valid", "validation"},
    "test": {"test", "testing"},
}
_MOST_UNITS = 512  # Every shard of a record set is an open file while it is read.


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file, or a folder, of some thousands of samples.

    Attributes:
        name: its path below the folder that was searched, without its ending.
        kind: "tar", "tfrecord", "parquet" or "folder".
        path: where it is.
        told: the Parquet file beside it in which img2dataset says what became of each link, or "".
    """

    name: str
    kind: str
    path: str
    told: str = ""

    def samples(self):
        """Yields each `Sample` in order, and `Dropped` where the file is broken."""
        return _READERS[self.kind](self.path)

    def tells(self):
        """Yields a `Sample` without image for each link that img2dataset tried, if it says so."""
        if self.told:
            try:
                yield from parquets.rows(self.told, False)
            except parquets.Broken:  # Of a run that was stopped; so is the shard, which counts it.
                return

    def names(self):
        """Yields (url or None, key) of each sample that is there or that img2dataset tried."""
        seen = set()
        for one in self.tells():
            seen.add(one.key)
            yield one.url, one.key
        if not seen:
            for one in _READERS[self.kind](self.path, images=False):
                if not isinstance(one, Dropped):
                    yield one.url, one.key


def find(raw_dir, images=()):
    """All shards.

    Args:
        raw_dir: folder.
        images: folders relative to raw_dir to search, at any depth; raw_dir itself if there are
            none.

    Returns:
        Tuple of `Shard`, by name.

    Raises:
        UserError: a folder is missing, or holds nothing of the kind.
    """
    found = {}
    searched = [os.path.normpath(os.path.join(raw_dir or "", one)) for one in images or ("",)]
    for folder in searched:
        if not raw_dir or not os.path.isdir(folder):
            option, given = ("images", folder) if images else ("raw_dir", raw_dir)
            raise UserError(f"expected {option} to be a folder; {given!r} is none")
        for shard in _walk(folder):
            found.setdefault(os.path.abspath(shard.path), shard)
    if not found:
        raise UserError(
            f"no images in {' or '.join(searched)}; expected tars, TFRecords, Parquet or folders "
            "as img2dataset writes them, or tars of .jpg and .txt"
        )
    return tuple(sorted(found.values(), key=lambda shard: (shard.name, shard.path)))


def split_of(name):
    """The split that a path names last, such as train for cc3m-train-0000, or None."""
    words = reversed(re.findall("[a-z]+", name.lower()))
    return next((s for w in words for s, known in _SPLIT_WORDS.items() if w in known), None)


def parted(shards):
    """The shards in order, as tuples of some, few enough for a record set."""
    count = min(len(shards), _MOST_UNITS)
    cuts = [len(shards) * number // count for number in range(count + 1)]
    return [shards[start:end] for start, end in itertools.pairwise(cuts)]


def fingerprint(shards):
    """A hash of which shards there are, and how large each is; of a folder how many files."""
    digest = hashlib.sha256()
    for shard in shards:
        folder = shard.kind == "folder"
        size = len(os.listdir(shard.path)) if folder else os.path.getsize(shard.path)
        digest.update(f"{shard.name}\n{shard.kind}\n{size}\n{bool(shard.told)}\n".encode())
    return digest.hexdigest()


def _walk(top):
    for folder, below, names in os.walk(top):
        below[:] = sorted(name for name in below if not name.startswith("."))
        if "manifest.json" in names:  # a record set
            below.clear()
            continue
        stems = {}
        for name in names:
            stem, _, ending = name.rpartition(".")
            if stem and not name.startswith("."):
                stems.setdefault(stem, set()).add(ending)
        # One that img2dataset says it wrote may hold many thousand files: no need to list them.
        known = [name for name in below if stems.keys() & {name, f"{name}_stats"}]
        below[:] = [name for name in below if name not in known]
        for stem in {*stems, *known}:
            yield from _of_stem(top, folder, stem, stems.get(stem, set()), stem in known)
        if folders.holds_images(names):
            whole = os.path.basename(os.path.abspath(top)) if folder == top else ""
            yield Shard(whole or os.path.relpath(folder, top), "folder", folder)


def _of_stem(top, folder, stem, endings, is_folder):
    path = os.path.join(folder, stem)
    name = os.path.relpath(path, top)
    told = f"{path}.parquet" if "parquet" in endings else ""
    holds = {kind: f"{path}.{kind}" for kind in ("tar", "tfrecord") if kind in endings}
    if is_folder:
        holds["folder"] = path
    for kind, place in holds.items():
        yield Shard(name, kind, place, told)
    if told and not holds and _is_shard(told):
        yield Shard(name, "parquet", told)


def _is_shard(path):
    """Whether a Parquet file that stands alone holds images, and no list of links."""
    try:
        return parquets.has_images(path)
    except parquets.Broken:
        return os.path.basename(path).removesuffix(".parquet").isdigit()
