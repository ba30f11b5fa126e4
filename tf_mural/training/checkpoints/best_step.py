"""What was evaluated while training, and which step was the best."""

import fnmatch
import os

from tf_mural import file_io
from tf_mural.errors import UserError, suggest
from tf_mural.training.checkpoints import checksummed_json
from tf_mural.training.checkpoints.resume import FOLDER


class Evaluations:
    """The evaluations of a run, across its restarts.

    Args:
        workdir: folder of the run.
        metric: that the best step is chosen by, the higher the better, or, after a minus, the
            lower: a name of the numbers ("retrieval/en/average_recall"), or a pattern
            ("retrieval/*/average_recall") for the mean of all that fit it. "" chooses none.
        writes: whether this process does.
        say: function of a line.

    Attributes:
        last: step of the last evaluation; 0 before the first.
        best: {"metric", "step", "value"} of the best, or None.
        since_best: evaluations after that of the best.
    """

    def __init__(self, workdir, metric="", writes=True, say=print):
        self._path = os.path.join(workdir, FOLDER, "evaluations.json")
        self._metric, self._writes = metric, writes
        self.last, self.best, self.since_best = 0, None, 0
        if file_io.exists(self._path):
            try:
                told = checksummed_json.read(self._path)
            except checksummed_json.Damaged as reason:
                say(f"{reason}: which step was the best is forgotten")
                return
            self.last = told["last"]
            if told["best"] and told["best"]["metric"] == metric:
                self.best = told["best"]
                self.since_best = told.get("since_best", 0)

    def better(self, numbers):
        """Whether {name: number} of a step are better than those of the best; a tie is not.

        Raises:
            UserError: the metric is none of them.
        """
        if not self._metric:
            return False
        value, best = self._value(numbers), self.best
        sign = -1 if self._metric.startswith("-") else 1
        return best is None or sign * value > sign * best["value"]

    def note(self, step, numbers, better):
        """Writes that a step was evaluated, and whether it is the best one now."""
        again = step <= self.last  # before a first checkpoint a run begins anew
        self.last = max(step, self.last)
        self.since_best = 0 if better else self.since_best + (not again)
        if better:
            self.best = {"metric": self._metric, "step": step, "value": self._value(numbers)}
        if self._writes:
            file_io.make_folder(os.path.dirname(self._path))
            told = {"last": self.last, "best": self.best, "since_best": self.since_best}
            checksummed_json.write(self._path, told)

    def _value(self, numbers):
        name = self._metric.removeprefix("-")
        found = [float(v) for key, v in numbers.items() if fnmatch.fnmatchcase(key, name)]
        if not found:
            known = ", ".join(numbers) or "(none)"
            raise UserError(
                f"keep_best: no number {name!r} in an evaluation; known: {known}"
                f"{suggest(name, numbers)}"
            )
        return sum(found) / len(found)
