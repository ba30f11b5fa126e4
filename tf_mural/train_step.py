"""What a training step computes on every backend: all but differentiation and replicas."""

import keras
from keras import ops

from tf_mural.nonfinite import LOSS_SCALES, ON_BAD_STEP, Limits, LossScale, scalar

__all__ = ["LOSS_SCALES", "ON_BAD_STEP", "Limits", "LossScale", "Step"]


class Step:
    """A dual encoder with the terms of a stage and a three-move step: encode, objective, back.

    A backend adds what differentiates and what knows of replicas: `gradients(batch)`, which returns
    gradients that are reduced over replicas and the logs, and `_update(gradients, wanted)`.

    Args:
        encoder: `models.DualEncoder`.
        terms: sequence of `objective.Term`.
        kinds: {field: kind} of the fields that the terms use.
        languages: sequence of language codes; a batch's language ids index it.
        seed: of dropout.
        clip_norm: global norm above which gradients are scaled down; None is off.
        microbatch: rows of a replica's share that are encoded at a time; None is the whole share.
            The gradients are those of the whole (GradCache). Batch norm sees a micro-batch, or the
            groups in it.
        loss_chunk: rows of a replica's share whose logits are held at a time; None is all.
        rematerialised: whether the blocks of the towers hold their inputs alone, and are computed
            again on the way back.
        loss_scale: what the loss is multiplied by at first, see `guard.LossScale`; None is off.
        limits: `guard.Limits`; None are its defaults.

    Attributes:
        step: variable (int32), the number of steps so far, skipped ones included.
        in_a_row: variable (int32), of skipped steps without one between them. No state of a run: a
            resume counts anew.
    """

    def _set_up(
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
        self.encoder, self.terms, self.kinds = encoder, tuple(terms), dict(kinds)
        self.languages, self.seed, self.clip_norm = tuple(languages), seed, clip_norm
        self.microbatch, self.loss_chunk = microbatch, loss_chunk
        self.limits, self.loss_scale = limits or Limits(), loss_scale and LossScale(loss_scale)
        self.step, self.in_a_row = scalar("step", "int32"), scalar("skipped_in_a_row", "int32")
        self.rematerialised, self.generators = rematerialised, seed_generators(encoder)

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
        learning_rate = ops.convert_to_tensor(self.optimizer.learning_rate)
        # A copy: TensorFlow's conversion hands out the variable itself, which changes.
        before = [ops.copy(v.value) for v in self.moving_averages]
        gradients, logs = self.gradients(batch)
        norm = self._global_norm(gradients)
        if self.clip_norm is not None:
            # Not a number where the norm is not finite, so that such a step cannot pass for one.
            scale = self.clip_norm * ops.minimum(1.0 / norm, 1.0 / self.clip_norm) + (norm - norm)
            gradients = [g * ops.cast(scale, g.dtype) for g in gradients]
        logs |= {"gradient_norm": norm, "learning_rate": learning_rate}
        if self.limits.skip or self.loss_scale:
            logs |= self._guarded(gradients, before, logs)
        else:
            self._update(gradients)
            self.step.assign_add(1)
        logs["temperature_clamped"] = ops.cast(self.encoder.clamp_temperatures(), "float32")
        for name, variable in self.encoder.temperatures.items():
            logs[f"temperature/{name}"] = ops.copy(variable.value)
        return logs

    def _guarded(self, gradients, before, logs):
        """The update, if this step is one to take; returns further logs."""
        norm = logs["gradient_norm"]
        wanted = self.limits.allows(logs, norm)
        self._update(gradients, wanted)
        for variable, old in zip(self.moving_averages, before, strict=True):
            variable.assign(ops.where(wanted, ops.copy(variable.value), old))
        self.step.assign_add(1)
        self.in_a_row.assign(ops.where(wanted, 0, self.in_a_row + 1))
        taken = ops.cast(self.optimizer.iterations, "int32")
        told = {"skipped_steps": self.step - taken, "skipped_in_a_row": self.in_a_row}
        if self.loss_scale:
            told["loss_scale"] = ops.copy(self.loss_scale.value.value)
            self.loss_scale.update(ops.isfinite(norm))
        return {name: ops.cast(value, "float32") for name, value in told.items()}

    def _global_norm(self, gradients):
        return ops.sqrt(sum(ops.sum(ops.square(g)) for g in gradients))

    def encode(self, batch, training=True):
        """{field: (n, d)} of a batch; all text fields share one pass of the text tower."""
        inputs = {"image": "pixels", "text": "tokens"}
        embeddings = {}
        for kind, key in inputs.items():
            fields = [field for field, of in self.kinds.items() if of == kind]
            if not fields:
                continue
            rows = [batch[field][key] for field in fields]
            together = ops.concatenate(rows, axis=0) if len(rows) > 1 else rows[0]
            out = self.encoder.encode(kind, together, training=training)
            embeddings.update(zip(fields, ops.split(out, len(fields)), strict=True))
        return embeddings

    def _told(self, logs):
        """Logs of the objective, summed over replicas, with languages by their codes."""
        by_language = logs.pop("language_loss") / logs.pop("language_rows")
        named = {f"loss_language/{code}": by_language[i] for i, code in enumerate(self.languages)}
        return logs | named


def seed_generators(model):
    """The `keras.random.SeedGenerator` of every layer that draws, in the order of the layers."""
    found = {}
    for layer in model._flatten_layers():
        for value in vars(layer).values():
            if isinstance(value, keras.random.SeedGenerator):
                found[id(value)] = value
    return list(found.values())
