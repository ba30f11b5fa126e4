"""Reads the photographs of Flickr30K from folders or from the published archive.

A tar is read at the offsets of its files. A gzip stream is decompressed from its start, in memory:
once to list its files, and once per split.
"""

import os

from tf_mural.datasets import archives, image_files
from tf_mural.errors import UserError

_FOLDERS = (
    "flickr30k-images",
    "flickr30k/flickr30k-images",
    "flickr30k_images/flickr30k_images",
)
_SUFFIXES = (".tar.gz", ".tgz", ".tar")


def find_locations(raw_dir, images):
    """Returns the paths of the folders and archives that contain photographs.

    Args:
        raw_dir: folder to which relative paths refer.
        images: folders and archives from the option `images`. () means the default: all
            existing folders of `_FOLDERS` or, if no such folder exists, the first existing archive
            whose path is one of `_FOLDERS` plus one of `_SUFFIXES`.

    Raises:
        UserError: raw_dir is not a folder, a location of the option does not exist, or no default
            location exists.
    """
    archives.check_raw_dir(raw_dir)
    paths = [os.path.join(raw_dir, name) for name in images or _FOLDERS]
    locations = [path for path in paths if os.path.isdir(path) or (images and _is_archive(path))]
    if not images and not locations:
        archive_paths = (path + suffix for path in paths for suffix in _SUFFIXES)
        locations = [path for path in archive_paths if _is_archive(path)][:1]
    missing = [p for p in paths if p not in locations] if images or not locations else []
    if missing:
        archive = "" if images else f", nor {os.path.basename(_FOLDERS[0])}{_SUFFIXES[0]}"
        raise UserError(
            f"no photographs of Flickr30K in {' or '.join(missing)}{archive}; set the option "
            "images to their folder or archive"
        )
    return tuple(locations)


def find_in_archives(locations, names):
    """Finds images in archives.

    Args:
        locations: result of `find_locations`.
        names: file names.

    Returns:
        List with one entry per name: an `archives.FileRange`, or None if the image is in no archive
        or in a folder that precedes the archive in `locations`.

    Raises:
        UserError: an archive is corrupt, contains a name twice or a name that leads out of it.
    """
    files = {}
    if all(map(os.path.isdir, locations)):
        return [None] * len(names)
    for location in locations:
        if os.path.isdir(location):
            paths = ((name, os.path.join(location, name)) for name in names)
            location_files = {name: None for name, path in paths if os.path.isfile(path)}
        else:
            location_files = _list_archive(location)
        files = {**location_files, **files}
    return [files.get(name) for name in names]


def any_gzip(locations):
    """Returns whether a location is a gzip stream, which can only be read from its start."""
    return any(os.path.isfile(path) and archives.is_gzip(path) for path in locations)


def iter_images(locations, files):
    """Yields for each image (bytes of the file, None), or (None, reason) if it is unusable.

    Args:
        locations: result of `find_locations`.
        files: (name, `archives.FileRange` or None) pairs; images of a gzip must be in the order of
            the archive.
    """
    folders = [location for location in locations if os.path.isdir(location)]
    contents = archives.iter_images(file for _, file in files if file is not None)
    for name, file in files:
        if file is None:
            yield _load_from_folders(folders, name)
        else:
            data, reason = next(contents)
            yield (None, reason) if reason else image_files.validate_image(data)


def any_exists(locations, names):
    """Returns whether at least one of the named images exists."""
    folders = [location for location in locations if os.path.isdir(location)]
    if any(os.path.isfile(os.path.join(folder, name)) for name in names for folder in folders):
        return True
    return any(file is not None for file in find_in_archives(locations, names))


def update_digest(digest, locations, names):
    """Adds the file sizes in folders, and the fingerprints of archives, to a hash.

    Args:
        digest: hash of hashlib.
        locations: result of `find_locations`.
        names: file names.
    """
    for location in locations:
        if not os.path.isdir(location):
            digest.update(archives.fingerprint(location).encode())
            continue
        for name in names:
            path = os.path.join(location, name)
            digest.update(b"%d," % (os.path.getsize(path) if os.path.isfile(path) else -1))


def _is_archive(path):
    return path.endswith(_SUFFIXES) and os.path.isfile(path)


def _list_archive(path):
    """Returns {file name: `archives.FileRange`} of the files in an archive."""
    files = {}
    for member, file in archives.list_tar(path).items():
        name = os.path.basename(member)
        if name.startswith("."):  # metadata files of macOS
            continue
        if name in files:
            raise UserError(f"{path} contains {name} twice; download it again")
        files[name] = file
    return files


def _load_from_folders(folders, name):
    data, reason = None, "image missing"
    for folder in folders:
        data, reason = image_files.load_image(folder, name, "image_splits")
        if reason != "image missing":
            break
    return data, reason
