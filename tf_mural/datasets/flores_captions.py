"""`xtd200` and `flickr30k_200`: 1,000 photographs with captions in 201 languages, two test sets.

The captions are machine translations of English captions. Each language has a file of one caption
per line, named by its FLORES-200 code, such as `deu_Latn.txt`; only line feeds end a line. The
position of a line is the only relation between captions and images: line i of each file belongs to
line i of the list of file names. `xtd200` has the photographs of XTD10; `flickr30k_200` has the
photographs of the first half of XFlickrCO.
"""

import hashlib
import os
import re

from tf_mural import languages as language_codes
from tf_mural.data.records import InputParts
from tf_mural.datasets import archives, captioned_images, xtd10
from tf_mural.errors import UserError, lookup

SPLITS = ("test", "texts")
AUGMENTATIONS = ()
# {list of the file names of the images: folders below a base folder that may contain the images}.
_LISTS = {
    "test_image_names.txt": xtd10.COCO_FOLDERS,
    "filenames.txt": ("flickr30k-images", "flickr30k/flickr30k-images", ""),
}
_ARCHIVE = "images.tar.gz"
_CAPTION_FILE = re.compile(r"([a-z]{3}_[A-Z][a-z]{3})\.txt")
_ADVICE = "set the option images to their folder or archive, or take the split texts"
# SHA-256 of the list of XTD10, which is sorted. The captions of XTD200 are in this order.
_XTD10_IMAGES = "81773ee3559efbfa420256c2e0c2180b13a7cb3aadc82f0bee151ce5a3641f7f"

read = captioned_images.read


def plan(
    raw_dir: str,
    split: str,
    images: tuple[str, ...] = (),
    languages: tuple[str, ...] | None = None,
):
    """Joins the captions and the list of images by line number.

    Args:
        raw_dir: folder of the files of one data set.
        split: "test", or "texts" for the captions without photographs.
        images: folders or tar archives of the photographs, relative to raw_dir. Default:
            images.tar.gz, and the folders "", images, coco and coco/images of raw_dir.
        languages: languages to keep, such as de or deu_Latn. Default: all languages that have
            files.

    Returns:
        List of `captioned_images.Unit`.

    Raises:
        UserError: the split or a language is unknown, files are missing or differ in length, the
            images are in another order than the captions, or no photograph exists.
    """
    lookup(dict.fromkeys(SPLITS), split, "split")
    image_list, caption_files = _find_texts(raw_dir)
    codes = captioned_images.choose_languages(caption_files, languages, (), raw_dir)
    _check_order(image_list)
    locations = None
    if split == "test":
        subfolders = _LISTS[os.path.basename(image_list)]
        locations = captioned_images.find_locations(
            raw_dir, images, xtd10.IMAGE_FOLDERS, subfolders, _ARCHIVE
        )
    pairs = [(code, caption_files[code]) for code in codes]
    captioned = captioned_images.join_lines(image_list, pairs)
    parts = _count_files(raw_dir, image_list, caption_files, codes)
    return captioned_images.plan_units(locations, captioned, _ADVICE, parts=parts)


def fingerprint(raw_dir, split, images=(), languages=None):
    """Returns a hash of the texts and the image sizes."""
    return captioned_images.fingerprint(plan(raw_dir, split, images, languages))


def _find_texts(raw_dir):
    """Returns (file of the image names, {language: caption file} sorted by language)."""
    archives.check_raw_dir(raw_dir)
    image_lists = [p for n in _LISTS if os.path.isfile(p := os.path.join(raw_dir, n))]
    names = [name for name in sorted(os.listdir(raw_dir)) if _CAPTION_FILE.fullmatch(name)]
    if len(image_lists) != 1 or not names:
        raise UserError(
            f"expected one of {' and '.join(_LISTS)}, and files such as deu_Latn.txt, in "
            f"{raw_dir}; found {len(image_lists)} and {len(names)} of them"
        )
    caption_files = {}
    for name in names:
        code = language_codes.canonicalize(name.removesuffix(".txt"), f"file {name}")
        if code in caption_files:
            raise UserError(
                f"{raw_dir}: {os.path.basename(caption_files[code])} and {name} are both {code!r}: "
                "keep one of them"
            )
        caption_files[code] = os.path.join(raw_dir, name)
    return image_lists[0], dict(sorted(caption_files.items()))


def _count_files(raw_dir, image_list, caption_files, codes):
    """Yields the `InputParts` of the text files: used, of other languages, or of other names."""
    yield InputParts("files", len(codes) + 1)
    for code, path in caption_files.items():
        if code not in codes:
            reason = "the option languages does not name their languages"
            yield InputParts("files", 1, reason, os.path.basename(path))
    known = {os.path.basename(path) for path in (image_list, *caption_files.values())}
    for name in sorted(os.listdir(raw_dir)):
        if name.endswith(".txt") and name not in known:
            yield InputParts("files", 1, "their names are not FLORES-200 codes", name)


def _check_order(image_list):
    """Raises UserError if the images of XTD10 are in another order than the captions."""
    names = captioned_images.read_image_names(image_list)
    digest = hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()
    if digest == _XTD10_IMAGES and names != sorted(names):
        raise UserError(
            f"{image_list}: the images are in another order than the captions, which have no other "
            "relation to the images than their position; download the list again"
        )
