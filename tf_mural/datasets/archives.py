"""Reads files from a tar archive, which may be gzip-compressed, or from its unpacked folder.

A tar archive is scanned once for the offsets of its files; each file is then read as a byte range.
A gzip stream can only be read from its start, so the bytes before a file are decompressed and
skipped.
"""

import contextlib
import dataclasses
import functools
import gzip
import hashlib
import os
import tarfile

from tf_mural.datasets import bounded_read, image_files
from tf_mural.errors import UserError

_CHUNK = 1 << 20
_HASHED_BYTES = 1 << 16  # Bytes that `fingerprint` reads at each end of an archive.
_MAX_MEMBER = 1 << 60  # Larger numbers of bytes are not offsets in a file.
_MAX_PADDING = 64 << 20  # Maximum number of bytes after the end of a tar.


@dataclasses.dataclass(frozen=True)
class FileRange:
    """The range of a file in an archive: `size` bytes from byte `offset`.

    If the archive is a gzip, `offset` counts decompressed bytes. If `offset` is None, `path` is the
    file itself, outside of any archive.
    """

    path: str
    offset: int | None
    size: int


@dataclasses.dataclass(frozen=True)
class ArchiveOrFolder:
    """A tar archive, or the folder that it unpacks to.

    Attributes:
        path: path of the archive, or of the folder that corresponds to `root`.
        root: the folder in the archive that contains all files, or "".
        is_archive: whether `path` is an archive.
    """

    path: str
    root: str
    is_archive: bool

    @property
    def is_gzip(self):
        """Whether the archive is a gzip stream, which can only be read from its start."""
        return self.is_archive and is_gzip(self.path)

    def find(self, name):
        """Returns the `FileRange` of the file `name` below `root`, or None."""
        if self.is_archive:
            return list_tar(self.path).get(f"{self.root}/{name}" if self.root else name)
        path = os.path.join(self.path, name)
        return FileRange(path, None, os.path.getsize(path)) if os.path.isfile(path) else None

    def display_path(self, name):
        """Returns the path of a file for messages."""
        return os.path.join(self.path, name)

    def read(self, name):
        """Returns the bytes of a file. Raises UserError if the file is missing or too large."""
        file, path = self.find(name), self.display_path(name)
        if file is None:
            raise UserError(f"{path} is missing; download it again")
        bounded_read.check_size(file.size, path)
        if file.offset is None:
            return bounded_read.read_bytes(file.path)
        with open_stream(file.path) as stream:
            return read_range(stream, file)


def check_raw_dir(raw_dir):
    """Raises UserError if raw_dir is not an existing folder."""
    if not raw_dir or not os.path.isdir(raw_dir):
        raise UserError(f"expected raw_dir to be a folder, got {raw_dir!r}")


def check_member_name(path, name):
    """Raises UserError if the name of a file in the archive `path` leads out of the archive."""
    if name.startswith("/") or ".." in name.split("/"):
        raise UserError(
            f"{path} contains {name!r}, a path outside of the archive; download it again"
        )


def locate(raw_dir, archive, root, probe):
    """Finds the archive of a corpus, or the folder that it unpacks to.

    Args:
        raw_dir: the archive, the folder that it unpacks to, or a folder that contains either.
        archive: file name under which the archive is published.
        root: the folder in the archive that contains all files, or "".
        probe: a file or folder below `root` that is always present.

    Returns:
        `ArchiveOrFolder`, or None if `raw_dir` contains neither the archive nor the unpacked
        folder.

    Raises:
        UserError: raw_dir does not exist.
    """
    if raw_dir and os.path.isfile(raw_dir):
        return ArchiveOrFolder(raw_dir, root, True)
    if not raw_dir or not os.path.isdir(raw_dir):
        raise UserError(f"expected raw_dir to be a folder, or {archive}; got {raw_dir!r}")
    for folder in dict.fromkeys((raw_dir, os.path.join(raw_dir, root))):
        if os.path.exists(os.path.join(folder, probe)):
            return ArchiveOrFolder(os.path.normpath(folder), root, False)
    path = os.path.join(raw_dir, archive)
    return ArchiveOrFolder(path, root, True) if os.path.isfile(path) else None


def list_tar(path):
    """Lists the regular files of a tar archive.

    Returns:
        Dict from name to `FileRange`, in the order of the archive. The dict is cached and must not
        be modified.

    Raises:
        UserError: the archive is truncated or corrupt, contains a name twice, or a name that leads
            out of the archive.
    """
    status = os.stat(path)
    return _list_tar(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=2)  # Several splits of a corpus list the same archive.
def _list_tar(path, size, mtime_ns):
    files = {}
    with open_stream(path) as stream:
        for name, file in iter_tar(stream, path):
            if name in files:
                raise UserError(f"{path} contains {name} twice; download it again")
            files[name] = file
        padding = 0
        while chunk := stream.read(_CHUNK):  # Reading to the end verifies the gzip checksum.
            padding += len(chunk)
            if padding > _MAX_PADDING:
                raise UserError(f"{path} contains data after the end of its tar; download it again")
    return files


def iter_tar(stream, path):
    """Yields (name, `FileRange`) of each regular file of the tar that starts at `stream.tell()`.

    Args:
        stream: a stream of `open_stream`. The caller may read from the stream between two files,
            but only forwards.
        path: path of the file that `stream` reads.

    Raises:
        UserError: a name leads out of the archive.
    """
    with tarfile.open(fileobj=stream, mode="r:", tarinfo=_StrictInfo) as tar:
        while (info := tar.next()) is not None:
            tar.members.clear()  # Saves memory: members are not accessed by name.
            if not info.isreg():
                continue
            name = info.name.removeprefix("./")
            check_member_name(path, name)
            yield name, FileRange(path, info.offset_data, info.size)


class _StrictInfo(tarfile.TarInfo):
    """Raises an error for a corrupt header, which `TarFile` would take for the end of the tar."""

    @classmethod
    def fromtarfile(cls, tar):
        try:
            info = super().fromtarfile(tar)
        except tarfile.EOFHeaderError:
            raise
        except (tarfile.HeaderError, ValueError, IndexError, OverflowError) as error:
            # Invalid numbers in pax headers raise a ValueError, and in sparse files an IndexError.
            raise tarfile.ReadError(str(error)) from error
        if not 0 <= info.size < _MAX_MEMBER:
            raise tarfile.ReadError(f"a member has {info.size} bytes")
        return info


@contextlib.contextmanager
def open_stream(path):
    """Opens a file for reading, decompressed if it is a gzip. A corrupt file raises UserError."""
    with (
        bounded_read.file_errors(path),
        gzip.open(path) if is_gzip(path) else open(path, "rb") as stream,
    ):
        yield stream


def is_gzip(path):
    """Returns whether a file starts with the magic bytes of gzip."""
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def skip_to(stream, offset):
    """Moves a stream of `open_stream` forwards to an offset."""
    if isinstance(stream, gzip.GzipFile):
        while (distance := offset - stream.tell()) > 0 and stream.read(min(distance, _CHUNK)):
            pass
    else:
        stream.seek(offset)


def read_range(stream, file):
    """Returns the bytes of a `FileRange`. Raises UserError if the file is truncated."""
    skip_to(stream, file.offset)
    data = stream.read(file.size)
    if len(data) != file.size:
        raise UserError(f"{file.path} is truncated; download it again")
    return data


def iter_images(files):
    """Yields for each `FileRange` (bytes of the file, None), or (None, reason) if it is unreadable.

    The files of one archive must be consecutive and in the order of the archive.
    """
    with contextlib.ExitStack() as stack:
        path = stream = None
        for file in files:
            if file.offset is not None and file.path != path:
                stack.close()
                path, stream = file.path, stack.enter_context(open_stream(file.path))
            yield read_image(stream, file)


def read_image(stream, file):
    """Returns the pair that `iter_images` yields for `file`; `stream`: the open archive or None."""
    if file.size > image_files.MAX_BYTES:
        return None, "image too large"
    if file.offset is not None:
        return read_range(stream, file), None
    try:
        with open(file.path, "rb") as image_file:
            return image_file.read(), None
    except OSError:
        return None, "image may not be read"


def fingerprint(path):
    """Returns a hash of an archive: of its size, its first bytes and its last bytes."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        digest = hashlib.sha256(b"%d," % size + file.read(_HASHED_BYTES))
        file.seek(max(0, size - _HASHED_BYTES))
        digest.update(file.read())
    return digest.hexdigest()
