"""The TensorFlow step that serves every stage."""

import keras
import tensorflow as tf

from tf_mural import distribute
from tf_mural.objective import objective
from tf_mural.training.chunks import in_chunks
from tf_mural.training.passes import at_once, in_microbatches

__all__ = ["Trainer"]


class Trainer(keras.Model):
    """A dual encoder with the terms of a stage and a three-move step.

    Works under any `tf.distribute` strategy through `strategy.run(trainer.train_step, ...)`, and
    on one host under Keras' `compile` and `fit`.

    Args:
        encoder: `models.DualEncoder`.
        terms: sequence of `objective.Term`.
        kinds: {field: kind} of the fields that the terms use.
        languages: sequence of language codes; a batch's language ids index it.
        seed: of dropout.
        clip_norm: global norm above which gradients are scaled down; None is off.
        microbatch: rows of a replica's share that are encoded at a time; None is the whole share.
            The gradients are those of the whole, see `passes.in_microbatches`. Batch norm sees a
            micro-batch, or the groups in it.
        loss_chunk: rows of a replica's share whose logits are held at a time; None is all.
    """

    def __init__(
        self,
        encoder,
        terms,
        kinds,
        languages=(),
        seed=0,
        clip_norm=None,
        microbatch=None,
        loss_chunk=None,
    ):
        super().__init__(name="trainer")
        self.encoder, self.terms, self.kinds = encoder, tuple(terms), dict(kinds)
        self.languages, self.seed, self.clip_norm = tuple(languages), seed, clip_norm
        self.microbatch, self.loss_chunk = microbatch, loss_chunk
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")
        self.generators = distribute.seed_generators(encoder)
        self.built = True

    @property
    def moving_averages(self):
        """Batch norm's running statistics."""
        return [v for v in self.encoder.non_trainable_variables if "/moving_" in v.path]

    def train_step(self, batch):
        """One step on this replica's share of the global batch.

        Args:
            batch: {field: {"pixels" | "tokens", "id", "language"}}, see `pipeline`.

        Returns:
            Scalars (float32, alike on all replicas): loss, loss/<term>, loss_language/<code> (nan
            where the batch has none), gradient_norm, temperature/<name>, temperature_clamped,
            learning_rate.
        """
        # The optimizer's schedule reads its own counter, before the update.
        learning_rate = tf.convert_to_tensor(self.optimizer.learning_rate)
        gradients, logs = self.gradients(batch)
        norm = tf.linalg.global_norm(gradients)
        if self.clip_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self.clip_norm, use_norm=norm)
        distribute.apply_gradients(self.optimizer, gradients, self.encoder.trainable_variables)
        distribute.average(self.moving_averages)
        logs["temperature_clamped"] = tf.cast(self.encoder.clamp_temperatures(), tf.float32)
        for name, variable in self.encoder.temperatures.items():
            logs[f"temperature/{name}"] = tf.convert_to_tensor(variable.value)
        self.step.assign_add(1)
        return {**logs, "gradient_norm": norm, "learning_rate": learning_rate}

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
        found = dict(zip(map(id, weights), back(at_embeddings), strict=True))
        found |= {id(v): at_temperatures[name] for name, v in temperatures.items()}
        gradients = [_or_zeros(found[id(v)], v) for v in variables]
        return distribute.reduce_gradients(gradients), self._reduce_logs(logs)

    def _encoded(self, batch, weights):
        """Embeddings of this replica's share, and the way back: see `passes`."""

        def encode(part, number):
            distribute.set_seeds(self.generators, self.seed, self.step, number)
            return self.encode(part)

        rows = self.microbatch
        if rows in (None, _rows_of(batch)):
            return at_once(encode, batch, weights)
        specs = {}
        for field, kind in self.kinds.items():
            output = self.encoder.towers[kind].output
            dtype = keras.backend.result_type(output.dtype, "float32")
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
            distribute.gather,
            distribute.first_row(rows),
            len(self.languages),
        )
        if self.loss_chunk not in (None, rows):
            return in_chunks(*options, self.loss_chunk)
        with tf.GradientTape() as tape:
            tape.watch((embeddings, temperatures))
            loss, logs = objective(*options)
        return logs, *tape.gradient(loss, (embeddings, temperatures))

    def encode(self, batch, training=True):
        """{field: (n, d)} of a batch; all text fields share one pass of the text tower."""
        inputs = {"image": "pixels", "text": "tokens"}
        embeddings = {}
        for kind, key in inputs.items():
            fields = [field for field, of in self.kinds.items() if of == kind]
            if not fields:
                continue
            rows = [batch[field][key] for field in fields]
            out = self.encoder.encode(kind, tf.concat(rows, axis=0), training=training)
            embeddings.update(zip(fields, tf.split(out, len(fields)), strict=True))
        return embeddings

    def _reduce_logs(self, logs):
        logs = distribute.reduce_sum({k: tf.convert_to_tensor(v) for k, v in logs.items()})
        by_language = logs.pop("language_loss") / logs.pop("language_rows")
        names = [f"loss_language/{code}" for code in self.languages]
        return {**logs, **dict(zip(names, tf.unstack(by_language, len(names)), strict=True))}


def _rows_of(batch):
    return next(iter(batch.values()))["id"].shape[0]


def _or_zeros(gradient, variable):
    return tf.zeros(variable.shape, variable.dtype) if gradient is None else gradient
