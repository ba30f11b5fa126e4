"""Training on TensorFlow, under any `tf.distribute.Strategy`."""

from tf_mural.backends.tensorflow.batch_norm import batch_norm_kernel
from tf_mural.backends.tensorflow.collectives import all_reduce_mean
from tf_mural.backends.tensorflow.step_runner import PROFILER, Runner, encoder_functions, snapshot
from tf_mural.backends.tensorflow.strategy import STRATEGIES, ProcessGroup, make_strategy
from tf_mural.backends.tensorflow.trainer import Trainer

__all__ = [
    "PROFILER",
    "STRATEGIES",
    "ProcessGroup",
    "Runner",
    "Trainer",
    "all_reduce_mean",
    "batch_norm_kernel",
    "encoder_functions",
    "make_strategy",
    "snapshot",
]
