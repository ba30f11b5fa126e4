"""Reads and converts data sets in the process of the test."""

import pickle

from tf_mural import conversion
from tf_mural.datasets import DATASETS


def read_items(dataset, raw_dir, split, **options):
    """Returns all items of a split as a list of `Record` and `Skipped`.

    Units are pickled and unpickled between `plan` and `read`, as for a worker process.

    Args:
        dataset: module of the data set.
        raw_dir: path-like.
        split: name of the split.
        **options: options of `plan`.
    """
    units = dataset.plan(str(raw_dir), split, **options)
    return [item for unit in pickle.loads(pickle.dumps(units)) for item in dataset.read(unit)]


def convert(name, raw_dir, out_dir, split, overwrite=False, **options):
    """Converts a split in this process; returns the manifest of the record set.

    Args:
        name: key of `DATASETS`.
        raw_dir, out_dir: path-like.
        split: name of the split.
        overwrite: whether to replace an existing record set.
        **options: options of the data set's `plan`.
    """
    return conversion.convert(
        DATASETS[name],
        name,
        str(raw_dir),
        str(out_dir),
        split,
        options,
        processes=1,
        overwrite=overwrite,
        progress=str,
    )
