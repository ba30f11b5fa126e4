"""Files of a run, on this machine or on a remote file system such as gs://.

Local paths go through Python, remote ones through `tf.io.gfile`. What is written appears whole: a
local file is on the disk before it gets its name. A remote `replace` is a copy and a deletion, but
an object of gs:// appears only once it is whole, so that a reader sees the old one or the new one.
"""

import contextlib
import json
import os
import shutil
import tempfile
import uuid

from tf_mural.errors import UserError

_HUBS = ("hf://", "kaggle://", "modelscope://")


def is_on_hub(path):
    """Whether a path names a preset on a hub, which KerasHub fetches: "hf://user/name"."""
    return str(path).startswith(_HUBS)


def is_remote(path):
    """Whether the path names a file system: "gs://bucket/run"."""
    return "://" in os.fspath(path)


def _gfile():
    import tensorflow as tf

    return tf.io.gfile


def open_file(path, mode):
    """A file of bytes, "rb" or "wb".

    Raises:
        OSError: as `open`; of a remote file, one with the file system's own message.
    """
    if not is_remote(path):
        return open(path, mode)
    if mode == "rb" and not exists(path):
        raise FileNotFoundError(2, "No such file or directory", path)
    return _gfile().GFile(path, mode)


def read_bytes(path):
    """All of a file."""
    with open_file(path, "rb") as file:
        return file.read()


def exists(path):
    """Whether there is such a file or folder."""
    return _gfile().exists(path) if is_remote(path) else os.path.exists(path)


def is_folder(path):
    """Whether there is such a folder."""
    return _gfile().isdir(path) if is_remote(path) else os.path.isdir(path)


def size(path):
    """Bytes of a file; None where there is none."""
    if not exists(path):
        return None
    return _gfile().stat(path).length if is_remote(path) else os.path.getsize(path)


def make_folder(path):
    """Makes a folder and those above it."""
    _gfile().makedirs(path) if is_remote(path) else os.makedirs(path, exist_ok=True)


def names(folder):
    """Sorted names in a folder; [] where there is none."""
    if not is_folder(folder):
        return []
    found = _gfile().listdir(folder) if is_remote(folder) else os.listdir(folder)
    return sorted(name.rstrip("/") for name in found)


def remove(path):
    """Removes a file, if there is one."""
    if is_remote(path):
        if exists(path):
            _gfile().remove(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)


def flush(path):
    """Returns once a local file or folder is on the disk."""
    if not is_remote(path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def replacing(path):
    """A temporary name beside `path`, moved to it when the block ends well."""
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        yield temporary
        if is_remote(path):
            _gfile().rename(temporary, path, overwrite=True)
        else:
            flush(temporary)
            os.replace(temporary, path)
            flush(os.path.dirname(path) or ".")
    except BaseException:
        remove(temporary)
        raise


@contextlib.contextmanager
def local(path):
    """A local path to write `path` at: itself, or one that is copied to it in the end."""
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        there = os.path.join(folder, os.path.basename(path))
        yield there
        copy(there, path)


def copy(source, target):
    """Copies a file; the copy appears when it is whole."""
    with open_file(source, "rb") as read, replacing(target) as temporary:
        with open_file(temporary, "wb") as written:
            shutil.copyfileobj(read, written)


def read_json(path):
    """Plain data of a file."""
    try:
        return json.loads(read_bytes(path).decode("utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}); remove it and run again") from error


def write_json(path, data):
    """Writes plain data, whole or not at all."""
    text = json.dumps(data, indent=1, ensure_ascii=False) + "\n"
    with replacing(path) as temporary, open_file(temporary, "wb") as file:
        file.write(text.encode("utf-8"))
