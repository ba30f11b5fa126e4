"""Converts a data set to record sets in passes over its work units.

Each pass is a map over independent jobs that an executor runs:

    pass            task of a job                              one job for each
    excluded sets   hash the records of excluded sets          range of their records
    pass 1          spill the entries of the corpus filters    unit
    resolve         select what a corpus filter drops          range of keys
    pass 2          write one or more shards                   unit

Without corpus filters, the passes `pass 1` and `resolve` are omitted. After an interruption,
finished units are not processed again.
"""

import dataclasses
import functools
import inspect
import json
import os
from collections.abc import Callable

from tf_mural import __version__, datasets, file_io
from tf_mural.conversion import corpus_filters, decontamination, publish, units
from tf_mural.conversion.executors import EXECUTORS
from tf_mural.conversion.filter_config import FilterConfig
from tf_mural.conversion.provenance import existing_manifest, plan_conversion, recipe_digest
from tf_mural.data import records
from tf_mural.data.image_normalization import stored_images_note
from tf_mural.errors import UserError, lookup
from tf_mural.progress import Progress

SECONDS_BETWEEN_LINES = 2.0


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
    progress=None,
    filters=None,
    part=None,
    executor="processes",
    flags=(),
):
    """Converts one split of a data set to the record set `<out_dir>/<split>`.

    Equal input, options and filters give equal bytes, independent of the executor, the number of
    processes, the parts and interruptions. An existing record set with the same recipe is kept. A
    second conversion to the same folder waits until the first one has ended. Only parts of one
    conversion can run at the same time.

    Args:
        dataset: a module of `tf_mural.datasets`, or any importable module with the same functions.
        name: name of the data set in the manifest.
        raw_dir: folder of the raw data; None if the data set needs none.
        out_dir: folder of the record sets, one for each split.
        split: name of the split.
        options: dict of keyword arguments for the data set's `plan`.
        augmentations: augmentations of the images that training may use. Default: all augmentations
            that the data set allows.
        processes: number of worker processes; by default one for each core. With one process, all
            jobs run in this process.
        overwrite: whether to replace a record set that was made by another recipe.
        progress: callable that receives each line about the progress. Default: the lines are
            printed, and a terminal shows a bar.
        filters: `FilterConfig`. Default: no filters.
        part: (i, n) converts only the units whose number modulo n is i. The last part that finishes
            completes the record set. Default: all units.
        executor: a key of `executors.EXECUTORS`.
        flags: flags of the executor, such as those of Apache Beam.

    Returns:
        The manifest as a dict, or None if other parts must run before the record set is complete.

    Raises:
        UserError: an option is unknown, the raw data cannot be used, no record is kept, or
            `out_dir` contains a record set of another recipe.
        WorkerDiedError: a worker process was killed; the class is a subclass of `UserError`.
    """
    run = lookup(EXECUTORS, executor, "executor")
    options, filters = dict(options or {}), filters or FilterConfig()
    number, total = part or (0, 1)
    if not 0 <= number < total:
        raise UserError(f"expected a part from 0 to {total - 1} of {total}, got {number}")
    for path in (raw_dir, out_dir):
        if path is not None and file_io.is_remote(path):
            raise UserError(
                f"{path} is not on this machine: conversions read and write local files; copy the "
                "raw data from the storage, and the finished records to the storage"
            )
    recipe, planned = plan_conversion(
        dataset, name, raw_dir, split, options, augmentations, filters
    )
    paths = publish.BuildPaths(str(out_dir), split, recipe_digest(recipe, planned))
    label = f"{name}/{split}"
    get_vectors = getattr(dataset, "vectors", None)
    vectors = get_vectors(raw_dir, **options) if get_vectors else {}
    task = units.Task(dataset.__name__, filters, paths, vectors)
    run = _bind_executor(run, processes, flags, paths.work)
    passes = Passes(task, planned, (number, total), label, run, progress)
    get_classes = getattr(dataset, "classes", None)
    classes = functools.partial(get_classes, raw_dir, **options) if get_classes else lambda: None
    try:
        os.makedirs(out_dir, exist_ok=True)
        with publish.exclusive(paths, shared=part is not None):
            existing = existing_manifest(paths.record_set, recipe, overwrite)
            if existing is not None:
                count = f"{existing['records']:,} records in {paths.record_set}"
                passes.report(f"{label}: already there, {count}")
                if note := stored_images_note(paths.record_set, existing):
                    passes.report(note)
                return existing
            try:
                return _build(passes, recipe, classes)
            except BaseException:
                if part is None:
                    publish.cleanup_failed(paths, passes.report)
                raise
    except OSError as error:
        raise UserError(f"converting {label} to {paths.record_set} failed: {error}") from error


def ensure(name, out_dir, progress=None):
    """Converts the missing splits of a data set that needs no raw data, with its default options.

    An existing complete record set is kept, even if it has another recipe.

    Args:
        name: a key of `datasets.DATASETS`.
        out_dir, progress: as for `convert`.

    Raises:
        UserError: the data set is unknown, an existing record set is incomplete, or a record set is
            missing on a remote storage.
    """
    dataset = lookup(datasets.DATASETS, name, "data set")
    for split in dataset.SPLITS:
        folder = os.path.join(out_dir, split)
        if file_io.is_remote(out_dir):
            records.read_manifest(folder)  # Conversions write local files.
        elif os.path.isdir(folder):
            records.RecordSet.open(folder)
        else:
            convert(dataset, name, None, out_dir, split, progress=progress)


def _bind_executor(run, processes, flags, folder):
    """Returns an executor as a callable (function, jobs), with its other arguments bound."""
    parameters = inspect.signature(run).parameters
    bound = {"folder": folder} if "folder" in parameters else {}
    if flags:
        if "flags" not in parameters:
            raise UserError(f"this executor has no flags of its own, such as {flags[0]!r}")
        bound["flags"] = flags
    return lambda function, jobs: run(function, jobs, processes, **bound)


def _build(passes, recipe, classes):
    """Runs all passes of the part.

    Returns:
        The manifest, or None if other parts must run before the record set is complete.
    """
    paths, label = passes.task.paths, passes.label
    os.makedirs(paths.work, exist_ok=True)
    number, total = passes.part
    with publish.lock(paths.work_lock(f"part-{number}-of-{total}")):
        # If `paths.work` is missing or the manifest exists, another process has run this part, or
        # an earlier run was interrupted shortly before the last rename.
        if os.path.isdir(paths.work) and not os.path.exists(paths.manifest):
            passes.hash_excluded()
            passes.scan()
            if not passes.resolve():
                parts = passes.unfinished_parts(paths.scan)
                passes.report(
                    f"{label}: part {number} of {total} has finished pass 1, but the parts {parts} "
                    "have not; run those parts, then this one again"
                )
                return None
            passes.write()
    with publish.lock(paths.finalize_lock):
        if not os.path.isdir(paths.build):  # Another part has finalized the record set.
            return records.read_manifest(paths.record_set)
        parts = passes.unfinished_parts(paths.result)
        if parts and not os.path.exists(paths.manifest):
            passes.report(f"{label}: part {number} of {total} is done; still to run: {parts}")
            return None
        write_manifest = functools.partial(_write_manifest, recipe, classes, passes.task)
        return publish.finalize(paths, len(passes.units), label, write_manifest)


def _write_manifest(recipe, classes, task, folder, shards, ledger):
    records.write_manifest(
        folder,
        shards,
        recipe["dataset"],
        recipe["split"],
        recipe["augmentations"],
        {**recipe, "version": __version__},
        ledger,
        classes(),
        task.vectors,
        task.filters.block_records,
        task.filters.block_bytes,
    )


@dataclasses.dataclass
class Passes:
    """The passes of one conversion, or of one part of it.

    Attributes:
        task: `units.Task`.
        units: all units of the data set.
        part: (i, n): the units whose number modulo n is i; (0, 1) for all units.
        label: name of the conversion in progress lines.
        run: executor, a callable (function, jobs) that yields (job number, result).
        progress: callable that receives each line, or None; see `convert`.
    """

    task: units.Task
    units: list
    part: tuple[int, int]
    label: str
    run: Callable
    progress: Callable | None

    def report(self, line):
        """Prints a line about the progress."""
        (self.progress or functools.partial(print, flush=True))(line)

    def hash_excluded(self):
        """Hashes the records of the excluded sets."""
        exclude, paths = self.task.filters.exclude, self.task.paths
        if not exclude:
            return
        with publish.lock(paths.work_lock("excluded")):
            if not os.path.exists(paths.excluded_hashes):
                jobs = decontamination.plan_jobs(exclude)
                hashed = [None] * len(jobs)
                run = self._run_jobs(", excluded sets", decontamination.hash_records, jobs, "parts")
                for number, result in run:
                    hashed[number] = result
                decontamination.save_hashes(paths.excluded_hashes, hashed)

    def scan(self):
        """Runs pass 1 over the units of the part."""
        if self.task.filters.corpus_filters:
            self._run_units(", pass 1 of 2", units.scan_unit, self.task.paths.scan)

    def resolve(self):
        """Resolves the corpus filters if all units have completed pass 1.

        Returns:
            Whether the corpus filters are resolved.
        """
        paths = self.task.paths
        if not self.task.filters.corpus_filters:
            return True
        with publish.lock(paths.work_lock("resolved")):
            if os.path.exists(paths.resolved):
                return True
            if self.unfinished_parts(paths.scan):
                return False
            jobs, num_ranges, files = self._resolve_jobs()
            list(self._run_jobs(", resolve", units.resolve_filters, jobs, "ranges", "entries"))
            path = paths.resolved
            with file_io.atomic_write(path, sync=False) as temporary, open(temporary, "wb") as file:
                file.write(json.dumps(num_ranges).encode())
            corpus_filters.remove_files(files)
        return True

    def write(self):
        """Runs pass 2 over the units of the part."""
        paths = self.task.paths
        if not self.task.filters.corpus_filters:
            self._run_units("", units.write_unit, paths.result)
            return
        num_ranges = _read_json(paths.resolved)
        extra = {
            number: (_read_json(paths.scan(number))["read"], num_ranges)
            for number in self._unit_numbers()
        }
        self._run_units(", pass 2 of 2", units.write_unit, paths.result, extra)

    def unfinished_parts(self, path_of):
        """Returns the parts that lack the file of a unit, such as "0, 2 of 3"; "" if none does.

        Args:
            path_of: callable that maps the number of a unit to a path.
        """
        total = self.part[1]
        numbers = range(len(self.units))
        parts = {number % total for number in numbers if not os.path.exists(path_of(number))}
        return f"{', '.join(map(str, sorted(parts)))} of {total}" if parts else ""

    def _resolve_jobs(self):
        """Returns (jobs, {corpus filter: number of ranges}, paths of all spill files)."""
        paths, jobs, num_ranges, all_files = self.task.paths, [], {}, []
        scans = [_read_json(paths.scan(number)) for number in range(len(self.units))]
        for name in self.task.filters.corpus_filters:
            files = [
                f"{paths.spill_stem(unit, name)}-{number:04d}.npy"
                for unit, scan in enumerate(scans)
                for number in range(scan["files"][name])
            ]
            ranges = corpus_filters.key_ranges(sum(scan["entries"][name] for scan in scans))
            jobs += [(self.task, name, i, *ends, files) for i, ends in enumerate(ranges)]
            num_ranges[name] = len(ranges)
            all_files += files
        return jobs, num_ranges, all_files

    def _unit_numbers(self):
        return range(self.part[0], len(self.units), self.part[1])

    def _run_units(self, title, function, path_of, extra=None):
        """Runs a job for each unit of the part whose file does not exist yet.

        Args:
            title: text after the label in progress lines.
            function: job of a unit.
            path_of: callable that maps the number of a unit to the file that the job writes.
            extra: {number of a unit: further arguments of its job}, or None for no arguments.
        """
        todo = [number for number in self._unit_numbers() if not os.path.exists(path_of(number))]
        done = len(self._unit_numbers()) - len(todo)
        if done:
            counts = f"{done} of {done + len(todo)} units were done before"
            self.report(f"{self.label}{title}: {counts}")
        jobs = [
            (self.task, number, self.units[number], *(extra[number] if extra else ()))
            for number in todo
        ]
        list(self._run_jobs(title, function, jobs, "units", "read", done))

    def _run_jobs(self, title, function, jobs, noun, counted=None, done=0):
        """Yields (job number, result) of each job and reports progress.

        Args:
            title: text after the label in progress lines.
            function, jobs: arguments of the executor.
            noun: plural noun for the jobs in progress lines, such as "units".
            counted: text after the sum of the results in progress lines, such as "read"; None if
                the results are not numbers.
            done: number of jobs that earlier runs have finished.
        """
        label, total = f"{self.label}{title}", done + len(jobs)
        options = {"print_fn": self.progress, "seconds": SECONDS_BETWEEN_LINES}
        with Progress(label, total, noun, counted, done, **options) as progress:
            count = 0
            for finished, (number, result) in enumerate(self.run(function, jobs), 1):
                yield number, result
                count += result if counted else 0
                progress.update(done + finished, count)


def _read_json(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)
