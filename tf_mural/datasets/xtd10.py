"""`xtd10`: 1,000 photographs of MS-COCO with one caption in each of 11 languages, a test set.

The split `test` has photographs and captions; the split `texts` has only captions and does not need
the photographs. 800 of the photographs are in train2014 of MS-COCO and 200 are in val2014. A model
that is evaluated on this set must therefore not be trained on these photographs.
"""

import hashlib
import os
import re

from tf_mural.datasets import archives, captioned_images
from tf_mural.datasets.multi30k import image_store
from tf_mural.errors import UserError, lookup

SPLITS = ("test", "texts")
AUGMENTATIONS = ()
_CAPTION_FILE = re.compile(r"test_1kcaptions_([a-z]{2})\.txt")
_IMAGE_LIST = "test_image_names.txt"
_TEXT_FOLDERS = ("XTD10", "MIC", "STAIR", "")
IMAGE_FOLDERS = ("", "images", "coco", "coco/images")
COCO_FOLDERS = ("train2014", "val2014", "")
ADVICE = "set the option images to the folder of train2014 and val2014, or take the split texts"
_CODES = {"jp": "ja"}  # The name of the Japanese file contains the country code.
_RECORDS_PER_UNIT = 250

read = captioned_images.read


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
        List of `captioned_images.Unit`.

    Raises:
        UserError: the split or a language is unknown, files are missing or differ in length, or no
            photograph exists.
    """
    lookup(dict.fromkeys(SPLITS), split, "split of xtd10")
    image_list, caption_files = _find_texts(raw_dir, languages)
    locations = _find_images(raw_dir, images) if split == "test" else None
    captioned = captioned_images.join_lines(image_list, caption_files)
    return captioned_images.plan_units(locations, captioned, ADVICE, _RECORDS_PER_UNIT)


def splits(raw_dir, images=(), languages=None):
    """Returns both splits if some photographs exist, else only the split `texts`."""
    image_list, _ = _find_texts(raw_dir, languages)
    names = captioned_images.read_image_names(image_list)
    has_images = images or image_store.any_exists(_find_images(raw_dir, ()), names)
    return SPLITS if has_images else ("texts",)


def fingerprint(raw_dir, split, images=(), languages=None):
    """Returns a hash of the texts and the image sizes."""
    image_list, caption_files = _find_texts(raw_dir, languages)
    names = captioned_images.read_image_names(image_list)
    digest = hashlib.sha256("\n".join(names).encode())
    for code, path in caption_files:
        with open(path, "rb") as file:
            digest.update(code.encode() + hashlib.file_digest(file, "sha256").digest())
    if split == "test":
        folders = _find_images(raw_dir, images)
        for name in names:
            paths = (os.path.join(folder, name) for folder in folders)
            path = next(filter(os.path.isfile, paths), None)
            digest.update(b"%d," % (os.path.getsize(path) if path else -1))
    return digest.hexdigest()


def _find_images(raw_dir, images):
    return captioned_images.find_locations(raw_dir, images, IMAGE_FOLDERS, COCO_FOLDERS)


def _find_texts(raw_dir, languages):
    """Returns (file of the image names, [(language, caption file)] sorted by language)."""
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
    return image_lists[0], [(code, caption_files[code]) for code in kept]
