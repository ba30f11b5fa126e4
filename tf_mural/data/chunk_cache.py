"""A cache of parts of remote files on the local disk.

The cache is off unless the environment variable TF_MURAL_CACHE_DIR names its folder; the flag
--cache_dir of the commands sets the variable. TF_MURAL_CACHE_GB is the size of the cache.
"""

import functools
import hashlib
import os
import sys
import threading
import time

from google_crc32c import value as crc32c

from tf_mural import file_io
from tf_mural.errors import UserError

FOLDER_VARIABLE, SIZE_VARIABLE = "TF_MURAL_CACHE_DIR", "TF_MURAL_CACHE_GB"
_DEFAULT_GB = 50.0
_CHECKSUM_BYTES = 4
_STALE_SECONDS = 3600.0  # age of temporary files that a killed process has left
_KEPT = 0.9  # share of the size that remains after old chunks were removed


def open_cache():
    """Returns the `ChunkCache` of the environment variables, or None if the cache is off.

    Raises:
        UserError: the size is not a positive number, or the folder cannot be created.
    """
    folder, text = os.environ.get(FOLDER_VARIABLE), os.environ.get(SIZE_VARIABLE, "")
    if not folder:
        return None
    try:
        size = float(text) if text else _DEFAULT_GB
    except ValueError:
        size = 0.0
    if not size > 0:
        raise UserError(f"{SIZE_VARIABLE} is {text!r}, expected a positive number of gigabytes")
    return _open(folder, int(size * 1e9))


@functools.lru_cache(maxsize=4)
def _open(folder, max_bytes):
    return ChunkCache(folder, max_bytes)


class ChunkCache:
    """Stores chunks of files under keys; several threads and processes may use the same folder.

    A chunk is a file that ends with the checksum of its content, and appears completely or not at
    all. A chunk whose checksum does not match is removed, and counts as missing. The chunks that
    were not used for the longest time are removed when the cache is full. If the disk is full or
    cannot be written, the cache prints one line and stores no more chunks.

    Args:
        folder: folder of the cache, which is created.
        max_bytes: size of all chunks.
        print_fn: callable that prints a line.

    Raises:
        UserError: the folder cannot be created.
    """

    def __init__(self, folder, max_bytes, print_fn=None):
        self._folder, self._max_bytes = folder, max_bytes
        self._print = print_fn or functools.partial(print, file=sys.stderr, flush=True)
        self._lock, self._is_full = threading.Lock(), False
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"the cache folder {folder} cannot be created ({error.strerror}): choose another "
                "`cache_dir`"
            ) from error
        self._size = sum(size for _, size, _ in self._list())

    def get(self, *key):
        """Returns the chunk of a key, or None if it is not stored."""
        path = self._path(key)
        try:
            data = file_io.read_bytes(path)
            os.utime(path)  # the time of the last use
        except OSError:
            return None
        content = data[:-_CHECKSUM_BYTES]
        if _checksum(content) == data[-_CHECKSUM_BYTES:]:
            return content
        self._remove(path, len(data))
        return None

    def put(self, data, *key):
        """Stores a chunk, and removes old chunks if the cache is full."""
        if self._is_full:
            return
        with self._lock:
            self._size += len(data) + _CHECKSUM_BYTES
            if self._size > self._max_bytes:
                self._evict()
        path = self._path(key)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with file_io.atomic_write(path, sync=False) as temporary:
                with open(temporary, "wb") as file:
                    file.write(data)
                    file.write(_checksum(data))
        except OSError as error:
            if not self._is_full:
                self._is_full = True
                self._print(
                    f"the cache in {self._folder} cannot be written ({error.strerror}): "
                    "continuing without storing more of the remote files"
                )

    def _path(self, key):
        name = hashlib.sha256("\n".join(map(str, key)).encode()).hexdigest()[:32]
        return os.path.join(self._folder, name[:2], name)

    def _list(self):
        """Yields (time of the last use, size, path) of the chunks of all processes."""
        for folder in os.scandir(self._folder):
            if folder.is_dir():
                for entry in os.scandir(folder.path):
                    try:
                        status = entry.stat()
                    except FileNotFoundError:  # Another process has removed it.
                        continue
                    # A younger temporary file is being written by another process.
                    age = time.time() - status.st_mtime
                    if entry.name.endswith(".tmp") and age < _STALE_SECONDS:
                        continue
                    yield status.st_mtime, status.st_size, entry.path

    def _evict(self):
        chunks = sorted(self._list())
        self._size = sum(size for _, size, _ in chunks)
        for _, size, path in chunks:
            if self._size <= _KEPT * self._max_bytes:
                break
            self._remove(path, size)

    def _remove(self, path, size):
        file_io.remove(path)
        self._size -= size


def _checksum(data):
    return crc32c(data).to_bytes(_CHECKSUM_BYTES, "little")
