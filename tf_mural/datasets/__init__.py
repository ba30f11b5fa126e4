"""The data sets that `tools/convert.py` knows, one file or folder each.

A data set is a module with

    plan(raw_dir, split, **options)   list of units: ranges of the input, as plain picklable data
    read(unit)                        iterator of records.Record and records.Dropped
    SPLITS, AUGMENTATIONS             names of its splits, and what training may do to its images
    splits(raw_dir, **options)        optional: the splits, where they depend on the raw data
    fingerprint(raw_dir, split, **options)  optional: hash of the input, where a user may change it
    VERSION                           optional: raised when the same input gives other records

Each unit becomes one shard, and may be read in a process of its own, which imports no TensorFlow.
"""

import dataclasses

from tf_mural.datasets import scenes, table

DATASETS = {"scenes": scenes, "table": table}


@dataclasses.dataclass(frozen=True)
class About:
    """What a data set is, for people: `what` in a line, and where its terms are found."""

    what: str
    homepage: str
    licence: str


ABOUT = {
    "scenes": About(
        "pictures of two objects, drawn on the spot, with captions in 12 languages",
        "-",
        "Apache-2.0",
    ),
    "table": About("one's own TSV, CSV or JSONL of image paths and texts", "-", "your own"),
}
