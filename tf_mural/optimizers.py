"""LAMB as published, AdamW, and a linear learning-rate schedule with warm-up."""

import re
from collections.abc import Iterable
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="tf_mural")
class LAMB(keras.optimizers.Optimizer):
    """LAMB (You et al. 2020, algorithm 2): the trust ratio contains the weight decay.

        m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,  both bias-corrected
        u = m / (sqrt(v) + eps) + weight_decay w
        w = w - lr |w| / |u| u              (the trust ratio |w| / |u| is 1 if a norm is 0)

    The arguments are those of `tensorflow_addons.optimizers.LAMB`. `keras.optimizers.Lamb`
    differs in two points: it applies `weight_decay` outside the trust ratio, and it cannot exclude
    variables from the layer adaptation.

    `weight_decay`, `ema_momentum` and `global_clipnorm` are not passed to the base class. The base
    class would apply the weight decay outside the trust ratio, compute the moving average by
    another rule, and clip the gradients of each replica before they are summed over replicas.

    Args:
        learning_rate: float or `keras.optimizers.schedules.LearningRateSchedule`.
        weight_decay: factor by which the weights are added to the update `u`.
        beta_1: decay rate of the first moment.
        beta_2: decay rate of the second moment.
        epsilon: constant for numerical stability.
        exclude_from_weight_decay: regular expressions. Variables whose path contains a match have
            no weight decay.
        exclude_from_layer_adaptation: regular expressions. Variables whose path contains a match
            have a trust ratio of 1.
        lr_multipliers: pairs of (regular expression, multiplier of the learning rate). A variable
            gets the multiplier of the first pair that matches its path, or 1.
        ema_momentum: momentum of an exponential moving average of the variables (Polyak and
            Juditsky 1992), which is stored in `ema_variables`; None or 0: no moving average. After
            the first step, the moving average equals the variables.
        global_clipnorm: gradients with a larger global norm are scaled down to this norm; None or
            0: no clipping. The training step clips the gradients after summing them over replicas,
            see `clip_after_reduction`.
        name: name of the optimizer.
        **kwargs: see `keras.optimizers.Optimizer`.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 1e-3,
        weight_decay: float = 0.0,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-6,
        exclude_from_weight_decay: Iterable[str] = (),
        exclude_from_layer_adaptation: Iterable[str] = (),
        lr_multipliers: Iterable[tuple[str, float]] = (),
        ema_momentum: float | None = 0.0,
        global_clipnorm: float | None = None,
        name: str = "lamb",
        **kwargs: Any,
    ):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        self.lr_multipliers = tuple((pattern, factor) for pattern, factor in lr_multipliers)
        # These attributes are private, because `apply` of the base class uses its public attributes
        # of the same names.
        self._weight_decay, self._ema_momentum = weight_decay, ema_momentum
        self._global_clipnorm = global_clipnorm
        self._exclude_from_weight_decay = tuple(exclude_from_weight_decay)
        self._exclude_from_layer_adaptation = tuple(exclude_from_layer_adaptation)

    @property
    def clip_after_reduction(self) -> float | None:
        """Global norm to which the training step clips the summed gradients; None: no clipping."""
        return self._global_clipnorm or None

    def exclude_from_weight_decay(
        self,
        var_list: Iterable[keras.Variable] | None = None,
        var_names: Iterable[str] | None = None,
    ) -> None:
        """Excludes variables from weight decay, see `keras.optimizers.Optimizer`.

        Args:
            var_list: list of the variables to exclude.
            var_names: list of regular expressions. A variable is excluded if one of them matches a
                part of its path.

        Raises:
            ValueError: the optimizer is already built.
        """
        if self.built:
            raise ValueError("`exclude_from_weight_decay` must be called before `build`.")
        paths = [f"^{re.escape(variable.path)}$" for variable in var_list or ()]
        self._exclude_from_weight_decay += (*paths, *(var_names or ()))

    def exclude_from_layer_adaptation(self, var_list: Iterable[keras.Variable]) -> None:
        """Excludes variables from layer adaptation: their trust ratio is 1.

        Args:
            var_list: list of the variables to exclude.

        Raises:
            ValueError: the optimizer is already built.
        """
        if self.built:
            raise ValueError("`exclude_from_layer_adaptation` must be called before `build`.")
        paths = [f"^{re.escape(variable.path)}$" for variable in var_list]
        self._exclude_from_layer_adaptation += tuple(paths)

    def build(self, variables):
        """Creates the slots, and matches the regular expressions with the variable paths.

        The paths are matched here, because `update_step` may get variables without paths.
        """
        if self.built:
            return
        super().build(variables)
        slots = self.add_optimizer_variables(variables, ["first", "second"])
        self._momentums, self._velocities = slots
        self.ema_variables = []
        if self._ema_momentum:
            (self.ema_variables,) = self.add_optimizer_variables(variables, ["average"])
        paths = [variable.path for variable in variables]
        self.multipliers = [_first_match(self.lr_multipliers, path) for path in paths]
        self.uses_weight_decay = [
            not _matches(self._exclude_from_weight_decay, path) for path in paths
        ]
        self.uses_layer_adaptation = [
            not _matches(self._exclude_from_layer_adaptation, path) for path in paths
        ]

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable."""
        # Embeddings have sparse gradients, in which a row may occur several times. The gradient is
        # made dense, because squaring the sparse gradient would give the sum of the squares of
        # these rows instead of the square of their sum.
        gradient = ops.add(ops.zeros(variable.shape, variable.dtype), gradient)
        # `1 - beta` is computed in the variable's dtype, as in the bias correction: 0.001 and
        # 1 - float32(0.999) have a relative difference of 1e-5, which the bias correction would
        # not compensate.
        learning_rate, beta_1, beta_2 = (
            ops.cast(x, variable.dtype) for x in (learning_rate, self.beta_1, self.beta_2)
        )
        step = ops.cast(self.iterations + 1, variable.dtype)
        index = self._get_variable_index(variable)
        m, v = self._momentums[index], self._velocities[index]

        self.assign(m, beta_1 * m + (1.0 - beta_1) * gradient)
        self.assign(v, beta_2 * v + (1.0 - beta_2) * ops.square(gradient))
        m_hat = m / (1.0 - ops.power(beta_1, step))
        v_hat = v / (1.0 - ops.power(beta_2, step))
        update = m_hat / (ops.sqrt(v_hat) + self.epsilon)
        if self.uses_weight_decay[index]:
            update = update + self._weight_decay * variable
        if self.uses_layer_adaptation[index]:
            update = _trust_ratio(variable, update) * update
        change = learning_rate * self.multipliers[index] * update
        if self.ema_variables:
            momentum = ops.where(step > 1, ops.cast(self._ema_momentum, variable.dtype), 0.0)
            average, new_value = self.ema_variables[index], variable - change
            self.assign(average, momentum * average + (1.0 - momentum) * new_value)
        self.assign_sub(variable, change)

    def get_config(self):
        """Returns the constructor arguments."""
        return {
            **super().get_config(),
            "weight_decay": self._weight_decay,
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "exclude_from_weight_decay": self._exclude_from_weight_decay,
            "exclude_from_layer_adaptation": self._exclude_from_layer_adaptation,
            "lr_multipliers": self.lr_multipliers,
            "ema_momentum": self._ema_momentum,
            "global_clipnorm": self._global_clipnorm,
        }


def _matches(patterns, path):
    return any(re.search(pattern, path) for pattern in patterns)


def _first_match(pairs, path):
    return next((factor for pattern, factor in pairs if re.search(pattern, path)), 1.0)


def _trust_ratio(variable, update):
    weight_norm = ops.sqrt(ops.sum(ops.square(variable)))
    update_norm = ops.sqrt(ops.sum(ops.square(update)))
    nonzero = ops.logical_and(weight_norm > 0, update_norm > 0)
    return ops.where(nonzero, weight_norm / ops.where(nonzero, update_norm, 1.0), 1.0)


@keras.saving.register_keras_serializable(package="tf_mural")
class AdamW(LAMB):
    """AdamW (Loshchilov and Hutter 2019): `LAMB` with a trust ratio of 1 for all variables.

    Args:
        learning_rate: see `LAMB`.
        name: name of the optimizer.
        **kwargs: see `LAMB`. `exclude_from_layer_adaptation` must be empty or omitted, because
            AdamW has no layer adaptation.

    Raises:
        ValueError: `exclude_from_layer_adaptation` is not empty.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 1e-3,
        name: str = "adam",
        **kwargs: Any,
    ):
        if patterns := tuple(kwargs.pop("exclude_from_layer_adaptation", None) or ()):
            raise ValueError(
                "AdamW has no layer adaptation. Expected no exclude_from_layer_adaptation. "
                f"Received: {patterns}."
            )
        super().__init__(learning_rate, exclude_from_layer_adaptation=("",), name=name, **kwargs)

    def get_config(self):
        """Returns the constructor arguments."""
        config = super().get_config()
        del config["exclude_from_layer_adaptation"]
        return config


@keras.saving.register_keras_serializable(package="tf_mural")
class LinearWarmupDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate that increases linearly from 0 to `peak`, then decreases linearly to 0.

    Args:
        peak: maximum learning rate, reached at step `warmup_steps`.
        total_steps: step at which the learning rate is 0 again.
        warmup_steps: number of steps of the increase; with 0, the learning rate starts at `peak`.
    """

    def __init__(self, peak: float, total_steps: int, warmup_steps: int = 0):
        if not 0 <= warmup_steps < total_steps:
            raise ValueError(
                "Expected 0 <= warmup_steps < total_steps. "
                f"Received: warmup_steps={warmup_steps}, total_steps={total_steps}."
            )
        self.peak, self.total_steps, self.warmup_steps = peak, total_steps, warmup_steps

    def __call__(self, step: Any) -> Any:
        """Returns the learning rate (float32 scalar) of a step; steps are counted from 0."""
        step = ops.cast(step, "float32")
        decay = (self.total_steps - step) / (self.total_steps - self.warmup_steps)
        warmup = step / max(self.warmup_steps, 1) if self.warmup_steps else decay
        return self.peak * ops.maximum(0.0, ops.where(step < self.warmup_steps, warmup, decay))

    def get_config(self):
        """Returns the constructor arguments."""
        return {
            "peak": self.peak,
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
        }


OPTIMIZERS = {"lamb": LAMB, "adam": AdamW}
