"""Jobs for the tests of engines, in a module of their own: workers import them."""

import os
import signal
import sys
import time

from tf_mural.errors import UserError


def square(number):
    """number ** 2."""
    return number * number


def process_of(folder, number):
    """The process it ran in; waits until some other job has begun too, or a while."""
    open(os.path.join(folder, f"{number}"), "w").close()
    end = time.monotonic() + 5
    while len(os.listdir(folder)) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    return os.getpid()


def refuse(number):
    """Raises UserError at 2."""
    if number == 2:
        raise UserError("row 2 is bad")
    return number


def bug(number):
    """Raises KeyError."""
    raise KeyError(number)


def count_then_refuse(folder, number):
    """The first job fails; the others tell that they ran."""
    open(os.path.join(folder, f"{number}-{os.getpid()}-{time.monotonic_ns()}"), "w").close()
    if number == 0:
        raise UserError("the first fails")
    time.sleep(0.3)


def killed(number):
    """The worker dies at 1."""
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def killed_once(folder, number):
    """The worker dies at 1, the first time."""
    path = os.path.join(folder, "died")
    if number == 1 and not os.path.exists(path):
        open(path, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def heavy_modules(number):
    """What a worker has imported that it should not need."""
    return sorted({"tensorflow", "keras", "torch"} & set(sys.modules))


def square_of_first(element):
    """Instead of the engine's own call: leaves no result."""
    return element[0] ** 2
