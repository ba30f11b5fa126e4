"""Batch normalisation over groups of images, and how KerasHub is made to use it."""

import contextlib
import math

import keras
from keras import ops

ALL_REPLICAS = -1


class GroupedBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalisation whose training statistics are those of groups of images.

    What it computes is Keras' layer. Its gradient is written out (equations of section 3 of
    https://arxiv.org/abs/1502.03167), so that of all that a step computes here it keeps the input
    alone: less memory and less time than to differentiate mean, variance and scaling one by one.

    Args:
        group: images a group; None is the whole batch that the layer sees, `ALL_REPLICAS` those of
            all replicas, which have as many each. The batch must divide by it. The moving averages
            take the mean over groups.
        average: function of tensors to their means over replicas, in a list; called where `group`
            is `ALL_REPLICAS`, in both passes. By default there is one replica.
        squeeze: whether what follows is swish and a squeeze. The layer then computes both, and
            returns swish (n, h, w, c) and its means over positions (n, c). One gradient for all
            three goes less often over what is as large as x.
        **kwargs: of `keras.layers.BatchNormalization`.
    """

    def __init__(self, group=None, average=list, squeeze=False, **kwargs):
        super().__init__(**kwargs)
        self.group, self._average = group, average if group == ALL_REPLICAS else list
        self.squeeze = squeeze

    def call(self, inputs, training=None, mask=None):
        """Normalises (n, h, w, c); the statistics are taken in float32 at least."""
        if not (training and self.trainable):
            y = super().call(inputs, training=training, mask=mask)
            if not self.squeeze:
                return y
            y = ops.silu(y)
            return y, ops.mean(y, axis=(1, 2))
        n = inputs.shape[0]
        own = None if self.group == ALL_REPLICAS else self.group
        if None not in (n, own) and n % own:
            raise ValueError(
                f"Expected a batch that divides by batch_norm_group={self.group}. Received: {n}."
            )
        wide = ops.cast(inputs, at_least_float32(inputs.dtype))
        # Both moments in one pass over x; around the moving mean, so that their difference loses
        # few digits.
        shift = ops.copy(ops.cast(self.moving_mean, wide.dtype))
        distance = ops.stop_gradient(wide) - shift
        moments = (self._of_groups(_squeeze(d)) for d in (distance, ops.square(distance)))
        mean, square = self._average(list(moments))
        variance = ops.maximum(square - ops.square(mean), 0.0)
        mean = mean + shift
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            value = ops.mean(value, axis=0)
            moving.assign(moving * self.momentum + value * (1.0 - self.momentum))
        return self._normalised(inputs, mean, variance)

    def _of_groups(self, means):
        """Means over the images of each group: (n, c) to (groups, c).

        Of what has its mean over positions already. To put a group's rows together would lay all of
        x out anew, which on a TPU takes as long as a convolution.
        """
        own = -1 if self.group in (None, ALL_REPLICAS) else self.group
        groups = 1 if own == -1 else -1
        return ops.mean(ops.reshape(means, (groups, own, means.shape[-1])), axis=1)

    def _to_images(self, x):
        """(groups, c) to what multiplies (n, h, w, c)."""
        if self.group not in (None, ALL_REPLICAS):
            x = ops.repeat(x, self.group, axis=0)
        return x[:, None, None, :]

    def _normalised(self, x, mean, variance):
        """(x - mean) / sqrt(variance + epsilon) * gamma + beta, in the compute dtype.

        Args:
            x: (n, h, w, c).
            mean, variance: those of x over its groups, on all replicas where they share them,
                (groups, c). Their own dependence on x is part of the gradient given here.

        Returns:
            As `call`.
        """

        # All that the gradient needs is an argument: JAX would lose what is closed over here where
        # blocks are computed twice.
        @ops.custom_gradient
        def normalise(x, gamma, beta, mean, inverse):
            scale = inverse * ops.cast(gamma, inverse.dtype)
            scales = self._to_images(scale)
            offsets = self._to_images(ops.cast(beta, scale.dtype) - mean * scale)
            y = ops.cast(x, scale.dtype) * scales + offsets
            if self.squeeze:
                y = ops.silu(y)
                squeezed = ops.cast(_squeeze(y), self.compute_dtype)

            def gradient(*upstreams):
                # Cast again: what one pass keeps for the other is `x` in its own dtype.
                wide = ops.cast(x, scale.dtype)
                # TensorFlow passes one argument for each result, JAX what was returned.
                upstream = upstreams if len(upstreams) > 1 else upstreams[0]
                dy, *sums = self._upstream(upstream, wide, scales, offsets)
                d_beta, d_gamma = map(self._of_groups, sums)
                d_gamma = (d_gamma - mean * d_beta) * inverse
                # x moves the statistics, and these the loss of all rows that share them. What gamma
                # and beta are owed stays that of this replica's rows, and is summed with the rest.
                of_gamma, of_beta = self._average([d_gamma, d_beta])
                slopes = scale * inverse * of_gamma
                fixed = scale * of_beta - slopes * mean
                dx = scales * dy - (self._to_images(slopes) * wide + self._to_images(fixed))
                rows = ops.cast(math.prod(ops.shape(x)[:3]) // ops.shape(mean)[0], scale.dtype)
                totals = (ops.sum(d, axis=0) * rows for d in (d_gamma, d_beta))
                d_gamma, d_beta = (ops.cast(d, gamma.dtype) for d in totals)
                known = ops.zeros_like(mean), ops.zeros_like(inverse)
                return ops.cast(dx, x.dtype), d_gamma, d_beta, *known

            y = ops.cast(y, self.compute_dtype)
            return (y, squeezed) if self.squeeze else y, gradient

        learnt = (ops.reshape(of, (-1,)) for of in (self.gamma, self.beta))
        return normalise(x, *learnt, mean, ops.rsqrt(variance + self.epsilon))

    def _upstream(self, upstream, x, scales, offsets):
        """What the loss says of normalised x, and its means over positions alone and times x.

        Args:
            upstream: what it says of the layer's result or results.
            x: (n, h, w, c), and what it is multiplied with and added to.
        """
        if not self.squeeze:
            dy = ops.cast(upstream, x.dtype)
            return dy, _squeeze(dy), _squeeze(dy * x)
        of_swish, of_squeezed = (ops.cast(d, x.dtype) for d in upstream)
        share = of_squeezed / ops.cast(ops.shape(x)[1] * ops.shape(x)[2], x.dtype)
        y = x * scales + offsets
        # The sigmoid, as a function that compilers rather compute twice than keep.
        gate = 0.5 + 0.5 * ops.tanh(0.5 * y)
        slope = gate + y * gate * (1.0 - gate)
        # In two parts, of which none waits for what an excitation makes of `of_swish`: one pass
        # over that and x has all sums.
        dy = of_swish * slope
        sums = (_squeeze(dy * d) + share * _squeeze(slope * d) for d in (1.0, x))
        return dy + share[:, None, None, :] * slope, *sums

    def compute_output_shape(self, input_shape):
        """That of x, and (n, c) where the layer squeezes."""
        n, *_, c = input_shape
        return (input_shape, (n, c)) if self.squeeze else input_shape

    def get_config(self):
        """Constructor arguments."""
        return {**super().get_config(), "group": self.group, "squeeze": self.squeeze}


def _squeeze(x):
    """Means over positions: (n, h, w, c) to (n, c)."""
    return ops.mean(x, axis=(1, 2))


def at_least_float32(dtype):
    """The name of a dtype of floats, or "float32" where that is wider."""
    # Not Keras' `result_type`, which takes float64 for float32 on some backends.
    name = keras.backend.standardize_dtype(dtype)
    return "float32" if name in ("float16", "bfloat16") else name


@contextlib.contextmanager
def batch_norm_of(group, momentum, average=list):
    """Inside, `keras.layers.BatchNormalization(...)` builds the grouped layer.

    KerasHub's blocks offer no switch for groups, and its EfficientNet v1 blocks none for momentum.
    """
    original = keras.layers.BatchNormalization

    def build(**kwargs):
        return GroupedBatchNormalization(group, average, **{**kwargs, "momentum": momentum})

    keras.layers.BatchNormalization = build
    try:
        yield
    finally:
        keras.layers.BatchNormalization = original
