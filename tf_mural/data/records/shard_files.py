"""Random access to the shards of record sets, with a limited number of open files."""

import collections
import os
import threading
import weakref

from tf_mural import file_io

MAX_OPEN_FILES = 64  # over all record sets of the process

_lock = threading.Lock()
_open_files = collections.OrderedDict()  # {(set, shard): `_OpenFile`}, the last used one at the end


class _OpenFile:
    """A file descriptor, which is closed when no thread uses the object any longer."""

    def __init__(self, descriptor):
        self.descriptor = descriptor

    def __del__(self, close=os.close):
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
        self._paths, self._key = paths, object()
        weakref.finalize(self, _close, id(self._key))
        if len(paths) <= MAX_OPEN_FILES - len(_open_files):
            for shard, path in enumerate(paths):
                if strict or file_io.exists(path):
                    self._open(shard)

    def read(self, shard, start, size):
        """Returns the bytes [start, start + size) of a shard, and fewer bytes at its end.

        Raises:
            OSError: the shard is missing or cannot be read.
        """
        path = self._paths[shard]
        if file_io.is_remote(path):
            return file_io.read_range(path, start, size)
        file = self._open(shard)  # the variable keeps the file open while it is read
        return os.pread(file.descriptor, size, start)

    def _open(self, shard):
        if file_io.is_remote(self._paths[shard]):
            return None
        key = (id(self._key), shard)
        with _lock:
            file = _open_files.get(key)
            if file is None:
                file = _OpenFile(os.open(self._paths[shard], os.O_RDONLY))
                _open_files[key] = file
            _open_files.move_to_end(key)
            while len(_open_files) > MAX_OPEN_FILES:
                _open_files.popitem(last=False)
        return file


def _close(key):
    with _lock:
        for name in [name for name in _open_files if name[0] == key]:
            del _open_files[name]
