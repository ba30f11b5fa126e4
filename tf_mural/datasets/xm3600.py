"""`xm3600`: Crossmodal-3600, 3,600 photographs with captions in 36 languages, a test set.

Both published layouts are read: captions.jsonl (also in captions.zip) with the photographs in
images.tgz or a folder, and the Parquet files of mteb, one per language. Both give the same records.
An image has one to five captions per language, which are not translations of each other.
"""

import os
import zipfile

from tf_mural import languages as language_codes
from tf_mural.datasets import archives, bounded_read, captioned_images, parquet_captions
from tf_mural.datasets.captioned_images import CaptionedImage
from tf_mural.errors import UserError, lookup

SPLITS = ("test",)
AUGMENTATIONS = ()
LANGUAGES = tuple(
    "ar bn cs da de el en es fa fi fil fr he hi hr hu id it ja ko mi nl no pl pt quz ro ru sv sw "
    "te th tr uk vi zh".split()
)
_CAPTIONS = "captions.jsonl"
_ARCHIVE = "captions.zip"
_IMAGE_FOLDERS = ("images", "xm3600/images", "")
_ADVICE = "set the option images to images.tgz or to the folder that it unpacks to"

read = parquet_captions.read_either


def plan(
    raw_dir: str,
    split: str,
    images: tuple[str, ...] = (),
    languages: tuple[str, ...] | None = None,
):
    """Reads the captions and joins them with the images by the key of the image.

    Args:
        raw_dir: folder of captions.jsonl or captions.zip, or of the Parquet files.
        split: "test".
        images: folders or tar archives of the photographs, relative to raw_dir, for the layout
            with captions.jsonl. Default: images.tgz, and the folders images and xm3600/images.
        languages: languages to keep. Default: all 36.

    Returns:
        List of `captioned_images.Unit` or `parquet_captions.Unit`.

    Raises:
        UserError: the split is unknown, a file is missing or damaged, a language is missing, a key
            occurs twice, or no photograph exists.
    """
    lookup(dict.fromkeys(SPLITS), split, "split of xm3600")
    archives.check_raw_dir(raw_dir)
    files = parquet_captions.find_files(raw_dir)
    if files:
        codes = captioned_images.choose_languages(files, languages, LANGUAGES, raw_dir)
        chosen = {code: files[code] for code in codes}
        return parquet_captions.plan_units(chosen, "image_id", "captions")
    path, data = _read_captions(raw_dir)
    rows = list(captioned_images.json_lines(data, path))
    available = [code for code in LANGUAGES if any(code in row for _, row in rows)]
    codes = captioned_images.choose_languages(available, languages, LANGUAGES, path)
    captioned = [_parse_row(row, codes, f"{path}, line {number}") for number, row in rows]
    locations = captioned_images.find_locations(
        raw_dir, images, _IMAGE_FOLDERS, archive="images.tgz"
    )
    return captioned_images.plan_units(locations, captioned, _ADVICE)


def fingerprint(raw_dir, split, images=(), languages=None):
    """Returns a hash of the captions and of the sizes of the images or files."""
    return parquet_captions.fingerprint_either(plan(raw_dir, split, images, languages))


def _read_captions(raw_dir):
    """Returns (name, bytes) of captions.jsonl."""
    path, archive = os.path.join(raw_dir, _CAPTIONS), os.path.join(raw_dir, _ARCHIVE)
    if os.path.isfile(path):
        return path, bounded_read.read_bytes(path)
    if not os.path.isfile(archive):
        raise UserError(
            f"expected {_CAPTIONS}, {_ARCHIVE}, or Parquet files such as de-00000-of-00001.parquet "
            f"in {raw_dir}; download them from the home page"
        )
    with bounded_read.file_errors(archive), zipfile.ZipFile(archive) as file:
        names = [name for name in file.namelist() if os.path.basename(name) == _CAPTIONS]
    if len(names) != 1:
        raise UserError(f"{archive} has {len(names)} files {_CAPTIONS}: expected one")
    return f"{names[0]} of {archive}", bounded_read.read_zip_member(archive, names[0])


def _parse_row(row, codes, where):
    """Returns the `CaptionedImage` of a line."""
    key = row.get("image/key")
    if not isinstance(key, str) or not key or key != os.path.basename(key):
        raise UserError(f"{where}: expected the key of an image as image/key, got {key!r:.60}")
    texts = []
    for code in codes:
        captions = row.get(code, {"caption": []})
        captions = captions.get("caption") if isinstance(captions, dict) else None
        captions = parquet_captions.check_list(captions, f"{where}, {code}")
        texts += [(language_codes.canonicalize(code), text) for text in captions]
    return CaptionedImage(key, f"{key}.jpg", tuple(texts))
