"""Paths, locks and the final rename of a conversion.

A record set is built in a hidden folder, which is renamed when the set is complete. After an
interruption at any point, the final folder contains the old set or the new set, or is missing.
"""

import contextlib
import dataclasses
import fcntl
import os
import re
import shutil

from tf_mural.conversion.ledger import Ledger
from tf_mural.conversion.units import ShardSequence, UnitResult
from tf_mural.data import records
from tf_mural.errors import UserError


@dataclasses.dataclass(frozen=True)
class BuildPaths:
    """Paths of the files of a conversion.

    The build folder is named after the digest of the recipe. A later run finds the folder by this
    name and continues a stopped conversion. The parts of one conversion, possibly on several
    machines, also share this folder.

    Attributes:
        out_dir: folder of the record sets.
        split: name of the split.
        digest: digest of the recipe.
    """

    out_dir: str
    split: str
    digest: str

    @property
    def record_set(self):
        """The folder of the complete record set."""
        return os.path.join(self.out_dir, self.split)

    @property
    def build(self):
        """The folder in which the record set is built."""
        return os.path.join(self.out_dir, f".{self.split}.{self.digest}.tmp")

    @property
    def manifest(self):
        """The manifest in the build folder, which is written last."""
        return os.path.join(self.build, records.MANIFEST)

    @property
    def replaced(self):
        """The folder of the previous record set while the new one is renamed."""
        return os.path.join(self.out_dir, f".{self.split}.{self.digest}.old.tmp")

    @property
    def lock(self):
        """The lock file of all conversions of the split."""
        return os.path.join(self.out_dir, f".{self.split}.lock")

    @property
    def finalize_lock(self):
        """The lock file of the part that finalizes the record set."""
        return os.path.join(self.out_dir, f".{self.split}.end.lock")

    @property
    def work(self):
        """The folder of all files that do not become part of the record set."""
        return os.path.join(self.build, "work")

    @property
    def excluded_hashes(self):
        """The file of the hashes of excluded sets."""
        return os.path.join(self.work, "excluded-hashes.json")

    @property
    def resolved(self):
        """The file that is written when all corpus filters are resolved.

        The file contains, for each filter, the number of ranges of keys.
        """
        return os.path.join(self.work, "resolved.json")

    def scan(self, unit):
        """The file that is written when a unit has completed pass 1."""
        return os.path.join(self.work, f"scan-{unit:05d}.json")

    def result(self, unit):
        """The file that is written when a unit has completed pass 2."""
        return os.path.join(self.work, f"result-{unit:05d}.npz")

    def shard(self, unit, number):
        """The file of a shard of a unit."""
        return os.path.join(self.build, f"unit-{unit:05d}-{number:05d}.tfrecord")

    def spill_stem(self, unit, corpus_filter):
        """The beginning of the names of a unit's spill files."""
        return os.path.join(self.work, f"spill-{unit:05d}-{corpus_filter.replace(' ', '-')}")

    def drop_list(self, corpus_filter, number):
        """The file of the records and texts that a corpus filter drops for one range of keys."""
        name = f"drop-list-{corpus_filter.replace(' ', '-')}-{number:05d}.npy"
        return os.path.join(self.work, name)

    def work_lock(self, name):
        """A lock file of this conversion, for a part or for a job that must run only once."""
        return os.path.join(self.work, f"{name}.lock")


@contextlib.contextmanager
def exclusive(paths, shared=False):
    """Context manager that locks a record set against other conversions to the same folder.

    Removes the temporary files of stopped conversions, unless another part is running.

    Args:
        paths: `BuildPaths`.
        shared: whether other parts of the same conversion may run at the same time.
    """
    # filelock has no shared lock that the kernel releases on all network file systems.
    with open(paths.lock, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if shared else 0))
            _remove_stale(paths)
        except BlockingIOError:
            pass  # The other part that is running has removed the stale files.
        if shared:
            fcntl.flock(file, fcntl.LOCK_SH)
        yield


@contextlib.contextmanager
def lock(path):
    """Context manager that holds a lock file exclusively; waits for other processes.

    If the folder of the file does not exist, another process has finished the conversion, and
    nothing is locked.
    """
    import filelock

    with contextlib.ExitStack() as stack:
        with contextlib.suppress(FileNotFoundError):
            stack.enter_context(filelock.FileLock(path, fallback_to_soft=False))
        yield


def cleanup_failed(paths, progress):
    """Removes the build folder of a failed conversion, unless it contains finished units.

    Args:
        paths: `BuildPaths`.
        progress: callable that takes one line.
    """
    _remove_stale(paths)
    scanned = [name for name in _list_folder(paths.work) if name.startswith("scan-")]
    finished = [name for name in _list_folder(paths.work) if name.startswith("result-")]
    if scanned or finished:
        count = f"{len(finished)} finished" if finished else f"{len(scanned)} scanned"
        progress(f"{count} units are kept in {paths.build}; run the same command again to continue")
    else:
        shutil.rmtree(paths.build, ignore_errors=True)


def finalize(paths, num_units, label, write_manifest):
    """Turns the results of all units into the record set.

    The function may be interrupted at any point and called again.

    Args:
        paths: `BuildPaths`.
        num_units: number of units.
        label: name of the conversion for messages.
        write_manifest: callable (folder, shards, ledger) that writes the manifest.

    Returns:
        The manifest as a dict.

    Raises:
        UserError: no record was kept, or the size of a shard differs from the size in the result
            file of its unit.
    """
    if not os.path.exists(paths.manifest):
        ledger, results = Ledger(), []
        for number in range(num_units):
            results.append(UnitResult(paths.result(number)))
            ledger.merge(results[-1].ledger)
        try:
            counts = ledger.to_manifest(label)
        except UserError:
            shutil.rmtree(paths.build)
            raise
        shards = ShardSequence(results)
        for current, final, size in shards.names():
            _rename(os.path.join(paths.build, current), os.path.join(paths.build, final), size)
        write_manifest(paths.build, shards, counts)
    shutil.rmtree(paths.work)
    if os.path.isdir(paths.record_set):
        os.rename(paths.record_set, paths.replaced)
    os.rename(paths.build, paths.record_set)
    shutil.rmtree(paths.replaced, ignore_errors=True)
    return records.read_manifest(paths.record_set)


def _rename(source, target, size):
    if os.path.exists(source):
        os.rename(source, target)
    if not os.path.exists(target) or os.path.getsize(target) != size:
        raise UserError(
            f"{target} is missing or not of {size} bytes; remove {os.path.dirname(target)} and "
            "convert again"
        )


def _remove_stale(paths):
    """Removes partial files, and the build folders of other recipes."""
    pattern = re.compile(rf"\.{re.escape(paths.split)}\.[0-9a-f]+(\.old)?\.tmp")
    for entry in _list_folder(paths.out_dir):
        path = os.path.join(paths.out_dir, entry)
        if pattern.fullmatch(entry) and path != paths.build:
            shutil.rmtree(path)
    for folder in (paths.build, paths.work):
        for entry in _list_folder(folder):
            path = os.path.join(folder, entry)
            if entry.endswith(".tmp") and os.path.isfile(path):
                os.remove(path)


def _list_folder(folder):
    return os.listdir(folder) if os.path.isdir(folder) else []
