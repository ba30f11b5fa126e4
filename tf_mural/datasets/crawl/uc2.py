"""`uc2`: Conceptual Captions with translations to German, French, Czech, Japanese and Chinese.

UC2's texts are read in either of two forms:

- JSONL with one line per image: {"url": ..., "caption": {"en": ..., "de": ...}}. The image is named
  by url, image_url or img_url; without these keys, by image_id, img_id, id, key, image or
  img_fname. The key `captions` is accepted for `caption`. A language may have a list of texts.
- The LMDB folders conceptual_caption_{en,de,zh,ja,fr,cs}_{train,val}.db (the Chinese one is spelled
  zh_trian), which contain tokens of XLM-R instead of texts: see `uc2_lmdb`.

The images are those that img2dataset downloaded for `cc3m`. All texts of an image form one record.
"""

import hashlib
import os
import re

from tf_mural import languages as language_codes
from tf_mural.datasets import archives
from tf_mural.datasets.crawl import caption_index, join_captions, shards, uc2_lmdb
from tf_mural.errors import UserError, lookup

SPLITS = ("train", "val")
VERSION = 2
AUGMENTATIONS = ("crop", "flip")
USUAL_AUGMENTATIONS = ("crop",)  # Flipped images may contradict captions.
_DATABASE = re.compile(r"conceptual_caption_([a-z]{2,3})_(train|trian|val)\.db")
_SUBFOLDERS = ("", "txt_db", "uc2_pretrain", "txt_db/uc2_pretrain")


def plan(
    raw_dir: str,
    split: str,
    images: tuple[str, ...] = (),
    captions: str | None = None,
    languages: tuple[str, ...] = (),
    sentencepiece: str | None = None,
    ids: str | None = None,
):
    """Finds the images and the texts without reading them.

    Args:
        raw_dir: folder that contains the JSONL file or the LMDB folders and, at any depth, the
            output of img2dataset. Files whose path names another split are ignored.
        split: train or val.
        images: folders of the images, relative to raw_dir. Default: raw_dir.
        captions: the JSONL file, relative to raw_dir. Default: the JSONL file whose name contains
            the split (a name without a split means train); without such a file, LMDB folders.
        languages: language codes to keep, such as en,de; missing texts of these languages
            are counted. Default: all languages.
        sentencepiece: XLM-R's sentencepiece.bpe.model, relative to raw_dir, for LMDB folders that
            contain only tokens.
        ids: a TSV of image id and URL, relative to raw_dir, by which images are found for LMDB
            folders. Default: UC2's train_imageId2Ann.tsv if it exists. Without a list, the keys of
            the images are the ids.

    Returns:
        A list of units.

    Raises:
        UserError: there are no images or no texts, or the texts cannot be read.
    """
    image_shards = shards.find_split_shards(raw_dir, images, split)
    source = _find_texts(raw_dir, split, captions, languages, sentencepiece, ids)
    if isinstance(source, join_captions.CaptionList):
        return join_captions.plan(raw_dir, images, image_shards, source)
    uc2_lmdb.check(source)
    missing = uc2_lmdb.Unit(image_shards, source, missing=True)
    groups = shards.group_shards(image_shards)
    return [missing, *(uc2_lmdb.Unit(group, source) for group in groups)]


def read(unit):
    """Yields a `Record` or `Skipped` for each image, or for each row without an image."""
    yield from uc2_lmdb.read(unit) if isinstance(unit, uc2_lmdb.Unit) else join_captions.read(unit)


def splits(raw_dir, captions=None, **_):
    """Returns the splits that have texts; if `captions` is given, the split in its name."""
    if captions:
        return (shards.split_of(captions) or "train",)
    if not raw_dir or not os.path.isdir(raw_dir):
        return SPLITS
    names = (s for s in SPLITS if _find_jsonl(raw_dir, s) or _find_databases(raw_dir, s))
    return tuple(names) or SPLITS


def fingerprint(raw_dir, split, images=(), **options):
    """Returns a hash of the text files (size, start, end) and of the names of the image files."""
    image_shards = shards.find_shards(raw_dir, images)
    digest = hashlib.sha256(shards.fingerprint(image_shards).encode())
    names = ("captions", "languages", "sentencepiece", "ids")
    source = _find_texts(raw_dir, split, *(options.get(name) for name in names))
    if isinstance(source, join_captions.CaptionList):
        paths = [source.path]
    else:
        paths = uc2_lmdb.list_files(source)
    for path in paths:
        digest.update(archives.fingerprint(path).encode())
    return digest.hexdigest()


def _find_texts(raw_dir, split, captions, languages, sentencepiece, ids):
    """Returns a `join_captions.CaptionList` of a JSONL, or `uc2_lmdb.Databases`."""
    lookup(dict.fromkeys(SPLITS), split, "split of uc2")
    stored = [language_codes.canonicalize(code, "the option languages") for code in languages or ()]
    path = os.path.join(raw_dir, captions) if captions else _find_jsonl(raw_dir, split)
    if path:
        if not os.path.isfile(path):
            raise UserError(f"{path}, which the option captions names, is no file")
        return join_captions.CaptionList(path, "jsonl", languages=tuple(stored))
    databases = _find_databases(raw_dir, split)
    if not databases:
        raise UserError(
            f"no texts of {split} in {raw_dir}; expected a JSONL, or folders such as "
            f"conceptual_caption_en_{split}.db"
        )
    codes = language_codes.choose(languages or databases, databases, "language of uc2")
    chosen = {code: databases[code] for code in codes}
    model_path, ids_path = (
        os.path.join(raw_dir, name) if name else "" for name in (sentencepiece, ids)
    )
    for path in filter(None, (model_path, ids_path)):
        if not os.path.isfile(path):
            raise UserError(f"{path}, which an option names, is no file")
    default_ids = os.path.join(raw_dir, f"{split}_imageId2Ann.tsv")
    if not ids_path and os.path.isfile(default_ids):
        ids_path = default_ids
    if ids_path:
        caption_index.check_list(ids_path, "ids")
    return uc2_lmdb.Databases(tuple(sorted(chosen.items())), model_path, ids_path)


def _find_jsonl(raw_dir, split):
    names = [name for name in sorted(os.listdir(raw_dir)) if name.endswith(".jsonl")]
    names = [name for name in names if (shards.split_of(name) or "train") == split]
    if len(names) > 1:
        listed = ", ".join(names[:5])
        raise UserError(f"{raw_dir} has {listed}; name the file of the texts with captions")
    return os.path.join(raw_dir, names[0]) if names else None


def _find_databases(raw_dir, split):
    """Returns {language: folder} of a split."""
    folders = {}
    for subfolder in _SUBFOLDERS:
        parent = os.path.join(raw_dir, subfolder)
        for name in sorted(os.listdir(parent)) if os.path.isdir(parent) else ():
            match = _DATABASE.fullmatch(name)
            if match and match[2].replace("trian", "train") == split:
                language = language_codes.find(match[1])
                code = language.code if language else match[1]
                folders.setdefault(code, os.path.join(parent, name))
    return folders
