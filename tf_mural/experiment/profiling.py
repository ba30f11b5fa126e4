"""Some steps of a run under the profiler."""

import contextlib


@contextlib.contextmanager
def profiled(runner, steps, folder, profiler):
    """Gives the runner, by which `steps` go under the profiler; a run that stops amid them ends it.

    Args:
        runner, folder, profiler: see `Profiled`.
        steps: number of the first step and of the one after the last, or nothing.
    """
    if not steps:
        yield runner
        return
    runner = Profiled(runner, *steps, folder, profiler)
    try:
        yield runner
    finally:
        runner.stop()


class Profiled:
    """A runner of steps, some of which TensorBoard's profiler looks at.

    Args:
        runner: of the backend's room.
        first, end: numbers of the first step and of the one after the last.
        folder: of TensorBoard's events.
        profiler: functions to begin (of a folder) and to end, those of the backend's room.
    """

    def __init__(self, runner, first, end, folder, profiler):
        self._runner, self._first, self._end = runner, first, end
        self._folder, (self._begin, self._end_profile) = folder, profiler
        self._on = False
        self.processes = runner.processes

    def start(self, step):
        """As the runner's."""
        self._step = step
        self._runner.start(step)

    def run(self, count):
        """As the runner's; steps that come together are in the profile together."""
        if self._first < self._step + count and self._step < self._end and not self._on:
            self._begin(self._folder)
            self._on = True
        logs = self._runner.run(count)
        self._step += count
        if self._on and self._step >= self._end:
            for values in logs.values():
                float(values[-1])  # until then the steps go on
            self.stop()
        return logs

    def stop(self):
        """Ends the profile, where one has begun, and writes it."""
        if self._on:
            self._on = False
            self._end_profile()
