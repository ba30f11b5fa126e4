"""Joins the images of a crawl with an official list of captions.

An `ImagesUnit` reads some shards and looks up the row of each image. A single `MissingUnit` reads
the names of all images, but not the images, and counts the rows that no shard mentions. Every row
of the list and every image is therefore counted once: kept, or skipped with a reason.
"""

import dataclasses

import numpy as np

from tf_mural.data.records import InputParts, Skipped
from tf_mural.datasets.crawl import caption_formats, caption_index, shards, to_records


@dataclasses.dataclass(frozen=True)
class CaptionList:
    """A list of captions.

    Attributes:
        path: path of the file.
        format: a key of `caption_formats.FORMATS`.
        by_number: whether the key of an image is the number of its row, from 0. If False, the row
            of an image is found by the URL of the image or, without a URL, by its key.
        languages: language codes to keep; all if empty.
    """

    path: str
    format: str
    by_number: bool = False
    languages: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class ImagesUnit:
    """A unit that reads some shards."""

    shards: tuple[shards.Shard, ...]
    captions: CaptionList


@dataclasses.dataclass(frozen=True)
class MissingUnit:
    """A unit that counts the rows of a list that no shard mentions, and the files of the input."""

    shards: tuple[shards.Shard, ...]
    captions: CaptionList
    parts: tuple[InputParts, ...] = ()


def plan(raw_dir, images, image_shards, captions):
    """Returns a list of units; the `MissingUnit` comes first, because it may take longest.

    Args:
        raw_dir, images: as for `shards.find_shards`.
        image_shards: the shards of the split.
        captions: `CaptionList`.

    Raises:
        UserError: the list does not exist or has another format.
    """
    caption_index.check_list(captions.path, captions.format)
    groups = shards.group_shards(image_shards)
    parts = shards.file_parts(raw_dir, images, image_shards, captions.path)
    return [MissingUnit(image_shards, captions, parts), *(ImagesUnit(g, captions) for g in groups)]


def read(unit):
    """Yields a `Record` or `Skipped` for each image, or for each row without an image."""
    captions = unit.captions
    with caption_index.CaptionIndex(captions.path, captions.format, captions.by_number) as index:
        if isinstance(unit, MissingUnit):
            yield from unit.parts
            yield from _missing_rows(unit, index)
            return
        for shard in unit.shards:
            yield from to_records.shard_to_records(shard, _ListedCaptions(captions, index))


class _ListedCaptions:
    """The captions of a list, for `to_records.shard_to_records`."""

    def __init__(self, captions, index):
        self.expected = captions.languages
        self._captions = captions
        self._index = index

    def texts(self, sample):
        """Returns (texts, reason) of a sample; see `to_records.AdjacentCaptions.texts`."""
        for name in _image_names(sample.url, sample.key, self._captions):
            if lines := self._index.lines(name):
                break
        else:
            return (), "image of no row of the list"
        try:
            rows = [self._index.format.texts(line) for line in lines]
        except UnicodeDecodeError:
            return (), "caption is not UTF-8"
        # If several rows share a URL, img2dataset downloaded the image once for each row, with the
        # caption of the row.
        adjacent = (sample.text or "").strip()
        row = next(
            (row for row in rows if any(text == adjacent for _, text in _pairs(row))), rows[0]
        )
        expected = self.expected
        texts = [text for text in row if isinstance(text, Skipped)]
        texts += [pair for pair in _pairs(row) if not expected or pair[0] in expected]
        return tuple(texts), None if any(text for _, text in _pairs(texts)) else "no caption"


def _pairs(texts):
    return [text for text in texts if not isinstance(text, Skipped)]


def _image_names(url, key, captions):
    """Returns the names that an image may have: a list of bytes, the most likely name first."""
    id = caption_formats.image_id(key)
    if captions.by_number:
        return (b"%d" % int(id),) if id.isdecimal() else ()
    return (*([url.strip().encode()] if url else ()), id.encode())


def _missing_rows(unit, index):
    """Yields `Skipped` for the rows whose image no shard mentions, and for invalid lines."""
    for offset in index.invalid.tolist():
        line = index.read_line(offset)[:80].decode(errors="replace")
        yield Skipped("row is not of the list's form", f"byte {offset}: {line!r}")
    # The number of images of each name, at the index of the first row with this name.
    num_images = np.zeros(len(index.hashes), np.uint32)
    for shard in unit.shards:
        for url, key in shard.names():
            for name in _image_names(url, key, unit.captions):
                start, count = index.find(name)
                if count:
                    num_images[start] += 1
                    break
    # Row i (from 0) of a name lacks an image if the shards mention at most i images of the name.
    hashes = index.hashes
    first = np.searchsorted(hashes, hashes)
    missing = np.arange(len(hashes)) - first >= num_images[first]
    for offset in np.sort(index.offsets[missing]).tolist():
        line = index.read_line(offset)
        name = (index.format.name(line) or b"").decode(errors="replace")
        yield Skipped("image was not downloaded", f"{name}, at byte {offset} of the list")
