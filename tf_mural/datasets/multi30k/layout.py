"""Which files of Flickr30K and Multi30K make up a split."""

import dataclasses
import itertools
import os
import re

from tf_mural.datasets import text_lines
from tf_mural.datasets.multi30k import photographs
from tf_mural.errors import UserError, lookup

STEMS = {  # split: (task 1's name of it, task 2's name of it or None)
    "train": ("train", "train"),
    "bitext": ("train", "train"),
    "val": ("val", "val"),
    "test": ("test_2016_flickr", "test_2016"),
    "test_2017_flickr": ("test_2017_flickr", None),
    "test_2017_mscoco": ("test_2017_mscoco", None),
    "test_2018_flickr": ("test_2018_flickr", None),
}
NOT_FLICKR30K = ("test_2017_flickr", "test_2017_mscoco", "test_2018_flickr")
WITHOUT_IMAGES = ("bitext",)
TASKS = ("auto", "1", "2", "both")
_TEXT_FOLDERS, _HELD = ("data", "multi30k/data", "dataset/data"), ("task1", "task2")


@dataclasses.dataclass(frozen=True)
class Found:
    """The files of a split.

    Attributes:
        lists: files that name the image of each line; all say the same.
        texts: pairs (language, file), in the order that a record's texts are to have.
        captions: file of Flickr30K's English captions, or None.
    """

    lists: tuple[str, ...]
    texts: tuple[tuple[str, str], ...]
    captions: str | None = None


def find(raw_dir, split, task="auto", texts=(), captions=None, languages=None):
    """The `Found` files of a split; arguments as for `multi30k.plan`.

    Raises:
        UserError: an unknown split, task or language, or files that are missing.
    """
    lookup(STEMS, split, "split")
    lookup(dict.fromkeys(TASKS), task, "task of Multi30K")
    folders = text_folders(raw_dir, texts)
    lists = lists_of(folders, split)
    if not lists:
        where = _places(folders, "task1/image_splits")
        raise UserError(f"expected {STEMS[split][0]}.txt, the images of each line, in {where}")
    chosen = _choose(folders, split, task)
    if captions is not None:
        captions = os.path.join(raw_dir, captions)
        if not os.path.isfile(captions):
            raise UserError(f"{captions}, which the option captions asks for, is no file")
        chosen = {**chosen, "en": []}
    for code in languages or ():
        lookup(chosen, code, f"language (of {split})")
    kept = [code for code in chosen if languages is None or code in languages]
    # The first text of each language, then the second of each: whoever reads a few meets them all.
    ranked = sorted((k, code, path) for code in kept for k, path in enumerate(chosen[code]))
    return Found(
        tuple(lists),
        tuple((code, path) for _, code, path in ranked),
        captions if "en" in kept else None,
    )


def _choose(folders, split, task):
    """{language: files in order} of the tasks asked for."""
    if task == "auto":
        task = {"train": "both", "bitext": "1"}.get(split, "protocol")
    stems = dict(enumerate(STEMS[split], 1))
    if stems[2] is None and task != "2":
        task = "1"
    of_task = {}
    for number in (1, 2) if task in ("both", "protocol") else (int(task),):
        of_task[number] = _texts_of(folders, number, stems[number])
        if not of_task[number]:
            hint = "; to do without them, pass the option task=1" if number == 2 else ""
            where = _places(folders, f"task{number}/raw")
            raise UserError(f"no texts of task {number} for the split {split} in {where}{hint}")
    if task == "both":
        codes = [*of_task[1], *of_task[2]]
        return {code: of_task[1].get(code, []) + of_task[2].get(code, []) for code in codes}
    # The protocol of evaluation: captions written for the image, else the translation of one.
    return {**of_task.get(1, {}), **of_task.get(2, {})}


def _texts_of(folders, number, stem):
    """{language: files of a task in order}, over all folders."""
    numbered = r"\.(\d+)" if number == 2 else "()"
    pattern = re.compile(re.escape(str(stem)) + numbered + r"\.([A-Za-z-]+)(?:\.gz)?")
    found = {}
    for folder in folders:
        raw = os.path.join(folder, f"task{number}", "raw")
        for name in sorted(os.listdir(raw)) if os.path.isdir(raw) else ():
            if match := pattern.fullmatch(name):
                key = match[2], int(match[1] or 0)
                path = os.path.join(raw, name)
                if key in found:
                    raise UserError(f"{found[key]} and {path} are the same text; keep one of them")
                found[key] = path
    by_language = {}
    for (code, _), path in sorted(found.items()):
        by_language.setdefault(code, []).append(path)
    return by_language


# --- folders --------------------------------------------------------------------------------------


def text_folders(raw_dir, texts):
    """The folders that hold task1 and task2. Raises UserError where one is not there."""
    if not raw_dir or not os.path.isdir(raw_dir):
        raise UserError(f"expected raw_dir to be a folder; {raw_dir!r} is none")
    paths = [os.path.join(raw_dir, name) for name in texts or _TEXT_FOLDERS]
    there = [path for path in paths if any(os.path.isdir(os.path.join(path, t)) for t in _HELD)]
    missing = [path for path in paths if path not in there] if texts or not there else []
    if missing:
        listed = " or ".join(missing)
        raise UserError(
            f"no task1 and task2 of Multi30K in {listed}; say with the option texts where they are"
        )
    return tuple(there if texts else there[:1])


def _places(folders, inside):
    return " or ".join(os.path.join(folder, inside) for folder in folders)


def lists_of(folders, split):
    """The files that name the images of a split's lines, of both tasks; maybe none."""
    one, two = STEMS[split]
    names = [f"task1/image_splits/{one}.txt"]
    names += [f"task2/image_splits/{two}_images.txt"] if two else []
    paths = [os.path.join(folder, name) for folder in folders for name in names]
    return [path for path in paths if os.path.isfile(path)]


# --- what they must agree on ----------------------------------------------------------------------


def read_names(lists):
    """The image of each line, as a list of file names.

    Raises:
        UserError: the lists differ, or hold something else than a file name a line, each once.
    """
    # The list of test_2017_mscoco has the number of a caption behind each name.
    names, *others = ([line.partition("#")[0] for line in text_lines.read(path)] for path in lists)
    seen = set()
    for number, name in enumerate(names, 1):
        if not name or os.path.basename(name) != name or name in seen:
            what = "a second time" if name in seen else "where the file name of an image was due"
            raise UserError(f"{lists[0]}, line {number}: {name!r} {what}; download the list again")
        seen.add(name)
    if not names:
        raise UserError(f"{lists[0]} is empty; download it again")
    for path, other in zip(lists[1:], others, strict=True):
        if other != names:
            pairs = itertools.zip_longest(names, other)
            line = next(number for number, (a, b) in enumerate(pairs, 1) if a != b)
            raise UserError(
                f"{lists[0]} ({len(names):,} images) and {path} ({len(other):,} images) differ "
                f"from line {line} on, but their tasks are to have the same images in the same "
                "order; download them again"
            )
    return names


def demand_equal_lengths(found, columns, names):
    """Raises UserError unless each text file has one line an image."""
    wrong = [
        f"{path} {len(column):,}"
        for (_, path), column in zip(found.texts, columns, strict=True)
        if len(column) != len(names)
    ]
    if wrong:
        raise UserError(
            f"{found.lists[0]} has {len(names):,} lines, but the texts of these images have other "
            f"numbers of lines: {', '.join(wrong)}; download these files again"
        )


def has_images(raw_dir, split, texts=(), images=()):
    """Whether there are some images of a split."""
    lists = lists_of(text_folders(raw_dir, texts), split)
    if not lists:
        return False
    return photographs.any_there(photographs.places(raw_dir, images), read_names(lists))
