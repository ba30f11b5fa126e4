"""`xflickrco`: 2,000 photographs of Flickr30K and COCO with a caption in 8 languages, a test set.

Both published layouts are read: the files annotations/<language>/test.jsonl of IGLUE with the
photographs of Flickr30K and of COCO's val2014, and the Parquet files of mteb, one per language.
The split `test` has the captions without surrounding white space. The Parquet files of mteb contain
each caption as the text of a Python list, "['Ein Hund']", and the published results of mteb were
measured on these texts; the split `mteb` has them, from both layouts.
"""

import ast
import os

from tf_mural import languages as language_codes
from tf_mural.datasets import archives, bounded_read, captioned_images, parquet_captions
from tf_mural.datasets.captioned_images import CaptionedImage
from tf_mural.errors import UserError, lookup

SPLITS = ("test", "mteb")
AUGMENTATIONS = ()
LANGUAGES = ("de", "en", "es", "id", "ja", "ru", "tr", "zh")
_FOLDERS = ("annotations", "")
_IMAGE_FOLDERS = ("", "images", "flickr30k", "coco", "coco/images")
_SUBFOLDERS = ("", "flickr30k-images", "val2014")
_ADVICE = "set the option images to the folders of flickr30k-images and of COCO's val2014"

read = parquet_captions.read_either


def plan(
    raw_dir: str,
    split: str,
    images: tuple[str, ...] = (),
    languages: tuple[str, ...] | None = None,
):
    """Reads the captions and joins them with the images by id.

    Args:
        raw_dir: folder of annotations/<language>/test.jsonl, or of the Parquet files.
        split: "test", or "mteb" for the captions as texts of Python lists.
        images: folders or archives of the photographs of both data sets, relative to raw_dir, for
            IGLUE's layout. Default: the folders "", images, flickr30k, coco and coco/images.
        languages: languages to keep. Default: all 8.

    Returns:
        List of `captioned_images.Unit` or `parquet_captions.Unit`.

    Raises:
        UserError: the split is unknown, a file is missing or damaged, a language is missing, an id
            occurs twice, two languages name other images for an id, or no photograph exists.
    """
    lookup(dict.fromkeys(SPLITS), split, "split of xflickrco")
    archives.check_raw_dir(raw_dir)
    parquet_files = parquet_captions.find_files(raw_dir)
    files = parquet_files or _find_annotations(raw_dir)
    codes = captioned_images.choose_languages(files, languages, LANGUAGES, raw_dir)
    if parquet_files:
        chosen = {code: files[code] for code in codes}
        parse = _keep_list_text if split == "mteb" else _parse_list_text
        return parquet_captions.plan_units(chosen, "id", "sentences", parse)
    captioned = _read_annotations({code: files[code] for code in codes}, split)
    locations = captioned_images.find_locations(raw_dir, images, _IMAGE_FOLDERS, _SUBFOLDERS)
    return captioned_images.plan_units(locations, captioned, _ADVICE)


def fingerprint(raw_dir, split, images=(), languages=None):
    """Returns a hash of the captions and of the sizes of the images or files."""
    return parquet_captions.fingerprint_either(plan(raw_dir, split, images, languages))


def _find_annotations(raw_dir):
    """Returns {language: test.jsonl}."""
    files = {}
    for base in (os.path.join(raw_dir, name) if name else raw_dir for name in _FOLDERS):
        for name in sorted(os.listdir(base)) if os.path.isdir(base) else ():
            path = os.path.join(base, name, "test.jsonl")
            if language_codes.find(name) and os.path.isfile(path):
                files[name] = path
    if not files:
        raise UserError(
            f"expected annotations/<language>/test.jsonl, or Parquet files such as "
            f"de-00000-of-00001.parquet, in {raw_dir}; download them from the home page"
        )
    return dict(sorted(language_codes.by_code(files, raw_dir).items()))


def _read_annotations(files, split):
    """Returns a `CaptionedImage` for each id in the files."""
    names, texts = {}, {}
    for language, path in files.items():
        seen = set()
        for number, row in captioned_images.json_lines(bounded_read.read_bytes(path), path):
            where = f"{path}, line {number}"
            id, name = str(row.get("id", "")), row.get("img_path")
            captions = parquet_captions.check_list(row.get("sentences"), where)
            if not id or not isinstance(name, str) or os.path.basename(name) != name:
                raise UserError(
                    f"{where}: expected an id and the file name of an image, got {id!r:.40} and "
                    f"{name!r:.60}"
                )
            if id in seen:
                raise UserError(f"{where}: the id {id!r} occurs twice; download the file again")
            if names.setdefault(id, name) != name:
                raise UserError(
                    f"{where}: the image of {id!r} is {name}, but {names[id]} in another language: "
                    "captions and images are in different order; download the files again"
                )
            seen.add(id)
            kept = captions if split == "test" else [str([caption]) for caption in captions]
            kept = [caption.strip() for caption in kept] if split == "test" else kept
            texts.setdefault(id, []).extend((language, caption) for caption in kept)
    return [CaptionedImage(id, name, tuple(texts[id])) for id, name in names.items()]


def _keep_list_text(cell, where):
    """Returns a cell of mteb's files as a list of one text."""
    _parse_list_text(cell, where)
    return [cell]


def _parse_list_text(cell, where):
    """Returns the captions of a cell of mteb's files, the text of a Python list."""
    try:
        captions = ast.literal_eval(cell)
    except (ValueError, SyntaxError, TypeError, RecursionError):
        captions = None
    if not isinstance(captions, list) or not all(isinstance(text, str) for text in captions):
        raise UserError(
            f"{where}: expected captions as the text of a Python list, such as \"['a dog']\", got "
            f"{cell!r:.60}"
        )
    return [caption.strip() for caption in captions]
