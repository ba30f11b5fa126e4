"""Everything that knows of replicas and processes: strategies, gather, reduction, seeds."""

from tf_mural.distribute.processes import Processes
from tf_mural.distribute.replicas import (
    apply_gradients,
    average,
    first_row,
    gather,
    mean,
    reduce_gradients,
    reduce_sum,
    set_seeds,
)
from tf_mural.distribute.running import PROFILER, Runner, encoder_functions, snapshot
from tf_mural.distribute.strategies import STRATEGIES, make_strategy

__all__ = [
    "PROFILER",
    "STRATEGIES",
    "Processes",
    "Runner",
    "apply_gradients",
    "average",
    "encoder_functions",
    "first_row",
    "gather",
    "make_strategy",
    "mean",
    "reduce_gradients",
    "reduce_sum",
    "set_seeds",
    "snapshot",
]
