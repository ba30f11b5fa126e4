"""Photographs by their file names, in folders and in zips, which are not unpacked."""

import contextlib
import os
import posixpath
import zipfile

from tf_mural.datasets import bounded_read, image_files
from tf_mural.datasets.coco import files
from tf_mural.datasets.coco.karpathy import PARTS
from tf_mural.errors import UserError

_FOLDERS = ("", "images", "coco", "coco/images")


def places(raw_dir, images):
    """The folders and zips that may hold photographs.

    Args:
        raw_dir: folder that the others start from.
        images: folders that the user names; () for the usual ones.

    Raises:
        UserError: a folder that the user names is not there.
    """
    bases = [os.path.normpath(os.path.join(raw_dir, folder)) for folder in images or _FOLDERS]
    for base in bases if images else ():
        if not os.path.isdir(base):
            raise UserError(f"{base}, which the option images asks for, is no folder")
    found = []
    for base in bases:
        found += [path for part in PARTS if os.path.isdir(path := os.path.join(base, part))]
        found += [path for p in PARTS if os.path.isfile(path := os.path.join(base, f"{p}.zip"))]
        found += [base] if os.path.isdir(base) else []
    return tuple(found)


def holding(all_places, names):
    """The places that a set of names needs, the first first. Raises UserError for a broken zip.

    A name is looked up in one place after the other; those that no name is found in are left out.
    """
    found, missing = [], set(names)
    for place in all_places:
        if not missing.isdisjoint(listed := _listed(place)):
            found.append(place)
            missing.difference_update(listed)
        if not missing:
            break
    return tuple(found)


class Photographs:
    """Photographs of some places, for as long as its `with` lasts. The first place goes first."""

    def __init__(self, some_places):
        self._places = some_places

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self._zips = {}
            for place in self._places:
                if not os.path.isdir(place):
                    archive = stack.enter_context(_open(place))
                    self._zips[place] = archive, _members(archive, place)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        self._stack.close()

    def size(self, name):
        """How many bytes a photograph has, or -1 where there is none."""
        place = self._place(name)
        if place is None:
            return -1
        if place in self._zips:
            return self._zips[place][1][name].file_size
        return os.path.getsize(os.path.join(place, name))

    def load(self, name):
        """(bytes, None), or (None, reason) where a photograph cannot be used."""
        place = self._place(name)
        if place is None:
            return None, "image missing"
        if place not in self._zips:
            return image_files.load(place, name, name)
        archive, members = self._zips[place]
        if members[name].file_size > image_files.MOST_BYTES:
            return None, "image too large"
        try:
            data = archive.read(members[name])
        except bounded_read.BROKEN:
            return None, "image does not unpack"
        return image_files.usable(data)

    def _place(self, name):
        for place in self._places:
            if place in self._zips:
                if name in self._zips[place][1]:
                    return place
            elif os.path.isfile(os.path.join(place, name)):
                return place
        return None


def _listed(place):
    if os.path.isdir(place):
        return os.listdir(place)
    with _open(place) as archive:
        return _members(archive, place)


def _open(path):
    with bounded_read.errors(path):
        return zipfile.ZipFile(path)


def _members(archive, path):
    """{file name: its entry} of a zip."""
    infos = [info for info in archive.infolist() if not info.is_dir()]
    files.demand_inside(path, (info.filename for info in infos))
    return {posixpath.basename(info.filename): info for info in infos}
