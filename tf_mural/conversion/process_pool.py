"""A pool of fresh processes for units of work, which stops when its user does."""

import concurrent.futures
import multiprocessing
import os
import signal
import threading

from tf_mural.errors import UserError


class WorkerEnded(UserError):
    """A worker process was killed. Tools exit with code 1: nothing need be wrong with the call."""

    exit_code = 1


def run(function, jobs, processes=None):
    """Yields (number of the job, result) of `function(*job)` as each job ends.

    Processes are spawned, not forked: a fork of a process that runs TensorFlow hangs. With one
    process or one job everything runs here instead. Where the jobs are given up, those that run
    end at once, whatever they are at.

    Args:
        function: a function of a module.
        jobs: list of tuples of picklable arguments.
        processes: how many at once; default one for each core that this process may use.

    Raises:
        UserError: `processes` is under one.
        WorkerEnded: a worker was killed.
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
    # Workers end once nobody holds the other end of this pipe. An event would wait for an answer of
    # each worker, those that were killed too.
    waiting, held = context.Pipe(duplex=False)
    finished = False
    pool = concurrent.futures.ProcessPoolExecutor(processes, context, _start, (waiting,))
    try:
        futures = {pool.submit(function, *job): number for number, job in enumerate(jobs)}
        for future in concurrent.futures.as_completed(futures):
            yield futures[future], future.result()
        finished = True
    except concurrent.futures.process.BrokenProcessPool as error:
        message = "a worker process ended before its time, perhaps for want of memory"
        raise WorkerEnded(
            f"{message}; the same command goes on where it was, with fewer --processes perhaps"
        ) from error
    finally:
        if not finished:
            held.close()
        pool.shutdown(wait=True, cancel_futures=True)
        held.close()
        waiting.close()


def _start(waiting):
    # Ctrl-C reaches every process of a terminal; the one that waits for the others answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_after, args=(waiting,), daemon=True).start()


def _end_after(waiting):
    """What a unit writes takes its name when it is whole, so that it may end anywhere."""
    waiting.poll(None)
    os._exit(1)
