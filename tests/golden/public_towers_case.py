"""Names, sizes and inputs of the recorded checkpoints with two towers, for recorder and test."""

import os

import numpy as np

OUTPUTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "public_towers.npz")
SEED = 3
# Sizes in pixels, the second and third of which need interpolated positions.
SIZES = (32, 56, 24)
# (height, width) of images for the preprocessing.
SHAPES = ((91, 60), (45, 140), (64, 64), (20, 31))


def images(size, count=2):
    """Returns random images, uint8 (count, size, size, 3)."""
    return np.random.RandomState(11).randint(0, 256, (count, size, size, 3)).astype(np.uint8)


def photograph(shape):
    """Returns an image with smooth and with noisy parts, uint8 (height, width, 3)."""
    height, width = shape
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (3 + c) + y / (5 - c)) for c in range(3)]
    noise = np.random.RandomState(5).uniform(-30, 30, (height, width, 3))
    return np.clip(128 + 90 * np.stack(waves, -1) + noise, 0, 255).astype(np.uint8)
