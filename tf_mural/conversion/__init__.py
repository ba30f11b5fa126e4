"""Runs a converter: its units over an engine, shards of each unit, and the ledger of it all.

A record set is built in a hidden folder and takes its name when it is whole, so that whatever
interrupts a conversion, the folder holds the old set, the new one, or none. The hidden folder is
named after the recipe, and finished units in it are not done again.
"""

import functools
import inspect
import os

from tf_mural import __version__, datasets
from tf_mural.conversion import publish
from tf_mural.conversion.build_paths import Places
from tf_mural.conversion.driver import Passes
from tf_mural.conversion.filter_config import PAPER, Steps
from tf_mural.conversion.provenance import already_there, digest, option_defaults, plan
from tf_mural.conversion.units import Task
from tf_mural.data import records
from tf_mural.errors import UserError, lookup

__all__ = ["PAPER", "Steps", "convert", "ensure", "option_defaults"]


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
    steps=None,
    part=None,
    engine="processes",
    flags=(),
):
    """Converts one split of a data set to the record set `<out_dir>/<split>`.

    The same input, options and steps give the same bytes, whatever the engine, the number of
    processes and the parts, interrupted or not. A whole set made by the same recipe is kept. A
    second conversion to the same place waits for the first, but parts of one run at once.

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
        steps: `Steps`; default none.
        part: (number from 0, of how many): does the units whose number has that remainder. The last
            part to end makes the set whole.
        engine: name in `engines.ENGINES` of what runs the jobs.
        flags: of the engine's own, where it has such.

    Returns:
        The manifest as a dict, or None where other parts are to be done before the set is whole.

    Raises:
        UserError: unknown options, raw data that cannot be used, nothing kept, or a set of another
            recipe in the way.
        WorkerEnded: a `UserError`: a worker process was killed.
    """
    from tf_mural.conversion.executors import ENGINES

    run = lookup(ENGINES, engine, "engine")
    options, steps = dict(options or {}), steps or Steps()
    number, total = part or (0, 1)
    if not 0 <= number < total:
        raise UserError(f"expected a part from 0 to {total - 1} of {total}, got {number}")
    recipe, units = plan(dataset, name, raw_dir, split, options, augmentations, steps)
    places = Places(str(out_dir), split, digest(recipe, units))
    label = f"{name}/{split}"
    task, run = Task(dataset.__name__, steps, places), _bound(run, processes, flags, places.work)
    passes = Passes(task, units, (number, total), label, run, progress)
    classes = getattr(dataset, "classes", None)
    classes = functools.partial(classes, raw_dir, **options) if classes else lambda: None
    try:
        os.makedirs(out_dir, exist_ok=True)
        with publish.held(places, shared=part is not None):
            there = already_there(places.folder, recipe, overwrite)
            if there is not None:
                progress(f"{label}: already there, {there['records']:,} records in {places.folder}")
                return there
            try:
                return _build(passes, recipe, classes)
            except BaseException:
                if part is None:
                    publish.discard_or_keep(places, progress)
                raise
    except OSError as error:
        raise UserError(f"converting {label} to {places.folder} failed: {error}") from error


def ensure(name, out_dir, progress=print):
    """Makes the splits of a data set that are missing, with its usual options.

    For data sets that need no raw data. A whole set that is there is used as it stands.

    Args:
        name: in `datasets.DATASETS`.
        out_dir, progress: as for `convert`.

    Raises:
        UserError: an unknown data set, or a set that is there but not whole.
    """
    dataset = lookup(datasets.DATASETS, name, "data set")
    for split in dataset.SPLITS:
        folder = os.path.join(out_dir, split)
        if os.path.isdir(folder):
            records.RecordSet.open(folder)
        else:
            convert(dataset, name, None, out_dir, split, progress=progress)


def _bound(run, processes, flags, folder):
    """An engine with all that it takes besides jobs."""
    known = inspect.signature(run).parameters
    more = {"folder": folder} if "folder" in known else {}
    if flags:
        if "flags" not in known:
            raise UserError(f"this engine has no flags of its own, such as {flags[0]!r}")
        more["flags"] = flags
    return lambda function, jobs: run(function, jobs, processes, **more)


def _build(passes, recipe, classes):
    """All passes of the part; the manifest of the set if it is whole then, or None."""
    places, label = passes.task.places, passes.label
    os.makedirs(places.work, exist_ok=True)
    number, total = passes.part
    with publish.locked(places.work_lock(f"part-{number}-of-{total}")):
        # Or the same part was done elsewhere meanwhile, or a run ended just before the very end.
        if os.path.isdir(places.work) and not os.path.exists(places.manifest):
            passes.exclude()
            passes.count()
            if not passes.answer():
                parts = passes.missing(places.counted)
                passes.progress(
                    f"{label}: pass 1 is done of part {number} of {total}, but not yet of the "
                    f"parts {parts}; run those, then this one again"
                )
                return None
            passes.write()
    with publish.locked(places.end_lock):
        if not os.path.isdir(places.building):  # Another part made the set whole.
            return records.read_manifest(places.folder)
        parts = passes.missing(places.outcome)
        if parts and not os.path.exists(places.manifest):
            passes.progress(
                f"{label}: part {number} of {total} is done; to be done are the parts {parts}"
            )
            return None
        describe = functools.partial(_describe, recipe, classes)
        return publish.assemble(places, len(passes.units), label, describe)


def _describe(recipe, classes, folder, shards, ledger):
    """Writes the manifest of a set."""
    records.write_manifest(
        folder,
        shards,
        recipe["dataset"],
        recipe["split"],
        recipe["augmentations"],
        {**recipe, "version": __version__},
        ledger,
        classes(),
    )
