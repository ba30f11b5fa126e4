"""A TPU run without a TPU: the step compiled by XLA's own compiler, and what it would take.

The compiler is that of the package libtpu, which needs no TPU for this; the step is that of
`training_jax`, the one that trains.
"""

from tf_mural.planning.chips import CHIPS, Chip, find_chip
from tf_mural.planning.compiling import counts, find_devices
from tf_mural.planning.flops import flops
from tf_mural.planning.hlo import Collective, Program
from tf_mural.planning.plan import GIB, advice, plan
from tf_mural.planning.roofline import seconds, sent

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
