"""The layouts of users' own data, and the detection of the layout of a folder.

LAYOUTS has an entry for each layout. All layouts are read by `table` (tables of any form) or by
`crawl` (images with the captions next to them), so a new layout needs an entry with a detector, but
no new reader.
"""

import dataclasses
import os
from collections.abc import Callable

from tf_mural.datasets import table
from tf_mural.datasets.layout_survey import OFFICIAL_FILES, Survey
from tf_mural.errors import UserError


@dataclasses.dataclass(frozen=True)
class Layout:
    """A layout of users' own data.

    Attributes:
        description: noun phrase with article.
        dataset: key of `datasets.DATASETS` that reads the layout.
        example: names of files and of their columns, for messages.
        detect: callable that maps a `layout_survey.Survey` to the files of the layout, a tuple.
    """

    description: str
    dataset: str
    example: str
    detect: Callable


@dataclasses.dataclass(frozen=True)
class Match:
    """A layout that fits a folder.

    Attributes:
        dataset: key of `datasets.DATASETS`.
        description: noun phrase for the layout, or for the public data set.
        names: the files by which the layout was detected.
        details: further facts about the files, such as their columns.
        options: {option: value} that chooses this layout if several layouts of the same data set
            fit; {} if the choice of the data set is sufficient.
    """

    dataset: str
    description: str
    names: tuple
    details: tuple = ()
    options: dict = dataclasses.field(default_factory=dict)

    def reason(self):
        """Returns the files and details in a few words."""
        listed = ", ".join(self.names[:3]) + (", ..." if len(self.names) > 3 else "")
        return "; ".join([listed, *self.details])


def detect(raw_dir, options=None, datasets=("table", "crawl")):
    """Finds the layouts that fit a folder or a file.

    Args:
        raw_dir: path of the folder, or of a table.
        options: dict of options of `table.plan` that the user gives.
        datasets: names of the data sets whose layouts are tried.

    Returns:
        A list of `Match`. Layouts that are read together are one match.

    Raises:
        UserError: raw_dir does not exist, a table cannot be opened, or no layout fits; the message
            then lists the contents of the folder.
    """
    if not raw_dir or not os.path.exists(raw_dir):
        raise UserError(f"expected raw_dir to be a folder or a table; {raw_dir!r} does not exist")
    survey = Survey(os.fspath(raw_dir), options or {})
    matches = []
    for layout in LAYOUTS.values():
        if layout.dataset in datasets and (names := layout.detect(survey)):
            details = tuple(filter(None, map(survey.describe, names[:1])))
            matches.append(Match(layout.dataset, layout.description, names, details))
    matches = [*_official_matches(survey), *_merge(survey, matches)]
    if not matches:
        if "table" in datasets and survey.tables:
            # No column of texts was recognized; this call raises an error that shows the header.
            table.plan(raw_dir, table.splits(raw_dir, **survey.options)[0], **survey.options)
        raise UserError(
            f"{raw_dir}: no layout fits; it contains {survey.contents()}. Expected "
            + "; ".join(f"{layout.description} ({layout.example})" for layout in LAYOUTS.values())
        )
    return matches


def _official_matches(survey):
    """Returns a `Match` for each public data set whose files the folder contains."""
    by_dataset = {}
    for name, dataset in OFFICIAL_FILES.items():
        if survey.is_folder and os.path.exists(os.path.join(survey.raw_dir, name)):
            by_dataset.setdefault(dataset, []).append(name)
    return [
        Match(dataset, f"the data set {dataset}", tuple(names))
        for dataset, names in by_dataset.items()
    ]


def _merge(survey, matches):
    """Merges the matches of `crawl`, and adds the option that chooses one to those of `table`."""
    crawls = [match for match in matches if match.dataset == "crawl"]
    if len(crawls) > 1:
        names = tuple(name for match in crawls for name in match.names)
        description = " and ".join(match.description for match in crawls)
        crawls = [dataclasses.replace(crawls[0], description=description, names=names)]
    tables = [match for match in matches if match.dataset == "table"]
    if len(tables) > 1:
        tables = [
            dataclasses.replace(match, options={"file": ",".join(match.names)}) for match in tables
        ]
    return tables + crawls


# --- table of layouts -----------------------------------------------------------------------------


def _tables(kind):
    return lambda survey: survey.tables_of(kind)


def _shards(layout):
    return lambda survey: survey.shards_of(layout)


LAYOUTS = {
    "wide": Layout(
        "a wide table, with a column for each language",
        "table",
        "captions.csv: image, en, de",
        _tables("wide"),
    ),
    "long": Layout(
        "a long table, with a row for each text and a column of languages",
        "table",
        "captions.csv: image, language, text",
        _tables("long"),
    ),
    "captions": Layout(
        "a table with a row for each caption",
        "table",
        "captions.csv: image, caption",
        _tables("captions"),
    ),
    "open_clip": Layout(
        "a table of open_clip", "table", "train.csv: filepath, title", _tables("open_clip")
    ),
    "excel": Layout(
        "a table that Excel exported",
        "table",
        "texts.csv with semicolons, or in UTF-16 or cp1252",
        _tables("excel"),
    ),
    "imagefolder": Layout(
        "an imagefolder of Hugging Face",
        "table",
        "metadata.jsonl or metadata.csv: file_name, text",
        _tables("imagefolder"),
    ),
    "parquet": Layout(
        "Parquet files of Hugging Face",
        "table",
        "train-00000-of-00002.parquet: image, caption",
        _tables("parquet"),
    ),
    "tar_txt": Layout(
        "tars of WebDataset with a .txt for each image",
        "crawl",
        "00000.tar: 0.jpg, 0.txt",
        _shards("tar_txt"),
    ),
    "tar_languages": Layout(
        "tars of WebDataset with a .txt for each language",
        "crawl",
        "00000.tar: 0.jpg, 0.en.txt, 0.de.txt",
        _shards("tar_languages"),
    ),
    "tar_json": Layout(
        "tars of WebDataset with captions in JSON",
        "crawl",
        "00000.tar: 0.jpg, 0.json",
        _shards("tar_json"),
    ),
    "coco": Layout(
        "captions in COCO's JSON",
        "table",
        "captions_val.json: images, annotations",
        _tables("coco"),
    ),
    "img2dataset": Layout(
        "output of img2dataset",
        "crawl",
        "00000.tar, 00000.parquet, 00000.tfrecord, or folders of 0.jpg and 0.txt",
        _shards("img2dataset"),
    ),
}
