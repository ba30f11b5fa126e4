"""Removes records that also occur in excluded record sets, such as test sets.

An image is recognized by its bytes and by its perceptual hash. A record without images, for
example of a bitext, is recognized by each pair of its texts.
"""

import functools
import json

import numpy as np

from tf_mural import file_io
from tf_mural.conversion import hashes
from tf_mural.conversion.filter_config import record_set_name
from tf_mural.data import records
from tf_mural.data.records import Skipped

_RECORDS_PER_JOB = 1000
_KINDS = ("bytes", "phashes", "text_pairs")


def plan_jobs(folders):
    """Returns a list of arguments of `hash_records` that together cover all excluded sets.

    Args:
        folders: folders of the excluded record sets.

    Raises:
        UserError: a record set is missing or incomplete.
    """
    jobs = []
    for folder in folders:
        count = len(records.RecordSet.open(folder))
        starts = range(0, count, _RECORDS_PER_JOB)
        jobs += [(folder, start, min(start + _RECORDS_PER_JOB, count)) for start in starts]
    return jobs


def hash_records(folder, start, end):
    """Hashes the records [start, end) of an excluded set.

    Returns:
        A dict with the lists "bytes" and "phashes" for images and "text_pairs" for texts. Each
        entry is [hash, [name of the set, id of the record]].
    """
    record_set = records.RecordSet.open(folder)
    name = record_set_name(record_set)
    hashed = {kind: [] for kind in _KINDS}
    for data in record_set.read(np.arange(start, end), verify=True):
        record = records.deserialize(data)
        source = [name, record.id]
        for image in record.images:
            hashed["bytes"].append([hashes.hash_bytes(image), source])
            phash = hashes.perceptual_hash(image)
            if not isinstance(phash, str):
                hashed["phashes"].append([phash, source])
        if not record.images:
            hashed["text_pairs"] += [[key, source] for key in hashes.hash_text_pairs(record)]
    return hashed


def save_hashes(path, parts):
    """Writes the results of `hash_records` for all sets to one file."""
    merged = {kind: sum((part[kind] for part in parts), []) for kind in _KINDS}
    with file_io.atomic_write(path, sync=False) as temporary, open(temporary, "wb") as file:
        file.write(json.dumps(merged, ensure_ascii=False).encode())


class ExcludedRecordFilter:
    """A record filter (see `record_filters`) that drops records of excluded sets.

    Args:
        path: a file that `save_hashes` wrote.
        distance: number of bits by which the perceptual hashes of similar images may differ.
    """

    def __init__(self, path, distance):
        self._bytes, self._phashes, self._sources, self._text_pairs = _load_hashes(path)
        self._distance = distance

    def __call__(self, index, record, skip):
        """Returns the record, or None if an excluded set contains it."""
        for image in record.images if self._bytes else ():
            if source := self._bytes.get(hashes.hash_bytes(image)):
                return skip(Skipped(f"image of {source[0]}", f"{record.id} is {source[1]}"))
            phash = hashes.perceptual_hash(image)
            if isinstance(phash, str):
                return skip(Skipped(phash, record.id))
            distances = np.bitwise_count(self._phashes ^ np.uint64(phash))
            if len(distances) and distances.min() <= self._distance:
                name, id = self._sources[int(distances.argmin())]
                reason = f"image that looks like one of {name}"
                return skip(Skipped(reason, f"{record.id} looks like {id}"))
        for key in hashes.hash_text_pairs(record) if self._text_pairs else ():
            if source := self._text_pairs.get(key):
                return skip(Skipped(f"texts of {source[0]}", f"{record.id} is {source[1]}"))
        return record


@functools.lru_cache(maxsize=1)
def _load_hashes(path):
    with open(path, encoding="utf-8") as file:
        hashed = json.load(file)
    phashes = np.array([key for key, _ in hashed["phashes"]], np.uint64)
    sources = [source for _, source in hashed["phashes"]]
    # `dict` keeps the last of several records with the same hash. The order is reversed, because
    # messages must name the first of these records.
    by_bytes, by_text_pair = (dict(reversed(hashed[kind])) for kind in ("bytes", "text_pairs"))
    return by_bytes, phashes, sources, by_text_pair
