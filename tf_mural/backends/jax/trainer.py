"""The trainer on JAX."""

import jax
import keras
from jax.sharding import PartitionSpec as P
from keras import ops

from tf_mural.backends.jax import chunked_loss, collectives, grad_cache
from tf_mural.backends.jax.remat import remat as remat_block
from tf_mural.backends.jax.step_runner import snapshot
from tf_mural.backends.jax.strategy import current_devices
from tf_mural.errors import UserError
from tf_mural.train_step import BackendFunctions, TrainStep


class Trainer:
    """Trains a dual encoder with the loss terms of a stage, on all devices of a strategy.

    A step is a pure function of the values of `variables` and of the global arrays of a batch. The
    towers and the loss are computed under `jax.shard_map`, with a replica per device. The gradient
    norm, the check for non-finite values and the optimizer operate on global arrays.

    Args:
        encoder, terms, fields, languages, seed, microbatch, loss_chunk, loss_scale,
            bad_step_policy: see `train_step.TrainStep`.
        remat: whether the blocks of the towers store only their inputs, and recompute their
            activations in the backward pass.
        strategy: `strategy.Devices`. None: the devices of the active scope; without a scope, the
            first local device.
        shard_optimizer: whether each device stores a part of the optimizer's slots and updates the
            same part of the weights (ZeRO-1, Rajbhandari et al. 2020).
        shard_embeddings: whether each device stores only a part of the token embeddings between
            steps.

    Attributes:
        core: the `train_step.TrainStep` that computes the step.
        step: variable `step` of `core`.
        loss_scale: `nonfinite.LossScale` of `core`, or None.

    Raises:
        UserError: `loss_scale` is given and the devices are CPUs. Only mixed_float16 needs a loss
            scale, and JAX does not support mixed_float16 on CPUs.
    """

    def __init__(
        self,
        encoder,
        terms,
        fields,
        languages=(),
        seed=0,
        microbatch=None,
        loss_chunk=None,
        loss_scale=None,
        bad_step_policy=None,
        remat=False,
        strategy=None,
        shard_optimizer=False,
        shard_embeddings=False,
    ):
        self._devices = strategy or current_devices()
        if loss_scale and self._devices.mesh.devices.flat[0].platform == "cpu":
            raise UserError(
                "mixed_float16 on JAX needs a GPU or a TPU, because XLA has no float16 matrix "
                "products on CPUs: `config.precision=mixed_bfloat16`"
            )
        self._shard_optimizer, self._shard_embeddings = shard_optimizer, shard_embeddings
        self.encoder = encoder
        self.core = TrainStep(
            self._backend_functions(),
            encoder,
            terms,
            fields,
            languages,
            seed,
            microbatch,
            loss_chunk,
            loss_scale,
            bad_step_policy,
        )
        self.step, self.loss_scale = self.core.step, self.core.loss_scale
        if remat:
            for block in encoder.remat_blocks:
                remat_block(block)

    def _backend_functions(self):
        return BackendFunctions(
            run_on_replicas=self._run_on_replicas,
            encode_full=grad_cache.encode_full,
            encode_cached=grad_cache.encode_cached,
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

    def compile(self, optimizer, jit_compile=None):
        """Sets the optimizer. `jit_compile` has no effect: JAX compiles every step."""
        self.optimizer, self.jit_compile = optimizer, True

    @property
    def bad_step_policy(self):
        """The `nonfinite.BadStepPolicy` of `core`."""
        return self.core.bad_step_policy

    @property
    def skipped_steps(self):
        """Number of steps that were skipped so far; cannot be read inside a compiled step."""
        return int(self.step.numpy()) - int(self.optimizer.iterations.numpy())

    def train_step(self, batch):
        """Runs one step with the global batch.

        This method must be called inside a `keras.StatelessScope`.

        Args:
            batch: see `train_step.TrainStep`. Ids have the shape (n, 2), see
                `step_runner.split_int64`.

        Returns:
            Logs, {name: scalar}, see `train_step.TrainStep`.
        """
        return self.core(batch, self.optimizer)

    def snapshot(self, variables):
        """Returns the values of {name: variable}, see `step_runner.snapshot`."""
        return snapshot(variables)

    # --- the state ------------------------------------------------------------------------------

    @property
    def variables(self):
        """List of the variables of the model, the optimizer, the counters and the loss scale.

        The states of random generators are not among these variables, because every step computes
        the states from the number of the step.
        """
        weights = [v for v in self.encoder.variables if "seed_generator" not in v.path]
        scale = self.loss_scale.variables if self.loss_scale else ()
        counters = (self.step, self.core.consecutive_skips)
        return [*weights, *self.optimizer.variables, *counters, *scale]

    @property
    def specs(self):
        """List with a `PartitionSpec` per variable of `variables`."""
        slots = {id(v) for v in self.optimizer.variables}

        def is_sharded(variable):
            return id(variable) in slots and self._shard_optimizer or self._is_table(variable)

        return [self._spec(v, is_sharded(v)) for v in self.variables]

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
        """Runs a step as a pure function.

        Args:
            values: list of arrays, one per variable of `variables`.
            batch: nested structure of global arrays, see `train_step`.

        Returns:
            List of the values of `variables` after the step, and the logs of the step.
        """
        variables = self.variables
        with keras.StatelessScope(zip(variables, values, strict=True)) as scope:
            logs = self.train_step(batch)
            return [scope.get_current_value(v) for v in variables], logs

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
        values = [jax.ShapeDtypeStruct(tuple(v.shape), v.dtype) for v in self.variables]
        return self.compiled_step().trace(values, shapes)

    # --- replicas -------------------------------------------------------------------------------

    def _run_on_replicas(self, function, batch):
        core, averages = self.core, self.core.moving_averages
        seeds = {id(generator.state) for generator in core.generators}
        state = [v for v in self.encoder.variables if id(v) not in seeds]
        state += [core.step, *(core.loss_scale.variables if core.loss_scale else ())]
        specs = [self._spec(v, self._is_table(v)) for v in state]

        def run(values, batch):
            values = [collectives.unshard(x, spec) for x, spec in zip(values, specs, strict=True)]
            with keras.StatelessScope(zip(state, values, strict=True)) as scope:
                gradients, logs = function(batch)
                return gradients, logs, [scope.get_current_value(v) for v in averages]

        gradients, logs, new_averages = jax.shard_map(
            run,
            mesh=self._devices.mesh,
            in_specs=(specs, P(collectives.AXIS)),
            out_specs=(self._gradient_specs(self.encoder.trainable_variables), P(), P()),
            check_vma=False,
        )([ops.convert_to_tensor(v) for v in state], batch)
        for variable, value in zip(averages, new_averages, strict=True):
            variable.assign(value)
        return gradients, logs

    def _reduce_gradients(self, gradients, variables):
        return collectives.reduce_gradients(gradients, self._gradient_specs(variables))

    def _gradient_specs(self, variables):
        return [self._spec(v, self._shard_optimizer or self._is_table(v)) for v in variables]
