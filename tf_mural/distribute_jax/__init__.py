"""Everything of the JAX backend that knows of devices and processes; what `distribute` is to it.

A step runs under `jax.shard_map` over one axis of devices, `AXIS`: a replica is a device, sees its
own rows of the global arrays, and meets the others in the functions of `replicas` alone.
"""

from tf_mural.distribute_jax.devices import STRATEGIES, Devices, make_strategy
from tf_mural.distribute_jax.encoding import encoder_functions
from tf_mural.distribute_jax.processes import Processes
from tf_mural.distribute_jax.replicas import (
    AXIS,
    first_row,
    gather,
    mean,
    reduce_sum,
    set_seeds,
)
from tf_mural.distribute_jax.running import PROFILER, Runner, snapshot

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
