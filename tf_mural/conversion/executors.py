"""What can run the jobs of a conversion: processes here, or a cluster.

An engine is a function `run(function, jobs, processes=None, **options)` that yields (number of the
job, result) of `function(*job)` as each job ends.
"""

import contextlib
import logging
import os
import shutil
import sys
import tempfile
import uuid
import warnings

from tf_mural.conversion import process_pool
from tf_mural.errors import UserError


def run_on_beam(function, jobs, processes=None, flags=(), folder=None):
    """Yields (number of the job, result) of `function(*job)` as each job ends.

    A runner may start a job again elsewhere, even while the first one still runs; one result of
    each job is taken. A job's exception is final and is not tried again.

    Args:
        function: a function of a module that the workers can import.
        jobs: list of tuples of picklable arguments.
        processes: must be None: a runner's flags say how much runs at once.
        flags: Beam's own flags, such as "--runner=DaskRunner"; one string may hold several, parted
            by commas. Default: what Beam takes without any.
        folder: one that this process and every worker see under the same name, for results.
            Default: the system's temporary one, which will do where all run on one machine.

    Raises:
        UserError: Beam is not installed, does not know a flag or cannot run the pipeline, or the
            workers do not share the folder.
        WorkerEnded: a worker was killed, more often than the runner tries again.
        Exception: whatever a job raises; the other jobs are given up.
    """
    if processes is not None:
        raise UserError(
            "--processes is for the process pool; say it in the runner's own words, such as "
            "--beam=--direct_running_mode=multi_processing,--direct_num_workers=2"
        )
    jobs = list(jobs)
    if not jobs:
        return
    with _quiet(), _shared(folder) as results:
        yield from _beam().run(function, jobs, flags, results)


def _beam():
    try:
        from tf_mural.conversion import beam
    except ImportError as error:
        raise UserError(
            f"--engine=beam needs Apache Beam ({error}): pip install -r requirements-beam.txt"
        ) from error
    return beam


@contextlib.contextmanager
def _shared(folder):
    """A folder for results, removed at the end."""
    path = os.path.join(
        os.path.abspath(folder or tempfile.gettempdir()), f"beam.{uuid.uuid4().hex}.tmp"
    )
    os.makedirs(path)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _quiet():
    """Silences start-up noise, here and in processes started from here, which get our paths too."""
    root, null = logging.getLogger(), logging.NullHandler()
    root.addHandler(null)  # Beam sets up logging where there is none
    loud = {
        logger: logger.level for logger in map(logging.getLogger, ("apache_beam", "distributed"))
    }
    for logger in loud:
        logger.setLevel(logging.CRITICAL + 1)
    ours = {"TF_CPP_MIN_LOG_LEVEL": "3", "GRPC_VERBOSITY": "NONE"}
    ours["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeHandler(null)
        for logger, level in loud.items():
            logger.setLevel(level)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


ENGINES = {"processes": process_pool.run, "beam": run_on_beam}
