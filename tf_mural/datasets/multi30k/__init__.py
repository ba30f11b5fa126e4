"""`multi30k`: the photographs of Flickr30K with the captions of Multi30K.

Task 1 of Multi30K has one English caption of each photograph and its translations: one text per
language. Task 2 has five English and five German captions, all written for the photograph. The
split `bitext` has only the texts of task 1 of `train` and does not need the photographs.

Languages are detected from the file names. Other corpora with this layout can be added by naming
their folders in the option texts.
"""

import dataclasses
import hashlib
import os

from tf_mural.data.records import Record, Skipped
from tf_mural.datasets import bounded_read
from tf_mural.datasets.multi30k import image_store, split_files
from tf_mural.datasets.multi30k.flickr30k_captions import load_captions
from tf_mural.errors import UserError

SPLITS = tuple(split_files.STEMS)
AUGMENTATIONS = ("crop", "flip")
USUAL_AUGMENTATIONS = ("crop",)  # Flipping falsifies 1 of 150 English captions.
_RECORDS_PER_UNIT = 2000


@dataclasses.dataclass(frozen=True)
class Unit:
    """A unit: a range of the lines of a split.

    Attributes:
        locations: folders and archives of the images; () for records without images.
        rows: tuples (image name, ((language, text), ...), `archives.FileRange` of the image or
            None).
    """

    locations: tuple[str, ...]
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
    """Reads the texts of a split and joins them by line number.

    Args:
        raw_dir: folder to which relative paths refer.
        split: name of the split.
        task: the texts of Multi30K to use: "1", "2", "both" or "auto". "auto" means "both" for
            the split `train` and "1" for the split `bitext`. For test sets, "auto" follows the
            evaluation protocol: the five captions of task 2 in English and German, and one caption
            of task 1 in French and Czech.
        texts: folders that contain task1 and task2. Default: the first existing folder of data,
            multi30k/data and dataset/data.
        images: folders of the photographs, or .tar.gz, .tgz or .tar archives of them. Default: all
            that exist of the folders flickr30k-images, flickr30k/flickr30k-images and
            flickr30k_images/flickr30k_images. If none of the three folders exists, the first
            archive with one of these paths plus an extension is used (flickr30k-images.tar.gz).
        captions: file of Flickr30K's English captions, which replace those of Multi30K:
            results_20130124.token, results.csv or dataset_flickr30k.json.
        languages: language codes to keep. Default: all languages that have files.

    Returns:
        List of `Unit`, in the order of the lines. With a gzip archive, there is only one unit,
        in the order of the archive, because the archive is then decompressed only once.

    Raises:
        UserError: the split or an option is unknown, files are missing, corrupt or contradict each
            other, or no photograph exists.
    """
    files = split_files.find(raw_dir, split, task, texts, captions, languages)
    names = split_files.read_image_names(files.image_lists)
    locations, image_ranges = (), [None] * len(names)
    if split not in split_files.WITHOUT_IMAGES:
        locations = image_store.find_locations(raw_dir, images)
        image_ranges = image_store.find_in_archives(locations, names)
        if not image_store.any_exists(locations, names):
            raise UserError(
                f"none of the {len(names):,} images of {split}, such as {names[0]}, is in "
                f"{' or '.join(locations)}; set the option images to their folder or archive, or "
                "leave the split out"
            )
    columns = [bounded_read.read_lines(path) for _, path in files.texts]
    split_files.check_line_counts(files, columns, names)
    english = load_captions(files.captions, names) if files.captions else None
    rows = []
    for i, name in enumerate(names):
        row_texts = [] if english is None else [("en", text) for text in english.get(name, [""])]
        for (code, _), column in zip(files.texts, columns, strict=True):
            row_texts.append((code, column[i]))
        rows.append((name, tuple(row_texts), image_ranges[i]))
    if image_store.any_gzip(locations):
        rows.sort(key=lambda row: (row[2].path, row[2].offset) if row[2] else ("", 0))
        return [Unit(locations, tuple(rows))]
    starts = range(0, len(rows), _RECORDS_PER_UNIT)
    return [Unit(locations, tuple(rows[start : start + _RECORDS_PER_UNIT])) for start in starts]


def read(unit):
    """Yields a `Record` or `Skipped` for each line of a unit, and `Skipped` for dropped texts."""
    contents = image_store.iter_images(
        unit.locations, [(name, file) for name, _, file in unit.rows]
    )
    for name, row_texts, _ in unit.rows:
        images = ()
        if unit.locations:
            data, reason = next(contents)
            if reason:
                yield Skipped(reason, name)
                continue
            images = (data,)
        texts = {}  # An ordered set: only the keys are used.
        for code, text in row_texts:
            if not text:
                yield Skipped("blank text", f"{name}, {code}", text_only=True)
            elif (code, text) in texts:
                yield Skipped("repeated in its record", f"{name}, {code}: {text}", text_only=True)
            else:
                texts[code, text] = None
        if texts:
            yield Record(os.path.splitext(name)[0], images, tuple(texts))
        else:
            yield Skipped("no text", name)


def splits(raw_dir, texts=(), images=(), **_):
    """Returns the splits of Flickr30K, and the other test sets of which some images exist."""
    return tuple(
        split
        for split in SPLITS
        if split not in split_files.NOT_FLICKR30K
        or split_files.has_images(raw_dir, split, texts, images)
    )


def fingerprint(raw_dir, split, task="auto", texts=(), images=(), captions=None, languages=None):
    """Returns a hash of the texts, and of the image sizes or the archive."""
    files = split_files.find(raw_dir, split, task, texts, captions, languages)
    digest = hashlib.sha256()
    for path in (*files.image_lists, *(path for _, path in files.texts), files.captions):
        if path:
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    if split not in split_files.WITHOUT_IMAGES:
        locations = image_store.find_locations(raw_dir, images)
        names = split_files.read_image_names(files.image_lists)
        image_store.update_digest(digest, locations, names)
    return digest.hexdigest()
