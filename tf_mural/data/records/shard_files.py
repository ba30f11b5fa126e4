"""Random access to the local shards of record sets, with a limited number of open files.

`ShardFiles` has the same methods as `remote_shards.RemoteShards`.
"""

import collections
import itertools
import os
import threading
import weakref

import numpy as np

from tf_mural import file_io
from tf_mural.data.records.blocks import BLOCKS
from tf_mural.data.records.shard import index_path

# Maximum number of open files over all record sets of the process: of sets with few shards, which
# stay open with the set, and of other sets, of which the last used shards are open.
MAX_OPEN_WITH_SETS, MAX_OPEN_OTHERS = 48, 16

_lock = threading.RLock()  # the garbage collector may call `_release` in a thread that has the lock
_num_open_with_sets = 0
_open_files = collections.OrderedDict()  # {(number of a set, shard): `_OpenFile`}, last used last
_set_numbers = itertools.count()


class _OpenFile:
    """A file descriptor, which is closed when no thread uses the object any longer."""

    def __init__(self, path):
        self.descriptor = None
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self, close=os.close):
        if self.descriptor is not None:
            close(self.descriptor)


class ShardFiles:
    """Reads the files of a record set. Several threads may read at the same time.

    Args:
        folder: folder of the set.
        names: file names of the shards.

    Attributes:
        paths: list of the paths of the shards.
    """

    def __init__(self, folder, names):
        self.paths, self._folder = [os.path.join(folder, name) for name in names], folder
        self._files, self._number = {}, next(_set_numbers)
        weakref.finalize(self, _release, self._number, 0)

    def keep_open(self, strict=True):
        """Opens the shards if there are few of them, so that a replaced set can still be read.

        Args:
            strict: whether a missing shard raises an error here, and not when it is read.
        """
        global _num_open_with_sets
        with _lock:
            if len(self.paths) > MAX_OPEN_WITH_SETS - _num_open_with_sets:
                return
            _num_open_with_sets += len(self.paths)
        weakref.finalize(self, _release, self._number, len(self.paths))
        for shard, path in enumerate(self.paths):
            if strict or os.path.exists(path):
                self._files[shard] = _OpenFile(path)

    def size(self, shard):
        """Returns the size of a shard in bytes.

        Raises:
            OSError: the shard is missing.
        """
        return os.path.getsize(self.paths[shard])

    def read_many(self, ranges):
        """Returns the bytes of ranges, in order; see `read_ahead`."""
        return list(self.read_ahead(ranges))

    def read_ahead(self, ranges):
        """Yields the bytes of ranges, in order.

        Args:
            ranges: sequence of (shard, start, size).

        Yields:
            (bytes, reason): the bytes, which are fewer at the end of the shard, and ""; or b"" and
            the reason why the shard cannot be read.
        """
        for item in ranges:
            yield self._read(*item)

    def _read(self, shard, start, size):
        try:
            file = self._files.get(shard) or _open((self._number, shard), self.paths[shard])
            # The variable `file` keeps the file open while it is read.
            return os.pread(file.descriptor, size, start), ""
        except OSError as error:
            return b"", reason_of(error)

    def read_indexes(self, shards):
        """Yields the content of the indexes of shards, in order; OSError if one cannot be read."""
        for shard in shards:
            yield file_io.read_bytes(index_path(self.paths[shard]))

    def read_block_index(self):
        """Returns the block index, uint8 (n,), or None if the set has none; see `blocks`."""
        path = os.path.join(self._folder, BLOCKS)
        if not file_io.size(path):
            return np.zeros(0, np.uint8) if os.path.exists(path) else None
        # A plain array, because each operation on a subclass of arrays takes several microseconds.
        return np.asarray(np.memmap(path, np.uint8, "r"))


def reason_of(error):
    """Returns the reason why records are damaged for the OSError of reading their shard."""
    if isinstance(error, FileNotFoundError):
        return "the file is missing"
    return f"the file cannot be read ({error})"


def _open(key, path):
    with _lock:
        file = _open_files.get(key)
        if file is None:
            file = _open_files[key] = _OpenFile(path)
        _open_files.move_to_end(key)
        while len(_open_files) > MAX_OPEN_OTHERS:
            _open_files.popitem(last=False)
    return file


def _release(number, count):
    """Ends the use of the files of a set, of which `count` are open with the set."""
    global _num_open_with_sets
    with _lock:
        _num_open_with_sets -= count
        for key in list(_open_files):
            if key[0] == number:
                _open_files.pop(key, None)
