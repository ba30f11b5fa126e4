"""The jobs of a conversion, each on one unit or one range of keys, in a process of its own.

Jobs take plain data, write files under names that they get when they are whole, and return little,
so that they run on any engine over a shared folder.
"""

import dataclasses
import importlib
import itertools
import json

import numpy as np

from tf_mural.conversion import record_filters, sorted_spill
from tf_mural.conversion.build_paths import Places
from tf_mural.conversion.corpus_filters import QUESTIONS, Answer
from tf_mural.conversion.decontamination import Excluded
from tf_mural.conversion.hashes import ROW_BITS, position
from tf_mural.conversion.ledger import Books
from tf_mural.conversion.unit_results import save
from tf_mural.data import records


@dataclasses.dataclass(frozen=True)
class Task:
    """What all jobs of a conversion know.

    Attributes:
        module: of the data set.
        steps: `Steps`.
        places: where its files lie.
    """

    module: str
    steps: object
    places: Places


def count_unit(task, number, unit):
    """Pass 1 of a unit: writes rows for the questions. Returns how many records were read."""
    books = Books()
    found = {
        name: sorted_spill.Rows(task.places.rows(number, name)) for name in task.steps.questions
    }
    for record in _kept(task, unit, books, _checks(task)):
        place = position(number, books.read - 1)
        for name, collected in found.items():
            for key, other in QUESTIONS[name].rows(record, task.steps):
                collected.add(key, other, place)
    for collected in found.values():
        collected.spill()
    summary = {
        "read": books.read,
        "rows": {name: collected.count for name, collected in found.items()},
        "files": {name: len(collected.files) for name, collected in found.items()},
    }
    with records.appears_whole(task.places.counted(number)) as file:
        file.write(json.dumps(summary).encode())
    return books.read


def answer(task, name, number, start, end, files):
    """Between the passes: what a question drops, of the rows whose keys are in a range.

    Args:
        task: `Task`.
        name: of the question.
        number: of the range [start, end).
        files: of all units' rows.

    Returns:
        How many rows there were.
    """
    found = sorted_spill.between(files, start, end, width=3)
    dropped = np.stack(QUESTIONS[name].drops(*found.T, task.steps), axis=1)
    sorted_spill.save(
        task.places.dropped(name, number), dropped[dropped[:, 0].argsort(kind="stable")]
    )
    return len(found)


def write_unit(task, number, unit, read=None, ranges=None):
    """Pass 2 of a unit: writes its shards, then what became of it.

    Args:
        task: `Task`.
        number: of the unit.
        unit: of the data set.
        read: how many records pass 1 read, if there was one.
        ranges: dict from the name of each question to the number of its ranges of keys.

    Returns:
        How many records were read.

    Raises:
        UserError: a record is refused, or the input is not what pass 1 read.
    """
    books, shards = Books(), []
    checks = _checks(task) + _answers(task, number, ranges or {})
    if task.steps.resize is not None:
        from tf_mural.conversion.resizing import Resize

        checks.append(Resize(task.steps))
    kept = _kept(task, unit, books, checks)
    for some in _parts(kept, task.steps.shard_records):
        shards.append(records.write_shard(task.places.shard(number, len(shards)), some))
    books.close(sum(shard.records for shard in shards), read)
    save(task.places.outcome(number), shards, books)
    return books.read


def _kept(task, unit, books, checks):
    """Yields the records of a unit that stay and books the rest."""
    dataset = importlib.import_module(task.module)
    if not checks:
        return books.kept_of(dataset.read(unit))
    return _checked(books, books.kept_of(dataset.read(unit)), checks)


def _checked(books, items, checks):
    for record in items:
        row = books.read - 1
        for check in checks:
            record = check(row, record, books.drop)
            if record is None:
                break
        else:
            yield record


def _checks(task):
    found = record_filters.checks_of(task.steps)
    if task.steps.exclude:
        found.append(Excluded(task.places.excluded, task.steps.near_distance))
    return found


def _answers(task, number, ranges):
    """The checks for what the questions found in a unit."""
    found = []
    ends = position(number, 0), position(number + 1, 0)
    for name, count in ranges.items():
        files = [task.places.dropped(name, part) for part in range(count)]
        dropped = sorted_spill.between(files, *ends, width=2)
        mine = dropped[:, 0] & ((1 << ROW_BITS) - 1)
        found.append(Answer(QUESTIONS[name].reason(task.steps), mine, dropped[:, 1]))
    return found


def _parts(kept, most):
    """Parts kept records into runs of at most `most`; one run at least."""
    if most is None:
        yield kept
        return
    first = next(kept, None)
    if first is None:
        yield iter(())
    while first is not None:
        yield itertools.chain([first], itertools.islice(kept, most - 1))
        first = next(kept, None)
