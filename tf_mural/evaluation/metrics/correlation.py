"""Spearman's rank correlation with ties, and its bootstrap distribution."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from tf_mural.errors import UserError

# Maximum number of weights in memory in `bootstrap_spearman`.
_MAX_WEIGHTS = 1 << 22


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Computes Spearman's correlation: Pearson's correlation of ranks; ties get their mean rank.

    Args:
        a, b: (n,) finite numbers, n >= 2.

    Returns:
        A float in [-1, 1]; 0 if all values of `a` or of `b` are equal.

    Raises:
        UserError: Shapes do not match, there are fewer than two values, or values are not finite.
    """
    a, b = _check_values(a, b)
    return float(_correlations(a, b, np.ones((1, len(a))))[0])


def bootstrap_spearman(
    a: ArrayLike, b: ArrayLike, num_bootstrap: int = 1000, seed: int | Sequence[int] = 0
) -> np.ndarray:
    """Computes Spearman's correlations of bootstrap resamples: float64 (num_bootstrap,).

    Args:
        a, b: See `spearman`.
        num_bootstrap: Number of resamples, each of n pairs drawn with replacement.
        seed: Seed of the resampling.
    """
    a, b = _check_values(a, b)
    random, count = np.random.default_rng(seed), len(a)
    step = max(1, _MAX_WEIGHTS // count)
    parts = []
    for start in range(0, num_bootstrap, step):
        size = min(step, num_bootstrap - start)
        weights = random.multinomial(count, np.full(count, 1 / count), size)
        parts.append(_correlations(a, b, weights.astype(np.float64)))
    return np.concatenate(parts)


def _correlations(a, b, weights):
    """Returns a correlation for each row of `weights` (r, n), the weights of n pairs."""
    total = weights.sum(axis=1, keepdims=True)
    x, y = _mean_ranks(a, weights), _mean_ranks(b, weights)  # (r, n)
    x -= (weights * x).sum(axis=1, keepdims=True) / total
    y -= (weights * y).sum(axis=1, keepdims=True) / total
    covariance = (weights * x * y).sum(axis=1)
    scale = np.sqrt((weights * x * x).sum(axis=1) * (weights * y * y).sum(axis=1))
    # If all values of a resample are equal, rounding errors can make the scale slightly larger
    # than 0.
    is_defined = scale > 1e-9 * total[:, 0]
    return np.divide(covariance, scale, out=np.zeros_like(scale), where=is_defined).clip(-1, 1)


def _mean_ranks(values, weights):
    """Returns mean ranks (r, n), from 1; in row j, value i occurs `weights[j, i]` times."""
    _, value_index = np.unique(values, return_inverse=True)
    order = np.argsort(value_index, kind="stable")
    starts = np.flatnonzero(np.diff(value_index[order], prepend=-1))
    counts = np.add.reduceat(weights[:, order], starts, axis=1)  # (r, unique values)
    # The ranks of equal values end at the cumulative count. Each of the equal values gets the mean
    # of these ranks.
    return (np.cumsum(counts, axis=1) - (counts - 1) / 2)[:, value_index]


def _check_values(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise UserError(
            f"values of shapes {a.shape} and {b.shape}: expected two vectors of the same length"
        )
    if len(a) < 2:
        raise UserError(f"{len(a)} pairs: expected at least 2, a single pair has no order")
    bad = np.flatnonzero(~(np.isfinite(a) & np.isfinite(b)))
    if bad.size:
        raise UserError(
            f"{bad.size} of {len(a)} pairs are not finite, the first is pair {bad[0]}: "
            f"{a[bad[0]]} and {b[bad[0]]}"
        )
    return a, b
