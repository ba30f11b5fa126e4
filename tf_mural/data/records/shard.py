"""Index and summary of one shard."""

import array
import collections
import dataclasses
import io
import zipfile
from typing import NamedTuple

import numpy as np

from tf_mural.data.records import tfrecord
from tf_mural.errors import UserError


def index_path(shard_path):
    """Returns the path of the index of a shard."""
    return shard_path.removesuffix(".tfrecord") + ".index.npz"


class ShardIndex(NamedTuple):
    """The records of a shard.

    Attributes:
        offset, length: int64 (n,), start and size in bytes of the payload of each record.
        images: int64 (n,), number of images of each record.
        has_language: bool (n, L), whether each record has a text in each language of the set.
        vectors: list of int64 (n,), number of rows of each record, for each name of vectors.
    """

    offset: np.ndarray
    length: np.ndarray
    images: np.ndarray
    has_language: np.ndarray
    vectors: list


def parse_index(data, path, summary, languages, vectors):
    """Parses the index of a shard, and compares it with the manifest.

    Args:
        data: bytes of the file of the index.
        path: path of the shard, for messages.
        summary: entry of the shard in the manifest.
        languages: language codes of the record set.
        vectors: names of the vectors of the record set.

    Returns:
        `ShardIndex`.

    Raises:
        UserError: the index is damaged, or is not that of the shard.
    """
    try:
        with np.load(io.BytesIO(data)) as index:
            names = ("offset", "length", "images")
            offset, length, images = (index[k].astype(np.int64) for k in names)
            rows = [index[f"vectors/{name}"].astype(np.int64) for name in vectors]
            bits = np.unpackbits(index["languages"], axis=1, count=len(languages))
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise unreadable(path, error) from error
    end = int(offset[-1] + length[-1]) + tfrecord.FOOTER if len(offset) else 0
    if len(offset) != summary["records"] or end != summary["bytes"] or len(bits) != len(offset):
        raise UserError(f"{index_path(path)} is not the index of its shard; convert again")
    return ShardIndex(offset, length, images, bits.astype(bool), rows)


def unreadable(path, error):
    """Returns the UserError for a shard that cannot be read, or whose index cannot be read."""
    return UserError(f"{path} or its index cannot be read ({error}); convert the data set again")


@dataclasses.dataclass
class Shard:
    """Index and summary of a written shard.

    Attributes:
        file: file name of the shard in the folder of the record set.
        records, images, bytes: numbers of records, images and bytes in the shard.
        sha256: SHA-256 of the file in hexadecimal digits.
        texts: {language code: number of texts}, sorted by language code.
        offset, length: uint64 (n,), start and size in bytes of the payload of each record.
        image_counts: uint32 (n,), number of images of each record.
        has_language: bool (n, len(texts)), whether each record has a text in each language of
            `texts`.
        vector_counts: {name of vectors: uint32 (n,), number of rows of each record}.
        extra_texts: int64 (k, 3): number of a record with several texts in a language, the position
            of the language in `texts`, and the number of its texts in this language minus 1.
    """

    file: str
    records: int
    images: int
    bytes: int
    sha256: str
    texts: dict
    offset: np.ndarray
    length: np.ndarray
    image_counts: np.ndarray
    has_language: np.ndarray
    vector_counts: dict = dataclasses.field(default_factory=dict)
    extra_texts: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 3), np.int64))


class ShardIndexBuilder:
    """Collects the index of a shard while its records are written.

    Args:
        vectors: names of the vectors of the records.
    """

    def __init__(self, vectors=()):
        self._lengths, self._images = array.array("Q"), array.array("I")
        self._vectors = {name: array.array("I") for name in vectors}
        # `_combinations` maps the language codes of a record, a tuple, to the number of the tuple.
        # `_combination_of` is the number of the tuple of each record.
        self._combinations, self._combination_of = {}, array.array("I")

    def add(self, length, record):
        """Adds a record with a payload of `length` bytes."""
        self._lengths.append(length)
        self._images.append(len(record.images))
        for name, counts in self._vectors.items():
            counts.append(len(record.vectors.get(name, ())))
        codes = tuple([code for code, _ in record.texts])
        number = self._combinations.setdefault(codes, len(self._combinations))
        self._combination_of.append(number)

    def build(self, file, sha256):
        """Returns the `Shard` of the added records."""
        length = np.array(self._lengths, np.uint64)
        ends = np.cumsum(length + np.uint64(tfrecord.HEADER + tfrecord.FOOTER), dtype=np.uint64)
        combination_of = np.array(self._combination_of, np.intp)
        texts = collections.Counter()
        counts = np.bincount(combination_of).tolist()
        for codes, count in zip(self._combinations, counts, strict=True):
            for code in codes:
                texts[code] += count
        languages = sorted(texts)
        has_language = np.array(
            [[code in codes for code in languages] for codes in self._combinations], bool
        ).reshape(len(self._combinations), len(languages))
        return Shard(
            file=file,
            records=len(length),
            images=sum(self._images),
            bytes=int(ends[-1]) if len(length) else 0,
            sha256=sha256,
            texts={code: texts[code] for code in languages},
            offset=ends - length - np.uint64(tfrecord.FOOTER),
            length=length,
            image_counts=np.array(self._images, np.uint32),
            has_language=has_language[combination_of],
            vector_counts={k: np.array(counts, np.uint32) for k, counts in self._vectors.items()},
            extra_texts=_extra_texts(list(self._combinations), combination_of, languages),
        )


def _extra_texts(combinations, combination_of, languages):
    """Returns `Shard.extra_texts`.

    Args:
        combinations: list of tuples of language codes.
        combination_of: int (n,), number of the combination of each record.
        languages: list of the language codes.
    """
    column = {code: i for i, code in enumerate(languages)}
    entries = [
        (number, column[code], count - 1)
        for number, codes in enumerate(combinations)
        if len(set(codes)) < len(codes)
        for code, count in collections.Counter(codes).items()
        if count > 1
    ]
    entries = np.array(entries, np.int64).reshape(-1, 3)
    # The entries of a record are those of its combination, which are consecutive.
    sizes = np.bincount(entries[:, 0], minlength=len(combinations))
    starts = np.cumsum(sizes) - sizes
    size = sizes[combination_of]
    record = np.repeat(np.arange(len(size)), size)
    first = np.cumsum(size) - size  # number of the first entry of each record in the result
    entry = np.arange(len(record)) + np.repeat(starts[combination_of] - first, size)
    return np.column_stack([record, entries[entry, 1:]]).astype(np.int64)
