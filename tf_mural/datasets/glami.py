"""`glami`: the test set of GLAMI-1M, images of products with their descriptions in 13 languages.

A record is an image with the names and descriptions of its products in a language; its id starts
with the language ("cs/15221"). A text is the name, and if
there is a description, a line feed and the description, both without surrounding white space. The
column `geo` names a country, not a language: cz is Czech, ee Estonian, gr Greek and si Slovenian.
"""

import csv
import io
import os

from tf_mural.datasets import archives, bounded_read, captioned_images
from tf_mural.datasets.captioned_images import CaptionedImage
from tf_mural.errors import UserError, lookup

SPLITS = ("test",)
AUGMENTATIONS = ()
_COUNTRIES = {"cz": "cs", "ee": "et", "gr": "el", "si": "sl"}
LANGUAGES = ("bg", "cs", "el", "es", "et", "hr", "hu", "lt", "lv", "ro", "sk", "sl", "tr")
_LIST = "GLAMI-1M-test.csv"
_FOLDER = "GLAMI-1M-dataset"
_ARCHIVE = "GLAMI-1M-dataset--test-only.zip"
_COLUMNS = ("item_id", "image_id", "name", "description", "geo")
_ADVICE = f"unpack {_ARCHIVE}, or set the option images to the folder of the images"
_MAX_CELL = 1 << 24


def plan(
    raw_dir: str,
    split: str,
    images: tuple[str, ...] = (),
    languages: tuple[str, ...] | None = None,
):
    """Reads the list of products and groups the products by image.

    Args:
        raw_dir: folder of GLAMI-1M-dataset--test-only.zip, or of the folder that it unpacks to.
        split: "test".
        images: folders or archives of the images, relative to raw_dir. Default: the zip, and the
            folders GLAMI-1M-dataset/images and images.
        languages: languages to keep. Default: all 13.

    Returns:
        List of `captioned_images.Unit`.

    Raises:
        UserError: the split is unknown, the list is missing or damaged, an id occurs twice, a
            language is missing or unknown, or no image exists.
    """
    lookup(dict.fromkeys(SPLITS), split, "split of glami")
    archives.check_raw_dir(raw_dir)
    path, data = _read_list(raw_dir)
    texts = _read_texts(path, data)
    available = [code for code in LANGUAGES if any(code in by_code for by_code in texts.values())]
    codes = captioned_images.choose_languages(available, languages, LANGUAGES, path)
    captioned = [
        CaptionedImage(f"{code}/{id}", f"{id}.jpg", tuple((code, text) for text in by_code[code]))
        for id, by_code in texts.items()
        for code in by_code
        if code in codes
    ]
    folders = (os.path.join(_FOLDER, "images"), "images")
    locations = captioned_images.find_locations(raw_dir, images, folders, archive=_ARCHIVE)
    return captioned_images.plan_units(locations, captioned, _ADVICE, per_unit=2000)


read = captioned_images.read


def fingerprint(raw_dir, split, images=(), languages=None):
    """Returns a hash of the texts and the image sizes."""
    return captioned_images.fingerprint(plan(raw_dir, split, images, languages))


def _read_list(raw_dir):
    """Returns (name, bytes) of the list of products."""
    for path in (os.path.join(raw_dir, _FOLDER, _LIST), os.path.join(raw_dir, _LIST)):
        if os.path.isfile(path):
            return path, bounded_read.read_bytes(path)
    archive = os.path.join(raw_dir, _ARCHIVE)
    if not os.path.isfile(archive):
        raise UserError(f"expected {_ARCHIVE} or {_LIST} in {raw_dir}; download it")
    name = f"{_FOLDER}/{_LIST}"
    with bounded_read.file_errors(archive):
        try:
            return f"{name} of {archive}", bounded_read.read_zip_member(archive, name)
        except KeyError:
            raise UserError(f"{archive} has no {name}; download it again") from None


def _read_texts(path, data):
    """Returns {image id: {language: list of unique texts}}, in the order of the list."""
    csv.field_size_limit(_MAX_CELL)
    text = bounded_read.decode_utf8(data, path)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    if missing := [name for name in _COLUMNS if name not in (reader.fieldnames or ())]:
        raise UserError(f"{path} has no column {', '.join(missing)}; download it again")
    texts, seen = {}, set()
    try:
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row.values() or None in row:
                raise UserError(f"{where}: expected {len(reader.fieldnames)} cells")
            if row["item_id"] in seen:
                raise UserError(f"{where}: the item_id {row['item_id']!r} occurs twice")
            seen.add(row["item_id"])
            code = _COUNTRIES.get(row["geo"], row["geo"])
            if code not in LANGUAGES:
                raise UserError(
                    f"{where}: unknown geo {row['geo']!r}; known: "
                    f"{', '.join((*LANGUAGES, *_COUNTRIES))}"
                )
            id = row["image_id"]
            if not id or os.path.basename(id) != id:
                raise UserError(f"{where}: expected the id of an image, got {id!r:.60}")
            parts = (row["name"].strip(), row["description"].strip())
            by_code = texts.setdefault(id, {}).setdefault(code, {})
            by_code["\n".join(filter(None, parts))] = None
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}; download it again") from error
    if not texts:
        raise UserError(f"{path} is empty; download it again")
    return texts
