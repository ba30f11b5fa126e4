"""A run that is asked to stop: signals, and the ends of steps at which all processes agree."""

import contextlib
import signal
import time

import numpy as np

# 75: EX_TEMPFAIL of sysexits.h, try again, as of a lost process. 130 and 129: what a shell says of
# Ctrl-C and of a terminal that was closed.
EXIT_CODES = {signal.SIGTERM: 75, signal.SIGINT: 130, signal.SIGHUP: 129}

_EVERY = 5.0  # seconds between two questions of several processes to each other
_AS_IT_IS = "stopped; the same command goes on from the last checkpoint"


class Stopped(Exception):
    """A signal ended the run; its state is saved as the message says.

    Args:
        number: of the signal.
        where: the run stands now.
    """

    def __init__(self, number, where):
        self.exit_code = EXIT_CODES[number]
        super().__init__(f"{signal.Signals(number).name}: {where}")


class Signals:
    """Notes SIGTERM, SIGINT, SIGHUP: `with Signals(): ...`. A second one ends the process at once.

    Outside of `noted` a signal raises `Stopped` where it arrives: there is nothing to save. SIGHUP
    is left alone where it is ignored, as under nohup.

    Args:
        say: function of a line.

    Attributes:
        received: number of the signal that came, or 0.
    """

    def __init__(self, say=print):
        self._say, self._noted, self._before, self.received = say, False, {}, 0

    def __enter__(self):
        self.listen()
        return self

    def listen(self):
        """Takes the signals, again where others took them: TensorFlow's multi-worker set-up has a
        handler of its own for SIGTERM, which does nothing here."""
        for number in EXIT_CODES:
            before = self._before.setdefault(number, signal.getsignal(number))
            ignored = number == signal.SIGHUP and before == signal.SIG_IGN
            if not self.received and not ignored:
                signal.signal(number, self._handle)

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _handle(self, number, _):
        self.received = number
        for each in EXIT_CODES:
            if signal.getsignal(each) == self._handle:
                signal.signal(each, signal.SIG_DFL)
        if not self._noted:
            raise Stopped(number, _AS_IT_IS)
        name = signal.Signals(number).name
        # It may have come in the middle of a line, and no line can begin inside of another.
        with contextlib.suppress(RuntimeError):
            self._say(f"{name}: saving at the end of this step; a second one ends the run at once")

    @contextlib.contextmanager
    def noted(self, noted=True):
        """Whether a signal is only noted inside; where it is not, one that was ends the run, as
        does one on the way out that nothing was made of."""
        if self.received and not noted:
            raise Stopped(self.received, _AS_IT_IS)
        before, self._noted = self._noted, noted
        try:
            yield
        finally:
            self._noted = before
        if noted and self.received and not before:
            raise Stopped(self.received, _AS_IT_IS)


class Boundaries:
    """What is to be done at the end of a step, beside what is due by its number.

    One process looks at its clock and its signals at the end of every step. Several must do the
    same at the same step: they ask each other, by one small collective, where they meet anyway, and
    about every five seconds in between.

    Args:
        processes: `distribute.Processes`.
        signals: a `Signals`.
        minutes: after which a checkpoint is due, by the first process's clock; 0 is never.
    """

    def __init__(self, processes, signals, minutes=0):
        self._processes, self._signals, self._seconds = processes, signals, 60 * minutes
        self._asked = self._saved = time.monotonic()
        self._wait = self._left = 1  # steps between two questions, and until the next one

    def look(self, steps, meet=False):
        """Call it after `steps` more steps; returns (number of a signal or 0, whether to save).

        Args:
            steps: since the last call.
            meet: whether all processes meet after this one.
        """
        self._left -= steps
        now = time.monotonic()
        due = bool(self._seconds) and now - self._saved >= self._seconds
        if self._processes.count == 1:
            return self._signals.received, due
        if self._left > 0 and not meet:
            return 0, False
        passed = int(1000 * (now - self._asked))
        told = self._processes.gather(np.array([[self._signals.received, due, passed]], np.float32))
        received, _, slowest = (int(value) for value in told[:, 0].max(axis=0))
        # All have the same numbers before them, and so the same step for the next question.
        steps_passed = self._wait - self._left
        self._wait = self._left = max(1, int(1000 * _EVERY * steps_passed / max(slowest, 1)))
        self._asked = now
        return received, bool(told[0, 0, 1])

    def saved(self):
        """Call it when a checkpoint was begun."""
        self._saved = time.monotonic()
