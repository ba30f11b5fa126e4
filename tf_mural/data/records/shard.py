"""What is known of one shard once it is written."""

import array
import collections
import dataclasses

import numpy as np

from tf_mural.data.records import tfrecord


@dataclasses.dataclass
class Shard:
    """What writing one shard found out about it.

    Attributes:
        file: its name in the folder.
        records, images, bytes: how many of each.
        sha256: of the file, in hex.
        texts: dict from language code to the number of its texts, sorted.
        offset, length: (n,) uint64, where each record's payload starts and how long it is.
        image_counts: (n,) uint32, images of each record.
        has_language: (n, len(texts)) bool, in the order of `texts`.
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


class Noted:
    """What the index and the manifest are to know of the records of a shard."""

    def __init__(self):
        self._lengths, self._images = array.array("Q"), array.array("I")
        # The languages of the texts of a record, and which of these it has.
        self._kinds, self._kind_of = {}, array.array("I")

    def add(self, length, record):
        """Notes one record."""
        self._lengths.append(length)
        self._images.append(len(record.images))
        kind = tuple([code for code, _ in record.texts])
        self._kind_of.append(self._kinds.setdefault(kind, len(self._kinds)))

    def shard(self, file, sha256):
        """All that was noted, as a `Shard`."""
        length = np.array(self._lengths, np.uint64)
        ends = np.cumsum(length + np.uint64(tfrecord.HEADER + tfrecord.FOOTER), dtype=np.uint64)
        kind_of = np.array(self._kind_of, np.intp)
        texts = collections.Counter()
        for kind, count in zip(self._kinds, np.bincount(kind_of).tolist(), strict=True):
            for code in kind:
                texts[code] += count
        order = sorted(texts)
        has_language = np.array([[code in kind for code in order] for kind in self._kinds], bool)
        return Shard(
            file=file,
            records=len(length),
            images=sum(self._images),
            bytes=int(ends[-1]) if len(length) else 0,
            sha256=sha256,
            texts={code: texts[code] for code in order},
            offset=ends - length - np.uint64(tfrecord.FOOTER),
            length=length,
            image_counts=np.array(self._images, np.uint32),
            has_language=has_language.reshape(len(self._kinds), len(order))[kind_of],
        )
