"""Finds the files of Flickr30K and Multi30K that a split consists of."""

import dataclasses
import itertools
import os
import re

from tf_mural.datasets import archives, bounded_read
from tf_mural.datasets.multi30k import image_store
from tf_mural.errors import UserError, lookup

STEMS = {  # split: (stem of its files in task 1, stem of its files in task 2 or None)
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
_TEXT_FOLDERS = ("data", "multi30k/data", "dataset/data")
_TASK_FOLDERS = ("task1", "task2")


@dataclasses.dataclass(frozen=True)
class SplitFiles:
    """The files of a split.

    Attributes:
        image_lists: files that name the image of each line; all have the same content.
        texts: pairs (language, file), in the order of the texts of a record.
        captions: file of Flickr30K's English captions, or None.
    """

    image_lists: tuple[str, ...]
    texts: tuple[tuple[str, str], ...]
    captions: str | None = None


def find(raw_dir, split, task="auto", texts=(), captions=None, languages=None):
    """Returns the `SplitFiles` of a split; the arguments are those of `multi30k.plan`.

    Raises:
        UserError: the split, the task or a language is unknown, or files are missing.
    """
    lookup(STEMS, split, "split")
    lookup(dict.fromkeys(TASKS), task, "task of Multi30K")
    folders = _find_text_folders(raw_dir, texts)
    image_lists = _find_image_lists(folders, split)
    if not image_lists:
        searched = _join_paths(folders, "task1/image_splits")
        raise UserError(
            f"expected {STEMS[split][0]}.txt, which lists the image of each line, in {searched}"
        )
    by_language = _select_texts(folders, split, task)
    if captions is not None:
        captions = os.path.join(raw_dir, captions)
        if not os.path.isfile(captions):
            raise UserError(f"{captions}, which the option captions names, is not a file")
        by_language = {**by_language, "en": []}
    for code in languages or ():
        lookup(by_language, code, f"language (of {split})")
    kept = [code for code in by_language if languages is None or code in languages]
    # The first text of each language precedes the second text of any language. The first few texts
    # of a record therefore cover all languages.
    ranked = sorted((k, code, path) for code in kept for k, path in enumerate(by_language[code]))
    return SplitFiles(
        tuple(image_lists),
        tuple((code, path) for _, code, path in ranked),
        captions if "en" in kept else None,
    )


def _select_texts(folders, split, task):
    """Returns {language: sorted text files} of the selected tasks."""
    if task == "auto":
        task = {"train": "both", "bitext": "1"}.get(split, "protocol")
    stems = dict(enumerate(STEMS[split], 1))
    if stems[2] is None and task != "2":
        task = "1"
    by_task = {}
    for number in (1, 2) if task in ("both", "protocol") else (int(task),):
        by_task[number] = _find_texts(folders, number, stems[number])
        if not by_task[number]:
            hint = "; to omit them, pass the option task=1" if number == 2 else ""
            searched = _join_paths(folders, f"task{number}/raw")
            raise UserError(f"no texts of task {number} for the split {split} in {searched}{hint}")
    if task == "both":
        codes = [*by_task[1], *by_task[2]]
        return {code: by_task[1].get(code, []) + by_task[2].get(code, []) for code in codes}
    # The evaluation protocol prefers captions that were written for the image (task 2) to
    # translated captions (task 1).
    return {**by_task.get(1, {}), **by_task.get(2, {})}


def _find_texts(folders, task_number, stem):
    """Returns {language: text files of a task from all folders, sorted by number}."""
    number_pattern = r"\.(\d+)" if task_number == 2 else "()"
    pattern = re.compile(re.escape(str(stem)) + number_pattern + r"\.([A-Za-z-]+)(?:\.gz)?")
    paths = {}
    for folder in folders:
        raw = os.path.join(folder, f"task{task_number}", "raw")
        for name in sorted(os.listdir(raw)) if os.path.isdir(raw) else ():
            if match := pattern.fullmatch(name):
                key = match[2], int(match[1] or 0)
                path = os.path.join(raw, name)
                if key in paths:
                    raise UserError(f"{paths[key]} and {path} are the same text; keep one of them")
                paths[key] = path
    by_language = {}
    for (code, _), path in sorted(paths.items()):
        by_language.setdefault(code, []).append(path)
    return by_language


# --- folders --------------------------------------------------------------------------------------


def _find_text_folders(raw_dir, texts):
    """Returns the folders that contain task1 or task2. A missing folder raises UserError."""
    archives.check_raw_dir(raw_dir)
    paths = [os.path.join(raw_dir, name) for name in texts or _TEXT_FOLDERS]
    existing = [
        path
        for path in paths
        if any(os.path.isdir(os.path.join(path, task)) for task in _TASK_FOLDERS)
    ]
    missing = [p for p in paths if p not in existing] if texts or not existing else []
    if missing:
        raise UserError(
            f"no task1 and task2 of Multi30K in {' or '.join(missing)}; set the option texts to "
            "their folder"
        )
    return tuple(existing if texts else existing[:1])


def _join_paths(folders, relative_path):
    return " or ".join(os.path.join(folder, relative_path) for folder in folders)


def _find_image_lists(folders, split):
    """Returns the existing files, of both tasks, that name the images of a split."""
    stem1, stem2 = STEMS[split]
    names = [f"task1/image_splits/{stem1}.txt"]
    names += [f"task2/image_splits/{stem2}_images.txt"] if stem2 else []
    paths = [os.path.join(folder, name) for folder in folders for name in names]
    return [path for path in paths if os.path.isfile(path)]


# --- consistency ----------------------------------------------------------------------------------


def read_image_names(image_lists):
    """Returns the image file name of each line.

    Raises:
        UserError: the lists differ, or a line is not a file name or occurs twice.
    """
    # The list of test_2017_mscoco appends the number of a caption to each name.
    names, *others = (
        [line.partition("#")[0] for line in bounded_read.read_lines(path)] for path in image_lists
    )
    seen = set()
    for number, name in enumerate(names, 1):
        if not name or os.path.basename(name) != name or name in seen:
            problem = "occurs a second time" if name in seen else "is not the file name of an image"
            raise UserError(
                f"{image_lists[0]}, line {number}: {name!r} {problem}; download the list again"
            )
        seen.add(name)
    if not names:
        raise UserError(f"{image_lists[0]} is empty; download it again")
    for path, other in zip(image_lists[1:], others, strict=True):
        if other != names:
            pairs = itertools.zip_longest(names, other)
            line = next(number for number, (a, b) in enumerate(pairs, 1) if a != b)
            raise UserError(
                f"{image_lists[0]} ({len(names):,} images) and {path} ({len(other):,} images) "
                f"differ from line {line} on, but both tasks must have the same images in the same "
                "order; download them again"
            )
    return names


def check_line_counts(files, columns, names):
    """Raises UserError unless each text file has one line per image.

    Args:
        files: `SplitFiles`.
        columns: the lines of each of `files.texts`.
        names: the image of each line.
    """
    wrong = [
        f"{path} {len(column):,}"
        for (_, path), column in zip(files.texts, columns, strict=True)
        if len(column) != len(names)
    ]
    if wrong:
        raise UserError(
            f"{files.image_lists[0]} has {len(names):,} lines, but the texts of these images have "
            f"other numbers of lines: {', '.join(wrong)}; download these files again"
        )


def has_images(raw_dir, split, texts=(), images=()):
    """Returns whether at least one image of a split exists."""
    image_lists = _find_image_lists(_find_text_folders(raw_dir, texts), split)
    if not image_lists:
        return False
    locations = image_store.find_locations(raw_dir, images)
    return image_store.any_exists(locations, read_image_names(image_lists))
