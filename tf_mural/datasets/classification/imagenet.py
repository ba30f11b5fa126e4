"""`imagenet`: ILSVRC 2012, 1.28 million photographs of 1,000 classes, and 50,000 to validate on.

The label is the place of the class among the WordNet ids in alphabetical order, as lists of class
names have it; the numbers of the development kit, which the labels of the validation set come in,
have another order. The id is the file's name ("n01440764_10026", "ILSVRC2012_val_00000001").

A few photographs are CMYK, and one is a PNG in spite of its name; the input pipeline decodes both.

tensorflow-datasets has this corpus too, from the same files by hand; it would bring its own format.
"""

import dataclasses
import hashlib
import itertools
import os
import re

from tf_mural.datasets.classification import archives, devkit, listed
from tf_mural.errors import UserError, lookup

SPLITS = ("train", "val")
AUGMENTATIONS = ("crop", "flip")
_TRAIN, _VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
_HOME = "https://image-net.org/download-images"
_WNID = re.compile(r"n\d{8}")
_CLASSES = 1000
_MOST_UNITS = 256  # Every shard of a set is an open file while it is read.


@dataclasses.dataclass(frozen=True)
class Class:
    """The training photographs of one class: an inner tar, or a folder where `tar` is None."""

    label: int
    wnid: str
    folder: str
    tar: archives.File | None


@dataclasses.dataclass(frozen=True)
class ClassesUnit:
    """The training photographs of some classes."""

    classes: tuple[Class, ...]


def plan(raw_dir: str, split: str):
    """Finds the classes; reads no photograph.

    Args:
        raw_dir: a folder that holds, for train, ILSVRC2012_img_train.tar, or a folder train of
            the tars in it or of what those unpack to; for val ILSVRC2012_img_val.tar or a folder
            val, and ILSVRC2012_devkit_t12.tar.gz or the folder that it unpacks to.
        split: train or val.

    Returns:
        List of `ClassesUnit` for train, `listed.Unit` for val.

    Raises:
        UserError: files that are missing or broken, or not of 1,000 classes.
    """
    lookup(dict.fromkeys(SPLITS), split, "split of imagenet")
    if split == "train":
        places = _training(raw_dir)
        found = [Class(n, wnid, *places[wnid]) for n, wnid in enumerate(_wnids(raw_dir, places))]
        count = min(len(found), _MOST_UNITS)
        cuts = [len(found) * number // count for number in range(count + 1)]
        return [ClassesUnit(tuple(found[a:b])) for a, b in itertools.pairwise(cuts)]
    return listed.plan(*_validation(raw_dir))


def read(unit):
    """Yields a `Record` or `Dropped` for each photograph of a unit.

    Raises:
        UserError: an inner tar is cut short, or holds a name twice or one that leaves it; or a
            class has no photographs.
    """
    if isinstance(unit, listed.Unit):
        yield from listed.read(unit)
        return
    for one in unit.classes:
        name = None
        for name, content in _of_folder(one.folder) if one.tar is None else _of_tar(one.tar):
            yield listed.record(os.path.splitext(name)[0], content, one.label)
        if name is None:
            raise UserError(f"{one.folder} has no photographs of {one.wnid}; download it again")


def splits(raw_dir):
    """The splits whose photographs are there."""
    found = {"train": _place(raw_dir, _TRAIN, "train"), "val": _place(raw_dir, _VAL, "val")}
    return tuple(split for split in SPLITS if found[split]) or SPLITS


def classes(raw_dir):
    """The names of the labels in order, such as "tench, Tinca tinca"; ids without the kit."""
    if kit := devkit.find(raw_dir):
        return [one.words for one in devkit.synsets(kit)]
    return _wnids(raw_dir, _training(raw_dir))


def fingerprint(raw_dir, split):
    """A hash of the archive or of which photographs there are, and of the labels."""
    if split == "val":
        return listed.fingerprint(*_validation(raw_dir))
    digest = hashlib.sha256()
    places = _training(raw_dir)
    for wnid in _wnids(raw_dir, places):
        folder, tar = places[wnid]
        count = len(os.listdir(folder)) if tar is None else (tar.offset, tar.size)
        digest.update(repr((wnid, count)).encode())
    return digest.hexdigest()


def _place(raw_dir, archive, folder):
    """`Place` of the photographs of a split, or None."""
    if not raw_dir or not os.path.isdir(raw_dir):
        raise UserError(f"expected raw_dir to be a folder; {raw_dir!r} is none")
    for name in (folder, archive.removesuffix(".tar")):
        if os.path.isdir(path := os.path.join(raw_dir, name)):
            return archives.Place(path, "", False)
    path = os.path.join(raw_dir, archive)
    return archives.Place(path, "", True) if os.path.isfile(path) else None


def _given(raw_dir, archive, folder):
    place = _place(raw_dir, archive, folder)
    if place is None:
        raise UserError(
            f"expected {archive}, or the folder {folder}, in {raw_dir}; download it from {_HOME}"
        )
    return place


# --- validation -----------------------------------------------------------------------------------


def _validation(raw_dir):
    """(Place, tuples (file, id, label)) of the validation set."""
    place = _given(raw_dir, _VAL, "val")
    kit = devkit.find(raw_dir)
    if kit is None:
        raise UserError(
            f"expected {devkit.ARCHIVE} in {raw_dir}, for the labels; download it from {_HOME}"
        )
    synsets = devkit.synsets(kit)
    _check_count(len(synsets), kit.path)
    label_of = {one.number: label for label, one in enumerate(synsets)}
    wanted = []
    for number, found in enumerate(devkit.truth(kit), 1):
        id = f"ILSVRC2012_val_{number:08d}"
        if found not in label_of:
            raise UserError(f"{kit.path}: {id} is of class {found}, which meta.mat does not have")
        wanted.append((f"{id}.JPEG", id, label_of[found]))
    return place, wanted


def _check_count(count, where):
    if count != _CLASSES:
        raise UserError(
            f"{where}: expected {_CLASSES:,} classes, found {count:,}; labels are places among all"
        )


# --- training -------------------------------------------------------------------------------------


def _training(raw_dir):
    """The classes of the training set: dict from WordNet id to (folder, inner tar or None)."""
    place = _given(raw_dir, _TRAIN, "train")
    found = {}
    if place.is_archive:
        for name, file in archives.tar_files(place.path).items():
            found[name.removesuffix(".tar")] = (place.path, file)
    else:
        for name in sorted(os.listdir(place.path)):
            path = os.path.join(place.path, name)
            if os.path.isdir(path):
                found[name] = (path, None)
            elif name.endswith(".tar"):
                found.setdefault(
                    name.removesuffix(".tar"), (path, archives.File(path, 0, os.path.getsize(path)))
                )
    found = {wnid: where for wnid, where in found.items() if _WNID.fullmatch(wnid)}
    if not found:
        raise UserError(f"{place.path} has no tars such as n01440764.tar; download {_TRAIN} again")
    return found


def _wnids(raw_dir, places):
    """All ids in order, which must be those of the kit where there is one."""
    wnids = sorted(places)
    if kit := devkit.find(raw_dir):
        known = [one.wnid for one in devkit.synsets(kit)]
        if odd := sorted(set(wnids) ^ set(known)):
            raise UserError(
                f"{raw_dir}: the training set and the development kit differ in {len(odd):,} "
                f"classes, such as {odd[0]}; download both again"
            )
    _check_count(len(wnids), raw_dir)
    return wnids


def _of_folder(folder):
    """Yields (name, what `archives.contents` gives) of the files of a folder."""
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            (content,) = archives.contents([archives.File(path, None, os.path.getsize(path))])
            yield name, content


def _of_tar(tar):
    """Yields (name, what `archives.contents` gives) of the tar that lies inside a file."""
    seen = set()
    end = tar.offset + tar.size
    with archives.opened(tar.path) as stream:
        archives.pass_to(stream, tar.offset)
        for path, file in archives.walk(stream, tar.path):
            name = os.path.basename(path)
            if name in seen or file.offset + file.size > end:
                what = f"{name} twice" if name in seen else f"a tar that ends before {name} does"
                raise UserError(f"{tar.path} holds {what}; download it again")
            seen.add(name)
            yield name, archives.content(stream, file)
