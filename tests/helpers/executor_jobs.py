"""Jobs for the tests of executors. Workers import this module."""

import os
import signal
import sys
import time

from tf_mural.errors import UserError


def square(number):
    """Returns number ** 2."""
    return number * number


def process_id(folder, number):
    """Returns the id of the process, as soon as another job has started or after 5 s."""
    open(os.path.join(folder, f"{number}"), "w").close()
    end = time.monotonic() + 5
    while len(os.listdir(folder)) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    return os.getpid()


def raise_user_error(number):
    """Raises UserError for the number 2."""
    if number == 2:
        raise UserError("row 2 is bad")
    return number


def raise_key_error(number):
    """Raises KeyError."""
    raise KeyError(number)


def leave_file_and_fail(folder, number):
    """Writes a file; job 0 then fails, and all other jobs take 0.3 s."""
    open(os.path.join(folder, f"{number}-{os.getpid()}-{time.monotonic_ns()}"), "w").close()
    if number == 0:
        raise UserError("the first fails")
    time.sleep(0.3)


def kill_worker(number):
    """Kills its process for the number 1."""
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def kill_worker_once(folder, number):
    """Kills its process for the number 1, but only in the first attempt."""
    path = os.path.join(folder, "died")
    if number == 1 and not os.path.exists(path):
        open(path, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def imported_frameworks(number):
    """Returns the large frameworks that the worker has imported."""
    return sorted({"tensorflow", "keras", "torch"} & set(sys.modules))


def discard_result(element):
    """Replaces `beam._call`: runs the job, but writes no result file."""
    return element[0] ** 2
