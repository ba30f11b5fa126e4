"""Access to the files of a run, on this machine or on a remote storage such as s3:// or gs://.

Local files are opened by Python, remote files by fsspec (see `remote_files`). Files are written
atomically. A local file is first written under a temporary name in the same folder, and then
renamed. A remote file is first written to a local temporary file, and then uploaded; an object
becomes visible only when it is complete, so a reader sees either the old or the new object.
"""

import concurrent.futures
import contextlib
import functools
import io
import json
import os
import shutil
import tempfile
import time
import unicodedata
import uuid

from tf_mural import remote_files, remote_requests
from tf_mural.errors import UserError

_HUBS = ("hf://", "kaggle://", "modelscope://")
_HUB_DATASETS = "hf://datasets/"  # files of a dataset repository, not a preset
_BUFFER_BYTES = 1 << 20  # bytes that a remote file reads ahead
_PART_BYTES, _PART_THREADS = 1 << 25, 8  # a download reads this number of parts of this size


def is_on_hub(path):
    """Returns whether a path names a preset on a hub, such as "hf://user/name"."""
    return str(path).startswith(_HUBS) and not str(path).startswith(_HUB_DATASETS)


def is_remote(path):
    """Returns whether a path is on a remote storage, such as "gs://bucket/run"."""
    return "://" in os.fspath(path)


def absolute(path):
    """Returns the absolute path of a local path; a remote path is returned as it is."""
    return path if is_remote(path) else os.path.abspath(path)


def shown(path):
    """Returns a path for messages: an https:// address without its query, which may be secret."""
    return remote_requests.shown(path)


def _remote(path):
    return remote_files.files_of(path)


def open_file(path, mode):
    """Opens a binary file with the mode "rb", or a local one with the mode "wb".

    Remote files are written by `atomic_write`.

    Raises:
        OSError: the file cannot be opened.
    """
    if not is_remote(path):
        return open(path, mode)
    if mode != "rb":
        raise ValueError(f"{shown(path)}: a remote file is written by `atomic_write`")
    info = _remote(path).info(path)
    if info is None or info.is_folder:
        raise FileNotFoundError(2, "No such file or directory", shown(path))
    return io.BufferedReader(_RemoteFile(path, info), _BUFFER_BYTES)


def read_bytes(path):
    """Returns the content of a file."""
    if is_remote(path):
        return _remote(path).read(path)
    with open(path, "rb") as file:
        return file.read()


def read_range(path, start, size, version=None, until=None):
    """Returns `size` bytes of a file.

    Args:
        path: a local or remote path.
        start: first byte.
        size: number of bytes.
        version: version of a remote file that is expected, see `file_infos`; None: any version.
        until: time of `time.monotonic` at which the last attempt to read a remote file may start.
            None: see `remote_requests.deadline`.

    Raises:
        OSError: the file cannot be read, or a local file has no such bytes.
        StorageUnavailable: the remote storage did not answer until the deadline.
        StorageError: the remote storage refused the request, or the file has another version.
    """
    if is_remote(path):
        return _remote(path).read_range(path, start, size, version, until)
    with open(path, "rb") as file:
        data = os.pread(file.fileno(), size, start)
    if len(data) != size:
        raise OSError(f"{path}: got {len(data):,} of {size:,} bytes from byte {start:,}")
    return data


def exists(path):
    """Returns whether a file or folder exists."""
    return _remote(path).info(path) is not None if is_remote(path) else os.path.exists(path)


def isdir(path):
    """Returns whether a folder exists. Object stores have only folders that contain files."""
    if not is_remote(path):
        return os.path.isdir(path)
    info = _remote(path).info(path)
    return info is not None and info.is_folder


def size(path):
    """Returns the size of a file in bytes, or None if the file does not exist."""
    if is_remote(path):
        info = _remote(path).info(path)
        return None if info is None else info.size
    return os.path.getsize(path) if os.path.exists(path) else None


def makedirs(path):
    """Creates a folder and its parents, if they do not exist."""
    _remote(path).makedirs(path) if is_remote(path) else os.makedirs(path, exist_ok=True)


def listdir(folder):
    """Returns the sorted names of the entries of a folder, or [] if the folder does not exist."""
    if is_remote(folder):
        return sorted(_remote(folder).list(folder))
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def file_infos(folder, names):
    """Returns {name: `remote_files.FileInfo`} of the files `names` that exist in a remote folder.

    One listing describes all files. Files that the listing lacks are requested one by one, because
    the listings of some servers lack new files, and https:// has no listings.
    """
    files, infos = _remote(folder), {}
    if remote_files.protocol_of(folder) not in ("http", "https"):
        infos = files.list(folder)
    missing = [name for name in names if name not in infos]
    with concurrent.futures.ThreadPoolExecutor(_PART_THREADS) as pool:
        results = pool.map(lambda name: files.info(os.path.join(folder, name)), missing)
        infos.update((name, info) for name, info in zip(missing, results, strict=True) if info)
    return {name: infos[name] for name in names if name in infos}


def find_name(folder, name):
    """Finds a local file or folder whose name is written in another form.

    Unicode has several forms of the same name: macOS and some archives decompose letters with
    accents. Programs for Windows separate folders by a backslash. A file whose name also differs in
    upper or lower case may be another file, and is therefore only suggested.

    Args:
        folder: the folder that contains the file.
        name: path of the file, relative to the folder; the exact name does not exist.

    Returns:
        (name, []) if exactly one file has the same name up to the Unicode form and the separator;
        otherwise (None, names of files that differ from `name` also in case).
    """
    for separator in ("/", "\\"):
        parts = name.replace(separator, "/").split("/")
        if len(matches := _match_names(folder, parts, _unicode_form)) == 1:
            return matches[0], []
    return None, _match_names(folder, parts, _caseless_form)


def describe_similar(folder, name):
    """Returns " (did you mean ...?)" for a file that does not exist, or "" without a suggestion.

    Args:
        folder, name: see `find_name`.
    """
    _, names = find_name(folder, name)
    return f" (did you mean {' or '.join(names[:3])}?)" if names else ""


def _match_names(folder, parts, form):
    """Returns the relative paths in a folder whose parts are equal to `parts` after `form`."""
    parts, paths = [part for part in parts if part not in ("", ".")], [""]
    for part in parts:
        if part == "..":
            paths = [os.path.join(path, part) for path in paths]
            continue
        paths = [
            os.path.join(path, name)
            for path in paths
            for name in _names_by_form(os.path.join(folder, path), form).get(form(part), ())
        ]
    return paths if parts else []


def _names_by_form(folder, form):
    """Returns {result of `form`: names of the entries of a folder with this result}."""
    try:
        modified = os.stat(folder).st_mtime_ns
        # The names in a folder that has just changed are not cached, because the modification time
        # does not distinguish changes within a few milliseconds.
        is_recent = time.time_ns() - modified < 10**9
        list_names = _cached_names.__wrapped__ if is_recent else _cached_names
        return list_names(folder, form, modified)
    except (OSError, ValueError):  # ValueError: a path that contains a zero byte.
        return {}


@functools.lru_cache(maxsize=16)
def _cached_names(folder, form, modified):
    names = {}
    for name in sorted(os.listdir(folder)):
        names.setdefault(form(name), []).append(name)
    return names


def _unicode_form(name):
    return unicodedata.normalize("NFC", name)


def _caseless_form(name):
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def remove(path):
    """Removes a file, if it exists."""
    if is_remote(path):
        _remote(path).remove(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)


def fsync(path):
    """Flushes a local file or folder to the disk; does nothing for remote paths."""
    if not is_remote(path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def atomic_write(path, sync=True):
    """Context manager: yields a temporary local path, which becomes `path` after the body.

    The body creates a file at the temporary path, or, if `path` is local, a folder. An existing
    file at `path` is replaced. If the body raises an exception, also KeyboardInterrupt, the
    temporary file or folder is removed, and `path` remains as it was.

    If `path` is local, the temporary path is in the same folder, ends in ".tmp", and is renamed. If
    `path` is remote, the temporary path is in a local temporary folder (the environment variable
    TMPDIR moves it), and is uploaded.

    Args:
        path: destination, a local or remote path.
        sync: whether a local file is flushed to the disk before it is renamed. A file that is not
            flushed may be lost or empty after a power failure.
    """
    if is_remote(path):
        with tempfile.TemporaryDirectory() as folder:
            temporary = os.path.join(folder, os.path.basename(path))
            yield temporary
            _remote(path).put(temporary, path)
        return
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        yield temporary
        if sync:
            fsync(temporary)
        os.replace(temporary, path)
        if sync:
            fsync(os.path.dirname(path) or ".")
    except BaseException:
        with contextlib.suppress(Exception):  # The error of the body is the one to report.
            shutil.rmtree(temporary) if os.path.isdir(temporary) else remove(temporary)
        raise


@contextlib.contextmanager
def local_copy(path):
    """Context manager: yields a local path; at the end, the file is copied to a remote `path`."""
    if not is_remote(path):
        yield path
        return
    with atomic_write(path) as temporary:
        yield temporary


@contextlib.contextmanager
def local_folder(folder):
    """Context manager: yields a local folder; at the end, its files are copied to `folder`.

    If `folder` is local, the folder itself is yielded. If the body raises an exception, no file is
    copied to a remote folder.
    """
    if not is_remote(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory() as local:
        yield local
        for parent, _, names in os.walk(local):
            for path in sorted(os.path.join(parent, name) for name in names):
                _remote(folder).put(path, os.path.join(folder, os.path.relpath(path, local)))


@contextlib.contextmanager
def local_files(paths):
    """Context manager: yields local paths with the content of files; remote files are downloaded.

    Args:
        paths: local or remote paths, whose file names differ.
    """
    if not any(map(is_remote, paths)):
        yield list(paths)
        return
    with tempfile.TemporaryDirectory() as folder:
        local_paths = [os.path.join(folder, os.path.basename(path)) for path in paths]
        for path, local_path in zip(paths, local_paths, strict=True):
            _download(path, local_path)
        yield local_paths


def _download(path, local_path):
    """Copies a file to a local file, in parts that are read at the same time."""
    info = _remote(path).info(path) if is_remote(path) else None
    if info is None:
        shutil.copyfile(path, local_path)
        return
    with open(local_path, "wb") as file:

        def copy_part(start):
            part = min(_PART_BYTES, info.size - start)
            os.pwrite(file.fileno(), read_range(path, start, part, info.version), start)

        with concurrent.futures.ThreadPoolExecutor(_PART_THREADS) as pool:
            list(pool.map(copy_part, range(0, info.size, _PART_BYTES)))


def copy(source, target):
    """Copies a file atomically."""
    with open_file(source, "rb") as source_file, atomic_write(target) as temporary:
        with open_file(temporary, "wb") as target_file:
            shutil.copyfileobj(source_file, target_file)


class _RemoteFile(io.RawIOBase):
    """A remote file for reading; all reads see the same version of the file."""

    def __init__(self, path, info):
        self._path, self._info, self._position = path, info, 0

    def readable(self):
        return True

    def seekable(self):
        return True

    def tell(self):
        return self._position

    def seek(self, offset, whence=os.SEEK_SET):
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._info.size}
        self._position = max(0, start[whence] + offset)
        return self._position

    def readinto(self, buffer):
        count = min(len(buffer), max(0, self._info.size - self._position))
        data = read_range(self._path, self._position, count, self._info.version)
        buffer[:count] = data
        self._position += count
        return count


def read_json(path):
    """Returns the content of a JSON file.

    Raises:
        UserError: the file is not valid JSON.
    """
    try:
        return json.loads(read_bytes(path).decode("utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); remove it and run again") from error


def write_json(path, data):
    """Writes plain data to a JSON file atomically."""
    text = json.dumps(data, indent=1, ensure_ascii=False) + "\n"
    with atomic_write(path) as temporary, open_file(temporary, "wb") as file:
        file.write(text.encode("utf-8"))
