"""The files of a record set on a remote storage.

`RemoteShards` has the same methods as `shard_files.ShardFiles`.
"""

import concurrent.futures
import os
import threading

import numpy as np

from tf_mural import file_io
from tf_mural.data.chunk_cache import open_cache
from tf_mural.data.range_fetcher import RangeFetcher
from tf_mural.data.records.blocks import BLOCKS
from tf_mural.data.records.shard import index_path
from tf_mural.data.records.shard_files import reason_of
from tf_mural.errors import StorageError

# A set of at most this size is read whole, in chunks that stay in memory.
MAX_MEMORY_BYTES = 1 << 29
_CHUNK_BYTES, _CACHED_CHUNK_BYTES = 1 << 22, 1 << 18


class RemoteShards:
    """Reads the files of a record set. Several threads may read at the same time.

    Ranges are read with many requests at the same time, or from the cache of `chunk_cache`, if it
    is on. All requests expect the version that the file had when the set was opened, so that a
    file that another process replaces is an error.

    Args:
        folder: folder of the set.
        names: file names of the shards.

    Attributes:
        paths: list of the paths of the shards.
    """

    def __init__(self, folder, names):
        self.paths = [os.path.join(folder, name) for name in names]
        self._block_index = os.path.join(folder, BLOCKS)
        infos = file_io.file_infos(folder, [*names, *map(index_path, names), BLOCKS])
        infos = {os.path.join(folder, name): info for name, info in infos.items()}
        self._infos, cache = infos, open_cache()
        self._fetcher = RangeFetcher(versions={p: info.version for p, info in infos.items()})
        self._reader = self._fetcher
        self._block_fetcher = _CachedFetcher(infos, cache) if cache else self._fetcher
        if sum(self._size(path) or 0 for path in self.paths) <= MAX_MEMORY_BYTES:
            self._reader = _Chunks(self._fetcher, infos, _Memory(), _CHUNK_BYTES)
        elif cache:
            self._reader = _Chunks(self._fetcher, infos, cache, _CACHED_CHUNK_BYTES)

    def keep_open(self, strict=True):
        """Does nothing, because the requests expect the versions of the files."""

    def size(self, shard):
        """Returns the size of a shard in bytes.

        Raises:
            FileNotFoundError: the shard is missing.
        """
        size = self._size(self.paths[shard])
        if size is None:
            raise FileNotFoundError("the shard is missing, but manifest.json lists it")
        return size

    def _size(self, path):
        return self._infos[path].size if path in self._infos else None

    def read_many(self, ranges):
        """Returns the bytes of ranges, in order; see `read_ahead`.

        Neighbouring ranges are read with one request, and records of small sets from memory.
        """
        try:
            fetched = iter(self._reader.fetch_merged(self._present(ranges)))
        except StorageError:
            raise
        except OSError:  # A shard was removed: `read_ahead` finds the ranges of this shard.
            return list(self.read_ahead(ranges))
        return list(self._with_missing(ranges, ((data, "") for data in fetched)))

    def read_ahead(self, ranges):
        """Yields the bytes of ranges, in order; the next ranges are requested ahead of their use.

        Args:
            ranges: sequence of (shard, start, size). Each range is one request.

        Yields:
            (bytes, reason): the bytes, which are fewer at the end of the shard, and ""; or b"" and
            the reason why the shard cannot be read.

        Raises:
            StorageError: a range cannot be read, see `RangeFetcher.fetch`.
        """
        return self._with_missing(ranges, self._fetch(self._present(ranges)))

    def _present(self, ranges):
        """Returns (path, start, size) of the ranges whose shards exist, within the shards."""
        within = []
        for shard, start, size in ranges:
            if (total := self._size(self.paths[shard])) is not None:
                within.append((self.paths[shard], start, max(0, min(size, total - start))))
        return within

    def _with_missing(self, ranges, fetched):
        """Yields the results of all ranges; `fetched` are those of `_present`."""
        for shard, _, _ in ranges:
            is_missing = self._size(self.paths[shard]) is None
            yield (b"", reason_of(FileNotFoundError())) if is_missing else next(fetched)

    def _fetch(self, ranges):
        """Yields (bytes, reason) of ranges (path, start, size), see `read_ahead`."""
        done = 0
        while done < len(ranges):
            try:
                for data in self._block_fetcher.fetch(ranges[done:]):
                    done += 1
                    yield data, ""
            except StorageError:
                raise
            except OSError as error:  # for example, the shard was removed
                done += 1
                yield b"", reason_of(error)

    def read_indexes(self, shards):
        """Yields the content of the indexes of shards, in order; OSError if one cannot be read."""
        paths = [index_path(self.paths[shard]) for shard in shards]
        present = [(path, 0, self._size(path)) for path in paths if path in self._infos]
        fetched = self._fetcher.fetch(present)
        for path in paths:
            if path not in self._infos:
                raise FileNotFoundError("the index is missing")
            yield next(fetched)

    def read_block_index(self):
        """Returns the block index, uint8 (n,), or None if the set has none; see `blocks`."""
        size = self._size(self._block_index)
        if size is None:
            return None
        data, end = np.empty(size, np.uint8), 0
        starts = range(0, size, _CHUNK_BYTES)
        ranges = [(self._block_index, start, min(_CHUNK_BYTES, size - start)) for start in starts]
        for part in self._fetcher.fetch(ranges):
            start, end = end, end + len(part)
            data[start:end] = np.frombuffer(part, np.uint8)
        return data


class _CachedFetcher(RangeFetcher):
    """A `RangeFetcher` that stores each range in a cache.

    Args:
        infos: {path: `remote_files.FileInfo`}.
        cache: `ChunkCache`.
    """

    def __init__(self, infos, cache):
        super().__init__(versions={path: info.version for path, info in infos.items()})
        self._infos, self._cache = infos, cache

    def _read(self, path, start, size):
        info = self._infos[path]
        key = path, info.version, info.size, "range", start, size
        data = self._cache.get(*key)
        if data is None:
            data = super()._read(path, start, size)
            self._cache.put(data, *key)
        return data


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
