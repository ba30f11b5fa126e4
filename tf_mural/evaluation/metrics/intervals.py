"""95 % confidence intervals.

The intervals of evaluations are computed by seeded bootstrap: equal arguments give equal intervals.
The interval of a mean over a few runs is that of Student's t-test.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from tf_mural.errors import UserError
from tf_mural.evaluation.metrics.recall import RECALL_KS, named_recalls

# If there are at most this many unique values, a resample is drawn as counts, which say how often
# each unique value occurs.
_MAX_UNIQUE = 256

# 97.5 % quantiles of Student's t-distribution with 1, 2, ... degrees of freedom.
_T_QUANTILES = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def percentile_interval(values: ArrayLike) -> tuple[float, float]:
    """Returns the central 95 % of bootstrap values: (low, high)."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def bootstrap_means(
    values: ArrayLike, num_bootstrap: int = 1000, seed: int | Sequence[int] = 0
) -> np.ndarray:
    """Returns the means of bootstrap resamples of `values`.

    A resample has as many values as `values`, drawn with replacement. For the interval of a mean
    over groups, compute the bootstrap means of each group with a different seed, average them over
    the groups, and take the `percentile_interval` of the averages.

    Args:
        values: (n,) finite numbers, one per independent item, for example hits.
        num_bootstrap: Number of resamples.
        seed: Any seed of `numpy.random.default_rng`.

    Returns:
        float64 (num_bootstrap,).

    Raises:
        UserError: There are no values, or a value is not finite.
    """
    values = np.asarray(values, np.float64)
    if values.size == 0 or not np.isfinite(values).all():
        raise UserError(
            f"{values.size} values, {np.isfinite(values).sum()} of them finite: the interval of a "
            "mean needs at least one value, and only finite ones"
        )
    random, count = np.random.default_rng(seed), len(values)
    unique, counts = np.unique(values, return_counts=True)
    if len(unique) <= _MAX_UNIQUE:
        # Drawn counts have the same distribution as the counts of drawn items. The cost of drawing
        # counts does not grow with the number of items.
        return random.multinomial(count, counts / count, num_bootstrap) @ unique / count
    return np.array(
        [values[random.integers(count, size=count)].mean() for _ in range(num_bootstrap)]
    )


def grouped_bootstrap(
    values: ArrayLike,
    groups: ArrayLike,
    num_groups: int,
    num_bootstrap: int = 1000,
    seed: int | Sequence[int] = 0,
) -> np.ndarray:
    """Returns the means of resamples in which whole groups are drawn with replacement.

    The texts of an image, or the questions about a photograph, are not independent; as a group,
    they are drawn together. Calls with equal `num_groups`, `num_bootstrap` and `seed` draw the same
    groups, so the difference of the results of two models is a paired bootstrap.

    Args:
        values: (n, m) numbers, m columns for each of n items.
        groups: int (n,), the group of each item, from 0.
        num_groups: Number of groups.
        num_bootstrap: Number of resamples.
        seed: Seed of the resampling.

    Returns:
        float64 (num_bootstrap, m), means over the items of the drawn groups.
    """
    values, groups = np.asarray(values, np.float64), np.asarray(groups)
    sums = np.stack(
        [np.bincount(groups, weights=column, minlength=num_groups) for column in values.T], axis=1
    )
    counts = np.bincount(groups, minlength=num_groups)
    random, means = np.random.default_rng(seed), []
    shares = np.full(num_groups, 1 / num_groups)
    step = max(1, (1 << 22) // max(1, num_groups))
    for start in range(0, num_bootstrap, step):
        weights = random.multinomial(num_groups, shares, min(step, num_bootstrap - start))
        means.append((weights @ sums) / np.maximum(weights @ counts, 1)[:, None])
    return np.concatenate(means)


def mean_interval(
    values: ArrayLike, num_bootstrap: int = 1000, seed: int | Sequence[int] = 0
) -> tuple[float, float]:
    """Returns the `percentile_interval` of the `bootstrap_means`: (low, high)."""
    return percentile_interval(bootstrap_means(values, num_bootstrap, seed))


def seeds_interval(values: ArrayLike) -> tuple[float, float]:
    """Returns the 95 % interval of the mean of a few runs, by Student's t-test: (low, high).

    With the differences of two runs for each seed as values, this is the interval of the paired
    test of their mean difference. The interval assumes normally distributed values. It describes
    the spread between the runs, not the choice of the evaluated examples.

    Args:
        values: (n,) finite numbers, one per seed, 2 to 31 values.

    Raises:
        UserError: The number of values is outside of this range, or a value is not finite.
    """
    values = np.asarray(values, np.float64)
    if not 2 <= values.size <= 1 + len(_T_QUANTILES) or not np.isfinite(values).all():
        raise UserError(
            f"{values.size} values, {np.isfinite(values).sum()} of them finite: the interval of a "
            f"mean over seeds needs 2 to {1 + len(_T_QUANTILES)} finite values"
        )
    error = values.std(ddof=1) / np.sqrt(values.size)
    width = _T_QUANTILES[values.size - 2] * error
    return float(values.mean() - width), float(values.mean() + width)


def recall_intervals(
    image_ranks: Sequence[int] | np.ndarray,
    text_ranks: ArrayLike,
    text_images: ArrayLike,
    num_bootstrap: int = 1000,
    seed: int | Sequence[int] = 0,
) -> dict[str, tuple[float, float]]:
    """Returns 95 % intervals of the `recalls` by bootstrap over images.

    An image is resampled together with its texts. The candidates stay the same. Therefore the
    intervals show how much the values would change with other query images, but not with another
    number of candidates.

    Args:
        image_ranks, text_ranks: int (n,) and int (m,), the result of `image_text_ranks`.
        text_images: int (m,), see `image_text_ranks`.
        num_bootstrap: Number of resamples.
        seed: Seed of the resampling.

    Returns:
        {name: (low, high)} in percent, with the names of `recalls`.
    """
    count, ks = len(image_ranks), np.array(RECALL_KS)
    image_hits = (np.asarray(image_ranks)[:, None] < ks).astype(np.float64)  # (n, 3)
    text_hits = np.asarray(text_ranks)[:, None] < ks
    # The hits of texts are summed per image, because a resampled image contributes all its texts.
    text_hits = np.stack(
        [np.bincount(text_images, weights=hits, minlength=count) for hits in text_hits.T], axis=1
    )
    num_texts = np.bincount(text_images, minlength=count)
    random = np.random.default_rng(seed)
    resampled = []
    for _ in range(num_bootstrap):
        chosen = random.integers(count, size=count)
        text_recalls = text_hits[chosen].sum(axis=0) / num_texts[chosen].sum()
        resampled.append(100.0 * np.concatenate([image_hits[chosen].mean(axis=0), text_recalls]))
    named = named_recalls(np.array(resampled).T)
    return {name: percentile_interval(values) for name, values in named.items()}
