"""Some steps of a run under the profiler."""


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
        self._folder, (self._begin, self._stop), self._on = folder, profiler, False
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
            self._stop()
            self._on = False
        return logs
