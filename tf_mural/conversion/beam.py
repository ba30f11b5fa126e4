"""Jobs of a conversion as an Apache Beam pipeline, on any runner that Beam knows.

The pipeline is one map over jobs. What a job returns comes back as a small file in a folder that
the workers share with this process, since that is the one way that every runner has: shards go to
a shared folder too.
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
import uuid

import apache_beam
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import create_runner
from apache_beam.transforms.environments import SubprocessSDKEnvironment

from tf_mural.conversion.process_pool import WorkerEnded
from tf_mural.errors import UserError, suggest

_SECONDS_BETWEEN_LOOKS = 0.1
_SECONDS_TO_STOP = 1.0
_STOP = "stop"
_KILLED = (
    "a Beam worker ended before its time, perhaps for want of memory; the same command goes on "
    "where it was"
)
_RUNNERS = {
    # DirectRunner tries Prism first, a program that it downloads and that ignores --direct_*.
    "DirectRunner": "FnApiRunner",
    "DaskRunner": "apache_beam.runners.dask.dask_runner.DaskRunner",
}


def run(function, jobs, flags, results):
    """What `engines.run_on_beam` documents, for one job or more and an empty shared folder."""
    runner, options, owned = runner_and_options(flags)
    owner = os.getpid() if owned else None
    elements = [
        (number, pickle.dumps((function, job)), results, owner) for number, job in enumerate(jobs)
    ]
    yield from _collected(_Pipeline(elements, runner, options), results, len(jobs))


# --- in a worker ----------------------------------------------------------------------------------


def _call(element):
    """Runs one job and leaves what became of it in the results folder. Beam sees no exception."""
    number, pickled, results, owner = element
    if owner is not None:
        _end_with_run(owner, results)
    if not os.path.isdir(results):
        raise FileNotFoundError(f"{results} is not there on a worker")
    if os.path.exists(os.path.join(results, _STOP)):
        return
    try:
        function, job = pickle.loads(pickled)
        outcome = True, function(*job)
    except Exception as error:
        outcome = False, _that_travels(error)
    path = os.path.join(results, f"{number}.result")
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    with open(temporary, "wb") as file:
        pickle.dump(outcome, file)
    os.replace(temporary, path)


@functools.cache
def _end_with_run(owner, results):
    """Ends this process, which works for one run alone, when that is given up or was killed."""

    def watch():
        while os.path.isdir(results) and not os.path.exists(os.path.join(results, _STOP)):
            try:
                os.kill(owner, 0)
            except ProcessLookupError:
                break
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _that_travels(error):
    """The exception with its traceback as a note, or one as like it as can be pickled."""
    if not isinstance(error, UserError):
        error.add_note(f"In a Beam worker:\n{traceback.format_exc()}")
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        kind = UserError if isinstance(error, UserError) else RuntimeError
        return kind(f"{type(error).__name__}: {error}")


# --- here -----------------------------------------------------------------------------------------


def runner_and_options(flags):
    """What `apache_beam.Pipeline` takes, of Beam's flags.

    Returns:
        (runner, `PipelineOptions`, whether the runner starts processes for this run alone).

    Raises:
        UserError: Beam does not know a flag.
    """
    # A comma parts flags only before another flag, since values hold commas too.
    flags = [flag for some in flags for flag in re.split(r",(?=--)", some) if flag]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            name = PipelineOptions(flags).view_as(StandardOptions).runner or "DirectRunner"
            name = _RUNNERS.get(name, name)
            runner = create_runner(name)  # its module knows more flags
            options = PipelineOptions(flags)
            known = options.get_all_options()
            every = options.get_all_options(retain_unknown_options=True)
    except SystemExit as error:
        why = said.getvalue().strip().splitlines()[-1].partition("error: ")[2]
        raise UserError(f"Beam refuses --beam={','.join(flags)}: {why}") from error
    except (ImportError, ValueError) as error:
        raise UserError(f"Beam has no runner {name!r} here: {error}") from error
    if name in _RUNNERS.values():  # others ask their job server what it knows
        for flag in every.keys() - known.keys():
            raise UserError(f"Beam knows no flag --{flag}{suggest(flag, known)}")
    if name == _RUNNERS["DaskRunner"] and not (known["npartitions"] or known["partition_size"]):
        # Beam's own default is one task for 128 jobs.
        options = PipelineOptions([*flags, "--dask_partition_size=1"])
    if name == _RUNNERS["DirectRunner"] and known["direct_running_mode"] == "multi_processing":
        return *_direct_processes(flags), True
    return runner, options, False


def _direct_processes(flags):
    """The direct runner's multi-process mode, but its workers do not log to the terminal."""
    options = PipelineOptions(flags)
    options.view_as(DirectOptions).direct_running_mode = "in_memory"  # or it makes its own command
    command = f"exec {shlex.quote(sys.executable)} -m apache_beam.runners.worker.sdk_worker_main"
    environment = SubprocessSDKEnvironment.from_command_string(f"{command} 2>/dev/null")
    return FnApiRunner(default_environment=environment), options


class _Pipeline(threading.Thread):
    """Runs the pipeline beside the process's main thread, since some runners block until its end.

    Attributes:
        error: what stopped the pipeline, or None.
    """

    def __init__(self, elements, runner, options):
        super().__init__(daemon=True)
        self._elements, self._runner, self._options = elements, runner, options
        self._result = self.error = None

    def run(self):
        """What the thread does."""
        try:
            pipeline = apache_beam.Pipeline(self._runner, self._options)
            jobs = pipeline | "Jobs" >> apache_beam.Create(self._elements) | apache_beam.Reshuffle()
            _ = jobs | "Run" >> apache_beam.Map(_call)
            self._result = pipeline.run()
            self._result.wait_until_finish()
        except BaseException as error:
            self.error = self.error or error
        finally:
            # Beam's Dask runner leaves its connection open.
            if client := getattr(self._result, "client", None):
                client.close()

    def cancel(self):
        """Asks the runner to stop, where it can."""
        with contextlib.suppress(Exception):
            self._result.cancel()


def _collected(pipeline, results, count):
    """Yields (number, result) as files appear; raises what a job raised."""
    seen, finished, hook = set(), False, threading.excepthook
    threading.excepthook = functools.partial(_note, pipeline, hook)
    try:
        pipeline.start()
        while len(seen) < count:
            ended = not pipeline.is_alive()  # asked first: whatever it wrote is there by now
            for number, (good, value) in _read(results):
                if not good:
                    raise value
                if number not in seen:
                    seen.add(number)
                    yield number, value
            if (ended or pipeline.error) and len(seen) < count:
                _give_up(pipeline.error, results, count - len(seen))
            pipeline.join(_SECONDS_BETWEEN_LOOKS)
        finished = True
    finally:
        if not finished:
            open(os.path.join(results, _STOP), "w").close()
            pipeline.cancel()
        pipeline.join(None if finished else _SECONDS_TO_STOP)
        threading.excepthook = hook


def _note(pipeline, hook, args):
    """What a thread of Beam's dies of: the direct runner waits forever for a dead worker."""
    if args.thread is not None and args.thread.name == "run_worker":
        pipeline.error = pipeline.error or WorkerEnded(_KILLED)
    elif not args.exc_type.__module__.startswith("grpc"):
        hook(args)


def _read(results):
    """(number, outcome) of each file there is; a file is removed, so that no look is long."""
    for name in os.listdir(results):
        number, _, end = name.partition(".")
        if end == "result":
            path = os.path.join(results, name)
            with open(path, "rb") as file:
                outcome = pickle.load(file)
            os.remove(path)
            yield int(number), outcome


def _give_up(error, results, missing):
    if error is None:
        raise UserError(
            f"the Beam pipeline ended, but {missing:,} results are not in {results}: does every "
            "worker see this folder, and write to it? out_dir must lie on a file system they share"
        )
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    why = f"{type(error).__name__}: {lines[-1] if lines else ''}"
    if isinstance(error, WorkerEnded) or type(error).__name__ == "KilledWorker":
        raise WorkerEnded(_KILLED) from error
    raise UserError(f"the Beam pipeline failed: {why}") from error
