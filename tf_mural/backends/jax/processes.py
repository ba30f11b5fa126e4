"""Between the steps: how JAX moves arrays between the processes of a run."""

import jax
import numpy as np
from jax.experimental import multihost_utils

from tf_mural import distributed


class Processes(distributed.Processes):
    """The processes of a run on JAX.

    Args:
        strategy: `Devices`.
    """

    lost = (jax.errors.JaxRuntimeError,)

    def __init__(self, strategy):
        owners = {device.process_index for device in strategy.mesh.devices.flat}
        alone = len(owners) == 1
        super().__init__(0 if alone else jax.process_index(), len(owners))

    def _is_loss(self, error):
        # JAX has one class for all that happens while a program runs.
        return not str(error).startswith(("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT"))

    def _gathered(self, part):
        return np.asarray(multihost_utils.process_allgather(part))
