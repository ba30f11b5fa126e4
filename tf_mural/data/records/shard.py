"""Index and summary of one shard."""

import array
import collections
import dataclasses

import numpy as np

from tf_mural.data.records import tfrecord


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
        )
