"""95 % intervals by bootstrap, seeded: the same arguments give the same interval."""

import numpy as np

from tf_mural.errors import UserError
from tf_mural.evaluation.metrics.recall import RECALLS, named_recalls

# Up to so many different values a resample is drawn as how often each of them comes.
_FEW = 256


def interval(values):
    """The middle 95 % of resampled values: (low, high)."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def resampled_means(values, draws=1000, seed=0):
    """Means of resamples of `values`, each as large and drawn with replacement.

    For the interval of a mean over groups, average the draws of the groups, each with a seed of its
    own, and take the `interval` of that.

    Args:
        values: (n,) finite numbers, one an independent item: hits, differences.
        draws: number of resamples.
        seed: anything that `numpy.random.default_rng` takes.

    Returns:
        float64 (draws,).

    Raises:
        UserError: there are no values, or one is not finite.
    """
    values = np.asarray(values, np.float64)
    if values.size == 0 or not np.isfinite(values).all():
        raise UserError(
            f"{values.size} values, {np.isfinite(values).sum()} of them finite: expected some, all "
            "finite, to take the interval of their mean"
        )
    random, count = np.random.default_rng(seed), len(values)
    unique, counts = np.unique(values, return_counts=True)
    if len(unique) <= _FEW:
        # The same distribution as that of drawing items, at a cost that does not grow with them.
        return random.multinomial(count, counts / count, draws) @ unique / count
    return np.array([values[random.integers(count, size=count)].mean() for _ in range(draws)])


def mean_interval(values, draws=1000, seed=0):
    """The `interval` of the `resampled_means`: (low, high)."""
    return interval(resampled_means(values, draws, seed))


def recall_intervals(image_ranks, text_ranks, text_images, draws=1000, seed=0):
    """95 % intervals of the `recalls` by bootstrap over images, each with its texts.

    The candidates stay as they are: the intervals tell how much other query images would change
    the values, not another size of the collection. The same arguments give the same intervals.

    Args:
        image_ranks: int (n,), text_ranks: int (m,), text_images: int (m,), see `image_text_ranks`.
        draws: number of resamples.
        seed: of the resampling.

    Returns:
        {name: (low, high)} in percent, of the names of `recalls`.
    """
    count, ks = len(image_ranks), np.array(RECALLS)
    image_hits = (np.asarray(image_ranks)[:, None] < ks).astype(np.float64)  # (n, 3)
    text_hits = np.asarray(text_ranks)[:, None] < ks
    # Summed by image, since a resampled image brings all its texts.
    text_hits = np.stack(
        [np.bincount(text_images, weights=hits, minlength=count) for hits in text_hits.T], axis=1
    )
    texts = np.bincount(text_images, minlength=count)
    random = np.random.default_rng(seed)
    drawn = []
    for _ in range(draws):
        chosen = random.integers(count, size=count)
        of_texts = text_hits[chosen].sum(axis=0) / texts[chosen].sum()
        drawn.append(100.0 * np.concatenate([image_hits[chosen].mean(axis=0), of_texts]))
    return {name: interval(values) for name, values in named_recalls(np.array(drawn).T).items()}
