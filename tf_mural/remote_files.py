"""Remote file systems: s3://, gs://, az://, hf://datasets/... and https:// by fsspec.

Each library finds its credentials and its endpoint by itself; both are removed from error messages.
Every request is repeated until it succeeds or until a deadline has passed, see `remote_requests`.
Other modules use `file_io`.
"""

import asyncio
import contextlib
import dataclasses
import functools
import importlib.util
import logging
import os
import random
import time
import uuid

from tf_mural import remote_requests
from tf_mural.errors import StorageError, StorageUnavailable, UserError

_MAX_CONNECTIONS = 64
_CONNECT_SECONDS, _READ_SECONDS = 10, 30  # a request without an answer for this time is repeated
# A file that was not found is requested again, because some servers answer 404 for a short time.
# Attempts for a file that existed before, for another file that is read, and for other requests.
_KNOWN_ATTEMPTS, _NOT_FOUND_ATTEMPTS, _MISSING_ATTEMPTS = 8, 3, 2
_FAST_ATTEMPTS = 4  # attempts of one request of gcsfs, before the whole operation is repeated
# {protocol: (package, whether files can be written)}
_PROTOCOLS = {
    "s3": ("s3fs", True),
    "gs": ("gcsfs", True),
    "az": ("adlfs", True),
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
        version: ETag (S3, Azure and https) or generation (GCS) of the content, or None.
    """

    size: int
    is_folder: bool = False
    version: str | None = None


def protocol_of(path):
    """Returns the protocol of a remote path, such as "s3"."""
    return path.partition("://")[0]


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
        if all(importlib.util.find_spec(name) for name in ("fsspec", "aiohttp", package)):
            return _FsspecFiles(protocol)
        if protocol != "gs":
            raise UserError(
                f"{protocol}:// needs {package}: pip install -r requirements-remote.txt"
            )
    return TensorFlowFiles()


class _FsspecFiles:
    """The files of one protocol; see `TensorFlowFiles` for the methods."""

    def __init__(self, protocol):
        import aiohttp
        import fsspec

        # These loggers would print stack traces, and the addresses of requests.
        for name in ("gcsfs", "s3fs", "aiobotocore", "adlfs", "azure", "fsspec"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        options = {"use_listings_cache": False, "skip_instance_cache": True}
        if protocol == "s3":
            options["config_kwargs"] = {
                "retries": {"max_attempts": 0},
                "max_pool_connections": _MAX_CONNECTIONS,
                "connect_timeout": _CONNECT_SECONDS,
                "read_timeout": _READ_SECONDS,
            }
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=_CONNECT_SECONDS, sock_read=_READ_SECONDS
        )
        if protocol in ("http", "https"):
            options["client_kwargs"] = {"timeout": timeout}
        self._protocol, self._writable = protocol, _PROTOCOLS[protocol][1]
        if protocol == "gs":
            options["requests_timeout"] = timeout
            options["token"] = "anon" if os.environ.get("STORAGE_EMULATOR_HOST") else None
            # The default class asks another service for the kind of each bucket. Without the
            # variable, gcsfs imports the packages of this service, which takes seconds.
            os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
            from gcsfs.core import GCSFileSystem

            self._fs = GCSFileSystem(**options)
            _repeat_requests_fast(self._fs)
        else:
            self._fs = fsspec.filesystem(protocol, **options)
        self._known_buckets = set()

    def read(self, path):
        return self._repeated(path, lambda: self._fs.cat_file(self._key(path)))

    def read_range(self, path, start, size, version=None, until=None):
        if not size:
            return b""

        def call():
            data = _READERS.get(self._protocol, _read_any)(self._fs, path, start, size, version)
            if len(data) != size:
                message = f"got {len(data):,} of {size:,} bytes from byte {start:,}"
                raise StorageUnavailable(message)
            return data

        if version is None:
            return self._repeated(path, call, until=until)
        try:
            return self._repeated(path, call, _KNOWN_ATTEMPTS, until)
        except FileNotFoundError:
            raise StorageError(f"{path} was removed while it was read; restore it") from None

    def info(self, path):
        try:
            item = self._repeated(path, lambda: self._fs.info(self._key(path)), _MISSING_ATTEMPTS)
        except FileNotFoundError:
            return None
        return _file_info(item)

    def list(self, folder):
        key = self._key(folder).rstrip("/")
        try:
            items = self._repeated(folder, lambda: self._fs.ls(key, detail=True))
        except (FileNotFoundError, NotADirectoryError):
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
        self._repeated(path, lambda: self._fs.put_file(local_path, self._key(path)))

    def remove(self, path):
        self._check_writable(path)
        with contextlib.suppress(FileNotFoundError):
            call = functools.partial(self._fs.rm_file, self._key(path))
            self._repeated(path, call, _MISSING_ATTEMPTS)

    def _key(self, path):
        return self._fs._strip_protocol(path)

    def _repeated(self, path, call, attempts=_NOT_FOUND_ATTEMPTS, until=None):
        """Returns `call()`; a file that is not found is requested again before the error."""
        for attempt in range(attempts):
            try:
                return remote_requests.retried(call, path, until)
            except FileNotFoundError:
                if attempt == attempts - 1:
                    self._check_bucket(path)
                    raise
            time.sleep(remote_requests.FIRST_WAIT * random.random() * (attempt + 1))

    def _check_bucket(self, path):
        """Raises StorageError if the bucket of a path does not exist."""
        if not self._writable:  # https:// and hf:// have no buckets.
            return
        bucket = self._key(path).partition("/")[0]
        if not bucket or bucket in self._known_buckets:
            return
        try:
            remote_requests.retried(lambda: _PROBES[self._protocol](self._fs, bucket), path)
        except FileNotFoundError:
            raise StorageError(
                f"{path}: the bucket {bucket!r} does not exist; create it, or correct the path"
            ) from None
        self._known_buckets.add(bucket)

    def _check_writable(self, path):
        if not self._writable:
            raise UserError(
                f"{remote_requests.shown(path)}: {self._protocol}:// paths can only be read; write "
                "to s3://, gs://, az:// or a local folder"
            )


def _repeat_requests_fast(fs):
    """Replaces the waits of gcsfs between the attempts of a request, 33 s, by at most 1 s.

    A part of a large upload is repeated here, and the whole upload by `remote_requests.retried`.
    """
    request = getattr(type(fs)._request, "__wrapped__", None)
    if request is None:
        return

    async def repeated(method, path, *args, **kwargs):
        for attempt in range(_FAST_ATTEMPTS):
            try:
                return await request(fs, method, path, *args, **kwargs)
            except Exception as error:
                error = remote_requests.translate(error, path)
                if attempt == _FAST_ATTEMPTS - 1 or not isinstance(error, StorageUnavailable):
                    raise
            await asyncio.sleep(remote_requests.FIRST_WAIT * 2**attempt * random.random())

    fs._request = repeated


def _file_info(item):
    """Returns the `FileInfo` of a description by fsspec."""
    version = item.get("generation") or item.get("ETag") or item.get("etag")
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

    options = {"ifGenerationMatch": version} if version else {}

    async def read():
        headers = {"Range": _range(start, size)}
        return await fs._request("GET", fs.url(path), headers=headers, **options)

    _, headers, _, data = fsspec.asyn.sync(fs.loop, read)
    # Servers other than Google's may ignore the condition.
    if version and headers.get("X-Goog-Generation", version) != version:
        raise remote_requests.changed(path)
    return data


def _read_az(fs, path, start, size, version):
    import fsspec.asyn
    from azure.core import MatchConditions

    container, blob, version_id = fs.split_path(fs._strip_protocol(path))
    # The library would wait 15 s before it repeats a request.
    options = {"offset": start, "length": size, "version_id": version_id, "retry_total": 0}
    if version:
        options |= {"etag": version, "match_condition": MatchConditions.IfNotModified}

    async def read():
        async with fs.service_client.get_blob_client(container=container, blob=blob) as client:
            return await (await client.download_blob(**options)).readall()

    return fsspec.asyn.sync(fs.loop, read)


def _read_http(fs, path, start, size, version):
    # A weak ETag never matches.
    is_strong = version and not version.startswith("W/")
    headers = {"If-Match": version} if is_strong else {}
    data = fs.cat_file(path, start=start, end=start + size, headers=headers)
    if len(data) > size:
        raise StorageError(
            f"{remote_requests.shown(path)}: the server ignores ranges; copy the files to a local "
            "folder"
        )
    return data


def _range(start, size):
    return f"bytes={start}-{start + size - 1}"


# Requests that fail with FileNotFoundError if there is no such bucket.
_PROBES = {
    "s3": lambda fs, bucket: fs.call_s3("list_objects_v2", Bucket=bucket, MaxKeys=1),
    "gs": lambda fs, bucket: fs.call("GET", "b/{}/o", bucket, maxResults=1, json_out=True),
    "az": lambda fs, bucket: fs.info(bucket),
}
_READERS = dict(s3=_read_s3, gs=_read_gs, az=_read_az, http=_read_http, https=_read_http)


class TensorFlowFiles:
    """Files that `tf.io.gfile` opens: gs:// where gcsfs is not installed.

    A TPU host with requirements-tpu.txt has no gcsfs.
    """

    @functools.cached_property
    def _gfile(self):
        import tensorflow as tf

        return tf.io.gfile

    def read(self, path):
        """Returns the content of a file."""
        return self.read_range(path, 0, -1)

    def read_range(self, path, start, size, version=None, until=None):
        """Returns `size` bytes from byte `start`.

        Args:
            path: path of the file.
            start, size: range in bytes.
            version: version of the file that is expected, as in `FileInfo`; None: any.
            until: see `remote_requests.retried`.

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
        data = remote_requests.retried(call, path, until)
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
        try:
            self._gfile.makedirs(os.path.dirname(path))
            self._gfile.copy(local_path, temporary, overwrite=True)
            self._gfile.rename(temporary, path, overwrite=True)
        except BaseException:
            with contextlib.suppress(Exception):  # The first error is the one to report.
                self.remove(temporary)
            raise

    def remove(self, path):
        """Removes a file, if it exists."""
        if self._gfile.exists(path):
            self._gfile.remove(path)
