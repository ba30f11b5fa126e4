"""The encoders of a model as compiled functions on the devices of this process."""

import jax
import keras
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tf_mural.backends.jax.collectives import AXIS


def encoder_functions(encoder, kinds=("image", "text"), strategy=None):
    """{kind: function of a numpy batch (n, ...) to (n, d)}, with the weights of the moment.

    The rows of a batch are parted over the devices of this process, where these divide them. Each
    process calls the functions by itself.

    Args:
        encoder: `models.DualEncoder`.
        kinds: of its towers.
        strategy: `Devices` of this process; None is all that there are.
    """
    mesh = strategy.mesh if strategy else Mesh(np.array(jax.local_devices()), (AXIS,))
    weights = _Weights(encoder, NamedSharding(mesh, P()))

    def function(kind):
        @jax.jit
        def encode(values, batch):
            with keras.StatelessScope(zip(weights.variables, values, strict=True)):
                return encoder.encode(kind, batch, training=False)

        def call(batch):
            batch = np.asarray(batch)
            rows = P(AXIS) if len(batch) % mesh.size == 0 else P()
            return encode(weights.values(), jax.device_put(batch, NamedSharding(mesh, rows)))

        return call

    return {kind: function(kind) for kind in kinds}


class _Weights:
    """The weights of a model on the devices of this process, put there when they have changed."""

    def __init__(self, encoder, sharding):
        self.variables, self._sharding = encoder.variables, sharding
        self._seen, self._here = None, None

    def values(self):
        """One array a variable."""
        now = [v.value for v in self.variables]
        if self._seen is None or any(a is not b for a, b in zip(now, self._seen, strict=True)):
            self._here = [jax.device_put(local(value), self._sharding) for value in now]
            self._seen = now
        return self._here


def local(value):
    """An array as one that this process has by itself; those parted over processes are gathered.

    Collective where there are any such.
    """
    if value.is_fully_addressable:
        return value
    if value.is_fully_replicated:
        return value.addressable_data(0)
    return multihost_utils.process_allgather(value, tiled=True)
