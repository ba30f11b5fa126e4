"""Where indexed images come from: a folder of files, or record sets."""

import hashlib
import os

from tf_mural import files
from tf_mural.base import UserError
from tf_mural.records import DamagedRecord, RecordSet, deserialize

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp")


class FolderSource:
    """The images of a folder and of all below it, by suffix, in the order of their paths.

    Args:
        folder: path.

    Raises:
        UserError: there is no such folder, or no image in it.
    """

    def __init__(self, folder):
        if not os.path.isdir(folder):
            raise UserError(f"no folder {folder!r}")
        self.folder, self._paths = folder, []
        for parent, folders, names in os.walk(folder):
            folders.sort()
            chosen = [n for n in names if n.lower().endswith(SUFFIXES)]
            relative = os.path.relpath(parent, folder)
            self._paths += [os.path.normpath(os.path.join(relative, n)) for n in chosen]
        self._paths.sort()
        if not self._paths:
            raise UserError(f"{folder} holds no image: expected files {', '.join(SUFFIXES)}")

    def __len__(self):
        return len(self._paths)

    @property
    def about(self):
        """What the manifest says of it; another one when files came or went."""
        listing = hashlib.sha256("\n".join(self._paths).encode("utf-8", "surrogateescape"))
        return {"folder": os.path.abspath(self.folder), "listing": listing.hexdigest()[:16]}

    def item(self, number):
        """What the index says of an image."""
        return {"path": self._paths[number]}

    def read(self, item):
        """Encoded bytes of an item.

        Raises:
            OSError: the file is gone.
        """
        return files.read_bytes(os.path.join(self.folder, item["path"]))

    def name(self, item):
        """What people know it by."""
        path = os.path.join(self.folder, item["path"])
        return os.fsencode(path).decode("utf-8", "replace")


class RecordsSource:
    """The first images of the records of a set.

    Args:
        folder: of the set.

    Raises:
        UserError: there is none, or none of its records has an image.
    """

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


def open_source(about):
    """The source of a manifest's `source`."""
    return FolderSource(about["folder"]) if "folder" in about else RecordsSource(about["records"])
