"""`imagenet`: ILSVRC 2012, 1.28 million training and 50,000 validation photographs, 1,000 classes.

The label is the position of the class in the alphabetical order of the WordNet ids, as in published
lists of class names. The development kit, which labels the validation set, numbers the classes in
another order. The id is the file name ("n01440764_10026", "ILSVRC2012_val_00000001").

A few photographs are CMYK, and one is a PNG although its name ends in .JPEG; the input pipeline
decodes both.

tensorflow-datasets provides this corpus too, from the same manually downloaded files, but with a
record format of its own.
"""

import dataclasses
import hashlib
import itertools
import os
import re

from tf_mural.datasets import archives
from tf_mural.datasets.classification import devkit, image_list
from tf_mural.errors import UserError, lookup

SPLITS = ("train", "val")
AUGMENTATIONS = ("crop", "flip")
_TRAIN, _VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
_HOMEPAGE = "https://image-net.org/download-images"
_WNID = re.compile(r"n\d{8}")
_NUM_CLASSES = 1000
_MAX_UNITS = 256  # Reading a record set keeps one file open per shard.


@dataclasses.dataclass(frozen=True)
class ImageClass:
    """The training photographs of one class: an inner tar, or a folder if `tar` is None."""

    label: int
    wnid: str
    folder: str
    tar: archives.FileRange | None


@dataclasses.dataclass(frozen=True)
class ClassesUnit:
    """A unit: the training photographs of one or more classes."""

    classes: tuple[ImageClass, ...]


def plan(raw_dir: str, split: str):
    """Locates the classes; reads no photograph.

    Args:
        raw_dir: a folder. For the split `train`, raw_dir contains ILSVRC2012_img_train.tar, or a
            folder train with the inner tars or their unpacked folders. For the split `val`, raw_dir
            contains ILSVRC2012_img_val.tar or a folder val, and the development kit as
            ILSVRC2012_devkit_t12.tar.gz or unpacked.
        split: "train" or "val".

    Returns:
        List of `ClassesUnit` for the split `train`, or of `image_list.Unit` for the split `val`.

    Raises:
        UserError: files are missing or corrupt, or there are not 1,000 classes.
    """
    lookup(dict.fromkeys(SPLITS), split, "split of imagenet")
    if split == "val":
        return image_list.plan_units(*_validation_entries(raw_dir))
    sources = _class_sources(raw_dir)
    classes = [
        ImageClass(label, wnid, *sources[wnid])
        for label, wnid in enumerate(_sorted_wnids(raw_dir, sources))
    ]
    count = min(len(classes), _MAX_UNITS)
    cuts = [len(classes) * number // count for number in range(count + 1)]
    return [ClassesUnit(tuple(classes[a:b])) for a, b in itertools.pairwise(cuts)]


def read(unit):
    """Yields a `Record` or `Skipped` for each photograph of a unit.

    Raises:
        UserError: an inner tar is truncated, contains a name twice or a name that leads out of it,
            or a class has no photographs.
    """
    if isinstance(unit, image_list.Unit):
        yield from image_list.read(unit)
        return
    for item in unit.classes:
        name = None
        for name, content in _iter_folder(item.folder) if item.tar is None else _iter_tar(item.tar):
            yield image_list.make_record(os.path.splitext(name)[0], content, item.label)
        if name is None:
            raise UserError(f"{item.folder} has no photographs of {item.wnid}; download it again")


def splits(raw_dir):
    """Returns the splits whose photographs exist."""
    locations = {"train": _find(raw_dir, _TRAIN, "train"), "val": _find(raw_dir, _VAL, "val")}
    return tuple(split for split in SPLITS if locations[split]) or SPLITS


def classes(raw_dir):
    """Returns the class names, such as "tench, Tinca tinca", in the order of the labels.

    Without the development kit, the WordNet ids are returned as class names.
    """
    if kit := devkit.locate(raw_dir):
        return [synset.words for synset in devkit.synsets(kit)]
    return _sorted_wnids(raw_dir, _class_sources(raw_dir))


def fingerprint(raw_dir, split):
    """Returns a hash of the labels, and of the archive or of the files in the folders."""
    if split == "val":
        return image_list.fingerprint(*_validation_entries(raw_dir))
    digest = hashlib.sha256()
    sources = _class_sources(raw_dir)
    for wnid in _sorted_wnids(raw_dir, sources):
        folder, tar = sources[wnid]
        extent = len(os.listdir(folder)) if tar is None else (tar.offset, tar.size)
        digest.update(repr((wnid, extent)).encode())
    return digest.hexdigest()


def _find(raw_dir, archive, folder):
    """Returns the `archives.ArchiveOrFolder` of the photographs of a split, or None."""
    archives.check_raw_dir(raw_dir)
    for name in (folder, archive.removesuffix(".tar")):
        if os.path.isdir(path := os.path.join(raw_dir, name)):
            return archives.ArchiveOrFolder(path, "", False)
    path = os.path.join(raw_dir, archive)
    return archives.ArchiveOrFolder(path, "", True) if os.path.isfile(path) else None


def _require(raw_dir, archive, folder):
    """Returns the same as `_find`, but raises UserError if the photographs do not exist."""
    location = _find(raw_dir, archive, folder)
    if location is None:
        raise UserError(
            f"expected {archive}, or the folder {folder}, in {raw_dir}; "
            f"download it from {_HOMEPAGE}"
        )
    return location


# --- validation -----------------------------------------------------------------------------------


def _validation_entries(raw_dir):
    """Returns (`archives.ArchiveOrFolder`, tuples (file name, id, label)) of the validation set."""
    location = _require(raw_dir, _VAL, "val")
    kit = devkit.locate(raw_dir)
    if kit is None:
        raise UserError(
            f"expected {devkit.ARCHIVE} in {raw_dir}, for the labels; download it from {_HOMEPAGE}"
        )
    synsets = devkit.synsets(kit)
    _check_class_count(len(synsets), kit.path)
    labels = {synset.number: label for label, synset in enumerate(synsets)}
    entries = []
    for number, class_number in enumerate(devkit.ground_truth(kit), 1):
        id = f"ILSVRC2012_val_{number:08d}"
        if class_number not in labels:
            raise UserError(
                f"{kit.path}: {id} is of class {class_number}, which meta.mat does not contain"
            )
        entries.append((f"{id}.JPEG", id, labels[class_number]))
    return location, entries


def _check_class_count(count, path):
    if count != _NUM_CLASSES:
        raise UserError(
            f"{path}: expected {_NUM_CLASSES:,} classes, found {count:,}; "
            "labels are positions in the list of all classes"
        )


# --- training -------------------------------------------------------------------------------------


def _class_sources(raw_dir):
    """Returns {WordNet id: (folder or archive, `archives.FileRange` of the inner tar or None)}."""
    location = _require(raw_dir, _TRAIN, "train")
    sources = {}
    if location.is_archive:
        for name, file in archives.list_tar(location.path).items():
            sources[name.removesuffix(".tar")] = (location.path, file)
    else:
        for name in sorted(os.listdir(location.path)):
            path = os.path.join(location.path, name)
            if os.path.isdir(path):
                sources[name] = (path, None)
            elif name.endswith(".tar"):
                tar = archives.FileRange(path, 0, os.path.getsize(path))
                sources.setdefault(name.removesuffix(".tar"), (path, tar))
    sources = {wnid: source for wnid, source in sources.items() if _WNID.fullmatch(wnid)}
    if not sources:
        raise UserError(
            f"{location.path} has no tars such as n01440764.tar; download {_TRAIN} again"
        )
    return sources


def _sorted_wnids(raw_dir, wnids):
    """Returns the sorted WordNet ids; raises UserError if the development kit has other ids."""
    wnids = sorted(wnids)
    if kit := devkit.locate(raw_dir):
        expected = [synset.wnid for synset in devkit.synsets(kit)]
        if different := sorted(set(wnids) ^ set(expected)):
            raise UserError(
                f"{raw_dir}: the training set and the development kit differ in "
                f"{len(different):,} classes, such as {different[0]}; download both again"
            )
    _check_class_count(len(wnids), raw_dir)
    return wnids


def _iter_folder(folder):
    """Yields (file name, content) of each file in a folder; see `archives.iter_images`."""
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            file = archives.FileRange(path, None, os.path.getsize(path))
            yield name, archives.read_image(None, file)


def _iter_tar(tar):
    """Yields (file name, content) of each file in an inner tar; see `archives.iter_images`."""
    seen = set()
    end = tar.offset + tar.size
    with archives.open_stream(tar.path) as stream:
        archives.skip_to(stream, tar.offset)
        for path, file in archives.iter_tar(stream, tar.path):
            name = os.path.basename(path)
            if name in seen:
                raise UserError(f"{tar.path} contains {name} twice; download it again")
            if file.offset + file.size > end:
                raise UserError(
                    f"{tar.path} contains a tar that ends before {name} does; download it again"
                )
            seen.add(name)
            yield name, archives.read_image(stream, file)
