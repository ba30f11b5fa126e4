"""Metrics of the evaluation tasks, as pure functions of NumPy arrays.

ranks.py          ranks of correct candidates, and their differences between languages
ranking.py        ranks without ties, nDCG and hit rate, as in trec_eval and mteb
recall.py         recall at k, and its expected value for random ranks
correlation.py    Spearman's correlation
intervals.py      95 % confidence intervals
comparisons.py    paired comparison of two models, correction over languages
"""

from tf_mural.evaluation.metrics.comparisons import (
    group_items,
    holm,
    join_items,
    paired_bootstrap,
    smallest_detectable_difference,
)
from tf_mural.evaluation.metrics.correlation import bootstrap_spearman, spearman
from tf_mural.evaluation.metrics.intervals import (
    bootstrap_means,
    grouped_bootstrap,
    mean_interval,
    percentile_interval,
    recall_intervals,
    seeds_interval,
)
from tf_mural.evaluation.metrics.ranking import (
    HIT_KS,
    NDCG_K,
    first_best,
    hits,
    ndcg,
    ranks_of_scores,
    relevant_ranks,
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
    "HIT_KS",
    "NDCG_K",
    "RECALL_KS",
    "TIE_TOLERANCE",
    "agreement",
    "bootstrap_means",
    "bootstrap_spearman",
    "chance_average_recall",
    "chance_spread",
    "check_embeddings",
    "first_best",
    "first_results",
    "group_items",
    "group_means",
    "grouped_bootstrap",
    "hits",
    "holm",
    "image_text_ranks",
    "join_items",
    "mean_interval",
    "ndcg",
    "paired_bootstrap",
    "percentile_interval",
    "rank_bounds",
    "rank_lags",
    "rank_spreads",
    "ranks_of_scores",
    "recall_at",
    "recall_intervals",
    "recalls",
    "relevant_ranks",
    "retrieval_ranks",
    "retrieval_recalls",
    "seeds_interval",
    "smallest_detectable_difference",
    "spearman",
]
