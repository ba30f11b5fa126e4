"""Runs a converter: its units over a pool of processes, one shard a unit, and the ledger of it all.

A record set is built under a temporary name and takes its own when it is whole, so that whatever
interrupts a conversion, the folder holds the old set, the new one, or none.
"""

import contextlib
import fcntl
import inspect
import os
import shutil
import time
import uuid

from tf_mural import __version__, datasets, records
from tf_mural.base import UserError, pick, suggest
from tf_mural.conversion import workers
from tf_mural.conversion.units import convert_unit, ledger_of

_SECONDS_BETWEEN_LINES = 2.0


def convert(
    dataset,
    name,
    raw_dir,
    out_dir,
    split,
    options=None,
    augmentations=None,
    processes=None,
    overwrite=False,
    progress=print,
):
    """Converts one split of a data set to the record set `<out_dir>/<split>`.

    The same input and options give the same bytes, whatever the number of processes. A whole set
    made by the same recipe is kept. A second conversion to the same place waits for the first.

    Args:
        dataset: a module of `tf_mural.datasets`, or any importable one that answers the same.
        name: what the manifest calls the data set.
        raw_dir: where the raw data lie; None if the data set needs none.
        out_dir: folder of the record sets, one a split.
        split: name of the split.
        options: keyword arguments for the data set's `plan`.
        augmentations: what training may do to the images; default all that the data set allows.
        processes: how many run at once; default one a core. One runs inside this process.
        overwrite: whether to replace a set made by another recipe.
        progress: called with one line at a time.

    Returns:
        The manifest as a dict.

    Raises:
        UserError: unknown options, raw data that cannot be used, nothing kept, or a set of another
            recipe in the way.
    """
    options = dict(options or {})
    recipe, units = _plan(dataset, name, raw_dir, split, options)
    allowed = _allowed(dataset, name, augmentations)
    recipe["augmentations"] = list(allowed)
    folder = os.path.join(out_dir, split)
    label = f"{name}/{split}"
    try:
        os.makedirs(out_dir, exist_ok=True)
        with _alone(out_dir, split):
            there = _already_there(folder, recipe, overwrite)
            if there is not None:
                progress(f"{label}: already there, {there['records']:,} records in {folder}")
                return there
            with _built_aside(out_dir, split, folder) as building:
                done = _run(dataset, units, building, label, processes, progress)
                ledger = ledger_of(done, label)
                made_by = {**recipe, "version": __version__}
                shards = [unit.shard for unit in done]
                classes = getattr(dataset, "classes", None)
                classes = classes and classes(raw_dir, **options)
                return records.write_manifest(
                    building, shards, name, split, allowed, made_by, ledger, classes
                )
    except OSError as error:
        raise UserError(f"converting {label} to {folder} failed: {error}") from error


def ensure(name, out_dir, progress=print):
    """Makes the splits of a data set that are missing, with its usual options.

    For data sets that need no raw data. A whole set that is there is used as it stands.

    Args:
        name: in `datasets.DATASETS`.
        out_dir, progress: as for `convert`.

    Raises:
        UserError: an unknown data set, or a set that is there but not whole.
    """
    dataset = pick(datasets.DATASETS, name, "data set")
    for split in dataset.SPLITS:
        folder = os.path.join(out_dir, split)
        if os.path.isdir(folder):
            records.RecordSet.open(folder)
        else:
            convert(dataset, name, None, out_dir, split, progress=progress)


def _plan(dataset, name, raw_dir, split, options):
    """(recipe, units); the recipe is plain data, equal for conversions that give the same set."""
    known = option_defaults(dataset)
    for option in options:
        if option not in known:
            listed = ", ".join(known) or "(none)"
            hint = suggest(option, known)
            raise UserError(f"{name} has no option {option!r}; it has: {listed}{hint}")
    units = list(dataset.plan(raw_dir, split, **options))
    chosen = {**known, **options}
    recipe = {"dataset": name, "split": split}
    recipe["options"] = {key: _plain(chosen[key]) for key in sorted(chosen)}
    if hasattr(dataset, "fingerprint"):
        recipe["input"] = dataset.fingerprint(raw_dir, split, **options)
    if hasattr(dataset, "VERSION"):
        recipe["dataset_version"] = dataset.VERSION
    return recipe, units


def option_defaults(dataset):
    """The options of a data set: dict from each one's name to its default, in order."""
    parameters = list(inspect.signature(dataset.plan).parameters.values())[2:]
    return {parameter.name: parameter.default for parameter in parameters}


def _plain(value):
    return list(value) if isinstance(value, tuple | list) else value


def _allowed(dataset, name, augmentations):
    if augmentations is None:
        return tuple(getattr(dataset, "USUAL_AUGMENTATIONS", dataset.AUGMENTATIONS))
    for one in augmentations:
        if one not in dataset.AUGMENTATIONS:
            known = ", ".join(dataset.AUGMENTATIONS) or "(none)"
            raise UserError(f"{name} does not allow the augmentation {one!r}; it allows: {known}")
    return tuple(a for a in dataset.AUGMENTATIONS if a in augmentations)


@contextlib.contextmanager
def _alone(out_dir, split):
    """Holds other conversions to the same place off, and clears what stopped ones left behind."""
    with open(os.path.join(out_dir, f".{split}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for entry in os.listdir(out_dir):
            if entry.startswith(f".{split}.") and entry.endswith(".tmp"):
                shutil.rmtree(os.path.join(out_dir, entry))
        yield


@contextlib.contextmanager
def _built_aside(out_dir, split, folder):
    """A temporary folder that becomes `folder` at the end, or is removed."""
    building, old = (os.path.join(out_dir, f".{split}.{uuid.uuid4().hex}.tmp") for _ in range(2))
    os.mkdir(building)
    try:
        yield building
        if os.path.isdir(folder):
            os.rename(folder, old)
        os.rename(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _already_there(folder, recipe, overwrite):
    """The manifest of a whole set of this recipe, or None where a set is to be written."""
    if not os.path.isdir(folder) or not os.listdir(folder):
        return None
    if not os.path.exists(os.path.join(folder, "manifest.json")):
        raise UserError(f"{folder} holds files that are no record set; move them away")
    if overwrite:
        return None
    manifest = records.RecordSet.open(folder).manifest
    made_by = {key: value for key, value in manifest["made_by"].items() if key != "version"}
    if made_by == recipe:
        return manifest
    before, now = _flat(made_by), _flat(recipe)
    differs = [
        f"{key} was {before.get(key)!r}, is now {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    raise UserError(
        f"{folder} holds a record set of another recipe ({'; '.join(differs)}); "
        "pass another out_dir, or overwrite to replace it"
    )


def _flat(recipe):
    return {**{k: v for k, v in recipe.items() if k != "options"}, **recipe.get("options", {})}


def _run(dataset, units, building, label, processes, progress):
    """Converts all units; a list of `units.Outcome` in their order."""
    jobs = []
    for number, unit in enumerate(units):
        path = os.path.join(building, records.shard_name(number, len(units)))
        jobs.append((dataset.__name__, unit, path))
    done = [None] * len(jobs)
    began = said = time.monotonic()
    for finished, (number, result) in enumerate(workers.run(convert_unit, jobs, processes), 1):
        done[number] = result
        now = time.monotonic()
        if finished == len(jobs) or now - said >= _SECONDS_BETWEEN_LINES:
            said, read = now, sum(unit.read for unit in done if unit is not None)
            left = (now - began) * (len(jobs) - finished) / finished
            progress(
                f"{label}: {finished} of {len(jobs)} parts, {read:,} read, "
                f"{read / max(now - began, 1e-3):,.0f} a second, {left:.0f} s left"
            )
    return done
