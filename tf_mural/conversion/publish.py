"""The folder in which a record set is built: locks, what stopped conversions left, the end."""

import contextlib
import fcntl
import os
import re
import shutil

from tf_mural.conversion.ledger import Books
from tf_mural.conversion.unit_results import Outcome, Shards
from tf_mural.data import records
from tf_mural.errors import UserError


@contextlib.contextmanager
def held(places, shared=False):
    """Holds the place of a record set, against other conversions to it.

    Parts of one share it. What stopped conversions left behind is removed, unless parts run.

    Args:
        places: `Places`.
        shared: whether parts of the same set may run at once.
    """
    with open(places.lock, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if shared else 0))
            _clear(places)
        except BlockingIOError:
            pass  # Another part runs, and has cleared what there was.
        if shared:
            fcntl.flock(file, fcntl.LOCK_SH)
        yield


@contextlib.contextmanager
def locked(path):
    """Holds a file against other processes for a while."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def discard_or_keep(places, progress):
    """After a failure: keeps finished units for the same command, and nothing else."""
    _clear(places)
    counted = [name for name in _listed(places.work) if name.startswith("counted-")]
    done = [name for name in _listed(places.work) if name.startswith("outcome-")]
    if counted or done:
        what = f"{len(done)} finished" if done else f"{len(counted)} counted"
        progress(f"{what} units are kept in {places.building}; the same command goes on from there")
    else:
        shutil.rmtree(places.building, ignore_errors=True)


def assemble(places, count, label, describe):
    """Makes the record set of what all units wrote.

    It may be interrupted anywhere and called again.

    Args:
        places: `Places`.
        count: number of units.
        label: names the conversion in messages.
        describe: function of (folder, shards, ledger) that writes the manifest.

    Returns:
        The manifest as a dict.

    Raises:
        UserError: nothing was kept, or a shard is not what its outcome says.
    """
    building = places.building
    if not os.path.exists(places.manifest):
        books, outcomes = Books(), []
        for number in range(count):
            outcomes.append(Outcome(places.outcome(number)))
            books.add(outcomes[-1].books)
        try:
            ledger = books.ledger(label)
        except UserError:
            shutil.rmtree(building)
            raise
        shards = Shards(outcomes)
        for file, name, size in shards.names():
            _rename(os.path.join(building, file), os.path.join(building, name), size)
        describe(building, shards, ledger)
    shutil.rmtree(places.work)
    if os.path.isdir(places.folder):
        os.rename(places.folder, places.replaced)
    os.rename(building, places.folder)
    shutil.rmtree(places.replaced, ignore_errors=True)
    return records.read_manifest(places.folder)


def _rename(before, after, size):
    if os.path.exists(before):
        os.rename(before, after)
    if not os.path.exists(after) or os.path.getsize(after) != size:
        raise UserError(
            f"{after} is missing or not of {size} bytes; remove {os.path.dirname(after)} and "
            "convert again"
        )


def _clear(places):
    """Removes half-written files, and the folders of conversions of other recipes."""
    left_behind = re.compile(rf"\.{re.escape(places.split)}\.[0-9a-f]+(\.old)?\.tmp")
    for entry in _listed(places.out_dir):
        path = os.path.join(places.out_dir, entry)
        if left_behind.fullmatch(entry) and path != places.building:
            shutil.rmtree(path)
    for folder in (places.building, places.work):
        for entry in _listed(folder):
            path = os.path.join(folder, entry)
            if entry.endswith(".tmp") and os.path.isfile(path):
                os.remove(path)


def _listed(folder):
    return os.listdir(folder) if os.path.isdir(folder) else []
