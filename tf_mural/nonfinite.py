"""Which steps are taken: loss scaling, and steps that are better left out."""

import dataclasses
import math

import keras
from keras import ops

from tf_mural.errors import UserError

# Of each precision, what the loss is multiplied by at first; None where half precision has the
# exponents of float32, and gradients do not fall below it.
LOSS_SCALES = {"float32": None, "mixed_bfloat16": None, "mixed_float16": 2.0**15}
ON_BAD_STEP = {"stop": False, "skip": True}


@dataclasses.dataclass(frozen=True)
class Limits:
    """What becomes of a step whose loss or gradient norm is not finite, or whose norm is too large.

    Attributes:
        skip: whether it is left out; else the run stops.
        gradient_norm: above which it is too large, before any clip; None is off.
        in_a_row: skipped steps after which the run stops all the same.
    """

    skip: bool = False
    gradient_norm: float | None = None
    in_a_row: int = 20

    def judge(self, step, values):
        """Looks at the logs of a step: a line about one that was skipped, else "".

        Args:
            step: its number, from 1.
            values: {name: float}, what `Trainer.train_step` returns.

        Raises:
            UserError: the step cannot be and was not to be skipped, or it was one too many.
        """
        what, in_a_row = self._wrong(values), int(values.get("skipped_in_a_row", 0))
        if in_a_row >= self.in_a_row:
            raise UserError(
                f"step {step}: {in_a_row} steps in a row were skipped, this one because {what}; "
                f"stopped, and no weights or checkpoints have anything of them. Try {_ADVICE}"
            )
        # With a loss scale gradients are not finite now and then; it is halved, and goes on.
        overflow = what.startswith(_NORM) and "loss_scale" in values
        if what and not self.skip and not overflow:
            raise UserError(
                f"step {step}: {what}; stopped, and the last checkpoint is from before it. Try "
                f"{_ADVICE}, with --accept_changes to go on from there, or skip such steps by "
                "--config.on_bad_step=skip"
            )
        return f"step {step}: skipped, because {what}" if what else ""

    def _wrong(self, values):
        terms = [name for name in values if name.startswith("loss/")]
        for name in (*terms, "loss"):
            if not math.isfinite(values[name]):
                return f"{name.replace('loss/', 'the loss of the term ')} is not finite"
        norm, scale = values["gradient_norm"], values.get("loss_scale")
        if not math.isfinite(norm):
            return _NORM + (f" at a loss scale of {scale:g}" if scale else "")
        if self.gradient_norm is not None and norm > self.gradient_norm:
            return f"gradient_norm is {norm:.4g}, above max_gradient_norm={self.gradient_norm:g}"
        return ""

    def allows(self, logs, norm):
        """Whether a step is one to take; what `judge` says afterwards, inside of the graph.

        Args:
            logs: has the losses, reduced.
            norm: global norm of the reduced gradients.

        Returns:
            Bool scalar, alike on all replicas.
        """
        losses = [value for name, value in logs.items() if name.split("/")[0] == "loss"]
        finite = ops.isfinite(norm)
        for value in losses:
            finite = ops.logical_and(finite, ops.isfinite(value))
        if self.gradient_norm is None:
            return finite
        return ops.logical_and(finite, norm <= self.gradient_norm)


_NORM = "gradient_norm is not finite"
_ADVICE = "a smaller --config.optimizer.learning_rate or --config.optimizer.clip_norm=1.0"


class LossScale:
    """The factor of all gradients on their way through the towers in float16.

    It is halved by a step whose gradients are not finite, though never below 1, and doubled after
    `patience` steps without one. A power of two throughout, so that it costs no digit.

    Args:
        first: its value before the first step.
        patience: steps.
    """

    def __init__(self, first, patience=2000):
        self._patience = patience
        self.value = scalar("loss_scale", "float32", first)
        self.finite_steps = scalar("finite_steps", "int32")

    @property
    def variables(self):
        """What a resume needs."""
        return [self.value, self.finite_steps]

    def scaled(self, gradients):
        """A nest of gradients, times the factor."""
        return keras.tree.map_structure(lambda g: g * ops.cast(self.value, g.dtype), gradients)

    def unscaled(self, gradients):
        """The other way."""
        return keras.tree.map_structure(lambda g: g / ops.cast(self.value, g.dtype), gradients)

    def update(self, finite):
        """Takes note of a step whose gradients were finite, or were not."""
        value = ops.copy(self.value.value)
        steps = ops.where(finite, self.finite_steps + 1, 0)
        due = steps >= self._patience
        doubled = ops.where(due, 2.0 * value, value)
        self.value.assign(ops.where(finite, doubled, ops.maximum(value / 2.0, 1.0)))
        self.finite_steps.assign(ops.where(due, 0, steps))


def scalar(name, dtype, value=0):
    """A variable of a run, which is not trained."""
    initializer = keras.initializers.Constant(value)
    return keras.Variable(initializer, shape=(), dtype=dtype, trainable=False, name=name)
