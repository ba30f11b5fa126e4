"""Finds a file by name, also inside an archive, and reads it, optionally as JSON."""

import dataclasses
import json
import os
import posixpath
import zipfile

from tf_mural.datasets import archives, bounded_read
from tf_mural.errors import UserError

FOLDERS = ("", "annotations", "STAIR-captions", "caption_datasets", "coco", "coco/annotations")
_ZIPS, _TARS = (".zip",), (".tar.gz", ".tgz", ".tar")


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """The file at `path` or, with `member`, the file of that name in the archive at `path`."""

    path: str
    member: str = ""

    def __str__(self):
        return f"{self.member} of {self.path}" if self.member else self.path

    @property
    def name(self):
        """The file name without folders and without .gz."""
        return posixpath.basename(self.member or self.path).removesuffix(".gz")


def find(raw_dir, name, archive_names=()):
    """Finds a file in `FOLDERS`: as `name`, as `name`.gz, or in an archive.

    Args:
        raw_dir: folder that `FOLDERS` are relative to.
        name: file name.
        archive_names: file names of archives that may contain the file, in addition to
            `name`.tar.gz.

    Returns:
        `SourceFile`, or None.

    Raises:
        UserError: raw_dir is not a folder, or an archive is corrupt.
    """
    archives.check_raw_dir(raw_dir)
    folders = [os.path.normpath(os.path.join(raw_dir, folder)) for folder in FOLDERS]
    for file_name in (name, f"{name}.gz"):
        for folder in folders:
            if os.path.isfile(path := os.path.join(folder, file_name)):
                return SourceFile(path)
    for archive_name in (f"{name}.tar.gz", *archive_names):
        for folder in folders:
            if os.path.isfile(path := os.path.join(folder, archive_name)):
                for member in _list_members(path):
                    if posixpath.basename(member) == name:
                        return SourceFile(path, member)
    return None


def from_option(path):
    """Returns the `SourceFile` of a path from the option `texts`.

    If the path is an archive, it must contain exactly one file.

    Raises:
        UserError: the file does not exist, or the archive is corrupt or contains several files.
    """
    if not os.path.isfile(path):
        raise UserError(f"{path}, which the option texts names, is not a file")
    if not path.endswith(_ZIPS + _TARS):
        return SourceFile(path)
    members = _list_members(path)
    if len(members) != 1:
        listed = ", ".join(members[:5]) or "none"
        raise UserError(f"{path}: expected one file in it, got {listed}; unpack it and name one")
    return SourceFile(path, members[0])


def read_bytes(file):
    """Returns the bytes of a `SourceFile`. Raises UserError if the file is corrupt or too large."""
    if file.path.endswith(_ZIPS):
        return bounded_read.read_zip_member(file.path, file.member)
    if file.path.endswith(_TARS):
        return archives.ArchiveOrFolder(file.path, "", True).read(file.member)
    return bounded_read.read_bytes(file.path)


def read_json(file, object_hook=None):
    """Returns the JSON data of a `SourceFile`. Raises UserError for other data."""
    return parse_json(bounded_read.decode_utf8(read_bytes(file), file), file, object_hook)


def parse_json(text, location, object_hook=None):
    """Parses JSON.

    Args:
        text: str.
        location: name of the text for messages.
        object_hook: as for `json.loads`. The hook is called as soon as an object is parsed; values
            that the hook drops do not stay in memory.

    Returns:
        The parsed data.

    Raises:
        UserError: the text is not JSON.
    """
    try:
        return json.loads(text, object_hook=object_hook)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{location}: expected JSON, got {text[:40]!r} ({error})") from error


def _list_members(path):
    """Returns the names of the files in an archive, without hidden ones."""
    if path.endswith(_TARS):
        names = list(archives.list_tar(path))
    else:
        with bounded_read.file_errors(path), zipfile.ZipFile(path) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
    for name in names:
        archives.check_member_name(path, name)
    return [name for name in names if not posixpath.basename(name).startswith(".")]
