"""Files of a name, plain or inside of an archive, and the JSON in them."""

import contextlib
import dataclasses
import gzip
import json
import os
import posixpath
import tarfile
import zipfile
import zlib

from tf_mural.base import UserError
from tf_mural.datasets import lines

FOLDERS = ("", "annotations", "STAIR-captions", "caption_datasets", "coco", "coco/annotations")
_ZIPS, _TARS = (".zip",), (".tar.gz", ".tgz", ".tar")
_MOST_BYTES = 4 << 30  # of a file, unpacked; those of COCO have a few hundred megabytes at most
_BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    NotImplementedError,  # a compression that Python does not know
    RuntimeError,  # an encrypted member
)


@dataclasses.dataclass(frozen=True)
class File:
    """A file, or where `member` is given, what an archive has by that name."""

    path: str
    member: str = ""

    def __str__(self):
        return f"{self.member} of {self.path}" if self.member else self.path

    @property
    def name(self):
        """Its own name, without folders and packing."""
        return posixpath.basename(self.member or self.path).removesuffix(".gz")


def find(raw_dir, name, archives=()):
    """The `File` of a name in one of `FOLDERS`, packed or not, or in an archive there, or None.

    Raises:
        UserError: raw_dir is no folder, or an archive on the way is broken.
    """
    if not raw_dir or not os.path.isdir(raw_dir):
        raise UserError(f"expected raw_dir to be a folder; {raw_dir!r} is none")
    folders = [os.path.normpath(os.path.join(raw_dir, below)) for below in FOLDERS]
    for plain in (name, f"{name}.gz"):
        for folder in folders:
            if os.path.isfile(path := os.path.join(folder, plain)):
                return File(path)
    for archive in (f"{name}.tar.gz", *archives):
        for folder in folders:
            if os.path.isfile(path := os.path.join(folder, archive)):
                for member in _members(path):
                    if posixpath.basename(member) == name:
                        return File(path, member)
    return None


def given(path):
    """The `File` at a path that the user gives: of an archive the only one in it.

    Raises:
        UserError: there is none, or an archive has several or is broken.
    """
    if not os.path.isfile(path):
        raise UserError(f"{path}, which the option texts asks for, is no file")
    if not path.endswith(_ZIPS + _TARS):
        return File(path)
    members = _members(path)
    if len(members) != 1:
        listed = ", ".join(members[:5]) or "none"
        raise UserError(f"{path}: expected one file in it, got {listed}; unpack it and name one")
    return File(path, members[0])


def read(file):
    """The bytes of a `File`. Raises UserError where it does not unpack or is much too large."""
    with _opened(file) as stream:
        data = stream.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise UserError(f"{file} unpacks to more than {_MOST_BYTES:,} bytes; is it of COCO?")
    return data


def read_json(file):
    """What the JSON of a `File` says. Raises UserError where it is none, or not UTF-8."""
    return parse_json("\n".join(lines.split(read(file), file)), file)


def parse_json(text, where):
    """What JSON says; `where` names it. Raises UserError where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: expected JSON, got {text[:40]!r} ({error})") from error


@contextlib.contextmanager
def _opened(file):
    with _archive_errors(file), contextlib.ExitStack() as stack:
        if file.path.endswith(_ZIPS):
            archive = stack.enter_context(zipfile.ZipFile(file.path))
            yield stack.enter_context(archive.open(file.member))
        elif file.path.endswith(_TARS):
            archive = stack.enter_context(tarfile.open(file.path))
            yield stack.enter_context(archive.extractfile(file.member))
        elif file.path.endswith(".gz"):
            yield stack.enter_context(gzip.open(file.path))
        else:
            yield stack.enter_context(open(file.path, "rb"))


def _members(path):
    """Names of the files in an archive."""
    with _archive_errors(path):
        if path.endswith(_ZIPS):
            with zipfile.ZipFile(path) as archive:
                names = [info.filename for info in archive.infolist() if not info.is_dir()]
        else:
            with tarfile.open(path) as archive:
                names = [member.name for member in archive if member.isfile()]
    demand_inside(path, names)
    return [name for name in names if not posixpath.basename(name).startswith(".")]


def demand_inside(path, names):
    """Raises UserError if a name in an archive leads out of it."""
    for name in names:
        if name.startswith("/") or ".." in name.split("/"):
            raise UserError(f"{path} has {name!r}, a place outside of it; download it again")


@contextlib.contextmanager
def _archive_errors(where):
    try:
        yield
    except _BROKEN as error:
        why = str(error).partition(":\n")[0]  # tarfile lists each packing that it is not
        raise UserError(f"{where} does not unpack ({why}); download it again") from error
