"""The shards of a record set as files that are read at any position, on this machine or remote."""

import collections
import os
import threading
import weakref

from tf_mural import file_io
from tf_mural.data.range_fetcher import RangeFetcher

MAX_OPEN_FILES = 64
# A remote set of at most this size is read whole, in chunks that stay in memory.
MAX_MEMORY_BYTES = 1 << 29
_CHUNK_BYTES = 1 << 22


class ShardFiles:
    """Reads ranges of the shards of a record set. Several threads may read at the same time.

    Of local shards, at most `MAX_OPEN_FILES` are open. Ranges of remote shards are read with many
    requests at the same time. All requests expect the version that the shard had when the set was
    opened, so that a shard that another process replaces is an error.

    Args:
        folder: folder of the set.
        names: file names of the shards.

    Attributes:
        sizes: list with the size of each shard in bytes; None: the shard is missing.
    """

    def __init__(self, folder, names):
        self.paths = [os.path.join(folder, name) for name in names]
        self._lock, self._files = threading.Lock(), collections.OrderedDict()
        self._close = weakref.finalize(self, _close, self._files)
        self._fetcher, self._chunks = None, None
        if not file_io.is_remote(folder):
            self.sizes = [file_io.size(path) for path in self.paths]
            return
        infos = file_io.file_infos(folder, names)
        self.sizes = [infos[name].size if name in infos else None for name in names]
        versions = {os.path.join(folder, name): info.version for name, info in infos.items()}
        self._fetcher = RangeFetcher(versions=versions)
        if sum(size or 0 for size in self.sizes) <= MAX_MEMORY_BYTES:
            self._chunks = _Chunks(self._fetcher, dict(zip(self.paths, self.sizes, strict=True)))

    @property
    def is_remote(self):
        """Whether the shards are on a remote storage."""
        return self._fetcher is not None

    def read(self, shard, start, size):
        """Returns up to `size` bytes of a shard, fewer at its end.

        Raises:
            OSError: the shard is missing or cannot be read.
        """
        return self.read_many([(shard, start, size)])[0]

    def read_many(self, ranges):
        """Returns the bytes of ranges (shard, start, size), in order; see `read`."""
        if not self.is_remote:
            return [self._read_local(*item) for item in ranges]
        within = []
        for shard, start, size in ranges:
            if self.sizes[shard] is None:
                raise FileNotFoundError(2, "No such file or directory", self.paths[shard])
            end = min(start + size, self.sizes[shard])
            within.append((self.paths[shard], start, max(0, end - start)))
        return (self._chunks or self._fetcher).fetch_merged(within)

    def _read_local(self, shard, start, size):
        with self._lock:
            file = self._files.get(shard)
            if file is None:
                file = self._files[shard] = _LocalFile(self.paths[shard])
            self._files.move_to_end(shard)
            file.users += 1
            self._close_unused()
        try:
            return os.pread(file.descriptor, size, start)
        finally:
            with self._lock:
                file.users -= 1

    def _close_unused(self):
        """Closes the files that were not used for the longest time, and that no thread reads."""
        unused = [shard for shard, file in self._files.items() if not file.users]
        for shard in unused[: max(0, len(self._files) - MAX_OPEN_FILES)]:
            os.close(self._files.pop(shard).descriptor)


class _LocalFile:
    """An open file, and the number of threads that read it."""

    def __init__(self, path):
        self.descriptor, self.users = os.open(path, os.O_RDONLY), 0


def _close(files):
    while files:
        os.close(files.popitem()[1].descriptor)


class _Chunks:
    """Chunks of remote files, which are read once and stay in memory.

    Args:
        fetcher: `RangeFetcher`.
        sizes: {path: size in bytes}.
    """

    def __init__(self, fetcher, sizes):
        self._fetcher, self._sizes, self._lock, self._data = fetcher, sizes, threading.Lock(), {}

    def fetch_merged(self, ranges):
        """See `RangeFetcher.fetch_merged`."""
        needed = dict.fromkeys(
            (path, number)
            for path, start, size in ranges
            for number in range(start // _CHUNK_BYTES, -(-(start + size) // _CHUNK_BYTES))
        )
        # The other threads wait, because they need the same chunks.
        with self._lock:
            missing = [chunk for chunk in needed if chunk not in self._data]
            fetched = self._fetcher.fetch([self._range(*chunk) for chunk in missing])
            self._data.update(zip(missing, fetched, strict=True))
        return [self._slice(*item) for item in ranges]

    def _range(self, path, number):
        start = number * _CHUNK_BYTES
        return path, start, min(_CHUNK_BYTES, self._sizes[path] - start)

    def _slice(self, path, start, size):
        number, offset = divmod(start, _CHUNK_BYTES)
        if not size:
            return b""
        data = self._data[path, number][offset : offset + size]
        if len(data) < size:
            data += self._slice(path, (number + 1) * _CHUNK_BYTES, size - len(data))
        return data
