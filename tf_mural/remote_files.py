"""Remote file systems: s3://, gs://, hf://datasets/... and https:// by fsspec.

Only `file_io` uses this module. Each library finds its credentials and its endpoint by itself; both
are removed from error messages. Every request is repeated until it succeeds or until the deadline
has passed, with a random wait that doubles from request to request. The repetitions of the
libraries themselves are turned off where they can be turned off.

The environment variable TF_MURAL_STORAGE_DEADLINE sets the deadline in seconds.
"""

import dataclasses
import functools
import importlib.util
import logging
import os
import random
import time
import uuid

from tf_mural import remote_errors
from tf_mural.errors import StorageError, StorageUnavailable, UserError

DEADLINE_VARIABLE = "TF_MURAL_STORAGE_DEADLINE"
_DEADLINE_SECONDS = 120.0
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 8.0  # seconds, upper bounds of the random waits
_MAX_CONNECTIONS = 64
# A file that was not found is requested again, because some servers answer 404 for a short time.
_NOT_FOUND_ATTEMPTS = 3
# {protocol: (package, whether files can be written)}
_PROTOCOLS = {
    "s3": ("s3fs", True),
    "gs": ("gcsfs", True),
    "hf": ("huggingface_hub", False),
    "https": ("aiohttp", False),
    "http": ("aiohttp", False),
}


@dataclasses.dataclass(frozen=True)
class FileInfo:
    """A remote file or folder.

    Attributes:
        size: size in bytes; 0 for a folder.
        is_folder: whether this is a folder.
        version: ETag (S3 and https) or generation (GCS) of the content, or None.
    """

    size: int
    is_folder: bool = False
    version: str | None = None


def protocol_of(path):
    """Returns the protocol of a remote path, such as "s3"."""
    return path.partition("://")[0]


def deadline():
    """Returns the number of seconds after which a request that fails again and again is given up.

    Raises:
        UserError: the environment variable is not a positive number.
    """
    text = os.environ.get(DEADLINE_VARIABLE, "")
    try:
        seconds = float(text) if text else _DEADLINE_SECONDS
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise UserError(f"{DEADLINE_VARIABLE} is {text!r}, expected a positive number of seconds")
    return seconds


def retried(call, path, until=None):
    """Returns `call()`, repeated while the storage is temporarily unavailable.

    Args:
        call: callable without arguments.
        path: path for messages.
        until: time of `time.monotonic` at which the last attempt may start; None: after `deadline`.

    Raises:
        FileNotFoundError: there is no such file.
        StorageUnavailable: all attempts until the deadline failed.
        StorageError: the storage refused the request.
    """
    began = time.monotonic()
    until = began + deadline() if until is None else until
    wait = _FIRST_WAIT
    while True:
        try:
            return call()
        except Exception as error:
            translated = remote_errors.translate(error, path)
            if not isinstance(translated, StorageUnavailable):
                raise translated from (None if translated is not error else error.__cause__)
            pause = wait * random.random()
            if time.monotonic() + pause >= until:
                raise StorageUnavailable(
                    f"{remote_errors.shown(path)}: the storage did not answer for "
                    f"{time.monotonic() - began:.0f} s ({translated}); give the same command again "
                    "later"
                ) from None
        time.sleep(pause)
        wait = min(2 * wait, _LONGEST_WAIT)


def files_of(path):
    """Returns the file system of a remote path.

    Raises:
        UserError: the package of the file system is not installed.
    """
    return _files(protocol_of(path), os.getpid())


def forget_connections():
    """Makes the next request read the credentials and the endpoint again."""
    _files.cache_clear()


# A copy of a connection in a forked process would not work, so each process opens its own.
@functools.lru_cache(maxsize=16)
def _files(protocol, _process):
    if protocol in _PROTOCOLS:
        package, _ = _PROTOCOLS[protocol]
        if all(importlib.util.find_spec(name) for name in ("fsspec", package)):
            return _FsspecFiles(protocol)
        if protocol != "gs":
            raise UserError(
                f"{protocol}:// needs {package}: pip install -r requirements-remote.txt"
            )
    return TensorFlowFiles(protocol)


class _FsspecFiles:
    """The files of one protocol; see `TensorFlowFiles` for the methods."""

    def __init__(self, protocol):
        import fsspec

        # These loggers would print stack traces, and the addresses of requests.
        for name in ("gcsfs", "s3fs", "aiobotocore", "fsspec"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        options = {"use_listings_cache": False, "skip_instance_cache": True}
        if protocol == "s3":
            options["config_kwargs"] = {
                "retries": {"max_attempts": 0},
                "max_pool_connections": _MAX_CONNECTIONS,
            }
        if protocol == "gs":
            os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
            options["token"] = "anon" if os.environ.get("STORAGE_EMULATOR_HOST") else None
        self._protocol, self._writable = protocol, _PROTOCOLS[protocol][1]
        self._fs = fsspec.filesystem(protocol, **options)
        if protocol == "s3":
            self._fs.retries = 1
        self._known_buckets = set()

    def read(self, path):
        return self._read(path, lambda: self._fs.cat_file(self._key(path)))

    def read_range(self, path, start, size, version=None, until=None):
        if not size:
            return b""

        def call():
            data = _READERS.get(self._protocol, _read_any)(self._fs, path, start, size, version)
            if len(data) != size:
                message = f"got {len(data):,} of {size:,} bytes from byte {start:,}"
                raise StorageUnavailable(message)
            return data

        return self._read(path, call, until)

    def info(self, path):
        try:
            item = retried(lambda: self._fs.info(self._key(path)), path)
        except FileNotFoundError:
            self._check_bucket(path)
            return None
        return _file_info(item)

    def list(self, folder):
        key = self._key(folder).rstrip("/")
        try:
            items = retried(lambda: self._fs.ls(key, detail=True), folder)
        except (FileNotFoundError, NotADirectoryError):
            self._check_bucket(folder)
            return {}
        names = {item["name"].rstrip("/"): item for item in items}
        # An object store may have an empty object with the name of the folder itself.
        names = {name: item for name, item in names.items() if name != key}
        return {name.rpartition("/")[2]: _file_info(item) for name, item in names.items()}

    def makedirs(self, folder):
        """Does nothing, because the folders of an object store are parts of names."""
        self._check_writable(folder)

    def put(self, local_path, path):
        self._check_writable(path)
        try:
            retried(lambda: self._fs.put_file(local_path, self._key(path)), path)
        except FileNotFoundError:
            self._check_bucket(path)
            raise

    def remove(self, path):
        self._check_writable(path)
        try:
            retried(lambda: self._fs.rm_file(self._key(path)), path)
        except FileNotFoundError:
            self._check_bucket(path)

    def _key(self, path):
        return self._fs._strip_protocol(path)

    def _read(self, path, call, until=None):
        """Returns `call()`; a file that is not found is requested again before the error."""
        for attempt in range(_NOT_FOUND_ATTEMPTS):
            try:
                return retried(call, path, until)
            except FileNotFoundError:
                if attempt == _NOT_FOUND_ATTEMPTS - 1:
                    self._check_bucket(path)
                    raise
            time.sleep(_FIRST_WAIT * random.random())

    def _check_bucket(self, path):
        """Raises StorageError if the bucket of a path does not exist."""
        if not self._writable:  # https:// and hf:// have no buckets.
            return
        bucket = self._key(path).partition("/")[0]
        if bucket in self._known_buckets:
            return
        try:
            retried(lambda: self._fs.ls(bucket, detail=False) if bucket else None, path)
        except FileNotFoundError:
            raise StorageError(
                f"{path}: the bucket {bucket!r} does not exist; create it, or correct the path"
            ) from None
        self._known_buckets.add(bucket)

    def _check_writable(self, path):
        if not self._writable:
            raise UserError(
                f"{remote_errors.shown(path)}: {self._protocol}:// paths can only be read; write "
                "to s3://, gs:// or a local folder"
            )


def _file_info(item):
    """Returns the `FileInfo` of a description by fsspec."""
    version = item.get("generation") or item.get("ETag")
    version = None if version is None else str(version)
    return FileInfo(item.get("size") or 0, item["type"] == "directory", version)


def _read_any(fs, path, start, size, version):
    return fs.cat_file(path, start=start, end=start + size, cache_type="none")


def _read_s3(fs, path, start, size, version):
    import fsspec.asyn

    bucket, key, version_id = fs.split_path(path)
    options = {"VersionId": version_id} if version_id else {}
    options |= {"IfMatch": version} if version else {}

    async def read():
        response = await fs._call_s3(
            "get_object", Bucket=bucket, Key=key, Range=_range(start, size), **options
        )
        async with response["Body"] as body:
            return await body.read()

    return fsspec.asyn.sync(fs.loop, read)


def _read_gs(fs, path, start, size, version):
    import fsspec.asyn

    # The undecorated function does not repeat requests.
    request = getattr(type(fs)._request, "__wrapped__", type(fs)._request)
    options = {"ifGenerationMatch": version} if version else {}

    async def read():
        headers = {"Range": _range(start, size)}
        return await request(fs, "GET", fs.url(path), headers=headers, **options)

    _, headers, _, data = fsspec.asyn.sync(fs.loop, read)
    # Servers other than Google's may ignore the condition.
    if version and headers.get("X-Goog-Generation", version) != version:
        raise remote_errors.changed(path)
    return data


def _read_http(fs, path, start, size, version):
    # A weak ETag never matches.
    is_strong = version and not version.startswith("W/")
    headers = {"If-Match": version} if is_strong else {}
    data = fs.cat_file(path, start=start, end=start + size, headers=headers)
    if len(data) > size:
        raise StorageError(
            f"{remote_errors.shown(path)}: the server ignores ranges; copy the files to a local "
            "folder"
        )
    return data


def _range(start, size):
    return f"bytes={start}-{start + size - 1}"


_READERS = {"s3": _read_s3, "gs": _read_gs, "https": _read_http, "http": _read_http}


class TensorFlowFiles:
    """Files that `tf.io.gfile` opens: gs:// where gcsfs is not installed.

    A TPU host with requirements-tpu.txt has no gcsfs.
    """

    def __init__(self, protocol):
        import tensorflow as tf

        self._gfile, self._errors = tf.io.gfile, tf.errors
        self._protocol = protocol

    def read(self, path):
        """Returns the content of a file."""
        return self.read_range(path, 0, -1)

    def read_range(self, path, start, size, version=None, until=None):
        """Returns `size` bytes from byte `start`.

        Args:
            path: path of the file.
            start, size: range in bytes.
            version: version of the file that is expected, as in `FileInfo`; None: any.
            until: see `retried`.

        Raises:
            FileNotFoundError: there is no such file.
            StorageError: the file has changed, or it cannot be read.
        """

        def call():
            with self._gfile.GFile(path, "rb") as file:
                file.seek(start)
                return file.read(size)

        if not self._gfile.exists(path):
            raise FileNotFoundError(2, "No such file or directory", path)
        data = retried(call, path, until)
        if size >= 0 and len(data) != size:
            raise StorageError(f"{path}: got {len(data):,} of {size:,} bytes from byte {start:,}")
        return data

    def info(self, path):
        """Returns the `FileInfo` of a file or folder, or None if it does not exist."""
        if not self._gfile.exists(path):
            return None
        if self._gfile.isdir(path):
            return FileInfo(0, is_folder=True)
        return FileInfo(self._gfile.stat(path).length)

    def list(self, folder):
        """Returns {name: `FileInfo`} of a folder, {} if the folder does not exist."""
        if not self._gfile.isdir(folder):
            return {}
        names = [name.rstrip("/") for name in self._gfile.listdir(folder)]
        return {name: self.info(os.path.join(folder, name)) for name in names}

    def makedirs(self, folder):
        """Creates a folder and its parents, where the file system has folders."""
        self._gfile.makedirs(folder)

    def put(self, local_path, path):
        """Copies a local file; `path` has either its old or its whole new content."""
        temporary = f"{path}.{uuid.uuid4().hex}.tmp"
        self._gfile.copy(local_path, temporary, overwrite=True)
        self._gfile.rename(temporary, path, overwrite=True)

    def remove(self, path):
        """Removes a file, if it exists."""
        if self._gfile.exists(path):
            self._gfile.remove(path)
