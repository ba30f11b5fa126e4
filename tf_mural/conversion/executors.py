"""Executors of the jobs of a conversion: a local process pool, or Apache Beam.

An executor is a function `run(function, jobs, processes=None, **options)` that yields (job number,
result of `function(*job)`) as each job ends.
"""

import concurrent.futures
import contextlib
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import uuid
import warnings

from tf_mural.errors import UserError


class WorkerDiedError(UserError):
    """A worker process was killed. Commands exit with code 1, since a retry may succeed."""

    exit_code = 1


# --- processes ------------------------------------------------------------------------------------


def run_in_processes(function, jobs, processes=None):
    """Runs jobs in a pool of spawned processes.

    Processes are spawned because a fork of a process that runs TensorFlow hangs. With one process
    or one job, all jobs run in this process. If a job fails or the caller stops iterating, running
    jobs are aborted.

    Args:
        function: a function of an importable module.
        jobs: list of tuples of picklable arguments.
        processes: number of processes; by default one for each core that this process may use.

    Yields:
        (job number, result) as each job ends.

    Raises:
        UserError: `processes` is less than one.
        WorkerDiedError: a worker was killed.
        Exception: any exception of a job; the other jobs are cancelled.
    """
    if processes is not None and processes < 1:
        raise UserError(f"expected processes of 1 or more, got {processes}")
    processes = min(processes or len(os.sched_getaffinity(0)), len(jobs))
    if processes <= 1:
        for number, job in enumerate(jobs):
            yield number, function(*job)
        return
    context = multiprocessing.get_context("spawn")
    # Workers exit when the writing end of this pipe is closed. A multiprocessing.Event is
    # not used, because it would wait for an acknowledgement even from killed workers.
    reader, writer = context.Pipe(duplex=False)
    finished = False
    pool = concurrent.futures.ProcessPoolExecutor(processes, context, _start_worker, (reader,))
    try:
        futures = {pool.submit(function, *job): number for number, job in enumerate(jobs)}
        for future in concurrent.futures.as_completed(futures):
            yield futures[future], future.result()
        finished = True
    except concurrent.futures.process.BrokenProcessPool as error:
        raise WorkerDiedError(
            "a worker process ended early, perhaps for lack of memory; run the same command again "
            "to continue, perhaps with fewer `processes`"
        ) from error
    finally:
        if not finished:
            writer.close()
        pool.shutdown(wait=True, cancel_futures=True)
        writer.close()
        reader.close()


def _start_worker(reader):
    # Ctrl-C reaches every process of a terminal; the parent process handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_when_closed, args=(reader,), daemon=True).start()


def _exit_when_closed(reader):
    """Exits this worker when the pipe is closed.

    A job may be aborted at any point, because jobs write files atomically.
    """
    reader.poll(None)
    os._exit(1)


# --- Apache Beam ----------------------------------------------------------------------------------


def run_on_beam(function, jobs, processes=None, flags=(), folder=None):
    """Runs jobs as an Apache Beam pipeline.

    A runner may start a job again on another worker, even while the first attempt still runs; one
    result of each job is used. An exception of a job is final and is not retried.

    Args:
        function: a function of a module that the workers can import.
        jobs: list of tuples of picklable arguments.
        processes: must be None; the flags of the runner set the number of workers.
        flags: flags of Beam, such as "--runner=DaskRunner"; one string may contain several flags,
            separated by commas.
        folder: a folder that this process and all workers see under the same path, for results.
            Default: the temporary folder of the system, which works if all workers run on this
            machine.

    Yields:
        (job number, result) as each job ends.

    Raises:
        UserError: Beam is not installed, does not know a flag or cannot run the pipeline, or the
            workers do not share the folder.
        WorkerDiedError: a worker was killed, more often than the runner retries.
        Exception: any exception of a job; the other jobs are cancelled.
    """
    if processes is not None:
        raise UserError(
            "`processes` is for the process pool; use the flags of the runner instead, such as "
            "`beam=--direct_running_mode=multi_processing,--direct_num_workers=2`"
        )
    jobs = list(jobs)
    if not jobs:
        return
    with _quiet(), _results_folder(folder) as results:
        yield from _import_beam().run(function, jobs, flags, results)


def _import_beam():
    try:
        from tf_mural.conversion import beam
    except ImportError as error:
        raise UserError(
            f"`executor=beam` needs Apache Beam ({error}): pip install -r requirements-beam.txt"
        ) from error
    return beam


@contextlib.contextmanager
def _results_folder(parent):
    """Context manager that creates a folder for results and removes it at the end."""
    parent = os.path.abspath(parent or tempfile.gettempdir())
    path = os.path.join(parent, f"beam.{uuid.uuid4().hex}.tmp")
    os.makedirs(path)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _quiet():
    """Context manager that silences start-up messages in this process and its child processes.

    The context manager also passes `sys.path` to child processes.
    """
    root, null = logging.getLogger(), logging.NullHandler()
    root.addHandler(null)  # Without any handler, Beam would configure logging.
    loggers = [logging.getLogger(name) for name in ("apache_beam", "distributed")]
    levels = {logger: logger.level for logger in loggers}
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    variables = {"TF_CPP_MIN_LOG_LEVEL": "3", "GRPC_VERBOSITY": "NONE"}
    variables["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeHandler(null)
        for logger, level in levels.items():
            logger.setLevel(level)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


EXECUTORS = {"processes": run_in_processes, "beam": run_on_beam}
