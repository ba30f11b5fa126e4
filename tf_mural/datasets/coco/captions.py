"""Captions of the images of MS-COCO, by language."""

import os

from tf_mural import languages as language_codes
from tf_mural.datasets.coco import captions_by_id, source_files
from tf_mural.datasets.coco.karpathy import FOLDERS
from tf_mural.errors import UserError

_KOREAN = "MSCOCO_train_val_Korean.json"
_FILES = {  # language: (a file name for each of FOLDERS, archives that contain these files)
    "en": (
        ("captions_train2014.json", "captions_val2014.json"),
        ("annotations_trainval2014.zip",),
    ),
    "ja": (
        ("stair_captions_v1.2_train.json", "stair_captions_v1.2_val.json"),
        ("stair_captions_v1.2.tar.gz",),
    ),
}


def load_captions(raw_dir, all_images, images, texts=(), languages=None):
    """Loads the captions of some images.

    Args:
        raw_dir: folder of the files.
        all_images: list of all `karpathy.CocoImage`s.
        images: those of `all_images` whose captions are returned.
        texts, languages: as for `coco.plan`.

    Returns:
        (list of pairs (language, {image id: captions}), sorted by language,
        tuple of descriptions of captions that belong to no image).

    Raises:
        UserError: a language is unknown, or files are missing, corrupt, or not of MS-COCO.
    """
    additional = _files_of_option(raw_dir, texts)
    supported = dict.fromkeys(sorted({*_FILES, "ko", *additional}))
    chosen = supported
    if languages is not None:
        description = "language (the option texts adds further ones)"
        chosen = sorted(language_codes.choose(languages, supported, description))
    folders = {image.folder for image in images}
    known_ids = {image.image_id for image in all_images}
    by_language, unmatched = [], []
    for code in chosen:
        files = additional[code] if code in additional else _default_files(raw_dir, code, folders)
        captions = {}
        for file, keys in files:
            _add_captions(captions, unmatched, code, file, keys, known_ids)
        if not files and code == "en":
            captions = {image.image_id: image.sentences for image in images}
        elif not files and languages is not None:
            expected = _KOREAN if code == "ko" else " and ".join(_FILES[code][0])
            raise UserError(f"no texts of the language {code} in {raw_dir}; expected {expected}")
        by_language.append((code, captions))
    return by_language, tuple(unmatched)


def _files_of_option(raw_dir, texts):
    """Returns {language: list of (`SourceFile`, keys of its texts)} of the option `texts`."""
    files = {}
    for entry in texts:
        name, _, path = entry.partition(":")
        if not path:
            raise UserError(
                f"the option texts contains {entry!r}; expected a language and a file, such as "
                "it:translations_it.tsv"
            )
        code = language_codes.canonicalize(name, "the option texts")
        file = source_files.from_option(os.path.normpath(os.path.join(raw_dir, path)))
        keys = (f"caption_{name}", f"caption_{code}", *captions_by_id.TEXTS)
        files.setdefault(code, []).append((file, keys))
    return files


def _default_files(raw_dir, code, folders):
    """Returns a list of (`SourceFile`, keys of its texts) of a language; it may be empty.

    Args:
        raw_dir: folder of the files.
        code: language code.
        folders: those of `karpathy.FOLDERS` whose images need captions.
    """
    if code == "ko":
        file = source_files.find(raw_dir, _KOREAN)
        return [] if file is None else [(file, ("caption_ko",))]
    names, archives = _FILES[code]
    files = {
        folder: source_files.find(raw_dir, name, archives)
        for folder, name in zip(FOLDERS, names, strict=True)
    }
    if not any(files.values()):
        return []
    for folder, name in zip(FOLDERS, names, strict=True):
        if folder in folders and files[folder] is None:
            other = next(filter(None, files.values()))
            raise UserError(
                f"{other} exists, but {name} does not; add it, or exclude {code} with the option "
                "languages"
            )
    return [(files[folder], ("caption",)) for folder in FOLDERS if folder in folders]


def _add_captions(captions, unmatched, code, file, keys, known_ids):
    """Adds the captions of a file to `captions`, or to `unmatched` if their image is unknown."""
    any_matched = False
    for image_id, text in captions_by_id.iter_captions(file, keys):
        if image_id in known_ids:
            any_matched = True
            captions.setdefault(image_id, []).append(text)
        else:
            unmatched.append(f"image {image_id}, {code}: {text[:60]}")
    if not any_matched:
        raise UserError(f"{file} has texts of none of the {len(known_ids):,} images of COCO")
