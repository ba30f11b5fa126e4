"""Metrics of the evaluation tasks, as pure functions of NumPy arrays.

ranks.py          ranks of correct candidates, and their differences between languages
recall.py         recall at k, and its expected value for random ranks
correlation.py    Spearman's correlation
intervals.py      95 % confidence intervals
"""

from tf_mural.evaluation.metrics.correlation import bootstrap_spearman, spearman
from tf_mural.evaluation.metrics.intervals import (
    bootstrap_means,
    mean_interval,
    percentile_interval,
    recall_intervals,
    seeds_interval,
)
from tf_mural.evaluation.metrics.ranks import (
    TIE_TOLERANCE,
    agreement,
    chance_spread,
    check_embeddings,
    first_results,
    image_text_ranks,
    rank_bounds,
    rank_lags,
    rank_spreads,
    retrieval_ranks,
)
from tf_mural.evaluation.metrics.recall import (
    RECALL_KS,
    chance_average_recall,
    group_means,
    recall_at,
    recalls,
    retrieval_recalls,
)

__all__ = [
    "RECALL_KS",
    "TIE_TOLERANCE",
    "agreement",
    "bootstrap_means",
    "bootstrap_spearman",
    "chance_average_recall",
    "chance_spread",
    "check_embeddings",
    "first_results",
    "group_means",
    "image_text_ranks",
    "mean_interval",
    "percentile_interval",
    "rank_bounds",
    "rank_lags",
    "rank_spreads",
    "recall_at",
    "recall_intervals",
    "recalls",
    "retrieval_ranks",
    "retrieval_recalls",
    "seeds_interval",
    "spearman",
]
