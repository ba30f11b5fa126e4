"""Reads and converts data sets in the process of the test."""

import pickle

from tf_mural import conversion
from tf_mural.data.records import InputParts
from tf_mural.datasets import DATASETS


def read_items(dataset, raw_dir, split, **options):
    """Returns the records of a split as a list of `Record` and `Skipped`, without `InputParts`.

    Units are pickled and unpickled between `plan` and `read`, as for a worker process.

    Args:
        dataset: module of the data set.
        raw_dir: path-like.
        split: name of the split.
        **options: options of `plan`.
    """
    items = _read_all(dataset, raw_dir, split, options)
    return [item for item in items if not isinstance(item, InputParts)]


def read_parts(dataset, raw_dir, split, **options):
    """Returns the `InputParts` of a split as {kind: {reason or None: (count, list of names)}}."""
    parts = {}
    for item in _read_all(dataset, raw_dir, split, options):
        if isinstance(item, InputParts):
            by_reason = parts.setdefault(item.kind, {})
            count, names = by_reason.get(item.ignored, (0, []))
            names += [item.example] if item.example else []
            by_reason[item.ignored] = count + item.count, names
    return parts


def _read_all(dataset, raw_dir, split, options):
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
