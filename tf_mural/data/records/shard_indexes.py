"""The indexes of the shards of a record set, which are read completely or when they are needed."""

import functools
import threading

import numpy as np

from tf_mural.data.records.shard import ShardIndex, parse_index, unreadable
from tf_mural.errors import StorageError, UserError

_MAX_INDEXES = 8  # number of indexes of shards that a large set keeps in memory


class ShardIndexes:
    """Finds records in the shards of a record set. Several threads may use it at the same time.

    Args:
        files: `ShardFiles` or `RemoteShards`.
        summaries: entries of the shards in the manifest.
        languages: language codes of the set.
        vectors: names of the vectors of the set.
        strict: whether the sizes of the shards must be those of the manifest.

    Attributes:
        starts: int64 (s + 1,), number of the first record of each shard; the last entry is the
            number of all records.
    """

    def __init__(self, files, summaries, languages, vectors, strict):
        self._files, self._summaries = files, summaries
        self._languages, self._vectors, self._strict = languages, vectors, strict
        counts = [summary["records"] for summary in summaries]
        self.starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._lock, self._used = threading.RLock(), {}

    def shard_of(self, records):
        """Returns the shards that contain records; `records` may be an array."""
        # side="right" skips empty shards, which have the same start as the next shard.
        return np.searchsorted(self.starts, records, side="right") - 1

    def locate(self, records):
        """Returns (shard, first byte of the payload, bytes of the payload), int64 (n,) each.

        Args:
            records: int64 (n,), numbers of records of the set.
        """
        shard = self.shard_of(records)
        if "columns" in vars(self):
            return shard, self.columns.offset[records], self.columns.length[records]
        offset, length = np.empty((2, len(records)), np.int64)
        for number in np.unique(shard).tolist():
            rows = np.flatnonzero(shard == number)
            index, within = self.of_shard(number), records[rows] - self.starts[number]
            offset[rows], length[rows] = index.offset[within], index.length[within]
        return shard, offset, length

    @functools.cached_property
    def columns(self):
        """`ShardIndex` of all records of the set.

        Raises:
            UserError: an index or a shard is missing, or does not fit the manifest.
        """
        empty = np.zeros(0, np.int64)
        no_languages = np.zeros((0, len(self._languages)), bool)
        indexes = [(empty, empty, empty, no_languages, *(empty for _ in self._vectors))]
        for *columns, vectors in self.read():
            indexes.append((*columns, *vectors))
        columns = [np.concatenate(column) for column in zip(*indexes, strict=True)]
        return ShardIndex(*columns[:4], columns[4:])

    def read(self):
        """Yields the `ShardIndex` of each shard, and compares the sizes of the shards."""
        contents = self._files.read_indexes(range(len(self._summaries)))
        for shard in range(len(self._summaries)):
            yield self._parse(shard, contents, self._strict)

    def of_shard(self, shard):
        """Returns the `ShardIndex` of a shard; the last used ones stay in memory."""
        with self._lock:
            index = self._used.pop(shard, None)
            if index is None:
                # The size of the shard was compared when the set was opened.
                index = self._parse(shard, self._files.read_indexes([shard]), strict=False)
            self._used[shard] = index
            if len(self._used) > _MAX_INDEXES:
                del self._used[next(iter(self._used))]
            return index

    def _parse(self, shard, contents, strict):
        """Parses the next one of `contents`, which is the index of a shard.

        Args:
            shard: number of the shard.
            contents: iterator over the bytes of indexes.
            strict: whether the size of the shard is compared with the manifest.
        """
        path, summary = self._files.paths[shard], self._summaries[shard]
        try:
            data = next(contents)
        except StorageError:
            raise
        except OSError as error:
            raise unreadable(path, error) from error
        if strict:
            self._check_size(shard)
        return parse_index(data, path, summary, self._languages, self._vectors)

    def check_sizes(self):
        """Raises UserError if the size of a shard differs from that in the manifest."""
        for shard in range(len(self._summaries)):
            self._check_size(shard)

    def _check_size(self, shard):
        path, expected = self._files.paths[shard], self._summaries[shard]["bytes"]
        try:
            size = self._files.size(shard)
        except OSError as error:
            raise unreadable(path, error) from error
        if size != expected:
            message = f"{path}: expected {expected} bytes, got {size}"
            raise UserError(f"{message}; it is truncated or belongs to another set: convert again")
