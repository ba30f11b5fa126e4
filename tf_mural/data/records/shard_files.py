"""The shards of a record set as files that are read at any position, on this machine or remote."""

import collections
import concurrent.futures
import os
import threading
import weakref

from tf_mural import file_io
from tf_mural.data.chunk_cache import open_cache
from tf_mural.data.range_fetcher import RangeFetcher

MAX_OPEN_FILES = 64
# A remote set of at most this size is read whole, in chunks that stay in memory.
MAX_MEMORY_BYTES = 1 << 29
_CHUNK_BYTES, _CACHED_CHUNK_BYTES = 1 << 22, 1 << 18


class ShardFiles:
    """Reads ranges of the shards of a record set. Several threads may read at the same time.

    Of local shards, at most `MAX_OPEN_FILES` are open. Ranges of remote shards are read with many
    requests at the same time, or from the cache of `chunk_cache`, if it is on. All requests expect
    the version that the shard had when the set was opened, so that a shard that another process
    replaces is an error.

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
        infos = {os.path.join(folder, name): info for name, info in infos.items()}
        self._fetcher = RangeFetcher(versions={p: info.version for p, info in infos.items()})
        if sum(size or 0 for size in self.sizes) <= MAX_MEMORY_BYTES:
            self._chunks = _Chunks(self._fetcher, infos, _Memory(), _CHUNK_BYTES)
        elif cache := open_cache():
            self._chunks = _Chunks(self._fetcher, infos, cache, _CACHED_CHUNK_BYTES)

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


class _Memory(dict):
    """Chunks in memory, with the methods of `ChunkCache`."""

    def get(self, *key):
        return super().get(key)

    def put(self, data, *key):
        self[key] = data


class _Chunks:
    """Remote files that are read in chunks, which are kept in a store.

    Args:
        fetcher: `RangeFetcher`.
        infos: {path: `remote_files.FileInfo`}.
        store: `ChunkCache` or `_Memory`.
        size: bytes per chunk.
    """

    def __init__(self, fetcher, infos, store, size):
        self._fetcher, self._infos, self._store, self._size = fetcher, infos, store, size
        self._lock, self._pending = threading.Lock(), {}

    def fetch_merged(self, ranges):
        """See `RangeFetcher.fetch_merged`."""
        chunks = {}
        for path, start, size in ranges:
            end = -(-(start + size) // self._size)
            chunks.update(((path, n), None) for n in range(start // self._size, end))
        own, others = self._claim(chunks)
        try:
            missing = []
            for chunk in own:
                data = chunks[chunk] = self._store.get(*self._key(*chunk))
                if data is None:
                    missing.append(chunk)
            fetched = self._fetcher.fetch([self._range(*chunk) for chunk in missing])
            for chunk, data in zip(missing, fetched, strict=True):
                self._store.put(data, *self._key(*chunk))
                chunks[chunk] = data
        finally:
            with self._lock:
                for chunk in own:
                    self._pending.pop(chunk).set_result(chunks[chunk])
        # If the other thread has failed, this thread reads the chunk, or raises the same error.
        for chunk, future in others.items():
            chunks[chunk] = future.result() or next(self._fetcher.fetch([self._range(*chunk)]))
        return [self._slice(chunks, *item) for item in ranges]

    def _claim(self, chunks):
        """Returns ([chunks that this thread reads], {chunk that another one reads: future})."""
        with self._lock:
            others = {c: self._pending[c] for c in chunks if c in self._pending}
            own = [chunk for chunk in chunks if chunk not in others]
            self._pending.update((chunk, concurrent.futures.Future()) for chunk in own)
        return own, others

    def _key(self, path, number):
        info = self._infos[path]
        return path, info.version, info.size, self._size, number

    def _range(self, path, number):
        start = number * self._size
        return path, start, min(self._size, self._infos[path].size - start)

    def _slice(self, chunks, path, start, size):
        parts = []
        while size > 0:
            number, offset = divmod(start, self._size)
            parts.append(chunks[path, number][offset : offset + size])
            start, size = start + len(parts[-1]), size - len(parts[-1])
        return parts[0] if len(parts) == 1 else b"".join(parts)
