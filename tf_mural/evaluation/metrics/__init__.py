"""What an evaluation measures, as pure functions of numpy arrays.

ranks.py          of right candidates among all, and how often they are in the first k
correlation.py    ranks of values, Spearman's correlation
consistency.py    how far the ranks of one image in several languages are apart
intervals.py      95 % intervals by bootstrap
"""

from tf_mural.evaluation.metrics.consistency import chance_spread, lags, pair_spreads
from tf_mural.evaluation.metrics.correlation import resampled_spearman, spearman
from tf_mural.evaluation.metrics.intervals import (
    interval,
    mean_interval,
    recall_intervals,
    resampled_means,
)
from tf_mural.evaluation.metrics.ranks import (
    TIE,
    checked_rows,
    image_text_ranks,
    rank_bounds,
    retrieval_ranks,
)
from tf_mural.evaluation.metrics.recall import (
    RECALLS,
    chance_average_recall,
    group_means,
    recall_at,
    recalls,
    retrieval,
)

__all__ = [
    "RECALLS",
    "TIE",
    "chance_average_recall",
    "chance_spread",
    "checked_rows",
    "group_means",
    "image_text_ranks",
    "interval",
    "lags",
    "mean_interval",
    "pair_spreads",
    "rank_bounds",
    "recall_at",
    "recall_intervals",
    "recalls",
    "resampled_means",
    "resampled_spearman",
    "retrieval",
    "retrieval_ranks",
    "spearman",
]
