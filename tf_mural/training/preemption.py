"""Preemption: signals that stop a run, and agreement of all processes on the last step."""

import contextlib
import signal
import time

import numpy as np

# Exit code 75 is EX_TEMPFAIL of sysexits.h (temporary failure, try again). Exit codes 130 and 129
# are the conventional codes of a shell for Ctrl-C and for a closed terminal.
EXIT_CODES = {signal.SIGTERM: 75, signal.SIGINT: 130, signal.SIGHUP: 129}

_SYNC_INTERVAL = 5.0  # seconds between two exchanges of several processes
_NOT_SAVED = "stopped; the same command continues from the last checkpoint"


class Preempted(Exception):
    """A signal ended the run.

    Args:
        signal_number: number of the signal.
        state: end of the message, which describes the state of the run.
    """

    def __init__(self, signal_number, state):
        self.exit_code = EXIT_CODES[signal_number]
        super().__init__(f"{signal.Signals(signal_number).name}: {state}")


class SignalHandler:
    """Context manager that handles SIGTERM, SIGINT and SIGHUP. A second signal kills the process.

    Outside of `deferred`, a signal raises `Preempted` at once, because there is nothing to save.
    SIGHUP is not handled if it was ignored before, as under nohup.

    Args:
        print_fn: callable that prints a line.

    Attributes:
        received: number of the received signal; 0 if no signal has arrived.
    """

    def __init__(self, print_fn=print):
        self._print, self._deferred, self._previous = print_fn, False, {}
        self.received = 0

    def __enter__(self):
        self.install()
        return self

    def install(self):
        """Installs the handlers. Call `install` again if a library may have replaced the handlers.

        TensorFlow's multi-worker set-up replaces the handler of SIGTERM by its own, which does not
        stop a run.
        """
        for number in EXIT_CODES:
            previous = self._previous.setdefault(number, signal.getsignal(number))
            ignored = number == signal.SIGHUP and previous == signal.SIG_IGN
            if not self.received and not ignored:
                signal.signal(number, self._handle)

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _handle(self, number, _):
        self.received = number
        for handled_number in EXIT_CODES:
            if signal.getsignal(handled_number) == self._handle:
                signal.signal(handled_number, signal.SIG_DFL)
        if not self._deferred:
            raise Preempted(number, _NOT_SAVED)
        name = signal.Signals(number).name
        # Python raises RuntimeError if the signal has interrupted another print.
        with contextlib.suppress(RuntimeError):
            self._print(
                f"{name}: saving at the end of this step; a second signal ends the run at once"
            )

    @contextlib.contextmanager
    def deferred(self, defer=True):
        """Context manager: a signal that arrives in the body is only recorded in `received`.

        If the body does not handle a recorded signal, `Preempted` is raised after the body.

        Args:
            defer: False cancels an outer `deferred` during the body: a signal raises `Preempted` at
                once, even if it was recorded before the body.
        """
        if self.received and not defer:
            raise Preempted(self.received, _NOT_SAVED)
        outer, self._deferred = self._deferred, defer
        try:
            yield
        finally:
            self._deferred = outer
        if defer and self.received and not outer:
            raise Preempted(self.received, _NOT_SAVED)


class StopPoll:
    """Checks at step boundaries for stop signals, and for checkpoints that are due by time.

    A single process checks its clock and its signals after every step. Several processes must act
    at the same step. These processes therefore exchange their clocks and signals with a small
    collective operation: at steps where they synchronize anyway, and about every five seconds in
    between.

    Args:
        processes: `ProcessGroup`.
        signals: `SignalHandler`.
        minutes: minutes between two checkpoints by the clock of the primary process, or None.
    """

    def __init__(self, processes, signals, minutes=None):
        self._processes, self._signals, self._seconds = processes, signals, 60 * (minutes or 0)
        self._last_sync = self._last_save = time.monotonic()
        # Number of steps between two exchanges, and number of steps until the next exchange.
        self._sync_steps = self._remaining = 1

    def poll(self, steps, sync=False):
        """Checks for a signal and a due checkpoint; call `poll` after every call of the runner.

        Args:
            steps: number of steps since the last call of `poll`.
            sync: whether all processes synchronize after this step anyway.

        Returns:
            (number of the received signal or 0, whether a checkpoint is due). In a run of several
            processes, the result is (0, False) between two exchanges.
        """
        self._remaining -= steps
        now = time.monotonic()
        save_due = bool(self._seconds) and now - self._last_save >= self._seconds
        if self._processes.world_size == 1:
            return self._signals.received, save_due
        if self._remaining > 0 and not sync:
            return 0, False
        elapsed = int(1000 * (now - self._last_sync))
        state = np.array([[self._signals.received, save_due, elapsed]], np.float32)
        states = self._processes.all_gather(state)  # (world_size, 1, 3)
        received, _, slowest = (int(value) for value in states[:, 0].max(axis=0))
        # All processes have received the same numbers, so their next exchange is at the same step.
        steps_passed = self._sync_steps - self._remaining
        self._sync_steps = max(1, int(1000 * _SYNC_INTERVAL * steps_passed / max(slowest, 1)))
        self._remaining = self._sync_steps
        self._last_sync = now
        return received, bool(states[0, 0, 1])

    def reset_save_timer(self):
        """Restarts the interval between checkpoints; call this after saving a checkpoint."""
        self._last_save = time.monotonic()
