"""Files of a name, plain or inside of an archive, and the JSON in them."""

import dataclasses
import json
import os
import posixpath
import zipfile

from tf_mural.datasets import bounded_read, text_lines
from tf_mural.datasets.classification import archives
from tf_mural.errors import UserError

FOLDERS = ("", "annotations", "STAIR-captions", "caption_datasets", "coco", "coco/annotations")
_ZIPS, _TARS = (".zip",), (".tar.gz", ".tgz", ".tar")


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


def find(raw_dir, name, packed=()):
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
    for archive in (f"{name}.tar.gz", *packed):
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
    if file.path.endswith(_ZIPS):
        return bounded_read.of_zip(file.path, file.member)
    if file.path.endswith(_TARS):
        return archives.Place(file.path, "", True).bytes(file.member)
    return bounded_read.read(file.path)


def read_json(file, shorten=None):
    """What the JSON of a `File` says; see `parse_json`. Raises UserError if it is not UTF-8 too."""
    return parse_json(text_lines.decoded(read(file), file), file, shorten)


def parse_json(text, where, shorten=None):
    """What JSON says.

    Args:
        text: the JSON.
        where: names it in messages.
        shorten: function from each object, as soon as it is read, to what is to stand for it: what
            is left out takes no memory.

    Raises:
        UserError: it is none.
    """
    try:
        return json.loads(text, object_hook=shorten)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: expected JSON, got {text[:40]!r} ({error})") from error


def _members(path):
    """Names of the files in an archive."""
    if path.endswith(_TARS):
        names = list(archives.tar_files(path))
    else:
        with bounded_read.errors(path), zipfile.ZipFile(path) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
    demand_inside(path, names)
    return [name for name in names if not posixpath.basename(name).startswith(".")]


def demand_inside(path, names):
    """Raises UserError if a name in an archive leads out of it."""
    for name in names:
        if name.startswith("/") or ".." in name.split("/"):
            raise UserError(f"{path} has {name!r}, a place outside of it; download it again")
