"""Batch normalisation over groups of images, and how KerasHub is made to use it."""

import contextlib

import keras
from keras import ops


class GroupedBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalisation whose training statistics are those of groups of images.

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
        if not (training and self.trainable) or self.group in (None, inputs.shape[0]):
            return super().call(inputs, training=training, mask=mask)
        n, height, width, channels = inputs.shape
        if n % self.group:
            raise ValueError(
                f"Expected a batch that divides by batch_norm_group={self.group}. Received: {n}."
            )
        x = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        x = ops.reshape(x, (n // self.group, self.group * height * width, channels))
        mean, variance = ops.moments(x, axes=[1], keepdims=True)  # (groups, 1, c)
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            value = ops.mean(value, axis=(0, 1))
            moving.assign(moving * self.momentum + value * (1.0 - self.momentum))
        scale = ops.rsqrt(variance + self.epsilon) * self.gamma
        x = (x - mean) * scale + self.beta
        return ops.cast(ops.reshape(x, (n, height, width, channels)), self.compute_dtype)

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
