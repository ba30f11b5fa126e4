"""Small input files with known correct results, in the folder `shared` next to the repository."""

import os

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

FOLDERS = [
    os.path.join(os.path.dirname(ROOT), "shared", "data", "inputs"),
    os.path.join(ROOT, "shared", "data", "inputs"),
]

TRANSPARENT = "rgba.png la.png palette.png grey.png shape.gif shape.webp half.png".split()
ROTATIONS = [*(f"turned_{i}.jpg" for i in range(1, 9)), "exif_6.png", "exif_8.webp"]


def inputs(name):
    """Returns the path of a folder of inputs; skips the test if the folder is missing."""
    for folder in FOLDERS:
        if os.path.isdir(os.path.join(folder, name)):
            return os.path.join(folder, name)
    pytest.skip(f"no ../shared/data/inputs/{name}")


def read(path):
    """Returns the bytes of a file."""
    with open(path, "rb") as file:
        return file.read()


def pixels(path):
    """Returns the pixels of an image file, int (h, w, 3)."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)
