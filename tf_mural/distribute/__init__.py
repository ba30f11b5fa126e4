"""Everything that knows of replicas and processes: strategies, gather, reduction, seeds."""

from tf_mural.distribute.processes import Processes, SharedEmbedder, WorkerLost
from tf_mural.distribute.replicas import (
    apply_gradients,
    average,
    first_row,
    gather,
    mean,
    reduce_gradients,
    reduce_sum,
    seed_generators,
    set_seeds,
)
from tf_mural.distribute.strategies import STRATEGIES, make_strategy

__all__ = [
    "STRATEGIES",
    "Processes",
    "SharedEmbedder",
    "WorkerLost",
    "apply_gradients",
    "average",
    "first_row",
    "gather",
    "make_strategy",
    "mean",
    "reduce_gradients",
    "reduce_sum",
    "seed_generators",
    "set_seeds",
]
