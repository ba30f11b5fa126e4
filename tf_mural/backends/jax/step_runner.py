"""Runs the compiled steps of a trainer over its devices."""

import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from tf_mural.backends.jax.collectives import AXIS
from tf_mural.backends.jax.encoding import local
from tf_mural.backends.jax.processes import Processes

# (function of a folder to begin a profile for TensorBoard, function to end it).
PROFILER = (jax.profiler.start_trace, jax.profiler.stop_trace)


class Runner:
    """What `loop.train` runs steps by.

    The state of the trainer lives in the values of its variables, which are exchanged after each
    step: whoever reads a variable between two steps finds what it is then.

    Args:
        trainer: compiled `training_jax.Trainer`.
        strategy: the `Devices` that it was built for.
        make_dataset: function of (start_step=) to a `tf.data.Dataset` of the batches of this
            process, one a step.

    Attributes:
        processes: `Processes` of the devices.
    """

    def __init__(self, trainer, strategy, make_dataset):
        self._trainer, self._devices, self._make_dataset = trainer, strategy, make_dataset
        self.processes = Processes(strategy)
        self._step = None

    @staticmethod
    def batches_of(replicas):
        """In how many batches the share of a process comes that has so many replicas."""
        return 1

    def start(self, step):
        """Puts the state where it belongs, and begins to read the batches from a step on."""
        trainer = self._trainer
        self._variables = trainer.variables  # a walk over all layers, which no step should make
        for variable, spec in zip(self._variables, trainer.specs, strict=True):
            variable._direct_assign(self._placed(variable.value, spec))
        self._batches = iter(self._make_dataset(start_step=step))
        self._step = trainer.compiled_step()

    def run(self, count):
        """Takes so many steps, which go on while this returns; {name: [value of each]}."""
        logs = []
        for _ in range(count):
            values = [variable.value for variable in self._variables]
            values, told = self._step(values, self._global(next(self._batches)))
            for variable, value in zip(self._variables, values, strict=True):
                variable._direct_assign(value)
            logs.append(told)
        return {name: [told[name] for told in logs] for name in logs[0]}

    def _placed(self, value, spec):
        sharding = self._devices.over(spec)
        if getattr(value, "sharding", None) == sharding:
            return value
        # A copy: the step gives the memory of its arguments to its results.
        whole = np.array(local(value))
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    def _global(self, batch):
        """The batches of all processes as global arrays, rows parted over the devices."""
        sharding = self._devices.over(P(AXIS))
        return {
            field: {
                key: jax.make_array_from_process_local_data(sharding, _in_32_bits(value.numpy()))
                for key, value in of.items()
            }
            for field, of in batch.items()
        }


def _in_32_bits(array):
    """Ids (n,) of 64 bits as halves (n, 2): JAX would cut them off."""
    return array.view(np.int32).reshape(*array.shape, 2) if array.dtype == np.int64 else array


def snapshot(variables):
    """{name: numpy array} of {name: variable}, whatever becomes of the variables afterwards.

    Collective where variables are parted over processes.
    """
    return {name: np.array(local(variable.value)) for name, variable in variables.items()}
