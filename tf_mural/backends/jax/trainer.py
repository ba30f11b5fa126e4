"""The trainer on JAX."""

import contextlib

import jax
import keras
from jax.sharding import PartitionSpec as P
from keras import ops

from tf_mural.backend_functions import BackendFunctions
from tf_mural.backends.base_trainer import BaseTrainer
from tf_mural.backends.jax import chunked_loss, collectives, grad_cache
from tf_mural.backends.jax.remat import remat as remat_block
from tf_mural.backends.jax.step_runner import snapshot, split_ids
from tf_mural.backends.jax.strategy import current_devices
from tf_mural.errors import UserError


class Trainer(BaseTrainer):
    """Trains a dual encoder with loss terms, on all devices of a strategy.

    A step is a pure function of the values of `state_variables` and of the global arrays of a
    batch. The towers and the loss are computed under `jax.shard_map`, with a replica per device.
    The gradient norm, the check for non-finite values and the optimizer operate on global arrays.

    See `base_trainer.BaseTrainer` for the arguments and attributes that both backends share.

    Args:
        strategy: `strategy.Devices`. None: the devices of the active scope; without a scope, the
            first local device.
        shard_optimizer: whether each device stores a part of the optimizer's slots and updates the
            same part of the weights (ZeRO-1, Rajbhandari et al. 2020).
        shard_embeddings: whether each device stores only a part of the token embeddings between
            steps.

    Raises:
        UserError: `loss_scale` is given and the devices are CPUs; see also `BaseTrainer`. Only
            mixed_float16 needs a loss scale, and JAX does not support mixed_float16 on CPUs.
    """

    _remat_block = staticmethod(remat_block)

    def _set_devices(self, strategy, shard_optimizer, shard_embeddings):
        self._devices = strategy or current_devices()
        self._shard_optimizer, self._shard_embeddings = shard_optimizer, shard_embeddings

    def _check_loss_scale(self, loss_scale):
        if loss_scale and self._devices.mesh.devices.flat[0].platform == "cpu":
            raise UserError(
                "mixed_float16 on JAX needs a GPU or a TPU, because XLA has no float16 matrix "
                "products on CPUs: choose precision=mixed_bfloat16"
            )

    @staticmethod
    def _scope():
        return contextlib.nullcontext()

    @staticmethod
    def _jit_compile_option(jit_compile, run_eagerly):
        return not run_eagerly

    @staticmethod
    def _prepare_data(data):
        return split_ids(data)

    def _backend_functions(self):
        return BackendFunctions(
            run_on_replicas=self._run_on_replicas,
            evaluate_on_replicas=self._evaluate_on_replicas,
            encode_full=grad_cache.encode_full,
            encode_cached=grad_cache.encode_cached,
            encode_frozen=grad_cache.encode_frozen,
            objective_and_gradients=chunked_loss.objective_and_gradients,
            gather=collectives.gather,
            replica_offset=collectives.replica_offset,
            reduce_gradients=self._reduce_gradients,
            reduce_sum=collectives.reduce_sum,
            sync_moving_averages=collectives.sync_moving_averages,
            set_seeds=collectives.set_seeds,
            global_norm=collectives.global_norm,
            apply_gradients=collectives.apply_gradients,
        )

    def train_step(self, state, data):
        """Runs one step with the global batch, as a pure function.

        Args:
            state: (values of `trainable_variables`, `non_trainable_variables`,
                `optimizer.variables` and `metrics_variables`), a tuple of lists of arrays.
            data: the batch, see `train_step.TrainStep`. Ids have the shape (n, 2), see
                `step_runner.split_int64`.

        Returns:
            Logs, {name: scalar}, see `train_step.TrainStep`, and the new state.
        """
        batch, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        groups = self._state_groups()
        with keras.StatelessScope(_mapping(groups, state)) as scope:
            logs = self.core(batch, self.optimizer)
            return logs, tuple([scope.get_current_value(v) for v in group] for group in groups)

    def test_step(self, state, data):
        """Computes the loss of the global batch in inference mode, as a pure function.

        Args:
            state: (values of `trainable_variables`, `non_trainable_variables` and
                `metrics_variables`), a tuple of lists of arrays.
            data: see `train_step`.

        Returns:
            Logs, see `train_step.TrainStep.evaluate`, and the unchanged state.
        """
        batch, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        groups = (self.trainable_variables, self.non_trainable_variables, self.metrics_variables)
        with keras.StatelessScope(_mapping(groups, state)):
            return self.core.evaluate(batch), state

    def snapshot(self, variables):
        """Returns the values of {name: variable}, see `step_runner.snapshot`."""
        return snapshot(variables)

    # --- the state ------------------------------------------------------------------------------

    def _state_groups(self):
        optimizer_variables = self.optimizer.variables
        groups = (self.trainable_variables, self.non_trainable_variables, optimizer_variables)
        return *groups, self.metrics_variables

    @property
    def state_variables(self):
        """List of the variables of the model, the counters, the loss scale and the optimizer."""
        return [variable for group in self._state_groups() for variable in group]

    @property
    def specs(self):
        """List with a `PartitionSpec` per variable of `state_variables`."""
        slots = {id(v) for v in self.optimizer.variables}

        def is_sharded(variable):
            return id(variable) in slots and self._shard_optimizer or self._is_table(variable)

        return [self._spec(v, is_sharded(v)) for v in self.state_variables]

    @property
    def snapshot_is_collective(self):
        """Whether all processes must take part in a `snapshot`."""
        return self._shard_optimizer or self._shard_embeddings

    def _is_table(self, variable):
        return self._shard_embeddings and variable.path.endswith("token_embedding/embeddings")

    def _spec(self, variable, is_sharded):
        return self._devices.partition_spec(variable.shape) if is_sharded else P()

    # --- compilation ----------------------------------------------------------------------------

    def stateless_step(self, values, batch):
        """Runs `train_step` with a flat list of values.

        Args:
            values: list of arrays, one per variable of `state_variables`.
            batch: nested structure of global arrays, see `train_step`.

        Returns:
            List of the values of `state_variables` after the step, and the logs of the step.
        """
        values, state = list(values), []
        for group in self._state_groups():
            state.append(values[: len(group)])
            values = values[len(group) :]
        logs, state = self.train_step(tuple(state), batch)
        return [value for group in state for value in group], logs

    def compiled_step(self):
        """Returns `stateless_step` as a compiled function.

        The compiled function reuses the memory of its first argument for its results.
        """
        state = [self._devices.sharding(spec) for spec in self.specs]
        return jax.jit(
            self.stateless_step,
            in_shardings=(state, self._devices.sharding(P(collectives.AXIS))),
            out_shardings=(state, self._devices.sharding(P())),
            donate_argnums=0,
        )

    def traced_step(self, batch):
        """Traces `compiled_step` with the shapes of its arguments, without allocating arrays.

        This method must be called inside a `keras.StatelessScope`.

        Args:
            batch: {field: {key: (shape, dtype)}} of the global arrays of a batch.

        Returns:
            `jax.stages.Traced`.
        """
        shapes = {
            field: {key: jax.ShapeDtypeStruct(*spec) for key, spec in features.items()}
            for field, features in batch.items()
        }
        values = [jax.ShapeDtypeStruct(tuple(v.shape), v.dtype) for v in self.state_variables]
        return self.compiled_step().trace(values, shapes)

    # --- replicas -------------------------------------------------------------------------------

    def _run_on_replicas(self, function, batch):
        averages = self.core.moving_averages

        def run(batch):
            gradients, logs = function(batch)
            return gradients, logs, [ops.convert_to_tensor(v) for v in averages]

        gradient_specs = self._gradient_specs(self.encoder.trainable_variables)
        results = self._shard_map(run, batch, (gradient_specs, P(), P()))
        gradients, logs, new_averages = results
        for variable, value in zip(averages, new_averages, strict=True):
            variable.assign(value)
        return gradients, logs

    def _evaluate_on_replicas(self, function, batch):
        return self._shard_map(function, batch, P())

    def _shard_map(self, function, batch, out_specs):
        """Calls `function` with the local batch on every device, with the full variables."""
        core = self.core
        seeds = {id(generator.state) for generator in core.generators}
        state = [v for v in self.encoder.variables if id(v) not in seeds]
        state += [core.step, *(core.loss_scale.variables if core.loss_scale else ())]
        specs = [self._spec(v, self._is_table(v)) for v in state]

        def run(values, batch):
            values = [collectives.unshard(x, spec) for x, spec in zip(values, specs, strict=True)]
            with keras.StatelessScope(zip(state, values, strict=True)):
                return function(batch)

        return jax.shard_map(
            run,
            mesh=self._devices.mesh,
            in_specs=(specs, P(collectives.AXIS)),
            out_specs=out_specs,
            check_vma=False,
        )([ops.convert_to_tensor(v) for v in state], batch)

    def _reduce_gradients(self, gradients, variables):
        return collectives.reduce_gradients(gradients, self._gradient_specs(variables))

    def _gradient_specs(self, variables):
        return [self._spec(v, self._shard_optimizer or self._is_table(v)) for v in variables]


def _mapping(groups, state):
    """Yields (variable, value) from lists of variables and the lists of their values."""
    for variables, values in zip(groups, state, strict=True):
        yield from zip(variables, values, strict=True)
