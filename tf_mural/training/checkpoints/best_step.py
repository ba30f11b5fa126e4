"""Tracks the evaluations of a run and the step of the best evaluation."""

import fnmatch
import os

from tf_mural import file_io
from tf_mural.errors import UserError, suggest
from tf_mural.training.checkpoints import bundle
from tf_mural.training.checkpoints.manager import FOLDER


class BestStepTracker:
    """Tracks the evaluations of a run and its best step across restarts.

    Args:
        workdir: folder of the run.
        metric: name of the number that selects the best step ("retrieval/en/average_recall"), or a
            pattern ("retrieval/*/average_recall"); the numbers that match a pattern are averaged.
            Higher numbers are better; if the name starts with a minus, lower numbers are better. ""
            selects no step.
        is_primary: whether this process writes the state to the workdir.
        print_fn: callable that prints a line.

    Attributes:
        last_step: step of the last evaluation; 0 before the first evaluation.
        best: {"metric", "step", "value"} of the best evaluation, or None.
        since_best: number of evaluations after the best one.
    """

    def __init__(self, workdir, metric="", is_primary=True, print_fn=print):
        self._path = os.path.join(workdir, FOLDER, "evaluations.json")
        self._metric, self._is_primary = metric, is_primary
        self.last_step, self.best, self.since_best = 0, None, 0
        if file_io.exists(self._path):
            try:
                state = bundle.read_checksummed_json(self._path)
            except bundle.CorruptFileError as reason:
                print_fn(f"{reason}: the best step so far is unknown")
                return
            self.last_step = state["last"]
            if state["best"] and state["best"]["metric"] == metric:
                self.best = state["best"]
                self.since_best = state.get("since_best", 0)

    def is_better(self, numbers):
        """Returns whether an evaluation is better than the best one so far; a tie is not better.

        Args:
            numbers: {name: number} of the evaluation.

        Raises:
            UserError: the metric matches none of the names.
        """
        if not self._metric:
            return False
        value, best = self._value(numbers), self.best
        sign = -1 if self._metric.startswith("-") else 1
        return best is None or sign * value > sign * best["value"]

    def record(self, step, numbers, is_better):
        """Records the evaluation of a step, and writes the state to the workdir.

        Args:
            step: evaluated step.
            numbers: {name: number} of the evaluation.
            is_better: whether this evaluation is better than all previous ones.
        """
        # A run that stopped before its first checkpoint starts from the beginning, and repeats its
        # evaluations.
        is_repeated = step <= self.last_step
        self.last_step = max(step, self.last_step)
        self.since_best = 0 if is_better else self.since_best + (not is_repeated)
        if is_better:
            self.best = {"metric": self._metric, "step": step, "value": self._value(numbers)}
        if self._is_primary:
            file_io.makedirs(os.path.dirname(self._path))
            state = {"last": self.last_step, "best": self.best, "since_best": self.since_best}
            bundle.write_checksummed_json(self._path, state)

    def _value(self, numbers):
        pattern = self._metric.removeprefix("-")
        values = [float(v) for key, v in numbers.items() if fnmatch.fnmatchcase(key, pattern)]
        if not values:
            names = ", ".join(numbers) or "(none)"
            raise UserError(
                f"keep_best: no number {pattern!r} in an evaluation; known: {names}"
                f"{suggest(pattern, numbers)}"
            )
        return sum(values) / len(values)
