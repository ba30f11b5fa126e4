"""Runs the compiled steps and encoders of a model over its devices."""

import jax
import keras
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tf_mural.backends.jax.collectives import AXIS
from tf_mural.backends.jax.strategy import ProcessGroup

# (callable that starts a profile for TensorBoard in a folder, callable that ends it).
PROFILER = (jax.profiler.start_trace, jax.profiler.stop_trace)


class Runner:
    """Runs training steps for `training.loop.train`.

    The values of the trainer's variables are replaced after every step, so that a variable that is
    read between two steps has its current value.

    Args:
        trainer: compiled `trainer.Trainer`.
        strategy: the `Devices` of the trainer.
        make_dataset: callable (start_step=) that returns the `tf.data.Dataset` of this process,
            with a batch per step.

    Attributes:
        processes: `ProcessGroup` of the devices.
    """

    def __init__(self, trainer, strategy, make_dataset):
        self._trainer, self._devices, self._make_dataset = trainer, strategy, make_dataset
        self.processes = ProcessGroup(strategy)
        self._step = None

    @staticmethod
    def batches_per_step(replicas):
        """Number of batches per step of the dataset of a process.

        Args:
            replicas: number of replicas of the process.
        """
        return 1

    def start(self, step):
        """Places the state on the devices and starts reading the batches, from those of a step."""
        trainer = self._trainer
        self._variables = trainer.variables  # walks over all layers, so it is not done every step
        for variable, spec in zip(self._variables, trainer.specs, strict=True):
            variable._direct_assign(self._place(variable.value, spec))
        self._batches = iter(self._make_dataset(start_step=step))
        self._step = trainer.compiled_step()

    def run(self, count):
        """Runs `count` steps.

        Returns:
            {name: [value of each step]} on the device. Reading them waits for the steps.
        """
        logs = []
        for _ in range(count):
            values = [variable.value for variable in self._variables]
            values, step_logs = self._step(values, self._global_batch(next(self._batches)))
            for variable, value in zip(self._variables, values, strict=True):
                variable._direct_assign(value)
            logs.append(step_logs)
        return {name: [step_logs[name] for step_logs in logs] for name in logs[0]}

    def _place(self, value, spec):
        sharding = self._devices.sharding(spec)
        if getattr(value, "sharding", None) == sharding:
            return value
        # A copy, because the step reuses the memory of its arguments for its results.
        array = np.array(_local_array(value))
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    def _global_batch(self, batch):
        """The batches of all processes as global arrays, with the rows divided among devices."""
        sharding = self._devices.sharding(P(AXIS))
        return {
            field: {
                key: jax.make_array_from_process_local_data(sharding, split_int64(value.numpy()))
                for key, value in features.items()
            }
            for field, features in batch.items()
        }


def split_int64(array):
    """Returns int64 ids (n,) as two 32-bit halves (n, 2), since JAX would truncate them.

    Other arrays are returned unchanged.
    """
    return array.view(np.int32).reshape(*array.shape, 2) if array.dtype == np.int64 else array


def encoder_functions(encoder, modalities=("image", "text"), strategy=None):
    """Returns compiled encoders that use the current weights.

    The rows of a batch are divided among the devices of this process if their number is a multiple
    of the device count. Each process calls the functions independently.

    Args:
        encoder: `models.DualEncoder`.
        modalities: of its towers.
        strategy: `Devices` of this process. None: all of its devices.

    Returns:
        {modality: callable from a numpy batch (n, ...) to embeddings (n, d)}.
    """
    mesh = strategy.mesh if strategy else Mesh(np.array(jax.local_devices()), (AXIS,))
    weights = _WeightCache(encoder, NamedSharding(mesh, P()))

    def make_function(modality):
        @jax.jit
        def encode(values, batch):
            with keras.StatelessScope(zip(weights.variables, values, strict=True)):
                return encoder.encode(modality, batch, training=False)

        def call(batch):
            batch = np.asarray(batch)
            spec = P(AXIS) if len(batch) % mesh.size == 0 else P()
            return encode(weights.values(), jax.device_put(batch, NamedSharding(mesh, spec)))

        return call

    return {modality: make_function(modality) for modality in modalities}


class _WeightCache:
    """The weights of a model on the devices of this process, updated when they have changed."""

    def __init__(self, encoder, sharding):
        self.variables, self._sharding = encoder.variables, sharding
        self._sources, self._placed = None, None

    def values(self):
        """Returns an array per variable."""
        sources = [v.value for v in self.variables]
        if self._sources is None or any(
            a is not b for a, b in zip(sources, self._sources, strict=True)
        ):
            self._placed = [jax.device_put(_local_array(x), self._sharding) for x in sources]
            self._sources = sources
        return self._placed


def snapshot(variables):
    """Returns {name: numpy array} of {name: Keras variable}, the values that they have now.

    All processes must call it if variables are divided among processes.
    """
    return {name: np.array(_local_array(v.value)) for name, v in variables.items()}


def _local_array(value):
    """An array that this process can read; one that is divided among processes is gathered."""
    if value.is_fully_addressable:
        return value
    if value.is_fully_replicated:
        return value.addressable_data(0)
    return multihost_utils.process_allgather(value, tiled=True)
