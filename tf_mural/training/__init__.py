"""The TensorFlow step that serves every stage."""

import keras
import tensorflow as tf

from tf_mural import distribute
from tf_mural.objective import objective
from tf_mural.training.chunks import in_chunks
from tf_mural.training.guard import LOSS_SCALES, ON_BAD_STEP, Limits, LossScale
from tf_mural.training.passes import assign, at_once, in_microbatches
from tf_mural.training.rematerialisation import rematerialise

__all__ = ["LOSS_SCALES", "ON_BAD_STEP", "Limits", "Trainer"]


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
        rematerialised: whether the blocks of the towers hold their inputs alone, and are computed
            again on the way back.
        loss_scale: what the loss is multiplied by at first, see `guard.LossScale`; None is off.
        limits: `guard.Limits`; None are its defaults.
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
        rematerialised=False,
        loss_scale=None,
        limits=None,
    ):
        super().__init__(name="trainer")
        self.encoder, self.terms, self.kinds = encoder, tuple(terms), dict(kinds)
        self.languages, self.seed, self.clip_norm = tuple(languages), seed, clip_norm
        self.microbatch, self.loss_chunk = microbatch, loss_chunk
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")
        self.limits, self.loss_scale = limits or Limits(), loss_scale and LossScale(loss_scale)
        # Of skipped steps without one between them. No state of a run: a resume counts anew.
        self.in_a_row = tf.Variable(0, dtype=tf.int32, trainable=False, name="skipped_in_a_row")
        if rematerialised:
            for block in encoder.blocks:
                rematerialise(block)
        self.generators = distribute.seed_generators(encoder)
        self.built = True

    @property
    def moving_averages(self):
        """Batch norm's running statistics."""
        return [v for v in self.encoder.non_trainable_variables if "/moving_" in v.path]

    @property
    def skipped_steps(self):
        """How many steps of the run so far were skipped; not inside of one."""
        return int(self.step.numpy()) - int(self.optimizer.iterations.numpy())

    def train_step(self, batch):
        """One step on this replica's share of the global batch.

        A step that is skipped changes neither weights nor slots nor moving averages, and the
        optimizer does not count it; `step` does.

        Args:
            batch: {field: {"pixels" | "tokens", "id", "language"}}, see `pipeline`.

        Returns:
            Scalars (float32, alike on all replicas): loss, loss/<term>, loss_language/<code> (nan
            where the batch has none), gradient_norm, temperature/<name>, temperature_clamped,
            learning_rate. Where steps may be skipped also skipped_steps (of the whole run),
            skipped_in_a_row, and with loss scaling loss_scale, that of this step.
        """
        # The optimizer's schedule reads its own counter, before the update.
        learning_rate = tf.convert_to_tensor(self.optimizer.learning_rate)
        before = [tf.identity(v.value) for v in self.moving_averages]
        gradients, logs = self.gradients(batch)
        norm = tf.linalg.global_norm(gradients)
        if self.clip_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self.clip_norm, use_norm=norm)
        logs |= {"gradient_norm": norm, "learning_rate": learning_rate}
        if self.limits.skip or self.loss_scale:
            logs |= self._guarded(gradients, before, logs)
        else:
            self._apply(gradients)
            self.step.assign_add(1)
        logs["temperature_clamped"] = tf.cast(self.encoder.clamp_temperatures(), tf.float32)
        for name, variable in self.encoder.temperatures.items():
            logs[f"temperature/{name}"] = tf.convert_to_tensor(variable.value)
        return logs

    def _apply(self, gradients, wanted=None):
        variables = self.encoder.trainable_variables
        distribute.apply_gradients(self.optimizer, gradients, variables, wanted)
        distribute.average(self.moving_averages)

    def _guarded(self, gradients, before, logs):
        """The update, if this step is one to take; returns further logs."""
        norm = logs["gradient_norm"]
        wanted = self.limits.allows(logs, norm)
        self._apply(gradients, wanted)
        pairs = zip(self.moving_averages, before, strict=True)
        assign(self.moving_averages, [tf.where(wanted, v.value, old) for v, old in pairs])
        self.step.assign_add(1)
        self.in_a_row.assign(tf.where(wanted, 0, self.in_a_row + 1))
        taken = tf.cast(self.optimizer.iterations.value, tf.int64)
        told = {"skipped_steps": self.step - taken, "skipped_in_a_row": self.in_a_row}
        if self.loss_scale:
            told["loss_scale"] = tf.identity(self.loss_scale.value)
            self.loss_scale.update(tf.math.is_finite(norm))
        return {name: tf.cast(value, tf.float32) for name, value in told.items()}

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
        gradients = distribute.reduce_gradients([_or_zeros(found[id(v)], v) for v in variables])
        if self.loss_scale:
            gradients = self.loss_scale.unscaled(gradients)
        return gradients, self._reduce_logs(logs)

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
