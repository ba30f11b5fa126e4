"""`wit`: the test set of IGLUE's retrieval on WIT, images of Wikipedia with captions, 11 languages.

The split `test` is read from the Parquet files of mteb, one per language, which contain the images.
The split `texts` has the captions of IGLUE's files test_<language>.jsonl without images. Each
language has its own images, and the id of a record starts with the language ("ja/wit-test_3").
Captions that consist of white space are left out and counted; Greek and Indonesian have one each.
"""

import os
import re

from tf_mural import languages as language_codes
from tf_mural.datasets import archives, bounded_read, captioned_images, parquet_captions
from tf_mural.datasets.captioned_images import CaptionedImage
from tf_mural.errors import UserError, lookup

SPLITS = ("test", "texts")
AUGMENTATIONS = ()
LANGUAGES = ("ar", "bg", "da", "el", "en", "et", "id", "ja", "ko", "tr", "vi")
_FILE = re.compile(r"test_([a-z]{2})\.jsonl")
_FOLDERS = ("annotations", "")
_CAPTION, _ID = "caption_reference_description", "wit_ix"


def plan(raw_dir: str, split: str, languages: tuple[str, ...] | None = None):
    """Reads the captions of each language.

    Args:
        raw_dir: folder of the Parquet files (test), or of IGLUE's files test_<language>.jsonl
            (texts).
        split: "test", or "texts" for the captions without images.
        languages: languages to keep. Default: all 11.

    Returns:
        List of `parquet_captions.Unit` or `captioned_images.Unit`.

    Raises:
        UserError: the split is unknown, a file is missing or damaged, a language is missing, or an
            id occurs twice in a Parquet file.
    """
    lookup(dict.fromkeys(SPLITS), split, "split of wit")
    archives.check_raw_dir(raw_dir)
    files = parquet_captions.find_files(raw_dir) if split == "test" else _find_jsonl(raw_dir)
    if not files:
        name = "de-00000-of-00001.parquet" if split == "test" else "test_en.jsonl"
        raise UserError(f"expected files such as {name} in {raw_dir}; download them")
    codes = captioned_images.choose_languages(files, languages, LANGUAGES, raw_dir)
    files = {code: files[code] for code in codes}
    if split == "test":
        return parquet_captions.plan_units(files, "image_id", "captions", by_language=True)
    captioned = [image for code, path in files.items() for image in _read_jsonl(code, path)]
    return captioned_images.plan_units(None, captioned, "")


def read(unit):
    """Yields a `Record` or `Skipped` for each image of a unit, and `Skipped` for blank captions."""
    is_parquet = isinstance(unit, parquet_captions.Unit)
    return (parquet_captions if is_parquet else captioned_images).read(unit)


def splits(raw_dir, languages=None):
    """Returns the splits whose files exist."""
    archives.check_raw_dir(raw_dir)
    files_of = {"test": parquet_captions.find_files(raw_dir), "texts": _find_jsonl(raw_dir)}
    return tuple(split for split in SPLITS if files_of[split]) or SPLITS


def fingerprint(raw_dir, split, languages=None):
    """Returns a hash of the captions, and of the sizes of the files."""
    units = plan(raw_dir, split, languages)
    return (parquet_captions if split == "test" else captioned_images).fingerprint(units)


def _find_jsonl(raw_dir):
    """Returns {language: test_<language>.jsonl}."""
    files = {}
    for folder in (os.path.join(raw_dir, name) if name else raw_dir for name in _FOLDERS):
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            if match := _FILE.fullmatch(name):
                files[match[1]] = os.path.join(folder, name)
    return dict(sorted(language_codes.by_code(files, raw_dir).items()))


def _read_jsonl(language, path):
    """Returns a `CaptionedImage` for each image of a file. An image has one line per caption."""
    texts = {}
    for number, row in captioned_images.json_lines(bounded_read.read_bytes(path), path):
        id, caption = row.get(_ID), row.get(_CAPTION)
        if not isinstance(id, str) or not isinstance(caption, str):
            raise UserError(
                f"{path}, line {number}: expected the strings {_ID} and {_CAPTION}, got "
                f"{id!r:.40} and {caption!r:.60}"
            )
        texts.setdefault(id, []).append((language, caption))
    return [CaptionedImage(f"{language}/{id}", id, tuple(texts[id])) for id in texts]
