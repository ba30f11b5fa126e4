"""Everything that knows of replicas and processes: strategies, gather, reduction, seeds."""

from tf_mural.backends.tensorflow.collectives import (
    apply_gradients,
    average,
    first_row,
    gather,
    mean,
    reduce_gradients,
    reduce_sum,
    set_seeds,
)
from tf_mural.backends.tensorflow.processes import Processes
from tf_mural.backends.tensorflow.step_runner import PROFILER, Runner, encoder_functions, snapshot
from tf_mural.backends.tensorflow.strategy import STRATEGIES, make_strategy

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
