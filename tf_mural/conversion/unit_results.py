"""What became of each unit, in a file each: its books, and what its shards hold."""

import dataclasses
import json

import numpy as np

from tf_mural.conversion.ledger import Books
from tf_mural.data import records

_ARRAYS = ("offset", "length", "image_counts", "has_language")


def save(path, shards, books):
    """Writes the outcome of a unit; `shards` is a list of `records.Shard`."""
    plain = []
    arrays = {}
    for number, shard in enumerate(shards):
        known = {field.name: getattr(shard, field.name) for field in dataclasses.fields(shard)}
        arrays |= {f"{name}-{number}": known.pop(name) for name in _ARRAYS}
        plain.append(known)
    meta = json.dumps({"shards": plain, "books": vars(books)})
    with records.appears_whole(path) as file:
        np.savez(file, meta=np.array(meta), **arrays)


class Outcome:
    """One unit's outcome, without its arrays, which are read when they are wanted.

    Attributes:
        books: `Books`.
        files: names of its shards.
        sizes: bytes of each.
    """

    def __init__(self, path):
        self._path = path
        with np.load(path) as found:
            meta = json.loads(str(found["meta"]))
        books = meta["books"]
        self.books = Books()
        self.books.add(Books(**books))
        self._shards = meta["shards"]
        self.files = [shard["file"] for shard in self._shards]
        self.sizes = [shard["bytes"] for shard in self._shards]

    def shards(self):
        """Yields a `records.Shard` for each of its shards."""
        with np.load(self._path) as found:
            for number, known in enumerate(self._shards):
                arrays = {name: found[f"{name}-{number}"] for name in _ARRAYS}
                yield records.Shard(**known, **arrays)


class Shards:
    """The shards of all units, in order, under their names in the set; never more than a unit's
    are in memory."""

    def __init__(self, outcomes):
        self._outcomes = outcomes
        self._total = sum(len(outcome.files) for outcome in outcomes)

    def names(self):
        """Yields (name so far, name in the set, bytes)."""
        number = 0
        for outcome in self._outcomes:
            for file, size in zip(outcome.files, outcome.sizes, strict=True):
                yield file, records.shard_name(number, self._total), size
                number += 1

    def __iter__(self):
        names = self.names()
        for outcome in self._outcomes:
            for shard in outcome.shards():
                yield dataclasses.replace(shard, file=next(names)[1])
