"""Reads ranges of files ahead of their use, with many requests at the same time."""

import collections
import concurrent.futures
import functools
import os
import time

from tf_mural import file_io, remote_requests

THREADS = 64  # number of requests of a process at the same time
MAX_BYTES = 1 << 26  # bytes that are requested or fetched, and not yet used
# Ranges of a file whose distance is at most `_GAP` bytes are read with one request. On a storage
# with a latency of 50 ms, a request takes longer than these bytes.
_GAP, _MAX_MERGED = 1 << 16, 1 << 23


class RangeFetcher:
    """Reads ranges of local or remote files by threads.

    Several threads may use a `RangeFetcher`; the threads that read are shared by the process.

    Args:
        max_bytes: number of bytes that one call of `fetch` reads ahead. A single range may be
            larger.
        versions: {path: version} of the expected versions of remote files, see
            `file_io.file_infos`; files that are missing in the dict may have any version.
        deadline: seconds after which a range that cannot be read is given up; None: the deadline of
            `remote_requests.deadline`.
    """

    def __init__(self, max_bytes=MAX_BYTES, versions=None, deadline=None):
        self._max_bytes, self._versions, self._deadline = max_bytes, versions or {}, deadline

    def fetch(self, ranges):
        """Yields the bytes of ranges, in order.

        Args:
            ranges: iterable of (path, start, size).

        Raises:
            StorageUnavailable: a range could not be read until the deadline.
            StorageError: the storage refused a request, or a file has another version.
            OSError: a file cannot be read.
        """
        pool, pending, size = _pool(os.getpid()), collections.deque(), 0
        try:
            for path, start, count in ranges:
                while pending and size + count > self._max_bytes:
                    future, fetched = pending.popleft()
                    yield future.result()
                    size -= fetched
                pending.append((pool.submit(self._read, path, start, count), count))
                size += count
            while pending:
                yield pending.popleft()[0].result()
        finally:
            for future, _ in pending:
                future.cancel()

    def fetch_merged(self, ranges):
        """Returns the bytes of ranges, in order; neighbouring ranges are read with one request.

        Args:
            ranges: sequence of (path, start, size).

        Returns:
            List of bytes.

        Raises:
            See `fetch`.
        """
        order = sorted(range(len(ranges)), key=ranges.__getitem__)
        merged, members = [], []
        for number in order:
            path, start, size = ranges[number]
            if merged and merged[-1][0] == path:
                first, last = merged[-1][1], merged[-1][1] + merged[-1][2]
                end = max(last, start + size)
                if start - last <= _GAP and end - first <= _MAX_MERGED:
                    merged[-1] = (path, first, end - first)
                    members[-1].append(number)
                    continue
            merged.append((path, start, size))
            members.append([number])
        result = [b""] * len(ranges)
        for (_, first, _), numbers, data in zip(merged, members, self.fetch(merged), strict=True):
            for number in numbers:
                _, start, size = ranges[number]
                result[number] = data[start - first : start - first + size]
        return result

    def _read(self, path, start, size):
        if not file_io.is_remote(path):
            return file_io.read_range(path, start, size)
        seconds = remote_requests.deadline() if self._deadline is None else self._deadline
        until = time.monotonic() + seconds
        return file_io.read_range(path, start, size, self._versions.get(path), until)


# A forked process has none of the threads of its parent, so each process has its own pool.
@functools.lru_cache(maxsize=2)
def _pool(_process):
    return concurrent.futures.ThreadPoolExecutor(THREADS, "range_fetcher")
