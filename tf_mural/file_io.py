"""Access to the files of a run, on this machine or on a remote file system such as gs://.

Local files are opened by Python, remote files by `tf.io.gfile`. Files are written atomically: a
file is first written under a temporary name in the same folder, and then renamed. On a remote file
system, a file is renamed by copying it and deleting the original. An object on gs://
becomes visible only when it is complete, so a reader sees either the old or the new object.
"""

import contextlib
import functools
import json
import os
import shutil
import tempfile
import time
import unicodedata
import uuid

from tf_mural.errors import UserError

_HUBS = ("hf://", "kaggle://", "modelscope://")


def is_on_hub(path):
    """Returns whether a path names a preset on a hub, such as "hf://user/name"."""
    return str(path).startswith(_HUBS)


def is_remote(path):
    """Returns whether a path is on a remote file system, such as "gs://bucket/run"."""
    return "://" in os.fspath(path)


def _gfile():
    import tensorflow as tf

    return tf.io.gfile


def open_file(path, mode):
    """Opens a binary file with the mode "rb" or "wb".

    Raises:
        OSError: the file cannot be opened. For a remote file, the message comes from the remote
            file system.
    """
    if not is_remote(path):
        return open(path, mode)
    if mode == "rb" and not exists(path):
        raise FileNotFoundError(2, "No such file or directory", path)
    return _gfile().GFile(path, mode)


def read_bytes(path):
    """Returns the content of a file."""
    with open_file(path, "rb") as file:
        return file.read()


def read_range(path, start, size):
    """Returns the bytes [start, start + size) of a file, and fewer bytes if the file ends there."""
    with open_file(path, "rb") as file:
        file.seek(start)
        return file.read(size)


def exists(path):
    """Returns whether a file or folder exists."""
    return _gfile().exists(path) if is_remote(path) else os.path.exists(path)


def isdir(path):
    """Returns whether a folder exists."""
    return _gfile().isdir(path) if is_remote(path) else os.path.isdir(path)


def size(path):
    """Returns the size of a file in bytes, or None if the file does not exist."""
    if not exists(path):
        return None
    return _gfile().stat(path).length if is_remote(path) else os.path.getsize(path)


def makedirs(path):
    """Creates a folder and its parents, if they do not exist."""
    _gfile().makedirs(path) if is_remote(path) else os.makedirs(path, exist_ok=True)


def listdir(folder):
    """Returns the sorted names of the entries of a folder, or [] if the folder does not exist."""
    if not isdir(folder):
        return []
    names = _gfile().listdir(folder) if is_remote(folder) else os.listdir(folder)
    return sorted(name.rstrip("/") for name in names)


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
        if exists(path):
            _gfile().remove(path)
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
    """Context manager: yields a temporary path, which is renamed to `path` after the body.

    The body creates a file at the temporary path, or, if `path` is local, a folder. The temporary
    path is in the same folder as `path`, and ends in ".tmp". An existing file at `path` is
    replaced. If the body raises an exception, also KeyboardInterrupt, the temporary file or folder
    is removed, and `path` remains as it was.

    Args:
        path: destination, a local or remote path.
        sync: whether a local file is flushed to the disk before it is renamed. A file that is not
            flushed may be lost or empty after a power failure.
    """
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        yield temporary
        if is_remote(path):
            _gfile().rename(temporary, path, overwrite=True)
        else:
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
    with tempfile.TemporaryDirectory() as folder:
        local_path = os.path.join(folder, os.path.basename(path))
        yield local_path
        copy(local_path, path)


def copy(source, target):
    """Copies a file atomically."""
    with open_file(source, "rb") as source_file, atomic_write(target) as temporary:
        with open_file(temporary, "wb") as target_file:
            shutil.copyfileobj(source_file, target_file)


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
