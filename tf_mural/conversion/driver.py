"""The passes of a conversion over its units, each a map of jobs that an engine runs.

    excluded sets   what records of theirs are known by           ranges of their records
    pass 1          rows for the questions to the whole corpus    units
    answers         what each question drops                      ranges of keys
    pass 2          shards, one or more a unit                    units

Without questions there is no pass 1. Whatever was done before is not done again.
"""

import dataclasses
import json
import os
import time
from collections.abc import Callable

from tf_mural.conversion import decontamination, sorted_spill, units
from tf_mural.conversion.publish import locked
from tf_mural.data import records

SECONDS_BETWEEN_LINES = 2.0


@dataclasses.dataclass
class Passes:
    """The passes of one conversion, or of one part of it.

    Attributes:
        task: `units.Task`.
        units: all units of the data set.
        part: (number from 0, of how many) that is to be done; (0, 1) for all.
        label: names the conversion in lines of progress.
        run: function of (function, jobs) to an iterator of (job number, result).
        progress: called with one line at a time.
    """

    task: units.Task
    units: list
    part: tuple[int, int]
    label: str
    run: Callable
    progress: Callable

    def exclude(self):
        """Finds out what the records of excluded sets are known by."""
        steps, places = self.task.steps, self.task.places
        if not steps.exclude:
            return
        with locked(places.work_lock("excluded")):
            if not os.path.exists(places.excluded):
                jobs = decontamination.jobs(steps.exclude)
                parts = [None] * len(jobs)
                for number, found in self._each(
                    ", excluded sets", decontamination.digest, jobs, "parts"
                ):
                    parts[number] = found
                decontamination.save(places.excluded, parts)

    def count(self):
        """Pass 1 of the part's units."""
        if self.task.steps.questions:
            self._over_units(", pass 1 of 2", units.count_unit, self.task.places.counted)

    def answer(self):
        """Answers the questions, if all units are through pass 1; whether they are answered."""
        places = self.task.places
        if not self.task.steps.questions:
            return True
        with locked(places.work_lock("answered")):
            if os.path.exists(places.answered):
                return True
            if self.missing(places.counted):
                return False
            counted = [_loaded(places.counted(number)) for number in range(len(self.units))]
            jobs, ranges, files = [], {}, []
            for name in self.task.steps.questions:
                mine = [
                    f"{places.rows(number, name)}-{file:04d}.npy"
                    for number, summary in enumerate(counted)
                    for file in range(summary["files"][name])
                ]
                cuts = sorted_spill.key_ranges(sum(summary["rows"][name] for summary in counted))
                jobs += [(self.task, name, n, *ends, mine) for n, ends in enumerate(cuts)]
                ranges[name] = len(cuts)
                files += mine
            list(self._each(", between the passes", units.answer, jobs, "ranges", "rows"))
            with records.appears_whole(places.answered) as file:
                file.write(json.dumps(ranges).encode())
            sorted_spill.remove(files)
        return True

    def write(self):
        """Pass 2 of the part's units."""
        places, more = self.task.places, {}
        if not self.task.steps.questions:
            self._over_units("", units.write_unit, places.outcome)
            return
        ranges = _loaded(places.answered)
        for number in self._mine():
            more[number] = (_loaded(places.counted(number))["read"], ranges)
        self._over_units(", pass 2 of 2", units.write_unit, places.outcome, more)

    def missing(self, place):
        """Which parts have units without a file: "0, 2 of 3" or, if there are no parts, "all"."""
        total = self.part[1]
        numbers = range(len(self.units))
        parts = {number % total for number in numbers if not os.path.exists(place(number))}
        return f"{', '.join(map(str, sorted(parts)))} of {total}" if parts else ""

    def _mine(self):
        return range(self.part[0], len(self.units), self.part[1])

    def _over_units(self, title, function, place, more=None):
        todo = [number for number in self._mine() if not os.path.exists(place(number))]
        before = len(self._mine()) - len(todo)
        if before:
            was = f"{before} of {before + len(todo)} units were done before"
            self.progress(f"{self.label}{title}: {was}")
        jobs = [
            (self.task, number, self.units[number], *(more[number] if more else ()))
            for number in todo
        ]
        list(self._each(title, function, jobs, "units", "read", before))

    def _each(self, title, function, jobs, noun, counted="", before=0):
        """Yields what `run` yields, and says how far it is; results are added up if `counted`."""
        began = said = time.monotonic()
        total = 0
        for finished, (number, result) in enumerate(self.run(function, jobs), 1):
            yield number, result
            now = time.monotonic()
            total += result if counted else 0
            if finished == len(jobs) or now - said >= SECONDS_BETWEEN_LINES:
                said, seconds = now, max(now - began, 1e-3)
                left = (now - began) * (len(jobs) - finished) / finished
                line = f"{before + finished} of {before + len(jobs)} {noun}, "
                if counted:
                    line += f"{total:,} {counted}, {total / seconds:,.0f} a second, "
                self.progress(f"{self.label}{title}: {line}{left:.0f} s left")


def _loaded(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)
