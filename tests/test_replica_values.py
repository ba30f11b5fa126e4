"""Checks values of steps on two replicas without a comparison with steps on one replica."""

import numpy as np
import pytest
from helpers.replicas import run_script

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    return run_script("replica_values_script.py", out=tmp_path_factory.mktemp("values") / "a.npz")


def test_replicas_with_the_same_examples_drop_different_units(arrays):
    first, second = (arrays[f"dropout 0.5/{i}"] for i in (0, 1))  # (fields, rows, width)
    for field, name in enumerate(("image", "text_a", "text_b")):
        difference = np.abs(first[field] - second[field]).max(axis=1)
        # Stochastic depth drops the residuals of only some images.
        assert difference.max() > 1e-2 if name == "image" else (difference > 1e-2).all(), name
    np.testing.assert_allclose(arrays["dropout 0.0/0"], arrays["dropout 0.0/1"], atol=1e-6)


def stem_means(arrays, images):
    """Computes the channel means of the first convolution (3 x 3, stride 2, padding 1) in numpy."""
    x = np.pad(images / 127.5 - 1.0, ((0, 0), (1, 1), (1, 1), (0, 0)))
    size = x.shape[1] - 2
    mean = np.zeros(arrays["stem kernel"].shape[-1])
    for i in range(3):
        for j in range(3):
            pixels = x[:, i : i + size : 2, j : j + size : 2].mean(axis=(0, 1, 2))
            mean += pixels @ arrays["stem kernel"][i, j]
    return mean


def test_moving_means_are_those_of_the_images_of_all_replicas(arrays):
    images, factor = arrays["pixels"], 1.0 - arrays["momentum"]
    expected = factor * stem_means(arrays, images)  # the moving mean starts at 0
    for replica in (0, 1):
        np.testing.assert_allclose(arrays[f"moving mean/{replica}"], expected, rtol=1e-4, atol=1e-7)
    for part in np.split(images, 2):  # the images of one replica have another mean
        difference = np.abs(factor * stem_means(arrays, part) - expected).max()
        assert difference > 1e-2 * np.abs(expected).max()
