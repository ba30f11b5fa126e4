"""Sources of the images of an index: a folder of image files, or a record set."""

import hashlib
import os

from tf_mural import file_io
from tf_mural.data.image_normalization import stored_images_note
from tf_mural.data.records import DamagedRecord, RecordSet, deserialize
from tf_mural.errors import StorageError, UserError

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp")
_UNSUPPORTED_SUFFIXES = (
    ".tif",
    ".tiff",
    ".heic",
    ".heif",
    ".avif",
    ".jp2",
    ".jxl",
    ".svg",
    ".dng",
)


class FolderSource:
    """The image files in a folder and its subfolders, selected by suffix and sorted by path.

    Args:
        folder: path of the folder.

    Attributes:
        skipped: (path, reason) pairs of folders that cannot be read or are links, and of images of
            unsupported formats.
        note: always ""; see `RecordsSource`.

    Raises:
        UserError: the folder does not exist or contains no image.
    """

    note = ""

    def __init__(self, folder):
        if not os.path.isdir(folder):
            raise UserError(f"there is no folder {folder!r}")
        self.folder, self._paths, self.skipped = folder, [], []
        for parent, folders, names in os.walk(folder, onerror=self._skip_unreadable):
            folders.sort()
            for name in folders:
                if os.path.islink(os.path.join(parent, name)):
                    self._skip(os.path.join(parent, name), "a link to a folder")
            for name in names:
                path = os.path.normpath(os.path.join(os.path.relpath(parent, folder), name))
                suffix = os.path.splitext(name)[1].lower()
                if suffix in SUFFIXES:
                    self._paths.append(path)
                elif suffix in _UNSUPPORTED_SUFFIXES:
                    reason = f"{suffix} images are not supported"
                    self._skip(os.path.join(folder, path), reason)
        self._paths.sort()
        self.skipped.sort()
        if not self._paths:
            listed = "".join(f"; {path}: {reason}" for path, reason in self.skipped[:3])
            raise UserError(
                f"{folder} contains no image: expected files {', '.join(SUFFIXES)}{listed}"
            )

    def __len__(self):
        return len(self._paths)

    @property
    def spec(self):
        """Dict for the manifest, with a hash of the paths, sizes and times of the files."""
        listing = hashlib.sha256()
        for path in self._paths:
            try:
                status = os.stat(os.path.join(self.folder, path))
                state = f"{status.st_size} {status.st_mtime_ns}"
            except OSError as error:  # `read` reports the error
                state = str(error.errno)
            listing.update(f"{path}\n{state}\n".encode("utf-8", "surrogateescape"))
        return {"folder": os.path.abspath(self.folder), "listing": listing.hexdigest()[:16]}

    def item(self, index):
        """Returns the dict of an image for the index: {"path"}, relative to the folder."""
        return {"path": self._paths[index]}

    def read(self, item):
        """Returns the bytes of the image file. Raises OSError if the file does not exist."""
        return file_io.read_bytes(os.path.join(self.folder, item["path"]))

    def display_name(self, item):
        """Returns the path of an item for messages."""
        return _printable(os.path.join(self.folder, item["path"]))

    def _skip_unreadable(self, error):
        self._skip(error.filename, f"a folder: {error.strerror}")

    def _skip(self, path, reason):
        self.skipped.append((_printable(path), reason))


class RecordsSource:
    """The first image of each record of a record set.

    Args:
        folder: folder of the record set.

    Attributes:
        skipped: always empty; see `FolderSource`.
        note: a sentence about the images of the record set, or "".

    Raises:
        UserError: the folder is not a record set, or none of its records has an image.
    """

    skipped = ()

    def __init__(self, folder):
        self.folder, self._set = folder, RecordSet.open(folder)
        if not self._set.manifest["images"]:
            raise UserError(f"{folder} contains no image")
        self.note = stored_images_note(folder, self._set.manifest)

    def __len__(self):
        return len(self._set)

    @property
    def spec(self):
        """Dict that describes the record set in the manifest."""
        return {"records": file_io.absolute(self.folder), "digest": self._set.digest}

    def item(self, index):
        """Returns the dict of a record for the index: {"record", "id", "texts"}."""
        try:
            record = self._record(index)
        except StorageError:
            raise
        except OSError:  # `read` reports the error
            return {"record": index, "id": "", "texts": []}
        return {"record": index, "id": record.id, "texts": [list(text) for text in record.texts]}

    def read(self, item):
        """Returns the image of an item as bytes (JPEG or PNG, for example).

        Raises:
            OSError: the record is damaged, or has no image.
        """
        images = self._record(item["record"]).images
        if not images:
            raise OSError("the record has no image")
        return images[0]

    def display_name(self, item):
        """Returns the name of an item for messages."""
        return f"{self.folder}: {item['id'] or item['record']}"

    def _record(self, index):
        try:
            return deserialize(self._set.read([index], verify=True)[0])
        except (DamagedRecord, ValueError) as error:
            raise OSError(f"a damaged record ({error})") from error


def _printable(path):
    """Returns a path as valid Unicode, even if the file name is not valid UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")


def open_source(spec):
    """Returns the source that `spec` of a manifest describes.

    Args:
        spec: the value of "source" in a manifest.

    Raises:
        UserError: the folder of the source does not exist.
    """
    return FolderSource(spec["folder"]) if "folder" in spec else RecordsSource(spec["records"])
