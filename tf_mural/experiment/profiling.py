"""Profiles some steps of a run with TensorBoard's profiler."""

import contextlib

from tf_mural import file_io


@contextlib.contextmanager
def profiled(runner, steps, folder, profiler):
    """Context manager that yields a runner which profiles some of its steps.

    The profile is written even if the run stops between the first and the last profiled step. In a
    remote folder, it is not written if the run stops with an error or a signal.

    Args:
        runner: step runner of the backend.
        steps: (first profiled step, step after the last profiled step); None: no step is profiled.
        folder: folder of TensorBoard's event files.
        profiler: pair of functions of the backend: the first function takes `folder` and starts the
            profiler, the second function stops the profiler.
    """
    if steps is None:
        yield runner
        return
    with file_io.local_folder(folder) as local_folder:
        runner = ProfiledRunner(runner, *steps, local_folder, profiler)
        try:
            yield runner
        finally:
            runner.stop()


class ProfiledRunner:
    """A step runner that profiles some of its steps.

    Args:
        runner: step runner of the backend.
        first, end: the first profiled step, and the step after the last profiled step.
        folder: folder of TensorBoard's event files.
        profiler: see `profiled`.
    """

    def __init__(self, runner, first, end, folder, profiler):
        self._runner, self._first, self._end = runner, first, end
        self._folder, (self._start_profiler, self._stop_profiler) = folder, profiler
        self._is_profiling = False
        self.processes = runner.processes

    def start(self, step):
        """Starts the runner at a step."""
        self._step = step
        self._runner.start(step)

    def run(self, count):
        """Runs `count` steps.

        If at least one of these steps is in the profiled range, all `count` steps are profiled.
        """
        if self._first < self._step + count and self._step < self._end and not self._is_profiling:
            self._start_profiler(self._folder)
            self._is_profiling = True
        logs = self._runner.run(count)
        self._step += count
        if self._is_profiling and self._step >= self._end:
            for values in logs.values():
                float(values[-1])  # reading a value waits until the device has finished the steps
            self.stop()
        return logs

    def stop(self):
        """Stops the profiler if it is running, and writes the profile."""
        if self._is_profiling:
            self._is_profiling = False
            self._stop_profiler()
