"""The policy for training steps with non-finite values, and the loss scale of float16."""

import dataclasses
import math

import keras
from keras import ops

from tf_mural.errors import UserError

# Initial loss scale per precision. None: no loss scale is needed, because bfloat16 has the exponent
# range of float32, in which gradients do not underflow.
LOSS_SCALES = {"float32": None, "mixed_bfloat16": None, "mixed_float16": 2.0**15}
# {value of `on_bad_step` in a config: value of `BadStepPolicy.skip`}.
ON_BAD_STEP = {"stop": False, "skip": True}

_NORM_MESSAGE = "gradient_norm is not finite"
# `cli.error_lines.with_flags` replaces the arguments in the messages by flags.
_ADVICE = "a smaller learning rate of the optimizer or global_clipnorm=1.0"


@dataclasses.dataclass(frozen=True)
class BadStepPolicy:
    """Policy for bad steps: the loss or gradient norm is not finite, or the norm is too large.

    Attributes:
        skip: True: a bad step is skipped; False: a bad step stops the run.
        max_gradient_norm: largest accepted gradient norm, measured before clipping; None: no limit.
        max_consecutive_skips: number of consecutive skipped steps at which the run stops.
    """

    skip: bool = False
    max_gradient_norm: float | None = None
    max_consecutive_skips: int = 20

    def check_logs(self, step, values):
        """Returns a message if a step was skipped, else "".

        Args:
            step: number of the step, from 1.
            values: {name: float}, the logs that `Trainer.train_step` returned.

        Raises:
            UserError: the step is bad and the policy does not skip bad steps, or
                `max_consecutive_skips` consecutive steps were skipped.
        """
        problem, skips = self._find_problem(values), int(values.get("skipped_in_a_row", 0))
        if skips >= self.max_consecutive_skips:
            raise UserError(
                f"step {step}: {skips} consecutive steps were skipped, this one because {problem}; "
                f"stopped. Weights and checkpoints do not contain these steps. Try {_ADVICE}"
            )
        # With a loss scale, gradients overflow from time to time. After an overflow, the loss scale
        # is halved, and training continues.
        overflow = problem.startswith(_NORM_MESSAGE) and "loss_scale" in values
        if problem and not self.skip and not overflow:
            raise UserError(
                f"step {step}: {problem}; stopped. The last checkpoint is from an earlier step. "
                f"Try {_ADVICE} to continue from that checkpoint, or skip such steps with "
                "BadStepPolicy(skip=True)"
            )
        return f"step {step}: skipped, because {problem}" if problem else ""

    def _find_problem(self, values):
        terms = [name for name in values if name.startswith("loss/")]
        for name in (*terms, "loss"):
            if not math.isfinite(values[name]):
                return f"{name.replace('loss/', 'the loss of the term ')} is not finite"
        norm, scale = values["gradient_norm"], values.get("loss_scale")
        if not math.isfinite(norm):
            return _NORM_MESSAGE + (f" at a loss scale of {scale:g}" if scale else "")
        if self.max_gradient_norm is not None and norm > self.max_gradient_norm:
            return (
                f"gradient_norm is {norm:.4g}, above max_gradient_norm={self.max_gradient_norm:g}"
            )
        return ""

    def should_apply(self, logs, norm):
        """Decides inside the compiled step whether the update is applied.

        The update is applied unless `check_logs` reports or raises a problem for this step.

        Args:
            logs: {name: scalar} that contains the losses, summed over replicas.
            norm: global norm of the gradients, summed over replicas.

        Returns:
            Bool scalar, identical on all replicas.
        """
        losses = [value for name, value in logs.items() if name.split("/")[0] == "loss"]
        finite = ops.isfinite(norm)
        for value in losses:
            finite = ops.logical_and(finite, ops.isfinite(value))
        if self.max_gradient_norm is None:
            return finite
        return ops.logical_and(finite, norm <= self.max_gradient_norm)


class LossScale:
    """Dynamic loss scale: the factor of all gradients in the float16 backward pass.

    A step with non-finite gradients halves the factor, but not below 1. `patience` consecutive
    steps with finite gradients double the factor. If the initial value is a power of two, the
    factor is always a power of two, and scaling causes no rounding errors.

    Args:
        initial: factor before the first step.
        patience: number of consecutive steps with finite gradients after which the factor doubles.

    Attributes:
        initial: the argument `initial`.
        value: variable (float32), the factor.
        finite_steps: variable (int32), number of consecutive steps with finite gradients.
    """

    def __init__(self, initial, patience=2000):
        self.initial, self._patience = initial, patience
        self.value = scalar_variable("loss_scale", "float32", initial)
        self.finite_steps = scalar_variable("finite_steps", "int32")

    @property
    def variables(self):
        """The variables that a checkpoint must contain."""
        return [self.value, self.finite_steps]

    def scale(self, gradients):
        """Multiplies every gradient of a nested structure by the factor."""
        return keras.tree.map_structure(lambda g: g * ops.cast(self.value, g.dtype), gradients)

    def unscale(self, gradients):
        """Divides every gradient of a nested structure by the factor."""
        return keras.tree.map_structure(lambda g: g / ops.cast(self.value, g.dtype), gradients)

    def update(self, finite):
        """Updates the factor after a step.

        Args:
            finite: bool scalar, whether the gradients of the step were finite.
        """
        value = ops.copy(self.value.value)
        steps = ops.where(finite, self.finite_steps + 1, 0)
        is_due = steps >= self._patience
        increased = ops.where(is_due, 2.0 * value, value)
        self.value.assign(ops.where(finite, increased, ops.maximum(value / 2.0, 1.0)))
        self.finite_steps.assign(ops.where(is_due, 0, steps))


def scalar_variable(name, dtype, value=0):
    """Creates a scalar variable that is not trained."""
    initializer = keras.initializers.Constant(value)
    return keras.Variable(initializer, shape=(), dtype=dtype, trainable=False, name=name)


def clip_gradients(gradients, norm, limit):
    """Scales gradients with a global norm above `limit` down to `limit`; None: no clipping."""
    if limit is None:
        return gradients
    # `norm - norm` is nan if the norm is not finite. Without this summand, an infinite norm would
    # scale the gradients to 0 and hide that the step is bad.
    scale = limit * ops.minimum(1.0 / norm, 1.0 / limit) + (norm - norm)
    return [g * ops.cast(scale, g.dtype) for g in gradients]
