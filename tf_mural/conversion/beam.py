"""Runs the jobs of a conversion as an Apache Beam pipeline, on any runner that Beam supports.

The pipeline is one map over the jobs. Each job writes its result to a small file in a folder that
the workers share with this process, because this works with every runner. The workers also write
the shards of the record set to a shared folder.
"""

import contextlib
import functools
import io
import os
import pickle
import re
import shlex
import sys
import threading
import time
import traceback

import apache_beam
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import create_runner
from apache_beam.transforms.environments import SubprocessSDKEnvironment

from tf_mural import file_io
from tf_mural.conversion.executors import WorkerDiedError
from tf_mural.errors import UserError, suggest

_POLL_SECONDS = 0.1
_STOP_SECONDS = 1.0
_STOP = "stop"
_WORKER_DIED = (
    "a Beam worker ended early, perhaps for lack of memory; run the same command again to continue"
)
_RUNNERS = {
    # Beam's own DirectRunner first downloads and tries the program Prism, which ignores the flags
    # --direct_*.
    "DirectRunner": "FnApiRunner",
    "DaskRunner": "apache_beam.runners.dask.dask_runner.DaskRunner",
}


def run(function, jobs, flags, results):
    """Implements `executors.run_on_beam` for one or more jobs.

    Args:
        function, jobs, flags: as for `executors.run_on_beam`.
        results: an empty folder that this process and all workers share.
    """
    runner, options, owns_processes = runner_and_options(flags)
    owner = os.getpid() if owns_processes else None
    elements = [
        (number, pickle.dumps((function, job)), results, owner) for number, job in enumerate(jobs)
    ]
    yield from _collect(_Pipeline(elements, runner, options), results, len(jobs))


# --- in a worker ----------------------------------------------------------------------------------


def _call(element):
    """Runs one job and writes its result or its exception to a file instead of raising it."""
    number, pickled, results, owner = element
    if owner is not None:
        _exit_with_owner(owner, results)
    if not os.path.isdir(results):
        raise FileNotFoundError(f"{results} does not exist on a worker")
    if os.path.exists(os.path.join(results, _STOP)):
        return
    try:
        function, job = pickle.loads(pickled)
        outcome = True, function(*job)
    except Exception as error:
        outcome = False, _to_picklable(error)
    path = os.path.join(results, f"{number}.result")
    with file_io.atomic_write(path, sync=False) as temporary, open(temporary, "wb") as file:
        pickle.dump(outcome, file)


@functools.cache
def _exit_with_owner(owner, results):
    """Ends this worker process when its run stops or the process `owner` dies."""

    def watch():
        while os.path.isdir(results) and not os.path.exists(os.path.join(results, _STOP)):
            try:
                os.kill(owner, 0)
            except ProcessLookupError:
                break
            time.sleep(_POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _to_picklable(error):
    """Returns the exception with its traceback as a note.

    If the exception cannot be pickled, returns a picklable exception with the same message.
    """
    if not isinstance(error, UserError):
        error.add_note(f"In a Beam worker:\n{traceback.format_exc()}")
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        error_class = UserError if isinstance(error, UserError) else RuntimeError
        return error_class(f"{type(error).__name__}: {error}")


# --- in the main process --------------------------------------------------------------------------


def runner_and_options(flags):
    """Parses Beam's flags into the arguments of `apache_beam.Pipeline`.

    Args:
        flags: list of strings with one or more flags each.

    Returns:
        (runner, `PipelineOptions`, whether the runner starts processes for this run only).

    Raises:
        UserError: Beam does not know a flag.
    """
    # A value may contain commas, therefore a comma separates two flags only if -- follows it.
    flags = [flag for joined in flags for flag in re.split(r",(?=--)", joined) if flag]
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            name = PipelineOptions(flags).view_as(StandardOptions).runner or "DirectRunner"
            name = _RUNNERS.get(name, name)
            runner = create_runner(name)  # Importing a runner's module defines its flags.
            options = PipelineOptions(flags)
            parsed = options.get_all_options()
            given = options.get_all_options(retain_unknown_options=True)
    except SystemExit as error:
        reason = stderr.getvalue().strip().splitlines()[-1].partition("error: ")[2]
        raise UserError(f"Beam refuses the flags {','.join(flags)}: {reason}") from error
    except (ImportError, ValueError) as error:
        raise UserError(f"Beam has no runner {name!r} here: {error}") from error
    if name in _RUNNERS.values():  # The job servers of other runners define more flags.
        for flag in given.keys() - parsed.keys():
            raise UserError(f"Beam knows no flag --{flag}{suggest(flag, parsed)}")
    if name == _RUNNERS["DaskRunner"] and not (parsed["npartitions"] or parsed["partition_size"]):
        # Beam's default puts 128 jobs into one Dask task.
        options = PipelineOptions([*flags, "--dask_partition_size=1"])
    if name == _RUNNERS["DirectRunner"] and parsed["direct_running_mode"] == "multi_processing":
        return *_multi_processing_runner(flags), True
    return runner, options, False


def _multi_processing_runner(flags):
    """Returns (direct runner whose worker processes do not log to the terminal, its options)."""
    options = PipelineOptions(flags)
    # In the mode "multi_processing", Beam would replace the command below by its own.
    options.view_as(DirectOptions).direct_running_mode = "in_memory"
    command = f"exec {shlex.quote(sys.executable)} -m apache_beam.runners.worker.sdk_worker_main"
    environment = SubprocessSDKEnvironment.from_command_string(f"{command} 2>/dev/null")
    return FnApiRunner(default_environment=environment), options


class _Pipeline(threading.Thread):
    """Runs the pipeline in a thread, because some runners block until the pipeline ends.

    Attributes:
        error: the exception that stopped the pipeline, or None.
    """

    def __init__(self, elements, runner, options):
        super().__init__(daemon=True)
        self._elements, self._runner, self._options = elements, runner, options
        self._result = self.error = None

    def run(self):
        """Runs the pipeline until it ends."""
        try:
            pipeline = apache_beam.Pipeline(self._runner, self._options)
            jobs = pipeline | "Jobs" >> apache_beam.Create(self._elements) | apache_beam.Reshuffle()
            _ = jobs | "Run" >> apache_beam.Map(_call)
            self._result = pipeline.run()
            self._result.wait_until_finish()
        except BaseException as error:
            self.error = self.error or error
        finally:
            # Beam's Dask runner does not close its connection.
            if client := getattr(self._result, "client", None):
                client.close()

    def cancel(self):
        """Asks the runner to stop; has no effect on a runner that cannot be stopped."""
        with contextlib.suppress(Exception):
            self._result.cancel()


def _collect(pipeline, results, count):
    """Yields (job number, result) as result files appear; raises the exception of a job."""
    seen, finished, hook = set(), False, threading.excepthook
    threading.excepthook = functools.partial(_record_thread_error, pipeline, hook)
    try:
        pipeline.start()
        while len(seen) < count:
            # The state of the pipeline is read before the result files, because a pipeline that has
            # ended has written all results.
            ended = not pipeline.is_alive()
            for number, (succeeded, value) in _read_results(results):
                if not succeeded:
                    raise value
                if number not in seen:
                    seen.add(number)
                    yield number, value
            if (ended or pipeline.error) and len(seen) < count:
                _raise_failure(pipeline.error, results, count - len(seen))
            pipeline.join(_POLL_SECONDS)
        finished = True
    finally:
        if not finished:
            open(os.path.join(results, _STOP), "w").close()
            pipeline.cancel()
        pipeline.join(None if finished else _STOP_SECONDS)
        threading.excepthook = hook


def _record_thread_error(pipeline, hook, args):
    """Records that a worker died, because the direct runner would wait for it forever."""
    if args.thread is not None and args.thread.name == "run_worker":
        pipeline.error = pipeline.error or WorkerDiedError(_WORKER_DIED)
    elif not args.exc_type.__module__.startswith("grpc"):
        hook(args)


def _read_results(results):
    """Yields (job number, outcome) of each result file, and removes the file."""
    for name in os.listdir(results):
        number, _, extension = name.partition(".")
        if extension == "result":
            path = os.path.join(results, name)
            with open(path, "rb") as file:
                outcome = pickle.load(file)
            os.remove(path)
            yield int(number), outcome


def _raise_failure(error, results, missing):
    if error is None:
        raise UserError(
            f"the Beam pipeline ended, but {missing:,} results are not in {results}: does every "
            "worker see this folder, and write to it? out_dir must be on a shared file system"
        )
    if isinstance(error, WorkerDiedError) or type(error).__name__ == "KilledWorker":
        raise WorkerDiedError(_WORKER_DIED) from error
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = f"{type(error).__name__}: {lines[-1] if lines else ''}"
    raise UserError(f"the Beam pipeline failed: {reason}") from error
