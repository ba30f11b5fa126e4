"""The small files of ../shared/data/inputs, and an embedder that recognizes their shapes."""

import os

import numpy as np
import pytest
from conftest import ROOT

INPUTS = os.path.join(ROOT, "..", "shared", "data", "inputs")
_WORDS = {
    "circle": ("circle", "Kreis"),
    "square": ("square", "Quadrat"),
    "triangle": ("triangle", "Dreieck"),
    "star": ("star", "Stern"),
}


def given(name):
    """Returns the path of a folder of examples; skips the test if it does not exist."""
    path = os.path.join(INPUTS, name)
    if not os.path.exists(path):
        pytest.skip(f"{path} does not exist")
    return path


class ShapeOracle:
    """A perfect encoder: an image and each text that names its shape get the same unit vector.

    Args:
        folder: folder of circle.jpg, square.jpg, ...
    """

    def __init__(self, folder):
        self._images = {}
        for number, name in enumerate(_WORDS):
            with open(os.path.join(folder, f"{name}.jpg"), "rb") as file:
                self._images[file.read()] = number

    def embed_images(self, encoded):
        """Returns float32 (n, 4)."""
        return np.eye(4, dtype=np.float32)[[self._images[data] for data in encoded]]

    def embed_texts(self, texts):
        """Returns float32 (n, 4)."""
        numbers = [
            next(n for n, words in enumerate(_WORDS.values()) if any(w in text for w in words))
            for text in texts
        ]
        return np.eye(4, dtype=np.float32)[numbers]
