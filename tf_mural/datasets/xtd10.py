"""`xtd10`: 1,000 photographs of COCO with one caption in each of 11 languages, a test set.

The split `test` has the photographs, `texts` the same captions without them, so that it needs none.
Of the photographs 800 are in train2014 and 200 in val2014: keep them out of training on COCO.
"""

import dataclasses
import hashlib
import os
import re

from tf_mural.data.records import Dropped, Record
from tf_mural.datasets import image_files, text_lines
from tf_mural.errors import UserError, lookup

SPLITS = ("test", "texts")
AUGMENTATIONS = ()
_TEXTS = re.compile(r"test_1kcaptions_([a-z]{2})\.txt")
_LIST = "test_image_names.txt"
_TEXT_FOLDERS = ("XTD10", "MIC", "STAIR", "")
_IMAGE_FOLDERS = ("", "images", "coco", "coco/images")
_PARTS_OF_COCO = ("train2014", "val2014", "")
_CODES = {"jp": "ja"}  # The files call Japanese by the code of its country.
_RECORDS_PER_UNIT = 250


@dataclasses.dataclass(frozen=True)
class Unit:
    """Some lines: (number from 1, image, ((language, text), ...)). Without folders, texts alone."""

    folders: tuple[str, ...]
    rows: tuple


def plan(
    raw_dir: str,
    split: str,
    images: tuple[str, ...] = (),
    languages: tuple[str, ...] | None = None,
):
    """Reads the texts, joined by their lines.

    Args:
        raw_dir: a clone of the home page: the folder of XTD10, MIC and STAIR, or of their files.
        split: test, or texts to do without the photographs.
        images: folders, relative to raw_dir, of train2014 and val2014, or of the photographs
            themselves. Default: raw_dir, and images, coco and coco/images in it.
        languages: codes to keep, such as ja. Default: all that have files.

    Returns:
        List of `Unit`.

    Raises:
        UserError: an unknown split or language, files that are missing or differ in length, or not
            one photograph.
    """
    lookup(dict.fromkeys(SPLITS), split, "split of xtd10")
    names, texts = _find(raw_dir, languages)
    folders = ()
    if split == "test":
        folders = _image_folders(raw_dir, images)
        if not _any_image(folders, names):
            raise UserError(
                f"none of the {len(names):,} photographs, such as {names[0]}, is in "
                f"{' or '.join(folders)}; say with the option images where train2014 and val2014 "
                "are, or take the split texts"
            )
    columns = [[(code, text) for text in _column(path, len(names))] for code, path in texts]
    rows = tuple(zip(range(1, len(names) + 1), names, zip(*columns, strict=True), strict=True))
    starts = range(0, len(rows), _RECORDS_PER_UNIT)
    return [Unit(folders, rows[start : start + _RECORDS_PER_UNIT]) for start in starts]


def read(unit):
    """Yields a `Record` or `Dropped` for each line of a unit, and `Dropped` for single texts."""
    for number, name, found in unit.rows:
        images = ()
        if unit.folders:
            folder = _place(unit.folders, name)
            if folder is None:
                yield Dropped("image missing", name)
                continue
            data, reason = image_files.load(folder, name, f"line {number}")
            if reason:
                yield Dropped(reason, name)
                continue
            images = (data,)
        texts = tuple((code, text) for code, text in found if text)
        for code, text in found:
            if not text:
                yield Dropped("blank text", f"{name}, {code}", text=True)
        if texts:
            yield Record(os.path.splitext(name)[0], images, texts)
        else:
            yield Dropped("no text", name)


def splits(raw_dir, images=(), languages=None):
    """Both splits where there are some photographs, else texts alone."""
    names, _ = _find(raw_dir, languages)
    return SPLITS if images or _any_image(_image_folders(raw_dir, ()), names) else ("texts",)


def fingerprint(raw_dir, split, images=(), languages=None):
    """A hash of the texts and of which photographs there are, to notice what changed."""
    names, texts = _find(raw_dir, languages)
    digest = hashlib.sha256("\n".join(names).encode())
    for code, path in texts:
        with open(path, "rb") as file:
            digest.update(code.encode() + hashlib.file_digest(file, "sha256").digest())
    if split == "test":
        folders = _image_folders(raw_dir, images)
        for name in names:
            folder = _place(folders, name)
            size = -1 if folder is None else os.path.getsize(os.path.join(folder, name))
            digest.update(b"%d," % size)
    return digest.hexdigest()


# --- texts ----------------------------------------------------------------------------------------


def _find(raw_dir, languages):
    """(names of the images, [(language, file)] by language)."""
    if not raw_dir or not os.path.isdir(raw_dir):
        raise UserError(f"expected raw_dir to be a folder; {raw_dir!r} is none")
    lists, found = [], {}
    for folder in (os.path.join(raw_dir, below) for below in _TEXT_FOLDERS):
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            path = os.path.normpath(os.path.join(folder, name))
            if name == _LIST:
                lists.append(path)
            elif match := _TEXTS.fullmatch(name):
                code = _CODES.get(match[1], match[1])
                if code in found:
                    raise UserError(f"{found[code]} and {path} are both {code}; keep one of them")
                found[code] = path
    if len(lists) != 1 or not found:
        raise UserError(
            f"expected one {_LIST} and files such as test_1kcaptions_en.txt in {raw_dir}, or in "
            f"XTD10, MIC and STAIR there; found {len(lists)} and {len(found)} of them"
        )
    for code in languages or ():
        lookup(found, code, f"language (of {raw_dir})")
    kept = [code for code in sorted(found) if languages is None or code in languages]
    return _names(lists[0]), [(code, found[code]) for code in kept]


def _names(path):
    names, seen = text_lines.read(path), set()
    for number, name in enumerate(names, 1):
        if not name or os.path.basename(name) != name or name in seen:
            what = "a second time" if name in seen else "where the file name of an image was due"
            raise UserError(f"{path}, line {number}: {name!r} {what}; download it again")
        seen.add(name)
    if not names:
        raise UserError(f"{path} is empty; download it again")
    return names


def _column(path, count):
    found = text_lines.read(path)
    if len(found) != count:
        raise UserError(
            f"{path} has {len(found):,} lines, but {_LIST} names {count:,} images; download both "
            "again"
        )
    return found


# --- photographs ----------------------------------------------------------------------------------


def _image_folders(raw_dir, images):
    """Where photographs may be; folders that the user names must be there."""
    bases = [os.path.normpath(os.path.join(raw_dir, folder)) for folder in images or _IMAGE_FOLDERS]
    for base in bases if images else ():
        if not os.path.isdir(base):
            raise UserError(f"{base}, which the option images asks for, is no folder")
    folders = (os.path.join(base, part) for base in bases for part in _PARTS_OF_COCO)
    return tuple(folder for folder in folders if os.path.isdir(folder))


def _place(folders, name):
    """The first folder that has the photograph, or None."""
    there = (folder for folder in folders if os.path.isfile(os.path.join(folder, name)))
    return next(there, None)


def _any_image(folders, names):
    return any(_place(folders, name) for name in names)
