"""Files in a tar, packed or not, or in the folder that it unpacks to.

A tar is read once, for the places of its files; each is then bytes at a known place. A gzip can be
read from its start alone, so what comes before a file is passed over.
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
_ENDS = 1 << 16  # bytes at either end of an archive that tell it from another
_MOST_PADDING = 64 << 20  # bytes that may follow the end of a tar


@dataclasses.dataclass(frozen=True)
class File:
    """`size` bytes at `offset` of an archive, of what it unpacks to where it is a gzip.

    Without an offset, it is all of the file at `path` as it stands.
    """

    path: str
    offset: int | None
    size: int


@dataclasses.dataclass(frozen=True)
class Place:
    """An archive, or the folder that it unpacks to.

    Attributes:
        path: of the archive, or of the folder `top` however it may be called.
        top: the folder in the archive that holds all the rest, or "".
        is_archive: which of the two it is.
    """

    path: str
    top: str
    is_archive: bool

    @property
    def is_packed(self):
        """Whether it can be read from its start alone."""
        return self.is_archive and is_gzip(self.path)

    def get(self, name):
        """The `File` of that name below `top`, or None."""
        if self.is_archive:
            return tar_files(self.path).get(f"{self.top}/{name}" if self.top else name)
        path = os.path.join(self.path, name)
        return File(path, None, os.path.getsize(path)) if os.path.isfile(path) else None

    def where(self, name):
        """Names a file in messages."""
        return os.path.join(self.path, name)

    def bytes(self, name):
        """All of a file. Raises UserError if it is not there, or much too large."""
        file, where = self.get(name), self.where(name)
        if file is None:
            raise UserError(f"{where} is missing; download it again")
        bounded_read.demand_size(file.size, where)
        if file.offset is None:
            return bounded_read.read(file.path)
        with opened(file.path) as stream:
            return read_at(stream, file)


def find(raw_dir, archive, top, probe):
    """Where a corpus is.

    Args:
        raw_dir: the archive, the folder that it unpacks to, or a folder that holds either.
        archive: its usual name.
        top: the folder in it that holds all the rest, or "".
        probe: a file or folder below `top` that is always there.

    Returns:
        A `Place`, or None if a folder holds neither.

    Raises:
        UserError: raw_dir does not exist.
    """
    if raw_dir and os.path.isfile(raw_dir):
        return Place(raw_dir, top, True)
    if not raw_dir or not os.path.isdir(raw_dir):
        raise UserError(f"expected raw_dir to be a folder, or {archive}; got {raw_dir!r}")
    for folder in dict.fromkeys((raw_dir, os.path.join(raw_dir, top))):
        if os.path.exists(os.path.join(folder, probe)):
            return Place(os.path.normpath(folder), top, False)
    path = os.path.join(raw_dir, archive)
    return Place(path, top, True) if os.path.isfile(path) else None


def tar_files(path):
    """The regular files of a tar, by name, in its order.

    Returns:
        Dict from name to `File`; not to be changed.

    Raises:
        UserError: it is cut short or broken, holds a name twice or one that leaves the archive.
    """
    status = os.stat(path)
    return _tar_files(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=2)  # The splits of a corpus share an archive.
def _tar_files(path, size, changed):
    found = {}
    with opened(path) as stream:
        for name, file in walk(stream, path):
            if name in found:
                raise UserError(f"{path} holds {name} twice; download it again")
            found[name] = file
        padding = 0
        while chunk := stream.read(_CHUNK):  # The checksum of a gzip comes last.
            padding += len(chunk)
            if padding > _MOST_PADDING:
                raise UserError(f"{path} goes on after the end of its tar; download it again")
    return found


def walk(stream, path):
    """Yields (name, `File`) of the regular files of the tar that starts where `stream` stands.

    Args:
        stream: of `opened`; whoever reads from it meanwhile goes forward only.
        path: of the file that it reads.

    Raises:
        UserError: a name leaves the archive.
    """
    with tarfile.open(fileobj=stream, mode="r:", tarinfo=_StrictInfo) as tar:
        while (info := tar.next()) is not None:
            tar.members.clear()  # They are kept for access by name, which nobody wants here.
            if not info.isreg():
                continue
            name = info.name.removeprefix("./")
            if name.startswith("/") or ".." in name.split("/"):
                raise UserError(f"{path} has {name!r}, a place outside of it; download it again")
            yield name, File(path, info.offset_data, info.size)


class _StrictInfo(tarfile.TarInfo):
    """Without it, tarfile takes a broken header for the end."""

    @classmethod
    def fromtarfile(cls, tar):
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from error


@contextlib.contextmanager
def opened(path):
    """Opens a file, unpacked where it is a gzip. Raises UserError if it is broken."""
    with (
        bounded_read.errors(path),
        gzip.open(path) if is_gzip(path) else open(path, "rb") as stream,
    ):
        yield stream


def is_gzip(path):
    """Whether a file begins as a gzip does."""
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def pass_to(stream, offset):
    """Goes forward to a place in a stream of `opened`."""
    if isinstance(stream, gzip.GzipFile):
        while (left := offset - stream.tell()) > 0 and stream.read(min(left, _CHUNK)):
            pass
    else:
        stream.seek(offset)


def read_at(stream, file):
    """The bytes of a `File`. Raises UserError if they are not all there."""
    pass_to(stream, file.offset)
    data = stream.read(file.size)
    if len(data) != file.size:
        raise UserError(f"{file.path} is cut short; download it again")
    return data


def contents(files):
    """Yields (bytes, None) of each `File` of a picture, or (None, why it was not read).

    Those of an archive come together, in its order.
    """
    with contextlib.ExitStack() as stack:
        path = stream = None
        for file in files:
            if file.offset is not None and file.path != path:
                stack.close()
                path, stream = file.path, stack.enter_context(opened(file.path))
            yield content(stream, file)


def content(stream, file):
    """The same of one file; `stream` of `opened` is where an archive is read."""
    if file.size > image_files.MOST_BYTES:
        return None, "image too large"
    if file.offset is not None:
        return read_at(stream, file), None
    try:
        with open(file.path, "rb") as plain:
            return plain.read(), None
    except OSError:
        return None, "image may not be read"


def identity(path):
    """A hash that tells an archive from another one, of its size and its two ends."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        digest = hashlib.sha256(b"%d," % size + file.read(_ENDS))
        file.seek(max(0, size - _ENDS))
        digest.update(file.read())
    return digest.hexdigest()
