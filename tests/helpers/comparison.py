"""Comparison of gradients and weights."""

import numpy as np


def largest_error(expected, actual):
    """Compares two dicts of gradients.

    The error of a variable is ||a - b|| / max(||a||, floor). The floor is 1e-3 times the root mean
    square norm over the variables, because some gradients (such as those of the key biases of
    attention) are zero up to rounding.

    Args:
        expected, actual: {variable path: array}.

    Returns:
        (error, path) of the variable with the largest error.
    """
    assert expected.keys() == actual.keys()
    squares = sum(np.sum(np.square(a, dtype=np.float64)) for a in expected.values())
    floor = 1e-3 * np.sqrt(squares / len(expected))

    def error(path):
        difference = np.linalg.norm(expected[path] - actual[path])
        return difference / max(np.linalg.norm(expected[path]), floor)

    return max((error(path), path) for path in expected)


def select_prefix(arrays, prefix):
    """Returns the arrays whose name starts with `prefix`, as float64, named without it."""
    return {
        k[len(prefix) :]: v.astype(np.float64) for k, v in arrays.items() if k.startswith(prefix)
    }


def assert_weights_close(expected, actual, tolerance=1e-3):
    """Asserts that two runs' weights differ only by rounding; norms below 0.1 count as 0.1."""
    assert expected.keys() == actual.keys()
    for path in expected:
        difference = np.linalg.norm(expected[path] - actual[path])
        error = difference / max(np.linalg.norm(expected[path]), 1e-1)
        assert error < tolerance, (path, error)
