"""Where the photographs are: in folders, or in the archive that the corpus is handed out as.

A tar is read at the places of its files. A gzip is unpacked from its start on, in memory: once to
see what it holds, and once for each split.
"""

import os

from tf_mural.datasets import image_files
from tf_mural.datasets.classification import archives
from tf_mural.errors import UserError

_FOLDERS = (
    "flickr30k-images",
    "flickr30k/flickr30k-images",
    "flickr30k_images/flickr30k_images",
)
_ENDINGS = (".tar.gz", ".tgz", ".tar")


def places(raw_dir, images):
    """The folders and archives of photographs; of the usual ones folders, or else an archive.

    Args:
        raw_dir: folder that the others start from.
        images: folders and archives that the user names; () for the usual ones.

    Raises:
        UserError: raw_dir is no folder, or one that is named, or any at all, is not there.
    """
    if not raw_dir or not os.path.isdir(raw_dir):
        raise UserError(f"expected raw_dir to be a folder; {raw_dir!r} is none")
    paths = [os.path.join(raw_dir, name) for name in images or _FOLDERS]
    found = [path for path in paths if os.path.isdir(path) or (images and _is_archive(path))]
    if not images and not found:
        packed = (path + ending for path in paths for ending in _ENDINGS)
        found = [path for path in packed if _is_archive(path)][:1]
    missing = [path for path in paths if path not in found] if images or not found else []
    if missing:
        packed = "" if images else f", nor {os.path.basename(_FOLDERS[0])}{_ENDINGS[0]}"
        raise UserError(
            f"no photographs of Flickr30K in {' or '.join(missing)}{packed}; say with the option "
            "images where they are"
        )
    return tuple(found)


def placed(some_places, names):
    """Where each of some photographs is in an archive.

    Args:
        some_places: of `places`.
        names: file names.

    Returns:
        List of `archives.File`, or None for one that is in none, or in a folder that goes first.

    Raises:
        UserError: an archive does not unpack, or holds a name twice or one that leaves it.
    """
    found = {}
    if all(map(os.path.isdir, some_places)):
        return [None] * len(names)
    for place in some_places:
        if os.path.isdir(place):
            there = {name: None for name in names if os.path.isfile(os.path.join(place, name))}
        else:
            there = _members(place)
        found = {**there, **found}
    return [found.get(name) for name in names]


def is_packed(some_places):
    """Whether any of the places can be read from its start alone."""
    return any(os.path.isfile(place) and archives.is_gzip(place) for place in some_places)


def load(some_places, wanted):
    """Yields (bytes, None), or (None, reason), of each of some photographs.

    Args:
        some_places: of `places`.
        wanted: (name, `archives.File` or None) pairs; those of a gzip in its order.
    """
    folders = [place for place in some_places if os.path.isdir(place)]
    contents = archives.contents(file for _, file in wanted if file is not None)
    for name, file in wanted:
        if file is None:
            yield _of_folders(folders, name)
        else:
            data, reason = next(contents)
            yield (None, reason) if reason else image_files.usable(data)


def any_there(some_places, names):
    """Whether at least one of some photographs is there."""
    folders = [place for place in some_places if os.path.isdir(place)]
    if any(os.path.isfile(os.path.join(folder, name)) for name in names for folder in folders):
        return True
    return any(file is not None for file in placed(some_places, names))


def note(digest, some_places, names):
    """Adds to a hash which photographs there are: of a folder their sizes, of an archive its ends.

    Args:
        digest: hash of hashlib.
        some_places: of `places`.
        names: file names.
    """
    for place in some_places:
        if not os.path.isdir(place):
            digest.update(archives.identity(place).encode())
            continue
        for name in names:
            path = os.path.join(place, name)
            digest.update(b"%d," % (os.path.getsize(path) if os.path.isfile(path) else -1))


def _is_archive(path):
    return path.endswith(_ENDINGS) and os.path.isfile(path)


def _members(path):
    """{file name: its `archives.File`}."""
    found = {}
    for member, file in archives.tar_files(path).items():
        name = os.path.basename(member)
        if name.startswith("."):  # what macOS keeps beside files
            continue
        if name in found:
            raise UserError(f"{path} holds {name} twice; download it again")
        found[name] = file
    return found


def _of_folders(folders, name):
    data, reason = None, "image missing"
    for folder in folders:
        data, reason = image_files.load(folder, name, "image_splits")
        if reason != "image missing":
            break
    return data, reason
