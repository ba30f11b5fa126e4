"""Batch normalisation over groups of images, and how KerasHub is made to use it."""

import contextlib

import keras
from keras import ops


class GroupedBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalisation whose training statistics are those of groups of images.

    What it computes is Keras' layer. Its gradient is written out (equations of section 3 of
    https://arxiv.org/abs/1502.03167), so that of all that a step computes here it keeps the input
    alone: less memory and less time than to differentiate mean, variance and scaling one by one.

    Args:
        group: images a group; None is the whole batch that the layer sees. The batch must divide
            by it. The moving averages take the mean over groups.
        **kwargs: of `keras.layers.BatchNormalization`.
    """

    def __init__(self, group=None, **kwargs):
        super().__init__(**kwargs)
        self.group = group

    def call(self, inputs, training=None, mask=None):
        """Normalises (n, h, w, c); the statistics are taken in float32 at least."""
        if not (training and self.trainable):
            return super().call(inputs, training=training, mask=mask)
        n, height, width, channels = inputs.shape
        if None not in (n, self.group) and n % self.group:
            raise ValueError(
                f"Expected a batch that divides by batch_norm_group={self.group}. Received: {n}."
            )
        shape = (-1, self.group * height * width) if self.group else (1, -1)
        x = ops.reshape(inputs, (*shape, channels))
        wide = ops.cast(x, keras.backend.result_type(x.dtype, "float32"))
        mean, variance = ops.moments(ops.stop_gradient(wide), axes=[1], keepdims=True)
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            value = ops.mean(value, axis=(0, 1))
            moving.assign(moving * self.momentum + value * (1.0 - self.momentum))
        return ops.reshape(self._normalised(x, mean, variance), ops.shape(inputs))

    def _normalised(self, x, mean, variance):
        """(x - mean) / sqrt(variance + epsilon) * gamma + beta, in the compute dtype.

        Args:
            x: (groups, rows, c).
            mean, variance: those of x over its rows, (groups, 1, c). Their own dependence on x is
                part of the gradient given here.
        """
        inverse = ops.rsqrt(variance + self.epsilon)

        @ops.custom_gradient
        def normalise(x, gamma, beta):
            scale = inverse * ops.cast(gamma, inverse.dtype)
            wide = ops.cast(x, scale.dtype)
            y = wide * scale + (ops.cast(beta, scale.dtype) - mean * scale)

            def gradient(*upstreams, upstream=None):
                dy = ops.cast(upstreams[0] if upstream is None else upstream, scale.dtype)
                # Cast again: what one pass keeps for the other is `x` in its own dtype.
                wide = ops.cast(x, scale.dtype)
                d_beta = ops.mean(dy, axis=1, keepdims=True)
                d_gamma = (ops.mean(dy * wide, axis=1, keepdims=True) - mean * d_beta) * inverse
                slope = scale * inverse * d_gamma
                dx = scale * dy - (slope * wide + (scale * d_beta - slope * mean))
                rows = ops.cast(ops.shape(x)[1], scale.dtype)
                totals = (ops.sum(d, axis=(0, 1)) * rows for d in (d_gamma, d_beta))
                d_gamma, d_beta = (ops.cast(d, gamma.dtype) for d in totals)
                return ops.cast(dx, x.dtype), d_gamma, d_beta

            return ops.cast(y, self.compute_dtype), gradient

        return normalise(x, ops.reshape(self.gamma, (-1,)), ops.reshape(self.beta, (-1,)))

    def get_config(self):
        """Constructor arguments."""
        return {**super().get_config(), "group": self.group}


@contextlib.contextmanager
def batch_norm_of(group, momentum):
    """Inside, `keras.layers.BatchNormalization(...)` builds the grouped layer.

    KerasHub's blocks offer no switch for groups, and its EfficientNet v1 blocks none for momentum.
    """
    original = keras.layers.BatchNormalization

    def build(**kwargs):
        return GroupedBatchNormalization(group=group, **{**kwargs, "momentum": momentum})

    keras.layers.BatchNormalization = build
    try:
        yield
    finally:
        keras.layers.BatchNormalization = original
