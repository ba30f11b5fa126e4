"""A TPU run without a TPU: the step compiled by XLA's own compiler, and what it would take.

The compiler is that of the package libtpu, which needs no TPU for this; the step is that of
`training_jax`, the one that trains.
"""

from tpu_planner.chips import CHIPS, Chip, find_chip
from tpu_planner.compile import counts, find_devices
from tpu_planner.estimate import GIB, advice, plan
from tpu_planner.flops import flops
from tpu_planner.hlo import Collective, Program
from tpu_planner.roofline import seconds, sent

__all__ = [
    "CHIPS",
    "GIB",
    "Chip",
    "Collective",
    "Program",
    "advice",
    "counts",
    "find_chip",
    "find_devices",
    "flops",
    "plan",
    "seconds",
    "sent",
]
