"""Spearman's rank correlation, with ties and with resamples."""

import numpy as np

from tf_mural.errors import UserError

# Numbers held at once by `resampled_spearman`.
_CHUNK = 1 << 22


def spearman(a, b):
    """Spearman's correlation: Pearson's of the ranks, where equal values share their mean rank.

    Args:
        a, b: (n,) finite numbers, n from 2.

    Returns:
        A float in [-1, 1]; 0 where `a` or `b` is one number throughout, which orders nothing.

    Raises:
        UserError: shapes that do not fit, fewer than two values, values that are not finite.
    """
    a, b = _checked(a, b)
    return float(_correlations(a, b, np.ones((1, len(a))))[0])


def resampled_spearman(a, b, draws=1000, seed=0):
    """Spearman's correlations of resamples of the pairs, for an interval: float64 (draws,).

    Args:
        a, b: see `spearman`.
        draws: number of resamples, each of n pairs drawn with replacement.
        seed: of the resampling.
    """
    a, b = _checked(a, b)
    random, count = np.random.default_rng(seed), len(a)
    step = max(1, _CHUNK // count)
    parts = []
    for start in range(0, draws, step):
        drawn = random.multinomial(count, np.full(count, 1 / count), min(step, draws - start))
        parts.append(_correlations(a, b, drawn.astype(np.float64)))
    return np.concatenate(parts)


def _correlations(a, b, weights):
    """Correlations (r,) where pair i counts `weights[r, i]` times."""
    total = weights.sum(axis=1, keepdims=True)
    x, y = _ranks(a, weights), _ranks(b, weights)  # (r, n)
    x -= (weights * x).sum(axis=1, keepdims=True) / total
    y -= (weights * y).sum(axis=1, keepdims=True) / total
    covariance = (weights * x * y).sum(axis=1)
    scale = np.sqrt((weights * x * x).sum(axis=1) * (weights * y * y).sum(axis=1))
    # Of a constant side, rounding leaves a scale that is not quite 0.
    some = scale > 1e-9 * total[:, 0]
    return np.divide(covariance, scale, out=np.zeros_like(scale), where=some).clip(-1, 1)


def _ranks(values, weights):
    """Mean ranks (r, n) from 1, where value i is there `weights[r, i]` times."""
    _, place = np.unique(values, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))
    times = np.add.reduceat(weights[:, order], starts, axis=1)  # (r, different values)
    # Values of equal rank take the places up to their cumulative count.
    return (np.cumsum(times, axis=1) - (times - 1) / 2)[:, place]


def _checked(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise UserError(f"values of shapes {a.shape} and {b.shape}: expected as many on both sides")
    if len(a) < 2:
        raise UserError(f"{len(a)} pairs: expected 2 or more, one alone has no order")
    bad = np.flatnonzero(~(np.isfinite(a) & np.isfinite(b)))
    if bad.size:
        raise UserError(
            f"{bad.size} of {len(a)} pairs are not finite, the first is pair {bad[0]}: "
            f"{a[bad[0]]} and {b[bad[0]]}"
        )
    return a, b
