"""Finds the tables in a folder, and the tables of a split."""

import codecs
import dataclasses
import glob
import os
import re

from tf_mural.data.records import MANIFEST
from tf_mural.datasets.table import coco_json
from tf_mural.errors import UserError

TEXT_EXTENSIONS = ("tsv", "csv", "jsonl")
SPLIT_WORDS = {
    "train": {"train", "training"},
    "val": {"val", "valid", "validation", "dev"},
    "test": {"test", "testing"},
}
_METADATA = re.compile(r"metadata\.(jsonl|csv|tsv)", re.IGNORECASE)
_ANNOTATIONS = ("", "annotations")
OTHER_SPLIT = "they are in another split"
NO_CAPTIONS = "they contain no captions"
ANOTHER_FORMAT = "tables of another format are read"


@dataclasses.dataclass(frozen=True)
class Tables:
    """The tables that are read together.

    Attributes:
        paths: list of their paths.
        others: {name of another table of the folder: the reason why it is not read}.
        by_name: whether the names of the files, and not a column, give the split of a row.
        splits: the splits that the names contain, if `by_name`.
    """

    paths: list
    others: dict
    by_name: bool = False
    splits: tuple = ()


def find_tables(raw_dir, file, split):
    """Returns the `Tables` of a split.

    Without the option `file`, the tables are the files of the first of these kinds that exists:
    TSV, CSV and JSONL files in the folder; files metadata.csv or metadata.jsonl in subfolders such
    as train/; Parquet files in the folder and at most three levels below it; captions in COCO's
    JSON format. If there are separate files or folders for each split, only those of `split` are
    read.

    Args:
        raw_dir: a folder, or the table itself.
        file: name of the table in the folder, or a sequence of names, in which "{split}" stands for
            the split; None for all tables of the folder.
        split: name of the split; "" for all tables.

    Raises:
        UserError: a table does not exist, the split does not exist, or `file` is needed to choose
            between the tables of several splits.
    """
    if not raw_dir or not os.path.exists(raw_dir):
        raise UserError(f"expected raw_dir to be a table or its folder; {raw_dir!r} does not exist")
    if os.path.isfile(raw_dir):
        if file is not None:
            raise UserError(f"{raw_dir} is already a file; omit the option file={file!r}")
        return Tables([raw_dir], {})
    if file is not None:
        return _named_tables(raw_dir, file_names(file), split)
    tables = _text_tables(raw_dir)
    if tables:
        groups = _group_by_split(tables) if _are_one_per_split(tables) else None
        if groups is None and len(tables) > 1 and any(map(split_of, tables)):
            raise UserError(
                f"{raw_dir}: name the table with the option file; found: {', '.join(tables)}"
            )
        listed = sorted(os.listdir(raw_dir))
        others = {name: ANOTHER_FORMAT for name in listed if name.lower().endswith(".parquet")}
        return _of_split(raw_dir, groups or {"": tables}, split, others)
    for find in _OTHER_FAMILIES:
        tables, others = find(raw_dir)
        if tables:
            return _of_split(raw_dir, _group_by_split(tables), split, others)
    raise UserError(f"{raw_dir}: name the table with the option file; found: none")


def find_families(raw_dir):
    """Yields the `Tables` of each kind of file in a folder, for all splits."""
    if tables := _text_tables(raw_dir):
        yield Tables([os.path.join(raw_dir, name) for name in tables], {})
    for find in _OTHER_FAMILIES:
        tables, others = find(raw_dir)
        if tables:
            yield _of_split(raw_dir, _group_by_split(tables), "", others)


def file_names(file):
    """Returns the option `file`, which is one name, a sequence or None, as a tuple of names."""
    return (file,) if isinstance(file, str) else tuple(file or ())


def split_of(name):
    """Returns the last split that a path names, such as val for captions_val2014.json, or None."""
    words = reversed(re.findall("[a-z]+", name.rpartition(".")[0].lower()))
    return next((s for word in words for s, names in SPLIT_WORDS.items() if word in names), None)


def walk(top, depth):
    """Yields (path relative to `top`, folder names, file names) of folders that are not hidden.

    Args:
        top: folder.
        depth: maximum number of levels below `top`.
    """
    for folder, subfolders, names in os.walk(top):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        relative = os.path.relpath(folder, top)
        if MANIFEST in names:  # a record set
            subfolders.clear()
            continue
        yield "" if relative == "." else relative, list(subfolders), names
        if relative.count(os.sep) + (relative != ".") >= depth:
            subfolders.clear()


def find_image_folder(root, table, names):
    """Returns the folder that contains the images of a JSON file in COCO's format.

    Args:
        root: folder of the data set.
        table: path of the JSON file.
        names: file names of some images.

    Raises:
        UserError: several folders contain images with these names.
    """
    base = os.path.dirname(os.path.abspath(table))
    folders = [base, *(os.path.join(root, name) for name, _, _ in walk(root, 2))]
    counts = {}
    for folder in dict.fromkeys(map(os.path.abspath, folders)):
        if count := sum(os.path.isfile(os.path.join(folder, name)) for name in names):
            counts[folder] = count
    best = [folder for folder in counts if counts[folder] == max(counts.values())]
    same_split = [f for f in best if split_of(f"{os.path.basename(f)}.") == split_of(table)]
    best = same_split if len(best) > 1 and same_split else best
    if len(best) > 1:
        raise UserError(
            f"{table}: {' and '.join(best)} contain images such as {names[0]}; choose one with the "
            f"option image_dir={os.path.relpath(best[0], base)}"
        )
    return best[0] if best else base


# --- kinds of files -------------------------------------------------------------------------------


def _named_tables(raw_dir, patterns, split):
    names = [name.replace("{split}", split) for name in patterns]
    tables = _text_tables(raw_dir)
    for name in names:
        if not os.path.isfile(os.path.join(raw_dir, name)):
            path = os.path.join(raw_dir, name)
            listed = ", ".join(tables) or "none"
            raise UserError(f"{path} does not exist; tables in the folder: {listed}")
    chosen = {os.path.normpath(name) for name in names}
    others = {name: "the option file omits them" for name in tables if name not in chosen}
    paths = [os.path.join(raw_dir, name) for name in names]
    pattern = next((name for name in patterns if "{split}" in name), None)
    if pattern is None:
        return Tables(paths, others)
    return Tables(paths, others, True, splits_of_files(raw_dir, pattern))


def splits_of_files(raw_dir, file):
    """Returns the sorted splits for which a file exists; `file` is a name with "{split}"."""
    before, _, after = file.partition("{split}")
    pattern = re.compile(re.escape(before) + "(.+)" + re.escape(after))
    names = glob.glob(glob.escape(before) + "*" + glob.escape(after), root_dir=raw_dir)
    return tuple(sorted(pattern.fullmatch(name)[1] for name in names if pattern.fullmatch(name)))


def _text_tables(raw_dir):
    """Returns the names of the TSV, CSV and JSONL files; without any, of Excel's Unicode text."""
    files = [name for name in os.listdir(raw_dir) if os.path.isfile(os.path.join(raw_dir, name))]
    tables = [name for name in files if name.rpartition(".")[2].lower() in TEXT_EXTENSIONS]
    if not tables:
        names = (name for name in files if name.lower().endswith(".txt"))
        tables = [name for name in names if _is_unicode_text(os.path.join(raw_dir, name))]
    return sorted(tables)


def _is_unicode_text(path):
    """Returns whether a file is in UTF-16, with a byte order mark and a tab in its first line."""
    with open(path, "rb") as file:
        start = file.read(1 << 12)
    if not start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return False
    return "\t" in start.decode("utf-16", errors="replace").partition("\n")[0]


def _metadata_tables(raw_dir):
    """Returns the paths of Hugging Face's metadata files in the folders of the splits."""
    return [
        os.path.join(folder, name)
        for folder, _, names in walk(raw_dir, 1)
        for name in sorted(names)
        if folder and _METADATA.fullmatch(name)
    ], {}


def _parquet_files(raw_dir):
    return [
        os.path.join(folder, name)
        for folder, _, names in walk(raw_dir, 3)
        for name in sorted(names)
        if name.lower().endswith(".parquet") and not name.startswith(".")
    ], {}


def _coco_files(raw_dir):
    tables, others = [], {}
    for folder in _ANNOTATIONS:
        names = glob.glob("*.json", root_dir=os.path.join(raw_dir, folder))
        for path in sorted(os.path.join(folder, name) for name in names):
            if coco_json.has_captions(os.path.join(raw_dir, path)):
                tables.append(path)
            else:
                others[path] = NO_CAPTIONS
    return tables, others


_OTHER_FAMILIES = (_metadata_tables, _parquet_files, _coco_files)


# --- splits ---------------------------------------------------------------------------------------


def _are_one_per_split(names):
    """Returns whether the names differ only in the split that they contain."""
    splits = list(map(split_of, names))
    words = "|".join(word for known in SPLIT_WORDS.values() for word in known)
    patterns = {re.sub(rf"(?<![a-z])({words})(?![a-z])", "", name.lower()) for name in names}
    return len(names) > 1 and all(splits) and len({*splits}) == len(names) and len(patterns) == 1


def _group_by_split(names):
    groups = {}
    for name in names:
        groups.setdefault(split_of(name) or "train", []).append(name)
    return groups


def _of_split(raw_dir, groups, split, others=None):
    """Returns the `Tables` of a split.

    Args:
        raw_dir: folder of the files.
        groups: {split: list of files}; a single group is the input of every split.
        split: name of the split; "" for all splits.
        others: see `Tables`.
    """
    by_name = len(groups) > 1
    if split and by_name and split not in groups:
        raise UserError(
            f"{raw_dir} has no files of the split {split!r}; it has: {' '.join(groups)}"
        )
    chosen = [
        n
        for name, names in groups.items()
        for n in names
        if not split or not by_name or name == split
    ]
    left = [name for names in groups.values() for name in names if name not in chosen]
    paths = [os.path.join(raw_dir, name) for name in chosen]
    reasons = dict(others or {}) | dict.fromkeys(left, OTHER_SPLIT)
    return Tables(paths, reasons, by_name, tuple(name for name in groups if name))
