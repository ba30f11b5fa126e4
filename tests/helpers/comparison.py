"""Functions that compare gradients or weights."""

import numpy as np


def largest_error(expected, actual):
    """Compares two dicts of gradients or weights.

    The error of a variable is ||expected - actual|| / max(||expected||, floor). The floor is 1e-3
    times the root mean square norm over the variables. Without the floor, gradients that are zero
    up to rounding (such as those of the key biases of attention) would have large errors.

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
    """Returns the arrays whose names start with `prefix`, as float64, without this prefix."""
    return {
        k[len(prefix) :]: v.astype(np.float64) for k, v in arrays.items() if k.startswith(prefix)
    }


def assert_weights_close(expected, actual, tolerance=1e-3):
    """Asserts that the weights of two runs differ by less than a relative tolerance.

    The norm of a difference is divided by the norm of the expected value, or by 0.1 if that norm is
    smaller.
    """
    assert expected.keys() == actual.keys()
    for path in expected:
        difference = np.linalg.norm(expected[path] - actual[path])
        error = difference / max(np.linalg.norm(expected[path]), 1e-1)
        assert error < tolerance, (path, error)
