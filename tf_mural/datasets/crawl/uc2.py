"""`uc2`: Conceptual Captions with translations to German, French, Czech, Japanese and Chinese.

The texts are UC2's, in either form:

- JSONL, a line an image: {"url": ..., "caption": {"en": ..., "de": ...}}. The image is named by
  url, image_url or img_url, or else by image_id, img_id, id, key, image or img_fname; `captions` is
  as good as `caption`, and a language may have a list of texts.
- the LMDB folders conceptual_caption_{en,de,zh,ja,fr,cs}_{train,val}.db (zh's is spelled
  zh_trian), which hold tokens of XLM-R rather than texts: see `uc2_lmdb`.

The images are what img2dataset downloaded for `cc3m`. The texts of an image become one record.
"""

import hashlib
import os
import re

from tf_mural.data.records import is_language
from tf_mural.datasets.classification import archives
from tf_mural.datasets.crawl import index, join_captions, shards, uc2_lmdb
from tf_mural.errors import UserError, lookup

SPLITS = ("train", "val")
AUGMENTATIONS = ("crop", "flip")
USUAL_AUGMENTATIONS = ("crop",)  # A caption may say left or right.
_DATABASE = re.compile(r"conceptual_caption_([a-z]{2,3})_(train|trian|val)\.db")
_FOLDERS = ("", "txt_db", "uc2_pretrain", "txt_db/uc2_pretrain")


def plan(
    raw_dir: str,
    split: str,
    images: tuple[str, ...] = (),
    captions: str | None = None,
    languages: tuple[str, ...] = (),
    sentencepiece: str | None = None,
    ids: str | None = None,
):
    """Finds the images and the texts; reads none of either.

    Args:
        raw_dir: folder of the JSONL or the LMDB folders, and of what img2dataset wrote, at any
            depth. Files whose path names another split are left out.
        split: train or val.
        images: folders of the images, relative to raw_dir, to search in its place.
        captions: the JSONL file, relative to raw_dir. Default: the one there whose name says the
            split, or none for train; else the LMDB folders.
        languages: codes to keep, such as en,de; that an image lacks one is counted. Default: all.
        sentencepiece: XLM-R's sentencepiece.bpe.model, relative to raw_dir, for LMDB folders that
            hold tokens alone.
        ids: a TSV of image id and url, relative to raw_dir, by which images are found for LMDB
            folders. Default: UC2's train_imageId2Ann.tsv where it is there, else the keys of
            the images are the ids.

    Returns:
        List of units.

    Raises:
        UserError: no images, no texts, or texts that cannot be read.
    """
    found = shards.find(raw_dir, images)
    found = tuple(shard for shard in found if shards.split_of(shard.name) in (None, split))
    if not found:
        raise UserError(f"no file of images in {raw_dir} is of the split {split} by its name")
    source = _source(raw_dir, split, captions, languages, sentencepiece, ids)
    if isinstance(source, join_captions.Listing):
        return join_captions.plan(found, source)
    uc2_lmdb.check(source)
    rest = uc2_lmdb.Unit(found, source, rest=True)
    return [rest, *(uc2_lmdb.Unit(some, source) for some in shards.parted(found))]


def read(unit):
    """Yields a `Record` or `Dropped` for each image, or for each row without one."""
    yield from uc2_lmdb.read(unit) if isinstance(unit, uc2_lmdb.Unit) else join_captions.read(unit)


def splits(raw_dir, captions=None, **_):
    """The splits that there are texts of; of a file that is given what its name says."""
    if captions:
        return (shards.split_of(captions) or "train",)
    if not raw_dir or not os.path.isdir(raw_dir):
        return SPLITS
    return tuple(s for s in SPLITS if _jsonl(raw_dir, s) or _databases(raw_dir, s)) or SPLITS


def fingerprint(raw_dir, split, images=(), **options):
    """A hash of the texts' size and ends, and of which files of images there are."""
    found = shards.find(raw_dir, images)
    digest = hashlib.sha256(shards.fingerprint(found).encode())
    names = ("captions", "languages", "sentencepiece", "ids")
    source = _source(raw_dir, split, *(options.get(name) for name in names))
    paths = [source.path] if isinstance(source, join_captions.Listing) else uc2_lmdb.paths(source)
    for path in paths:
        digest.update(archives.identity(path).encode())
    return digest.hexdigest()


def _source(raw_dir, split, captions, languages, sentencepiece, ids):
    """`joined.Listing` of a JSONL, or `uc2_lmdb.Databases`."""
    lookup(dict.fromkeys(SPLITS), split, "split of uc2")
    for code in languages or ():
        if not is_language(code):
            raise UserError(f"expected language codes such as en, got {code!r}")
    path = os.path.join(raw_dir, captions) if captions else _jsonl(raw_dir, split)
    if path:
        if not os.path.isfile(path):
            raise UserError(f"{path}, which the option captions asks for, is no file")
        return join_captions.Listing(path, "jsonl", languages=tuple(languages or ()))
    databases = _databases(raw_dir, split)
    if not databases:
        raise UserError(
            f"no texts of {split} in {raw_dir}; expected a JSONL, or folders such as "
            f"conceptual_caption_en_{split}.db"
        )
    chosen = {code: lookup(databases, code, "language of uc2") for code in languages or databases}
    places = [os.path.join(raw_dir, one) if one else "" for one in (sentencepiece, ids)]
    for place in filter(None, places):
        if not os.path.isfile(place):
            raise UserError(f"{place}, which an option asks for, is no file")
    usual = os.path.join(raw_dir, f"{split}_imageId2Ann.tsv")
    if not places[1] and os.path.isfile(usual):
        places[1] = usual
    if places[1]:
        index.check(places[1], "ids")
    return uc2_lmdb.Databases(tuple(sorted(chosen.items())), *places)


def _jsonl(raw_dir, split):
    names = [name for name in sorted(os.listdir(raw_dir)) if name.endswith(".jsonl")]
    names = [name for name in names if (shards.split_of(name) or "train") == split]
    if len(names) > 1:
        listed = ", ".join(names[:5])
        raise UserError(f"{raw_dir} has {listed}; say with the option captions which has the texts")
    return os.path.join(raw_dir, names[0]) if names else None


def _databases(raw_dir, split):
    """{language: folder} of a split."""
    found = {}
    for below in _FOLDERS:
        folder = os.path.join(raw_dir, below)
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            match = _DATABASE.fullmatch(name)
            if match and match[2].replace("trian", "train") == split:
                found.setdefault(match[1], os.path.join(folder, name))
    return found
