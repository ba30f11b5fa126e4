"""`multi30k`: the photographs of Flickr30K with the captions of Multi30K.

Task 1 of Multi30K translates one English caption of each photograph: one text a language. Task 2
has five captions in English and five in German, written for the photograph. The split `bitext` has
what task 1 says of `train`, without photographs, so that it needs none.

Languages are found by their files: what else has this layout joins by naming its folder too.
"""

import dataclasses
import hashlib
import os

from tf_mural.data.records import Dropped, Record
from tf_mural.datasets import text_lines
from tf_mural.datasets.multi30k import captions as caption_files
from tf_mural.datasets.multi30k import layout, photographs
from tf_mural.errors import UserError

SPLITS = tuple(layout.STEMS)
AUGMENTATIONS = ("crop", "flip")
USUAL_AUGMENTATIONS = ("crop",)  # One English caption in 150 says left or right.
_RECORDS_PER_UNIT = 2000


@dataclasses.dataclass(frozen=True)
class Unit:
    """Some lines of a split: (image, ((language, text), ...), its `archives.File` or None).

    Without places of photographs, texts alone.
    """

    places: tuple[str, ...]
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
        images: folders of the photographs, or .tar.gz, .tgz or .tar of them. Default:
            flickr30k-images, flickr30k/flickr30k-images or flickr30k_images/flickr30k_images, or
            where none of these folders is there, an archive of the same name.
        captions: file of Flickr30K's English captions, to be taken in place of Multi30K's:
            results_20130124.token, results.csv or dataset_flickr30k.json.
        languages: language codes to keep. Default: all that have files.

    Returns:
        List of `Unit`, in the order of the lines. A packed archive makes one unit, in the
        archive's order, so that it is read once.

    Raises:
        UserError: an unknown split or option, files that are missing or contradict each other, not
            one photograph, or an archive that does not unpack.
    """
    found = layout.find(raw_dir, split, task, texts, captions, languages)
    names = layout.read_names(found.lists)
    places, placed = (), [None] * len(names)
    if split not in layout.WITHOUT_IMAGES:
        places = photographs.places(raw_dir, images)
        placed = photographs.placed(places, names)
        if not photographs.any_there(places, names):
            raise UserError(
                f"none of the {len(names):,} images of {split}, such as {names[0]}, is in "
                f"{' or '.join(places)}; say with the option images where they are, or leave the "
                "split out"
            )
    columns = [text_lines.read(path) for _, path in found.texts]
    layout.demand_equal_lengths(found, columns, names)
    english = caption_files.read(found.captions, names) if found.captions else None
    rows = []
    for i, name in enumerate(names):
        own = [] if english is None else [("en", text) for text in english.get(name, [""])]
        for (code, _), column in zip(found.texts, columns, strict=True):
            own.append((code, column[i]))
        rows.append((name, tuple(own), placed[i]))
    if photographs.is_packed(places):
        rows.sort(key=lambda row: (row[2].path, row[2].offset) if row[2] else ("", 0))
        return [Unit(places, tuple(rows))]
    starts = range(0, len(rows), _RECORDS_PER_UNIT)
    return [Unit(places, tuple(rows[start : start + _RECORDS_PER_UNIT])) for start in starts]


def read(unit):
    """Yields a `Record` or `Dropped` for each line of a unit, and `Dropped` for single texts."""
    loaded = photographs.load(unit.places, [(name, file) for name, _, file in unit.rows])
    for name, found, _ in unit.rows:
        images = ()
        if unit.places:
            data, reason = next(loaded)
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
        places = photographs.places(raw_dir, images)
        photographs.note(digest, places, layout.read_names(found.lists))
    return digest.hexdigest()
