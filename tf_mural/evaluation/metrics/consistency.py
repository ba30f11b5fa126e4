"""How far apart the ranks of one image are in the languages that describe it.

Places are log2 ranks, from 0: one more is a rank twice as large. A tie leaves a place open between
two bounds, and the distance of two places is then the largest that the bounds allow, so that a
model that ranks everything alike is the worst, not the most consistent.
"""

import numpy as np


def pair_spreads(low, high):
    """Distances of places, for each image and pair of languages, averaged for each language.

    Args:
        low, high: float (n, L), bounds of the place of image i in language l; nan where language l
            does not describe it.

    Returns:
        float64 (n, L): the mean distance, in doublings of rank, between the place in language l and
        those in the image's other languages; nan where there is none or no other. The mean of a row
        is the mean over the image's pairs of languages.
    """
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    there = ~np.isnan(low)
    others = there.sum(axis=1, keepdims=True) - 1
    total = np.zeros_like(low)
    # A language at a time, so that memory grows with n * L alone.
    for one in range(low.shape[1]):
        apart = np.maximum(high - low[:, one, None], high[:, one, None] - low)  # (n, L)
        apart[:, one] = 0.0
        total += np.where(there & there[:, one, None], apart, 0.0)
    return np.divide(total, others, out=np.full_like(low, np.nan), where=there & (others > 0))


def lags(places):
    """How much later each language finds an image than its other languages do.

    Args:
        places: float (n, L), nan where language l does not describe image i.

    Returns:
        float64 (n, L): the place less the mean place in the image's other languages, in doublings
        of rank: 0 is level, above 0 behind; nan where there is none or no other.
    """
    places = np.asarray(places, np.float64)
    there = ~np.isnan(places)
    others = there.sum(axis=1, keepdims=True) - 1
    rest = np.nansum(places, axis=1, keepdims=True) - np.nan_to_num(places)
    mean = np.divide(rest, others, out=np.full_like(places, np.nan), where=there & (others > 0))
    return places - mean


def chance_spread(count):
    """Expected distance of the places of two independent random ranks among `count` images."""
    places = np.log2(np.arange(1, count + 1))
    # Sorted, place i is the larger one of i pairs and the smaller one of count - 1 - i.
    return float(2 * np.sum((2 * np.arange(count) - count + 1) * places) / count**2)
