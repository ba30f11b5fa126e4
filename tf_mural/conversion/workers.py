"""A pool of fresh processes for units of work, which stops when its user does."""

import concurrent.futures
import multiprocessing
import os
import signal
import threading

from tf_mural.base import UserError

_stop = None  # In a worker: the event that its pool sets when nobody waits for results any more.


class _Stopped(Exception):
    """Raised in a worker whose result nobody wants."""


def check_stop():
    """Called now and then inside a unit, so that it ends soon after an interruption."""
    if _stop is not None and _stop.is_set():
        raise _Stopped


def run(function, jobs, processes=None):
    """Yields (number of the job, result) of `function(*job)` as each job ends.

    Processes are spawned, not forked: a fork of a process that runs TensorFlow hangs. With one
    process or one job everything runs here instead.

    Args:
        function: a function of a module.
        jobs: list of tuples of picklable arguments.
        processes: how many at once; default one for each core that this process may use.

    Raises:
        UserError: `processes` is under one, or a worker was killed.
        Exception: whatever a job raises; the other jobs are given up.
    """
    if processes is not None and processes < 1:
        raise UserError(f"expected processes of 1 or more, got {processes}")
    processes = min(processes or len(os.sched_getaffinity(0)), len(jobs))
    if processes <= 1:
        for number, job in enumerate(jobs):
            yield number, function(*job)
        return
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    pool = concurrent.futures.ProcessPoolExecutor(processes, context, _start, (stop,))
    try:
        futures = {pool.submit(function, *job): number for number, job in enumerate(jobs)}
        for future in concurrent.futures.as_completed(futures):
            yield futures[future], future.result()
    except concurrent.futures.process.BrokenProcessPool as error:
        message = "a worker process ended before its time, perhaps for want of memory"
        raise UserError(f"{message}; try fewer with --processes") from error
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _start(stop):
    global _stop
    _stop = stop
    # Ctrl-C reaches every process of a terminal; the one that waits for the others answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)
