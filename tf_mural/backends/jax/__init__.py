"""Training on JAX, on a mesh of devices with one axis.

A step runs under `jax.shard_map`: each device is a replica and gets its own rows of the global
arrays. Replicas communicate only in the functions of `collectives`.
"""

from tf_mural.backends.jax.batch_norm import batch_norm_kernel
from tf_mural.backends.jax.collectives import all_reduce_mean
from tf_mural.backends.jax.step_runner import PROFILER, Runner, encoder_functions, snapshot
from tf_mural.backends.jax.strategy import STRATEGIES, Devices, ProcessGroup, make_strategy
from tf_mural.backends.jax.trainer import Trainer

__all__ = [
    "PROFILER",
    "STRATEGIES",
    "Devices",
    "ProcessGroup",
    "Runner",
    "Trainer",
    "all_reduce_mean",
    "batch_norm_kernel",
    "encoder_functions",
    "make_strategy",
    "snapshot",
]
