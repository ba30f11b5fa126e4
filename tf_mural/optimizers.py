"""LAMB as published, and the linear schedule of the recipes."""

import re

import keras
from keras import ops


class Lamb(keras.optimizers.Optimizer):
    """LAMB (You et al. 2020, algorithm 2) with decay inside the trust ratio.

        m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,  both bias-corrected
        u = m / (sqrt(v) + eps) + decay w
        w = w - lr |w| / |u| u              (the ratio is 1 where either norm is 0)

    `keras.optimizers.Lamb` is another algorithm once `weight_decay` is set: it decays outside the
    ratio and cannot leave variables out of the adaptation.

    Args:
        learning_rate: float or schedule.
        decay: weight decay, a factor of the weights inside the update.
        beta_1, beta_2, epsilon: as published.
        exclude_from_decay: regular expressions, searched in variable paths.
        exclude_from_adaptation: likewise; such variables move by lr * u.
        rate_factors: pairs of (regular expression, factor of the learning rate); of those that
            match a variable's path the first one counts.
        average: momentum of a moving average of the variables (Polyak and Juditsky 1992), which
            `averages` holds; 0 keeps none. It starts as the variables after the first step.
    """

    def __init__(
        self,
        learning_rate=1e-3,
        decay=0.0,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-6,
        exclude_from_decay=(),
        exclude_from_adaptation=(),
        rate_factors=(),
        average=0.0,
        name="lamb",
        **kwargs,
    ):
        # The base class would apply its own `weight_decay` outside the trust ratio.
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.decay = decay
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        self.exclude_from_decay = tuple(exclude_from_decay)
        self.exclude_from_adaptation = tuple(exclude_from_adaptation)
        self.rate_factors = tuple((pattern, factor) for pattern, factor in rate_factors)
        self.average = average

    def build(self, variables):
        """Creates both slots, and resolves the exclusions: updates see variables without paths."""
        if self.built:
            return
        super().build(variables)
        self._first, self._second = self.add_optimizer_variables(variables, ["first", "second"])
        self.averages = []
        if self.average:
            (self.averages,) = self.add_optimizer_variables(variables, ["average"])
        self._factors = [_first_match(self.rate_factors, v.path) for v in variables]
        self.decays = [not _matches(self.exclude_from_decay, v.path) for v in variables]
        self.adapts = [not _matches(self.exclude_from_adaptation, v.path) for v in variables]

    def update_step(self, gradient, variable, learning_rate):
        """One step of one variable."""
        # Embeddings hand over sparse slices; squaring those before repeated rows are added up
        # would give the sum of squares instead of the square of the sum.
        gradient = ops.add(ops.zeros(variable.shape, variable.dtype), gradient)
        # 1 - beta in the variable's dtype too: 0.001 against 1 - float32(0.999) is 1e-5 off, which
        # the bias correction would not take back.
        learning_rate, beta_1, beta_2 = (
            ops.cast(x, variable.dtype) for x in (learning_rate, self.beta_1, self.beta_2)
        )
        step = ops.cast(self.iterations + 1, variable.dtype)
        index = self._get_variable_index(variable)
        first, second = self._first[index], self._second[index]

        self.assign(first, beta_1 * first + (1.0 - beta_1) * gradient)
        self.assign(second, beta_2 * second + (1.0 - beta_2) * ops.square(gradient))
        first_hat = first / (1.0 - ops.power(beta_1, step))
        second_hat = second / (1.0 - ops.power(beta_2, step))
        update = first_hat / (ops.sqrt(second_hat) + self.epsilon)
        if self.decays[index]:
            update = update + self.decay * variable
        if self.adapts[index]:
            update = _trust_ratio(variable, update) * update
        change = learning_rate * self._factors[index] * update
        if self.averages:
            momentum = ops.where(step > 1, ops.cast(self.average, variable.dtype), 0.0)
            average, after = self.averages[index], variable - change
            self.assign(average, momentum * average + (1.0 - momentum) * after)
        self.assign_sub(variable, change)

    def get_config(self):
        """Constructor arguments."""
        names = ("decay", "beta_1", "beta_2", "epsilon")
        names += ("exclude_from_decay", "exclude_from_adaptation", "rate_factors", "average")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def _matches(patterns, path):
    return any(re.search(pattern, path) for pattern in patterns)


def _first_match(pairs, path):
    return next((factor for pattern, factor in pairs if re.search(pattern, path)), 1.0)


def _trust_ratio(variable, update):
    weight_norm = ops.sqrt(ops.sum(ops.square(variable)))
    update_norm = ops.sqrt(ops.sum(ops.square(update)))
    both = ops.logical_and(weight_norm > 0, update_norm > 0)
    return ops.where(both, weight_norm / ops.where(both, update_norm, 1.0), 1.0)


class LinearSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Linear from 0 to `peak` in `warmup_steps`, then linear to 0 at `total_steps`."""

    def __init__(self, peak, total_steps, warmup_steps=0):
        if not 0 <= warmup_steps < total_steps:
            raise ValueError(
                "Expected 0 <= warmup_steps < total_steps. "
                f"Received: warmup_steps={warmup_steps}, total_steps={total_steps}."
            )
        self.peak, self.total_steps, self.warmup_steps = peak, total_steps, warmup_steps

    def __call__(self, step):
        """Rate (float32 scalar) of the step with this number, from 0."""
        step = ops.cast(step, "float32")
        falling = (self.total_steps - step) / (self.total_steps - self.warmup_steps)
        rising = step / max(self.warmup_steps, 1) if self.warmup_steps else falling
        return self.peak * ops.maximum(0.0, ops.where(step < self.warmup_steps, rising, falling))

    def get_config(self):
        """Constructor arguments."""
        return {
            "peak": self.peak,
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
        }


def adam(learning_rate=1e-3, exclude_from_adaptation=(), name="adam", **options):
    """AdamW (Loshchilov and Hutter 2019), which is `Lamb` with a trust ratio of 1 everywhere."""
    return Lamb(learning_rate, exclude_from_adaptation=("",), name=name, **options)


OPTIMIZERS = {"lamb": Lamb, "adam": adam}
