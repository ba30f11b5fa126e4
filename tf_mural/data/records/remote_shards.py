"""The shards of a record set on a remote storage."""

import concurrent.futures
import os
import threading

from tf_mural import file_io
from tf_mural.data.chunk_cache import open_cache
from tf_mural.data.range_fetcher import RangeFetcher

# A set of at most this size is read whole, in chunks that stay in memory.
MAX_MEMORY_BYTES = 1 << 29
_CHUNK_BYTES, _CACHED_CHUNK_BYTES = 1 << 22, 1 << 18


class RemoteShards:
    """Reads ranges of the shards of a record set. Several threads may read at the same time.

    Ranges are read with many requests at the same time, or from the cache of `chunk_cache`, if it
    is on. All requests expect the version that the shard had when the set was opened, so that a
    shard that another process replaces is an error.

    Args:
        folder: folder of the set.
        names: file names of the shards.
        other_names: names of other files of the set, whose sizes are wanted.

    Attributes:
        infos: {name: `remote_files.FileInfo`} of the files that exist.
        paths: list of the paths of the shards.
        sizes: list with the size of each shard in bytes; None: the shard is missing.
        fetcher: `RangeFetcher` that expects the versions of the shards.
    """

    def __init__(self, folder, names, other_names=()):
        self.paths = [os.path.join(folder, name) for name in names]
        self.infos = file_io.file_infos(folder, [*names, *other_names])
        self.sizes = [self.infos[name].size if name in self.infos else None for name in names]
        infos = {os.path.join(folder, name): info for name, info in self.infos.items()}
        self.fetcher = RangeFetcher(versions={p: info.version for p, info in infos.items()})
        self._reader = self.fetcher
        if sum(size or 0 for size in self.sizes) <= MAX_MEMORY_BYTES:
            self._reader = _Chunks(self.fetcher, infos, _Memory(), _CHUNK_BYTES)
        elif cache := open_cache():
            self._reader = _Chunks(self.fetcher, infos, cache, _CACHED_CHUNK_BYTES)

    def read_many(self, ranges):
        """Returns the bytes of ranges (shard, start, size), in order; fewer bytes at the end.

        Raises:
            FileNotFoundError: a shard is missing.
            StorageError: a range cannot be read, see `RangeFetcher.fetch`.
        """
        within = []
        for shard, start, size in ranges:
            if self.sizes[shard] is None:
                raise FileNotFoundError(2, "No such file or directory", self.paths[shard])
            end = min(start + size, self.sizes[shard])
            within.append((self.paths[shard], start, max(0, end - start)))
        return self._reader.fetch_merged(within)


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
