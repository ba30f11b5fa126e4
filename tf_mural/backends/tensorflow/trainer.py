"""The trainer on TensorFlow."""

import keras

from tf_mural.backend_functions import BackendFunctions
from tf_mural.backends.base_trainer import AUTO, BaseTrainer
from tf_mural.backends.tensorflow import chunked_loss, collectives, grad_cache
from tf_mural.backends.tensorflow.remat import remat as remat_block
from tf_mural.backends.tensorflow.step_runner import snapshot
from tf_mural.errors import UserError


def _call_in_replica_context(function, batch):
    # Nothing is distributed here, because `strategy.run(trainer.train_step)` already runs the whole
    # step on every replica.
    return function(batch)


class Trainer(BaseTrainer):
    """Trains a dual encoder with loss terms, under any `tf.distribute.Strategy`.

    `train_step` can be called as `strategy.run(trainer.train_step, args=(batch,))`. On a single
    host, Keras' `fit` does this with the strategy in whose scope the trainer was created.

    See `base_trainer.BaseTrainer` for the arguments and attributes. `strategy` is not used, because
    a step runs under the strategy whose `run` calls `train_step`. `shard_optimizer` and
    `shard_embeddings` must be false on this backend.

    Raises:
        UserError: `shard_optimizer` or `shard_embeddings` is true; see also `BaseTrainer`.
    """

    # Whether all processes must take part in a `snapshot`.
    snapshot_is_collective = False
    _remat_block = staticmethod(remat_block)

    def _set_devices(self, strategy, shard_optimizer, shard_embeddings):
        if shard_optimizer or shard_embeddings:
            raise UserError(
                "shard_optimizer and shard_embeddings, which divide the state among devices, exist "
                "only on JAX: choose the backend jax, or leave them out"
            )

    def _check_loss_scale(self, loss_scale):
        """Accepts any loss scale."""

    def _scope(self):
        return self.distribute_strategy.scope()

    @staticmethod
    def _jit_compile_option(jit_compile, run_eagerly):
        return False if jit_compile == AUTO else jit_compile

    @staticmethod
    def _prepare_data(data):
        return data

    def _backend_functions(self):
        return BackendFunctions(
            run_on_replicas=_call_in_replica_context,
            evaluate_on_replicas=_call_in_replica_context,
            encode_full=grad_cache.encode_full,
            encode_cached=grad_cache.encode_cached,
            encode_frozen=grad_cache.encode_frozen,
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

    def train_step(self, data):
        """Runs one step with this replica's part of the global batch.

        Args:
            data: the batch, see `train_step.TrainStep`.

        Returns:
            Logs, {name: scalar}, see `train_step.TrainStep`.
        """
        batch, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        return self.core(batch, self.optimizer)

    def test_step(self, data):
        """Computes the loss of this replica's part of the global batch in inference mode.

        Args:
            data: the batch, see `train_step.TrainStep`.

        Returns:
            Logs, see `train_step.TrainStep.evaluate`.
        """
        batch, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        return self.core.evaluate(batch)

    def snapshot(self, variables):
        """Returns the values of {name: variable}, see `step_runner.snapshot`."""
        return snapshot(variables)
