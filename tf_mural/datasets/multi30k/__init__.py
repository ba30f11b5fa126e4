"""`multi30k`: the photographs of Flickr30K with the captions of Multi30K.

Task 1 of Multi30K translates one English caption of each photograph: one text a language. Task 2
has five captions in English and five in German, written for the photograph. The split `bitext` has
what task 1 says of `train`, without photographs, so that it needs none.

Languages are found by their files: what else has this layout joins by naming its folder too.
"""

import dataclasses
import hashlib
import os

from tf_mural.datasets import lines
from tf_mural.datasets.multi30k import captions as caption_files
from tf_mural.datasets.multi30k import layout
from tf_mural.datasets.table import pictures
from tf_mural.records import Dropped, Record

SPLITS = tuple(layout.STEMS)
AUGMENTATIONS = ("crop", "flip")
USUAL_AUGMENTATIONS = ("crop",)  # One English caption in 150 says left or right.
_RECORDS_PER_UNIT = 2000


@dataclasses.dataclass(frozen=True)
class Unit:
    """Some lines of a split: (image, ((language, text), ...)). Without folders, texts alone."""

    folders: tuple[str, ...]
    rows: tuple


def plan(
    raw_dir: str,
    split: str,
    task: str = "auto",
    texts: tuple[str, ...] = (),
    images: tuple[str, ...] = (),
    captions: str | None = None,
    languages: tuple[str, ...] | None = None,
):
    """Reads the texts of a split, joined by their lines.

    Args:
        raw_dir: folder that the other paths start from.
        split: name of the split.
        task: which texts of Multi30K: 1, 2, both or auto. auto is both for train, 1 for bitext, and
            for evaluation the protocol: the five captions of task 2 in the languages that have them
            (en, de), the one of task 1 in the others (fr, cs).
        texts: folders that hold task1 and task2. Default: data, multi30k/data or dataset/data.
        images: folders of the photographs. Default: flickr30k-images, flickr30k/flickr30k-images or
            flickr30k_images/flickr30k_images.
        captions: file of Flickr30K's English captions, to be taken in place of Multi30K's:
            results_20130124.token, results.csv or dataset_flickr30k.json.
        languages: language codes to keep. Default: all that have files.

    Returns:
        List of `Unit`.

    Raises:
        UserError: an unknown split or option, files that are missing or contradict each other, or
            not one photograph.
    """
    found = layout.find(raw_dir, split, task, texts, captions, languages)
    names = layout.read_names(found.lists)
    folders = ()
    if split not in layout.WITHOUT_IMAGES:
        folders = layout.image_folders(raw_dir, images)
        layout.demand_images(folders, split, names)
    columns = [lines.read(path) for _, path in found.texts]
    layout.demand_equal_lengths(found, columns, names)
    english = caption_files.read(found.captions, names) if found.captions else None
    rows = []
    for i, name in enumerate(names):
        own = [] if english is None else [("en", text) for text in english.get(name, [""])]
        for (code, _), column in zip(found.texts, columns, strict=True):
            own.append((code, column[i]))
        rows.append((name, tuple(own)))
    starts = range(0, len(rows), _RECORDS_PER_UNIT)
    return [Unit(folders, tuple(rows[start : start + _RECORDS_PER_UNIT])) for start in starts]


def read(unit):
    """Yields a `Record` or `Dropped` for each line of a unit, and `Dropped` for single texts."""
    for name, found in unit.rows:
        images = ()
        if unit.folders:
            data, reason = _load(unit.folders, name)
            if reason:
                yield Dropped(reason, name)
                continue
            images = (data,)
        texts = {}  # for its keys alone: in order, without repeats
        for code, text in found:
            if not text:
                yield Dropped("blank text", f"{name}, {code}", text=True)
            elif (code, text) in texts:
                yield Dropped("repeated in its record", f"{name}, {code}: {text}", text=True)
            else:
                texts[code, text] = None
        if texts:
            yield Record(os.path.splitext(name)[0], images, tuple(texts))
        else:
            yield Dropped("no text", name)


def splits(raw_dir, texts=(), images=(), **_):
    """The splits of Flickr30K, and those other test sets of which there are photographs."""
    return tuple(
        split
        for split in SPLITS
        if split not in layout.NOT_FLICKR30K or layout.has_images(raw_dir, split, texts, images)
    )


def fingerprint(raw_dir, split, task="auto", texts=(), images=(), captions=None, languages=None):
    """A hash of the texts and of which photographs there are, to notice what changed."""
    found = layout.find(raw_dir, split, task, texts, captions, languages)
    digest = hashlib.sha256()
    for path in (*found.lists, *(path for _, path in found.texts), found.captions):
        if path:
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    if split not in layout.WITHOUT_IMAGES:
        for folder in layout.image_folders(raw_dir, images):
            for name in layout.read_names(found.lists):
                path = os.path.join(folder, name)
                digest.update(b"%d," % (os.path.getsize(path) if os.path.isfile(path) else -1))
    return digest.hexdigest()


def _load(folders, name):
    for folder in folders:
        data, reason = pictures.load(folder, name, "image_splits")
        if reason != "image missing":
            break
    return data, reason
