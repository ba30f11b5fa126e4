"""Random access to the shards of record sets, with a limited number of open files."""

import collections
import itertools
import os
import threading
import weakref

from tf_mural import file_io

MAX_OPEN_FILES = 64  # over all record sets of the process
# The shards of a set with few shards stay open with the set. The other sets share this number of
# open files, which are those of the last used shards.
_MAX_OTHERS = 16

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
    """Reads from the shards of a record set.

    Several threads may read at the same time. The shards are opened with the object if there are
    few of them, so that a record set that is replaced can still be read.

    Args:
        paths: list of the paths of the shards.
        strict: whether a missing shard raises an error here, and not when it is read.
    """

    def __init__(self, paths, strict=True):
        global _num_open_with_sets
        self._paths, self._files, self._number = paths, {}, next(_set_numbers)
        if any(map(file_io.is_remote, paths[:1])):
            return
        with _lock:
            stay_open = len(paths) <= MAX_OPEN_FILES - _MAX_OTHERS - _num_open_with_sets
            _num_open_with_sets += len(paths) * stay_open
        weakref.finalize(self, _release, self._number, len(paths) * stay_open)
        if not stay_open:
            return
        for shard, path in enumerate(paths):
            if strict or os.path.exists(path):
                self._files[shard] = _OpenFile(path)

    def read(self, shard, start, size):
        """Returns the bytes [start, start + size) of a shard, and fewer bytes at its end.

        Raises:
            OSError: the shard is missing or cannot be read.
        """
        file = self._files.get(shard)
        if file is None:
            path = self._paths[shard]
            if file_io.is_remote(path):
                return file_io.read_range(path, start, size)
            file = _open((self._number, shard), path)
        # The variable `file` keeps the file open while it is read.
        return os.pread(file.descriptor, size, start)


def _open(key, path):
    with _lock:
        file = _open_files.get(key)
        if file is None:
            file = _open_files[key] = _OpenFile(path)
        _open_files.move_to_end(key)
        while len(_open_files) > _MAX_OTHERS:
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
