"""The trainer on TensorFlow."""

import keras

from tf_mural.backends.tensorflow import chunked_loss, collectives, grad_cache
from tf_mural.backends.tensorflow.remat import remat as remat_block
from tf_mural.backends.tensorflow.step_runner import snapshot
from tf_mural.errors import UserError
from tf_mural.train_step import BackendFunctions, TrainStep


def _call_in_replica_context(function, batch):
    # Nothing is distributed here, because `strategy.run(trainer.train_step)` already runs the whole
    # step on every replica.
    return function(batch)


class Trainer(keras.Model):
    """Trains a dual encoder with the loss terms of a stage.

    `train_step` can be called as `strategy.run(trainer.train_step, args=(batch,))` with any
    `tf.distribute.Strategy`. On a single host, training with Keras' `fit`, which calls
    `train_step`, is also possible.

    Args:
        encoder, terms, fields, languages, seed, microbatch, loss_chunk, loss_scale,
            bad_step_policy: see `train_step.TrainStep`.
        remat: whether the blocks of the towers store only their inputs, and recompute their
            activations in the backward pass.
        strategy: not used; a step runs under the strategy whose `run` calls `train_step`.
        shard_optimizer, shard_embeddings: must be false on this backend.

    Attributes:
        core: the `train_step.TrainStep` that computes the step.
        step: variable `step` of `core`.
        loss_scale: `nonfinite.LossScale` of `core`, or None.

    Raises:
        UserError: `shard_optimizer` or `shard_embeddings` is true.
    """

    # Whether all processes must take part in a `snapshot`.
    snapshot_is_collective = False

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
        if shard_optimizer or shard_embeddings:
            raise UserError(
                "shard_optimizer and shard_embeddings, which divide the state among devices, exist "
                "only on JAX: set `backend=jax`, or leave them out"
            )
        super().__init__(name="trainer")
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
        self.built = True

    def _backend_functions(self):
        return BackendFunctions(
            run_on_replicas=_call_in_replica_context,
            encode_full=grad_cache.encode_full,
            encode_cached=grad_cache.encode_cached,
            objective_and_gradients=chunked_loss.objective_and_gradients,
            gather=collectives.gather,
            replica_offset=collectives.replica_offset,
            reduce_gradients=collectives.reduce_gradients,
            reduce_sum=collectives.reduce_sum,
            sync_moving_averages=collectives.sync_moving_averages,
            set_seeds=collectives.set_seeds,
            global_norm=collectives.global_norm,
            apply_gradients=collectives.apply_gradients,
        )

    @property
    def bad_step_policy(self):
        """The `nonfinite.BadStepPolicy` of `core`."""
        return self.core.bad_step_policy

    @property
    def skipped_steps(self):
        """Number of steps that were skipped so far; cannot be read inside a compiled step."""
        return int(self.step.numpy()) - int(self.optimizer.iterations.numpy())

    def train_step(self, batch):
        """Runs one step with this replica's part of the global batch.

        Args:
            batch: see `train_step.TrainStep`.

        Returns:
            Logs, {name: scalar}, see `train_step.TrainStep`.
        """
        return self.core(batch, self.optimizer)

    def snapshot(self, variables):
        """Returns the values of {name: variable}, see `step_runner.snapshot`."""
        return snapshot(variables)
