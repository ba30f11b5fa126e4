"""Statistics of the difference of two models: paired bootstrap, Holm's correction.

Both models are evaluated on the same images, so an image that is hard for one model is usually hard
for the other one too. The paired bootstrap draws the same images for both models. Its intervals are
therefore narrower than those of two independent results.

The items of a metric are an array (n, 2 k) of n images: k sums and then k counts per image. The
value of the metric is the mean of the k ratios of total sum and total count, in the unit of the
sums.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from tf_mural.errors import UserError
from tf_mural.evaluation.metrics.intervals import percentile_interval

_POWER_QUANTILES = 1.9600 + 0.8416  # normal quantiles of 97.5 % and of 80 %
_MAX_WEIGHTS = 1 << 22  # maximum number of weights in memory


def group_items(values: ArrayLike, groups: ArrayLike, num_groups: int) -> np.ndarray:
    """Returns the items of a metric whose value is a mean: float32 (num_groups, 2).

    Args:
        values: (m,) numbers, for example hits in percent.
        groups: int (m,), the image of each value.
        num_groups: Number of images.
    """
    sums = np.bincount(groups, weights=values, minlength=num_groups)
    counts = np.bincount(groups, minlength=num_groups)
    return np.stack([sums, counts], axis=1).astype(np.float32)


def join_items(columns: Sequence[ArrayLike]) -> np.ndarray:
    """Returns the items (n, 2 k) of the mean of k metrics, from the items (n, 2) of each."""
    columns = [np.asarray(column) for column in columns]
    return np.concatenate([c[:, :1] for c in columns] + [c[:, 1:] for c in columns], axis=1)


def paired_bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    num_bootstrap: int = 1000,
    seed: int | Sequence[int] = 0,
) -> tuple[float, tuple[float, float], float, float]:
    """Compares the values of a metric of two models on the same images.

    Args:
        first, second: (n, 2 k) items of the metric, see the docstring of the module; the images are
            the same, in the same order.
        num_bootstrap: Number of resamples of the images.
        seed: Seed of the resampling.

    Returns:
        Tuple (difference first - second; its 95 % interval (low, high); two-sided p-value of no
        difference, by the normal distribution with the standard error of the bootstrap; this
        standard error).

    Raises:
        UserError: Shapes or counts differ, so the images are not the same.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    half = first.shape[-1] // 2
    if first.shape != second.shape or not np.array_equal(first[:, half:], second[:, half:]):
        raise UserError(
            f"items of shapes {first.shape} and {second.shape} with different counts: expected the "
            "results of two models on the same records"
        )
    counts, random, resampled = first[:, half:], np.random.default_rng(seed), []
    differences = first[:, :half] - second[:, :half]
    shares = np.full(len(first), 1 / len(first))
    step = max(1, _MAX_WEIGHTS // len(first))
    for start in range(0, num_bootstrap, step):
        size = min(step, num_bootstrap - start)
        weights = random.multinomial(len(first), shares, size)
        ratios = (weights @ differences) / np.maximum(weights @ counts, 1e-9)
        resampled.append(ratios.mean(axis=1))
    resampled = np.concatenate(resampled)
    value = float((differences.sum(axis=0) / counts.sum(axis=0)).mean())
    error = float(resampled.std())
    p_value = math.erfc(abs(value) / error / math.sqrt(2)) if error > 0 else float(value == 0)
    return value, percentile_interval(resampled), p_value, error


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values that are corrected for their number by Holm's method.

    The probability that at least one of the tests without a true difference has a corrected p-value
    below 5 % is at most 5 %.
    """
    order, corrected, largest = np.argsort(p_values, kind="stable"), [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * float(p_values[index])))
        corrected[index] = largest
    return corrected


def smallest_detectable_difference(error: float) -> float:
    """Returns the true difference that a test at 5 % detects with a probability of 80 %.

    Args:
        error: standard error of the difference, see `paired_bootstrap`.
    """
    return _POWER_QUANTILES * error
