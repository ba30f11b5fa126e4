"""Plans runs on TPUs that are not present: compiles the training step and estimates its cost.

The package libtpu contains XLA's compiler for TPUs, which needs no TPU. The compiled step is the
training step of `tf_mural.backends.jax`.
"""

from tpu_planner.compile import compile_and_count, find_devices
from tpu_planner.estimate import advice, estimate
from tpu_planner.hlo import Collective, Program
from tpu_planner.roofline import (
    CHIPS,
    GIB,
    Chip,
    count_flops,
    find_chip,
    ring_bytes,
    roofline_seconds,
)

__all__ = [
    "CHIPS",
    "GIB",
    "Chip",
    "Collective",
    "Program",
    "advice",
    "compile_and_count",
    "count_flops",
    "estimate",
    "find_chip",
    "find_devices",
    "ring_bytes",
    "roofline_seconds",
]
