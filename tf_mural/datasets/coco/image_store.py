"""Reads images by file name from folders and zips; zips are not unpacked."""

import contextlib
import os
import posixpath
import zipfile

from tf_mural.datasets import archives, bounded_read, image_files
from tf_mural.datasets.coco.karpathy import FOLDERS
from tf_mural.errors import UserError

_BASES = ("", "images", "coco", "coco/images")


def find_locations(raw_dir, images):
    """Returns the paths of the folders and zips that may contain images.

    Args:
        raw_dir: folder to which relative paths refer.
        images: base folders from the option `images`, or () for the default ones.

    Raises:
        UserError: a folder of the option does not exist.
    """
    bases = [os.path.normpath(os.path.join(raw_dir, folder)) for folder in images or _BASES]
    for base in bases if images else ():
        if not os.path.isdir(base):
            raise UserError(f"{base}, which the option images names, is not a folder")
    locations = []
    for base in bases:
        locations += [p for name in FOLDERS if os.path.isdir(p := os.path.join(base, name))]
        locations += [p for n in FOLDERS if os.path.isfile(p := os.path.join(base, f"{n}.zip"))]
        locations += [base] if os.path.isdir(base) else []
    return tuple(locations)


def select_locations(locations, names):
    """Returns the locations that are needed to read the named images, in the given order.

    An image that several locations contain is read from the first of them. The result is empty if
    no image exists. Raises UserError for a corrupt zip.
    """
    selected, missing = [], set(names)
    for location in locations:
        if not missing.isdisjoint(listed := _list_names(location)):
            selected.append(location)
            missing.difference_update(listed)
        if not missing:
            break
    return tuple(selected)


class ImageStore:
    """Context manager that reads images from some locations; the first location has priority.

    Args:
        locations: paths of folders and zips.
    """

    def __init__(self, locations):
        self._locations = locations

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self._zips = {}
            for location in self._locations:
                if not os.path.isdir(location):
                    archive = stack.enter_context(_open_zip(location))
                    self._zips[location] = archive, _list_zip(archive, location)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        self._stack.close()

    def size(self, name):
        """Returns the size of an image in bytes, or -1 if it does not exist."""
        location = self._locate(name)
        if location is None:
            return -1
        if location in self._zips:
            return self._zips[location][1][name].file_size
        return os.path.getsize(os.path.join(location, name))

    def load(self, name):
        """Returns (bytes of the file, None), or (None, reason) if the image cannot be used."""
        location = self._locate(name)
        if location is None:
            return None, "image missing"
        if location not in self._zips:
            return image_files.load_image(location, name, name)
        archive, members = self._zips[location]
        if members[name].file_size > image_files.MAX_BYTES:
            return None, "image too large"
        try:
            data = archive.read(members[name])
        except bounded_read.UNPACK_ERRORS:
            return None, "image does not unpack"
        return image_files.validate_image(data)

    def _locate(self, name):
        for location in self._locations:
            if location in self._zips:
                if name in self._zips[location][1]:
                    return location
            elif os.path.isfile(os.path.join(location, name)):
                return location
        return None


def _list_names(location):
    if os.path.isdir(location):
        return os.listdir(location)
    with _open_zip(location) as archive:
        return _list_zip(archive, location)


def _open_zip(path):
    with bounded_read.file_errors(path):
        return zipfile.ZipFile(path)


def _list_zip(archive, path):
    """Returns {file name: `zipfile.ZipInfo`} of the files in a zip."""
    infos = [info for info in archive.infolist() if not info.is_dir()]
    for info in infos:
        archives.check_member_name(path, info.filename)
    return {posixpath.basename(info.filename): info for info in infos}
