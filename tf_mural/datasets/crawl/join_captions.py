"""Images of a crawl joined with an official list of captions.

A unit reads some shards and looks up the row of each image. One unit more goes over the names of
all images, without the images, and counts the rows that no shard speaks of. So every row of the
list and every image comes up once: kept, or dropped with its reason.
"""

import dataclasses

import numpy as np

from tf_mural.data.records import Dropped
from tf_mural.datasets.crawl import index, rows, shards, to_records


@dataclasses.dataclass(frozen=True)
class Listing:
    """A list of captions: the file, its form (of `rows.FORMS`), and how images are named in it.

    Attributes:
        by_number: whether the key of an image is the number of its row, from 0; else it is found by
            its url, or where it has none, by its key as the id.
        languages: codes to keep; all if empty.
    """

    path: str
    form: str
    by_number: bool = False
    languages: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Images:
    """Some shards, to be read."""

    shards: tuple[shards.Shard, ...]
    listing: Listing


@dataclasses.dataclass(frozen=True)
class Rest:
    """The rows of a list that no shard speaks of."""

    shards: tuple[shards.Shard, ...]
    listing: Listing


def plan(found, listing):
    """List of units: the `Rest`, which may take longest, and the `Images` of all shards.

    Raises:
        UserError: the list is missing or of another form.
    """
    index.check(listing.path, listing.form)
    return [Rest(found, listing), *(Images(some, listing) for some in shards.parted(found))]


def read(unit):
    """Yields a `Record` or `Dropped` for each image, or for each row without one."""
    with index.Index(unit.listing.path, unit.listing.form, unit.listing.by_number) as opened:
        if isinstance(unit, Rest):
            yield from _rest(unit, opened)
            return
        for shard in unit.shards:
            yield from to_records.of_shard(shard, _Captions(unit.listing, opened))


class _Captions:
    """The captions of a list, for `kept.of_shard`."""

    def __init__(self, listing, opened):
        self.expected = listing.languages
        self._listing = listing
        self._index = opened

    def texts(self, sample):
        """The (language, text) pairs of a sample, and why there are none where there are none."""
        for name in _names(sample.url, sample.key, self._listing):
            if lines := self._index.lines(name):
                break
        else:
            return (), "image of no row of the list"
        try:
            texts = [self._index.form.texts(line) for line in lines]
        except UnicodeDecodeError:
            return (), "caption is not UTF-8"
        # Rows that share a url were downloaded once each, with the caption of the row beside.
        own = (sample.text or "").strip()
        chosen = next((some for some in texts if own in dict(map(reversed, some))), texts[0])
        if self.expected:
            chosen = tuple(pair for pair in chosen if pair[0] in self.expected)
        return (chosen, None) if any(text for _, text in chosen) else ((), "no caption")


def _names(url, key, listing):
    """What an image may be called in a list, best first."""
    base = rows.id_of(key)
    if listing.by_number:
        return (b"%d" % int(base),) if base.isdecimal() else ()
    return (*([url.strip().encode()] if url else ()), base.encode())


def _rest(unit, opened):
    """Yields `Dropped` for the rows whose image no shard speaks of, and for lines that are none."""
    for offset in opened.wrong.tolist():
        line = opened.line(offset)[:80].decode(errors="replace")
        yield Dropped("row is not of the list's form", f"byte {offset}: {line!r}")
    told = np.zeros(len(opened.hashes), np.uint32)
    for shard in unit.shards:
        for url, key in shard.names():
            for name in _names(url, key, unit.listing):
                start, count = opened.position(name)
                if count:
                    told[start] += 1
                    break
    # A row is without image if as many images as there were rows of its name before it are told of.
    hashes = opened.hashes
    first = np.searchsorted(hashes, hashes)
    without = np.arange(len(hashes)) - first >= told[first]
    for offset in np.sort(opened.offsets[without]).tolist():
        line = opened.line(offset)
        name = (opened.form.name(line) or b"").decode(errors="replace")
        yield Dropped("image was not downloaded", f"{name}, at byte {offset} of the list")
