"""The TensorFlow step that serves every stage."""

import keras
import tensorflow as tf

from tf_mural.backends import tensorflow as tf_backend
from tf_mural.backends.tensorflow.chunked_loss import in_chunks
from tf_mural.backends.tensorflow.grad_cache import at_once, in_microbatches
from tf_mural.backends.tensorflow.remat import rematerialise
from tf_mural.errors import UserError
from tf_mural.models import at_least_float32
from tf_mural.objective import objective
from tf_mural.train_step import Step

__all__ = ["Trainer"]


class Trainer(Step, keras.Model):
    """The step of `step.Step` in TensorFlow.

    Works under any `tf.distribute` strategy through `strategy.run(trainer.train_step, ...)`, and
    on one host under Keras' `compile` and `fit`.

    Args:
        encoder, terms, kinds, **options: see `step.Step`.
        strategy: a `tf.distribute.Strategy`; the step finds it by itself.
        shard_optimizer, shard_embeddings: not to be had here.

    Raises:
        UserError: the state is to be parted over devices.
    """

    collective = False  # whether reading variables takes all processes

    def __init__(
        self,
        encoder,
        terms,
        kinds,
        *positional,
        strategy=None,
        shard_optimizer=False,
        shard_embeddings=False,
        **options,
    ):
        if shard_optimizer or shard_embeddings:
            raise UserError(
                "shard_optimizer and shard_embeddings part the state over devices on JAX alone: "
                "set --backend=jax, or leave them out"
            )
        keras.Model.__init__(self, name="trainer")
        self._set_up(encoder, terms, kinds, *positional, **options)
        if self.rematerialised:
            for block in encoder.remat_blocks:
                rematerialise(block)
        self.built = True

    def snapshot(self, variables):
        """See `distribute.snapshot`."""
        return tf_backend.snapshot(variables)

    def _update(self, gradients, wanted=None):
        variables = self.encoder.trainable_variables
        tf_backend.apply_gradients(self.optimizer, gradients, variables, wanted)
        tf_backend.average(self.moving_averages)

    def _global_norm(self, gradients):
        return tf.linalg.global_norm(gradients)  # which needs no memory for the squares

    def gradients(self, batch):
        """Gradients of the encoder's trainable variables, reduced over replicas, and the logs."""
        temperatures = self.encoder.temperatures
        sigmas = {id(v): name for name, v in temperatures.items()}
        variables = self.encoder.trainable_variables
        weights = [v for v in variables if id(v) not in sigmas]

        # 1 encode
        embeddings, back = self._encoded(batch, weights)
        # 2 objective: the loss and its gradient at the embeddings
        logs, at_embeddings, at_temperatures = self._objective(embeddings, batch)
        # 3 back through the towers
        if self.loss_scale:
            both = (at_embeddings, at_temperatures)
            at_embeddings, at_temperatures = self.loss_scale.scaled(both)
        found = dict(zip(map(id, weights), back(at_embeddings), strict=True))
        found |= {id(v): at_temperatures[name] for name, v in temperatures.items()}
        gradients = tf_backend.reduce_gradients([_or_zeros(found[id(v)], v) for v in variables])
        if self.loss_scale:
            gradients = self.loss_scale.unscaled(gradients)
        return gradients, self._told(tf_backend.reduce_sum(logs))

    def _encoded(self, batch, weights):
        """Embeddings of this replica's share, and the way back: see `passes`."""

        def encode(part, number):
            tf_backend.set_seeds(self.generators, self.seed, self.step, number)
            return self.encode(part)

        rows = self.microbatch
        if rows in (None, _rows_of(batch)):
            return at_once(encode, batch, weights)
        specs = {}
        for field, kind in self.kinds.items():
            output = self.encoder.towers[kind].output
            dtype = at_least_float32(output.dtype)
            specs[field] = tf.TensorSpec((rows, output.shape[-1]), dtype)
        return in_microbatches(encode, batch, weights, self.moving_averages, specs)

    def _objective(self, embeddings, batch):
        """Logs, and the gradients of the loss at embeddings and temperatures."""
        rows = _rows_of(batch)
        # Not the variables: what a loop holds must be tensors.
        temperatures = {
            name: tf.convert_to_tensor(v.value) for name, v in self.encoder.temperatures.items()
        }
        options = (
            embeddings,
            batch,
            self.terms,
            temperatures,
            tf_backend.gather,
            tf_backend.first_row(rows),
            len(self.languages),
        )
        if self.loss_chunk not in (None, rows):
            return in_chunks(*options, self.loss_chunk)
        with tf.GradientTape() as tape:
            tape.watch((embeddings, temperatures))
            loss, logs = objective(*options)
        # Of a temperature that no term uses, and in chunks likewise.
        none = tf.UnconnectedGradients.ZERO
        return logs, *tape.gradient(loss, (embeddings, temperatures), unconnected_gradients=none)


def _rows_of(batch):
    return next(iter(batch.values()))["id"].shape[0]


def _or_zeros(gradient, variable):
    return tf.zeros(variable.shape, variable.dtype) if gradient is None else gradient
