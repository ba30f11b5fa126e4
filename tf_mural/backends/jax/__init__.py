"""Everything of the JAX backend that knows of devices and processes; what `distribute` is to it.

A step runs under `jax.shard_map` over one axis of devices, `AXIS`: a replica is a device, sees its
own rows of the global arrays, and meets the others in the functions of `replicas` alone.
"""

from tf_mural.backends.jax.collectives import AXIS, first_row, gather, mean, reduce_sum, set_seeds
from tf_mural.backends.jax.encoding import encoder_functions
from tf_mural.backends.jax.processes import Processes
from tf_mural.backends.jax.step_runner import PROFILER, Runner, snapshot
from tf_mural.backends.jax.strategy import STRATEGIES, Devices, make_strategy

__all__ = [
    "AXIS",
    "PROFILER",
    "STRATEGIES",
    "Devices",
    "Processes",
    "Runner",
    "encoder_functions",
    "first_row",
    "gather",
    "make_strategy",
    "mean",
    "reduce_sum",
    "set_seeds",
    "snapshot",
]
