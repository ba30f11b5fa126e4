"""Runs compiled training steps and compiled encoders on the devices of a strategy."""

import jax
import keras
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tf_mural.backends.jax.collectives import AXIS
from tf_mural.backends.jax.strategy import ProcessGroup

# (callable that starts a TensorBoard profile in a folder, callable that ends the profile).
PROFILER = (jax.profiler.start_trace, jax.profiler.stop_trace)


class Runner:
    """Runs training steps for `training.loop.train`.

    After every step, the new values are assigned to the variables of the trainer. The variables can
    therefore be read between two steps.

    Args:
        trainer: compiled `trainer.Trainer`.
        strategy: the `Devices` of the trainer.
        make_dataset: callable (start_step=) that returns the `tf.data.Dataset` of this process. The
            dataset has a batch per step, and starts with the batch of `start_step`.

    Attributes:
        processes: `ProcessGroup` of the devices.
    """

    def __init__(self, trainer, strategy, make_dataset):
        self._trainer, self._devices, self._make_dataset = trainer, strategy, make_dataset
        self.processes = ProcessGroup(strategy)
        self._step = None

    @staticmethod
    def batches_per_step(replicas):
        """Returns the number of batches that a process reads from its dataset per step.

        Args:
            replicas: number of replicas of the process.
        """
        return 1

    def start(self, step):
        """Places all variables on the devices; starts to read batches at `step`."""
        trainer = self._trainer
        # The list is stored, because each access to `trainer.state_variables` visits all layers.
        self._variables = trainer.state_variables
        for variable, spec in zip(self._variables, trainer.specs, strict=True):
            variable._direct_assign(self._place(variable.value, spec))
        self._batches = iter(self._make_dataset(start_step=step))
        self._step = trainer.compiled_step()

    def run(self, count):
        """Runs `count` steps.

        Returns:
            Logs {name: list with a value per step} on the device. Reading a value waits until the
            steps have run.
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
        # The value is copied, because the step reuses the memory of its arguments for its results.
        array = np.array(_local_array(value))
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    def _global_batch(self, batch):
        """Returns global arrays: the rows of all processes, divided among the devices.

        Args:
            batch: nested structure of tensors, the batch of this process.
        """
        sharding = self._devices.sharding(P(AXIS))
        return {
            field: {
                key: jax.make_array_from_process_local_data(sharding, split_int64(value.numpy()))
                for key, value in features.items()
            }
            for field, features in batch.items()
        }


def split_int64(array):
    """Splits int64 ids (n,) into 32-bit halves (n, 2), because JAX would truncate the ids.

    Arrays of other dtypes are returned unchanged.
    """
    return array.view(np.int32).reshape(*array.shape, 2) if array.dtype == np.int64 else array


def split_ids(data):
    """Splits the int64 ids in the batches of a dataset, see `split_int64`.

    Args:
        data: `tf.data.Dataset` or nested structure of numpy arrays; other objects are returned
            unchanged.
    """
    if hasattr(data, "element_spec"):  # a `tf.data.Dataset`
        import tensorflow as tf

        @tf.autograph.experimental.do_not_convert
        def split(batch):
            return tf.nest.map_structure(
                lambda x: tf.bitcast(x, tf.int32) if x.dtype == tf.int64 else x, batch
            )

        return data.map(split)
    if isinstance(data, dict):
        return keras.tree.map_structure(lambda x: split_int64(np.asarray(x)), data)
    return data


def encoder_functions(encoder, towers=("image", "text"), strategy=None):
    """Returns compiled functions that encode with the weights of the encoder at call time.

    The rows of a batch are divided among the devices of this process if the number of rows is a
    multiple of the number of devices. Processes need not call the functions at the same time.

    Args:
        encoder: `models.DualEncoder`.
        towers: names of the towers to compile.
        strategy: `Devices` of this process. None: all devices of this process.

    Returns:
        {tower: callable from a numpy batch (n, ...) to embeddings (n, d)}.
    """
    mesh = strategy.mesh if strategy else Mesh(np.array(jax.local_devices()), (AXIS,))
    weights = _WeightCache(encoder, NamedSharding(mesh, P()))

    def make_function(tower):
        @jax.jit
        def encode(values, batch):
            with keras.StatelessScope(zip(weights.variables, values, strict=True)):
                return encoder.encode(tower, batch, training=False)

        def call(batch):
            batch = np.asarray(batch)
            spec = P(AXIS) if len(batch) % mesh.size == 0 else P()
            return encode(weights.values(), jax.device_put(batch, NamedSharding(mesh, spec)))

        return call

    return {tower: make_function(tower) for tower in towers}


class _WeightCache:
    """A copy of a model's weights on the devices of this process.

    The copy is renewed when the weights of the model have changed.
    """

    def __init__(self, encoder, sharding):
        self.variables, self._sharding = encoder.variables, sharding
        self._sources, self._placed = None, None

    def values(self):
        """Returns a list with an array per variable."""
        sources = [v.value for v in self.variables]
        if self._sources is None or any(
            a is not b for a, b in zip(sources, self._sources, strict=True)
        ):
            self._placed = [jax.device_put(_local_array(x), self._sharding) for x in sources]
            self._sources = sources
        return self._placed


def snapshot(variables):
    """Returns the values of variables, {name: Keras variable}, as {name: numpy array}.

    If variables are divided among processes, all processes must call this function.
    """
    return {name: np.array(_local_array(v.value)) for name, v in variables.items()}


def _local_array(value):
    """Returns `value` as an array that this process can read completely.

    An array that is divided among processes is gathered from all of them.
    """
    if value.is_fully_addressable:
        return value
    if value.is_fully_replicated:
        return value.addressable_data(0)
    return multihost_utils.process_allgather(value, tiled=True)
