"""Which texts there are of the images of COCO, language by language."""

import os

from tf_mural.data.records import is_language
from tf_mural.datasets.coco import captions_by_id, files
from tf_mural.datasets.coco.karpathy import PARTS
from tf_mural.errors import UserError, lookup

_KOREAN = "MSCOCO_train_val_Korean.json"
_BY_PART = {  # language: (one file for each of PARTS, archives that have both)
    "en": (
        ("captions_train2014.json", "captions_val2014.json"),
        ("annotations_trainval2014.zip",),
    ),
    "ja": (
        ("stair_captions_v1.2_train.json", "stair_captions_v1.2_val.json"),
        ("stair_captions_v1.2.tar.gz",),
    ),
}


def read(raw_dir, everything, chosen, texts=(), languages=None):
    """The texts of some images.

    Args:
        raw_dir: folder of the files.
        everything: all `karpathy.Photograph`s.
        chosen: those whose texts are wanted.
        texts, languages: as for `coco.plan`.

    Returns:
        (pairs (language, {image number: texts}) sorted by language, texts of no image, in words).

    Raises:
        UserError: an unknown language, or files that are missing, broken, or not of COCO.
    """
    asked = _asked(raw_dir, texts)
    possible = dict.fromkeys(sorted({*_BY_PART, "ko", *asked}))
    for code in languages or ():
        lookup(possible, code, "language (the option texts adds some)")
    parts = {one.part for one in chosen}
    known = {one.number for one in everything}
    by_language, strays = [], []
    for code in possible if languages is None else sorted(set(languages)):
        some = asked[code] if code in asked else _usual(raw_dir, code, parts)
        found = {}
        for file, keys in some:
            _add(found, strays, code, file, keys, known)
        if not some and code == "en":
            found = {one.number: one.sentences for one in chosen}
        elif not some and languages is not None:
            expected = _KOREAN if code == "ko" else " and ".join(_BY_PART[code][0])
            raise UserError(f"no texts of the language {code} in {raw_dir}; expected {expected}")
        by_language.append((code, found))
    return by_language, tuple(strays)


def _asked(raw_dir, texts):
    found = {}
    for entry in texts:
        code, _, path = entry.partition(":")
        if not is_language(code) or not path:
            raise UserError(
                f"the option texts has {entry!r}; expected a language and a file, such as "
                "it:translations_it.tsv"
            )
        file = files.given(os.path.normpath(os.path.join(raw_dir, path)))
        found.setdefault(code, []).append((file, (f"caption_{code}", *captions_by_id.TEXTS)))
    return found


def _usual(raw_dir, code, parts):
    """Pairs (file, names of its texts) of the parts of COCO that are wanted; maybe none."""
    if code == "ko":
        file = files.find(raw_dir, _KOREAN)
        return [] if file is None else [(file, ("caption_ko",))]
    names, archives = _BY_PART[code]
    found = {
        part: files.find(raw_dir, name, archives) for part, name in zip(PARTS, names, strict=True)
    }
    if not any(found.values()):
        return []
    for part, name in zip(PARTS, names, strict=True):
        if part in parts and found[part] is None:
            other = next(filter(None, found.values()))
            raise UserError(
                f"{other} is there, but {name} is not; add it, or leave {code} out with the option "
                "languages"
            )
    return [(found[part], ("caption",)) for part in PARTS if part in parts]


def _add(found, strays, code, file, keys, known):
    """Puts the texts of a file into `found`."""
    any_known = False
    for number, text in captions_by_id.read(file, keys):
        if number in known:
            any_known = True
            found.setdefault(number, []).append(text)
        else:
            strays.append(f"image {number}, {code}: {text[:60]}")
    if not any_known:
        raise UserError(f"{file} has texts of none of the {len(known):,} images of COCO")
