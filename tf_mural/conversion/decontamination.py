"""Record sets that a corpus must not hold: tests sets, mostly.

Their images are known by their bytes and by what they look like; of records without images, such
as those of a bitext, each two texts are known.
"""

import functools
import json

import numpy as np

from tf_mural.conversion import hashes
from tf_mural.conversion.filter_config import name_of
from tf_mural.data import records
from tf_mural.data.records import Dropped

_RECORDS_PER_JOB = 1000


def jobs(folders):
    """Arguments of `digest` for all sets. Raises UserError where one is missing or not whole."""
    found = []
    for folder in folders:
        count = len(records.RecordSet.open(folder))
        starts = range(0, count, _RECORDS_PER_JOB)
        found += [(folder, start, min(start + _RECORDS_PER_JOB, count)) for start in starts]
    return found


def digest(folder, start, end):
    """What the records [start, end) of a set are known by.

    Returns:
        A dict of lists: "bytes" and "looks" of [hash, who] for images, "pairs" of such for texts,
        where `who` is [set, id].
    """
    opened = records.RecordSet.open(folder)
    name = name_of(opened)
    found = {"bytes": [], "looks": [], "pairs": []}
    for data in opened.read(np.arange(start, end), verify=True):
        record = records.deserialize(data)
        who = [name, record.id]
        for image in record.images:
            found["bytes"].append([hashes.of_bytes(image), who])
            looks = hashes.perceptual(image)
            if not isinstance(looks, str):
                found["looks"].append([looks, who])
        if not record.images:
            found["pairs"] += [[key, who] for key in hashes.of_pairs(record)]
    return found


def save(path, parts):
    """Writes what `digest` found of all sets as one file."""
    whole = {key: sum((part[key] for part in parts), []) for key in ("bytes", "looks", "pairs")}
    with records.appears_whole(path) as file:
        file.write(json.dumps(whole, ensure_ascii=False).encode())


class Excluded:
    """A check, see `filters`, for records that excluded sets hold.

    Args:
        path: of what `save` wrote.
        distance: of how many bits hashes of images that look alike may differ.
    """

    def __init__(self, path, distance):
        self._bytes, self._looks, self._who, self._pairs = _load(path)
        self._distance = distance

    def __call__(self, row, record, drop):
        """The record, or None where it is one of an excluded set."""
        for image in record.images if self._bytes else ():
            if who := self._bytes.get(hashes.of_bytes(image)):
                return drop(Dropped(f"image of {who[0]}", f"{record.id} is {who[1]}"))
            looks = hashes.perceptual(image)
            if isinstance(looks, str):
                return drop(Dropped(looks, record.id))
            bits = np.bitwise_count(self._looks ^ np.uint64(looks))
            if len(bits) and bits.min() <= self._distance:
                who = self._who[int(bits.argmin())]
                what = f"{record.id} looks like {who[1]}"
                return drop(Dropped(f"image that looks like one of {who[0]}", what))
        for key in hashes.of_pairs(record) if self._pairs else ():
            if who := self._pairs.get(key):
                return drop(Dropped(f"texts of {who[0]}", f"{record.id} is {who[1]}"))
        return record


@functools.lru_cache(maxsize=1)
def _load(path):
    with open(path, encoding="utf-8") as file:
        found = json.load(file)
    looks = np.array([key for key, _ in found["looks"]], np.uint64)
    who = [who for _, who in found["looks"]]
    # Of records that share a hash the first is named.
    return dict(reversed(found["bytes"])), looks, who, dict(reversed(found["pairs"]))
