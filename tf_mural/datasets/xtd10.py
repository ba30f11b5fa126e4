"""`xtd10`: 1,000 photographs of MS-COCO with one caption in each of 11 languages, a test set.

The split `test` has photographs and captions; the split `texts` has only captions and does not need
the photographs. 800 of the photographs are in train2014 of MS-COCO and 200 are in val2014. A model
that is evaluated on this set must therefore not be trained on these photographs.
"""

import dataclasses
import hashlib
import os
import re

from tf_mural.data.records import Record, Skipped
from tf_mural.datasets import archives, bounded_read, image_files
from tf_mural.errors import UserError, lookup

SPLITS = ("test", "texts")
AUGMENTATIONS = ()
_CAPTION_FILE = re.compile(r"test_1kcaptions_([a-z]{2})\.txt")
_IMAGE_LIST = "test_image_names.txt"
_TEXT_FOLDERS = ("XTD10", "MIC", "STAIR", "")
_IMAGE_FOLDERS = ("", "images", "coco", "coco/images")
_COCO_FOLDERS = ("train2014", "val2014", "")
_CODES = {"jp": "ja"}  # The name of the Japanese file contains the country code.
_RECORDS_PER_UNIT = 250


@dataclasses.dataclass(frozen=True)
class Unit:
    """Some images and their captions.

    Attributes:
        folders: folders of the images; () for records without images.
        rows: tuples (line number from 1, file name, ((language, text), ...)).
    """

    folders: tuple[str, ...]
    rows: tuple


def plan(
    raw_dir: str,
    split: str,
    images: tuple[str, ...] = (),
    languages: tuple[str, ...] | None = None,
):
    """Reads the captions and joins them by line number.

    Args:
        raw_dir: a clone of the home page, which contains the folders XTD10, MIC and STAIR, or a
            folder of their files.
        split: "test", or "texts" for the captions without photographs.
        images: folders, relative to raw_dir, of train2014 and val2014, or of the photographs
            themselves. Default: raw_dir and its folders images, coco and coco/images.
        languages: language codes to keep, such as ja. Default: all languages that have files.

    Returns:
        List of `Unit`.

    Raises:
        UserError: the split or a language is unknown, files are missing or differ in length, or no
            photograph exists.
    """
    lookup(dict.fromkeys(SPLITS), split, "split of xtd10")
    names, caption_files = _find_texts(raw_dir, languages)
    folders = ()
    if split == "test":
        folders = _find_image_folders(raw_dir, images)
        if not _any_image_exists(folders, names):
            raise UserError(
                f"none of the {len(names):,} photographs, such as {names[0]}, is in "
                f"{' or '.join(folders)}; set the option images to the folder of train2014 and "
                "val2014, or take the split texts"
            )
    columns = [
        [(code, text) for text in _read_column(path, len(names))] for code, path in caption_files
    ]
    rows = tuple(zip(range(1, len(names) + 1), names, zip(*columns, strict=True), strict=True))
    starts = range(0, len(rows), _RECORDS_PER_UNIT)
    return [Unit(folders, rows[start : start + _RECORDS_PER_UNIT]) for start in starts]


def read(unit):
    """Yields a `Record` or `Skipped` for each row of a unit, and `Skipped` for dropped texts."""
    for number, name, row_texts in unit.rows:
        images = ()
        if unit.folders:
            folder = _find_image_folder(unit.folders, name)
            if folder is None:
                yield Skipped("image missing", name)
                continue
            data, reason = image_files.load_image(folder, name, f"line {number}")
            if reason:
                yield Skipped(reason, name)
                continue
            images = (data,)
        texts = tuple((code, text) for code, text in row_texts if text)
        for code, text in row_texts:
            if not text:
                yield Skipped("blank text", f"{name}, {code}", text_only=True)
        if texts:
            yield Record(os.path.splitext(name)[0], images, texts)
        else:
            yield Skipped("no text", name)


def splits(raw_dir, images=(), languages=None):
    """Returns both splits if some photographs exist, else only the split `texts`."""
    names, _ = _find_texts(raw_dir, languages)
    has_images = images or _any_image_exists(_find_image_folders(raw_dir, ()), names)
    return SPLITS if has_images else ("texts",)


def fingerprint(raw_dir, split, images=(), languages=None):
    """Returns a hash of the texts and the image sizes."""
    names, caption_files = _find_texts(raw_dir, languages)
    digest = hashlib.sha256("\n".join(names).encode())
    for code, path in caption_files:
        with open(path, "rb") as file:
            digest.update(code.encode() + hashlib.file_digest(file, "sha256").digest())
    if split == "test":
        folders = _find_image_folders(raw_dir, images)
        for name in names:
            folder = _find_image_folder(folders, name)
            size = -1 if folder is None else os.path.getsize(os.path.join(folder, name))
            digest.update(b"%d," % size)
    return digest.hexdigest()


# --- texts ----------------------------------------------------------------------------------------


def _find_texts(raw_dir, languages):
    """Returns (image file names, [(language, caption file)] sorted by language)."""
    archives.check_raw_dir(raw_dir)
    image_lists, caption_files = [], {}
    for folder in (os.path.join(raw_dir, relative_path) for relative_path in _TEXT_FOLDERS):
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            path = os.path.normpath(os.path.join(folder, name))
            if name == _IMAGE_LIST:
                image_lists.append(path)
            elif match := _CAPTION_FILE.fullmatch(name):
                code = _CODES.get(match[1], match[1])
                if code in caption_files:
                    raise UserError(
                        f"{caption_files[code]} and {path} are both {code}; keep one of them"
                    )
                caption_files[code] = path
    if len(image_lists) != 1 or not caption_files:
        raise UserError(
            f"expected one {_IMAGE_LIST} and files such as test_1kcaptions_en.txt in {raw_dir}, or "
            f"in its folders XTD10, MIC and STAIR; found {len(image_lists)} and "
            f"{len(caption_files)} of them"
        )
    for code in languages or ():
        lookup(caption_files, code, f"language (of {raw_dir})")
    kept = [code for code in sorted(caption_files) if languages is None or code in languages]
    return _read_image_names(image_lists[0]), [(code, caption_files[code]) for code in kept]


def _read_image_names(path):
    names, seen = bounded_read.read_lines(path), set()
    for number, name in enumerate(names, 1):
        if not name or os.path.basename(name) != name or name in seen:
            problem = "occurs a second time" if name in seen else "is not the file name of an image"
            raise UserError(f"{path}, line {number}: {name!r} {problem}; download it again")
        seen.add(name)
    if not names:
        raise UserError(f"{path} is empty; download it again")
    return names


def _read_column(path, count):
    lines = bounded_read.read_lines(path)
    if len(lines) != count:
        raise UserError(
            f"{path} has {len(lines):,} lines, but {_IMAGE_LIST} names {count:,} images; download "
            "both again"
        )
    return lines


# --- photographs ----------------------------------------------------------------------------------


def _find_image_folders(raw_dir, images):
    """Returns the existing folders of images. Raises UserError if one of `images` is missing."""
    bases = [os.path.normpath(os.path.join(raw_dir, folder)) for folder in images or _IMAGE_FOLDERS]
    for base in bases if images else ():
        if not os.path.isdir(base):
            raise UserError(f"{base}, which the option images names, is not a folder")
    folders = (os.path.join(base, name) for base in bases for name in _COCO_FOLDERS)
    return tuple(folder for folder in folders if os.path.isdir(folder))


def _find_image_folder(folders, name):
    """Returns the first folder that contains the image, or None."""
    containing = (folder for folder in folders if os.path.isfile(os.path.join(folder, name)))
    return next(containing, None)


def _any_image_exists(folders, names):
    return any(_find_image_folder(folders, name) for name in names)
