"""Examines the contents of a folder, from which `layouts` detects the layout."""

import functools
import itertools
import os
import tarfile

from tf_mural.datasets import table
from tf_mural.datasets.crawl import sample_files, shards
from tf_mural.datasets.table import coco_json, encodings, files, headers, parquet
from tf_mural.errors import UserError

_PEEKED_MEMBERS, _PEEKED_SHARDS = 200, 2000
_IMG2DATASET_KEYS = {"url", "status", "error_message"}
_TABLE_EXTENSIONS = (*(f".{name}" for name in files.TEXT_EXTENSIONS), ".json", ".parquet", ".txt")
# {name of a file: the public data set that contains a file with this name}.
OFFICIAL_FILES = {
    "Train_GCC-training.tsv": "cc3m",
    "Validation_GCC-1.1.0-Validation.tsv": "cc3m",
    "cc12m.tsv": "cc12m",
    "dataset_coco.json": "coco",
    "caption_datasets.zip": "coco",
    "flickr30k-images.tar.gz": "multi30k",
    "STS2017-extended.zip": "sts2017",
    "cifar-100-binary.tar.gz": "cifar100",
    "cifar-100-python.tar.gz": "cifar100",
    "cifar-100-binary": "cifar100",
    "cifar-100-python": "cifar100",
    "food-101.tar.gz": "food101",
    "SUN397.tar.gz": "sun397",
    "ILSVRC2012_img_train.tar": "imagenet",
    "ILSVRC2012_img_val.tar": "imagenet",
}


class Survey:
    """The contents of a folder as far as the detectors need them.

    Args:
        raw_dir: path of a folder, or of a table.
        options: dict of options of `table.plan`.

    Attributes:
        raw_dir, options: the arguments.
        is_folder: whether raw_dir is a folder.
    """

    def __init__(self, raw_dir, options):
        self.raw_dir, self.options = raw_dir, options
        self.is_folder = os.path.isdir(raw_dir)

    @functools.cached_property
    def tables(self):
        """List of `grouping.Source` of the tables of all splits; empty if there are none."""
        if self.is_folder and "file" not in self.options:
            families = files.find_families(self.raw_dir)
        elif self.is_folder or self.raw_dir.lower().endswith(_TABLE_EXTENSIONS):
            families = [files.find_tables(self.raw_dir, self.options.get("file"), "")]
        else:
            families = []
        given = {key: self.options[key] for key in table.OPEN_OPTIONS if key in self.options}
        options = headers.ColumnOptions(**_column_options(self.options))
        sources = []
        for family in families:
            paths = [path for path in family.paths if not _is_of_another_data_set(path)]
            if paths:
                tables = table.open_tables(paths, **given)
                sources += table.resolve_sources(tables, family.by_name, options)
        return sources

    def tables_of(self, kind):
        """Returns the names of the tables of a layout, a key of `layouts.LAYOUTS`, as a tuple."""
        return tuple(name for name, table_kind in self._kinds.items() if table_kind == kind)

    def describe(self, name):
        """Returns the columns, the delimiter and the encoding of a table; "" for other files."""
        opened = next((s.table for s in self._with_texts if self._name(s.table.path) == name), None)
        if opened is None:
            return ""
        facts = [f"columns {', '.join(opened.columns)}"]
        if getattr(opened, "delimiter", None) == ";":
            facts.append("semicolons between cells")
        if getattr(opened, "encoding", encodings.UTF8) != encodings.UTF8:
            facts.append(f"read as {opened.encoding}")
        return "; ".join(facts)

    @functools.cached_property
    def shards(self):
        """Tuple of (`shards.Shard`, key of a layout) of the images with captions next to them."""
        if not self.is_folder:
            return ()
        try:
            all_shards = shards.find_shards(self.raw_dir)
        except UserError:
            return ()
        examined = itertools.islice(all_shards, _PEEKED_SHARDS)
        layouts = ((shard, self._layout_of(shard)) for shard in examined)
        return tuple((shard, layout) for shard, layout in layouts if layout)

    def shards_of(self, layout):
        """Returns the names of the shards of a layout as a tuple."""
        return tuple(
            self._name(shard.path) or "."
            for shard, shard_layout in self.shards
            if shard_layout == layout
        )

    def contents(self):
        """Returns a description of the contents of the folder, for messages."""
        if not self.is_folder:
            return "no table; for other files, pass their folder"
        counts = {}
        for _, _, names in files.walk(self.raw_dir, 2):
            for name in (name for name in names if not name.startswith(".")):
                extension = os.path.splitext(name)[1].lower() or "no extension"
                counts[extension] = counts.get(extension, 0) + 1
        listed = sorted(counts.items(), key=lambda item: -item[1])[:6]
        return ", ".join(f"{count:,} files ({name})" for name, count in listed) or "no files"

    @functools.cached_property
    def _with_texts(self):
        """List of the `tables` that have texts, possibly in a language that is not named."""
        return [
            source
            for source in self.tables
            if headers.has_texts(source.table, source.columns)
            or source.columns.text in source.table.columns
        ]

    @functools.cached_property
    def _kinds(self):
        """{name of a file with texts: key of its layout}."""
        return {self._name(source.table.path): _kind_of(source) for source in self._with_texts}

    def _name(self, path):
        if not self.is_folder:
            return os.path.basename(path)
        name = os.path.relpath(path, self.raw_dir)
        return "" if name == "." else name

    def _layout_of(self, shard):
        """Returns the key of the layout of a shard, or None if it has no captions."""
        stem = shard.path.removesuffix(f".{shard.kind}")
        if shard.kind == "tfrecord" or shard.sidecar or os.path.exists(f"{stem}_stats.json"):
            return "img2dataset"
        if shard.kind == "parquet":
            return "img2dataset" if _is_of_crawl(shard.path) else None
        if shard.kind == "folder":
            return "img2dataset" if _has_captions(os.listdir(shard.path)) else None
        return _layout_of_tar(shard.path)


def _column_options(options):
    names = {
        "layout": "layout",
        "image_column": "image",
        "id_column": "id",
        "split_column": "split",
        "language_column": "language_column",
        "text_column": "text",
        "columns": "columns",
        "language": "language",
        "languages": "languages",
        "texts_keys": "texts_keys",
        "texts_separator": "separator",
    }
    return {names[key]: value for key, value in options.items() if key in names}


def _is_of_another_data_set(path):
    return os.path.basename(path) in OFFICIAL_FILES or _is_of_crawl(path)


def _is_of_crawl(path):
    """Returns whether a Parquet file belongs to img2dataset's output."""
    if not path.endswith(".parquet"):
        return False
    try:
        columns = parquet.ParquetTable.open(path).columns
    except UserError:  # The name shows the origin of a truncated file.
        return os.path.basename(path).removesuffix(".parquet").isdigit()
    return set(columns) >= _IMG2DATASET_KEYS


def _kind_of(source):
    """Returns the key of the layout of a table."""
    opened, columns = source.table, source.columns
    name = os.path.basename(opened.path).lower()
    if isinstance(opened, coco_json.CocoTable):
        return "coco"
    if isinstance(opened, parquet.ParquetTable):
        return "parquet"
    if opened.encoding != encodings.UTF8 or opened.delimiter == ";":
        return "excel"
    if name.startswith("metadata.") and columns.image == "file_name":
        return "imagefolder"
    if {"filepath", "title"} <= set(opened.columns):
        return "open_clip"
    if columns.layout == "long":
        return "long"
    if columns.text not in opened.columns or any(
        columns.role(name).kind == "texts" for name in opened.columns if name != columns.text
    ):
        return "wide"
    by_language = any(isinstance(row.get(columns.text), dict) for row in opened.samples())
    return "wide" if by_language else "captions"


def _has_captions(names):
    """Returns whether, among the names in a folder, a caption file has the name of an image."""
    parsed = [name for name in map(sample_files.parse_name, names) if name is not None]
    images = {name.keys[0] for name in parsed if name.is_image}
    return any(not name.is_image and not images.isdisjoint(name.keys) for name in parsed)


def _layout_of_tar(path):
    """Returns the key of the layout of a tar, judged by its first members, or None."""
    names = []
    try:
        with tarfile.open(path, mode="r:") as tar:
            for info in itertools.islice(tar, _PEEKED_MEMBERS):
                name = sample_files.parse_name(info.name) if info.isreg() else None
                names += [name] if name is not None else []
    except (tarfile.TarError, OSError):
        pass  # The reader of the tar reports this error.
    images = {name.keys[0] for name in names if name.is_image}
    texts = [name for name in names if not name.is_image]
    if not images or not texts:
        return None
    if any(name.code and name.keys[0] not in images for name in texts):
        return "tar_languages"
    return "tar_json" if all(name.extension == "json" for name in texts) else "tar_txt"
