"""Where indexed images come from: a folder of files, or record sets."""

import hashlib
import os

from tf_mural import file_io
from tf_mural.data.records import DamagedRecord, RecordSet, deserialize
from tf_mural.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp")
_OTHERS = (".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".svg", ".dng")


class FolderSource:
    """The images of a folder and of all below it, by suffix, in the order of their paths.

    Args:
        folder: path.

    Attributes:
        passed_over: (path, reason) pairs: folders that cannot be read or that are links, images of
            formats that are not read.

    Raises:
        UserError: there is no such folder, or no image in it.
    """

    def __init__(self, folder):
        if not os.path.isdir(folder):
            raise UserError(f"no folder {folder!r}")
        self.folder, self._paths, self.passed_over = folder, [], []
        for parent, folders, names in os.walk(folder, onerror=self._unreadable):
            folders.sort()
            for name in folders:
                if os.path.islink(os.path.join(parent, name)):
                    self._pass_over(os.path.join(parent, name), "a link to a folder")
            for name in names:
                path = os.path.normpath(os.path.join(os.path.relpath(parent, folder), name))
                suffix = os.path.splitext(name)[1].lower()
                if suffix in SUFFIXES:
                    self._paths.append(path)
                elif suffix in _OTHERS:
                    self._pass_over(os.path.join(folder, path), f"images {suffix} are not read")
        self._paths.sort()
        self.passed_over.sort()
        if not self._paths:
            others = "".join(f"; {path}: {reason}" for path, reason in self.passed_over[:3])
            raise UserError(
                f"{folder} holds no image: expected files {', '.join(SUFFIXES)}{others}"
            )

    def __len__(self):
        return len(self._paths)

    @property
    def about(self):
        """What the manifest says of it; another one when files came, went or changed."""
        listing = hashlib.sha256()
        for path in self._paths:
            try:
                status = os.stat(os.path.join(self.folder, path))
                state = f"{status.st_size} {status.st_mtime_ns}"
            except OSError as error:  # which reading it will tell
                state = str(error.errno)
            listing.update(f"{path}\n{state}\n".encode("utf-8", "surrogateescape"))
        return {"folder": os.path.abspath(self.folder), "listing": listing.hexdigest()[:16]}

    def item(self, number):
        """What the index says of an image."""
        return {"path": self._paths[number]}

    def read(self, item):
        """Encoded bytes of an item.

        Raises:
            OSError: the file is gone.
        """
        return file_io.read_bytes(os.path.join(self.folder, item["path"]))

    def name(self, item):
        """What people know it by."""
        return _shown(os.path.join(self.folder, item["path"]))

    def _unreadable(self, error):
        self._pass_over(error.filename, f"a folder: {error.strerror}")

    def _pass_over(self, path, reason):
        self.passed_over.append((_shown(path), reason))


class RecordsSource:
    """The first images of the records of a set.

    Args:
        folder: of the set.

    Attributes:
        passed_over: nothing; see `FolderSource`.

    Raises:
        UserError: there is none, or none of its records has an image.
    """

    passed_over = ()

    def __init__(self, folder):
        self.folder, self._set = folder, RecordSet.open(folder)
        if not self._set.manifest["images"]:
            raise UserError(f"{folder} holds no image")

    def __len__(self):
        return len(self._set)

    @property
    def about(self):
        """What the manifest says of it."""
        return {"records": os.path.abspath(self.folder), "digest": self._set.digest}

    def item(self, number):
        """What the index says of an image."""
        try:
            record = self._record(number)
        except OSError:  # which reading it will tell
            return {"record": number, "id": "", "texts": []}
        return {"record": number, "id": record.id, "texts": [list(text) for text in record.texts]}

    def read(self, item):
        """Encoded bytes of an item.

        Raises:
            OSError: the record is damaged, or has no image.
        """
        images = self._record(item["record"]).images
        if not images:
            raise OSError("the record has no image")
        return images[0]

    def name(self, item):
        """What people know it by."""
        return f"{self.folder}: {item['id'] or item['record']}"

    def _record(self, number):
        try:
            return deserialize(self._set.read([number], verify=True)[0])
        except (DamagedRecord, ValueError) as error:
            raise OSError(f"a damaged record ({error})") from error


def _shown(path):
    """A path as text, whose name need not be UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")


def open_source(about):
    """The source of a manifest's `source`.

    Raises:
        UserError: it is not there any more.
    """
    return FolderSource(about["folder"]) if "folder" in about else RecordsSource(about["records"])
