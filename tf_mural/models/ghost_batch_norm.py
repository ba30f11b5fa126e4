"""Batch normalization over groups of images ("ghost batch norm")."""

import math

import keras
from keras import ops

ALL_REPLICAS = -1


@keras.saving.register_keras_serializable(package="tf_mural")
class GhostBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalization whose training statistics are computed over virtual batches.

    A virtual batch is a group of consecutive images of the batch. The output equals that of Keras'
    layer applied to each virtual batch separately (https://arxiv.org/abs/1705.08741). The gradient
    is implemented explicitly, with the equations in section 3 of https://arxiv.org/abs/1502.03167.
    With this gradient, the layer stores only its input for the backward pass. Automatic
    differentiation of mean, variance and scaling would take more memory and time.

    Args:
        virtual_batch_size: number of images per virtual batch, a divisor of the local batch size.
            None: the local batch is one virtual batch. `ALL_REPLICAS`: the batches of all replicas
            form one virtual batch, as in Keras' layer with `synchronized=True`; all replicas must
            then have the same local batch size. If there are several virtual batches, the moving
            averages are updated with the averages of their statistics.
        all_reduce_mean: callable that takes a list of tensors and returns the list of the means of
            these tensors over all replicas. The layer calls this function in the forward and in the
            backward pass, but only if `virtual_batch_size` is `ALL_REPLICAS`. The default returns
            the list unchanged, which is correct for a single replica.
        fuse_squeeze: if True, the layer also computes the swish activation and the squeeze (mean
            over positions) that follow the layer in an MBConv block. The layer then returns a
            tuple: activations, (n, h, w, c), and their means over positions, (n, c). The gradient
            of the fused layer makes fewer passes over tensors of the size of the input than the
            gradients of three separate layers.
        kernel: callable that computes the layer in training, the result of `batch_norm_kernel` of
            the backend, which is faster on CPUs. The gradients are the same up to rounding. The
            layer does not call it in half precision, in float64, or if replicas share statistics.
            None: `keras.ops` compute the layer, and sums are computed image by image.
        **kwargs: see `keras.layers.BatchNormalization`.
    """

    def __init__(
        self,
        virtual_batch_size=None,
        all_reduce_mean=list,
        fuse_squeeze=False,
        kernel=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self._kernel = kernel
        self.virtual_batch_size = virtual_batch_size
        self._all_reduce_mean = all_reduce_mean if virtual_batch_size == ALL_REPLICAS else list
        self.fuse_squeeze = fuse_squeeze

    def call(self, inputs, training=None, mask=None):
        """Normalizes images, (n, h, w, c). The statistics are computed in float32 or float64."""
        if not (training and self.trainable):
            y = super().call(inputs, training=training, mask=mask)
            if not self.fuse_squeeze:
                return y
            y = ops.silu(y)
            return y, ops.mean(y, axis=(1, 2))
        n = inputs.shape[0]
        size = None if self.virtual_batch_size == ALL_REPLICAS else self.virtual_batch_size
        if None not in (n, size) and n % size:
            raise ValueError(
                "Expected a batch size that is a multiple of virtual_batch_size="
                f"{self.virtual_batch_size}. Received: {n}."
            )
        groups = 1 if size is None else n and n // size
        dtypes = {inputs.dtype, self.compute_dtype, self.variable_dtype}
        if self._kernel and groups and self.virtual_batch_size != ALL_REPLICAS:
            if set(map(keras.backend.standardize_dtype, dtypes)) == {"float32"}:
                outputs, mean, variance = self._kernel(
                    inputs, self.gamma, self.beta, self.epsilon, groups, self.fuse_squeeze
                )
                self._update_averages(mean, variance)
                return outputs
        x = ops.cast(inputs, at_least_float32(inputs.dtype))
        # Mean and mean square are computed in one pass over x. The moving mean is subtracted from x
        # first, because the difference of mean square and squared mean would otherwise lose digits.
        shift = ops.copy(ops.cast(self.moving_mean, x.dtype))
        centered = ops.stop_gradient(x) - shift
        moments = (self._group_means(_squeeze(d)) for d in (centered, ops.square(centered)))
        mean, square = self._all_reduce_mean(list(moments))
        variance = ops.maximum(square - ops.square(mean), 0.0)
        mean = mean + shift
        self._update_averages(mean, variance)
        return self._normalize(inputs, mean, variance)

    def _update_averages(self, mean, variance):
        """Updates the moving averages with the statistics of virtual batches, (groups, c)."""
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            value = ops.mean(value, axis=0)
            moving.assign(moving * self.momentum + value * (1.0 - self.momentum))

    def _group_means(self, image_means):
        """Averages the means of images, (n, c), over each virtual batch; returns (groups, c).

        `groups` is the number of virtual batches. The argument contains means over positions,
        because reshaping (n, h, w, c) into groups would change the memory layout of the tensor. On
        a TPU, such a change takes as long as a convolution.
        """
        size = self.virtual_batch_size
        size = -1 if size in (None, ALL_REPLICAS) else size
        groups = 1 if size == -1 else -1
        return ops.mean(ops.reshape(image_means, (groups, size, image_means.shape[-1])), axis=1)

    def _broadcast_to_images(self, x):
        """Expands values per virtual batch, (groups, c), to values per image, (n or 1, 1, 1, c)."""
        if self.virtual_batch_size not in (None, ALL_REPLICAS):
            x = ops.repeat(x, self.virtual_batch_size, axis=0)
        return x[:, None, None, :]

    def _normalize(self, x, mean, variance):
        """Computes (x - mean) / sqrt(variance + epsilon) * gamma + beta.

        The gradient of x includes the dependence of `mean` and `variance` on x, also across
        replicas.

        Args:
            x: input of the layer, (n, h, w, c).
            mean: mean of x over each virtual batch, (groups, c).
            variance: variance of x over each virtual batch, (groups, c).

        Returns:
            The output of the layer in the compute dtype, a tuple if `fuse_squeeze` is True.
        """

        # All tensors that the gradient uses must be arguments of `normalize`: on JAX, tensors from
        # the enclosing function would be lost if blocks are rematerialized.
        @ops.custom_gradient
        def normalize(x, gamma, beta, mean, inverse_std):
            scale = inverse_std * ops.cast(gamma, inverse_std.dtype)
            scales = self._broadcast_to_images(scale)
            offsets = self._broadcast_to_images(ops.cast(beta, scale.dtype) - mean * scale)
            y = ops.cast(x, scale.dtype) * scales + offsets
            if self.fuse_squeeze:
                y = ops.silu(y)
                squeezed = ops.cast(_squeeze(y), self.compute_dtype)

            def gradient(*upstreams):
                # The cast is repeated here, because x is stored for the backward pass in its
                # original dtype.
                wide = ops.cast(x, scale.dtype)
                # TensorFlow passes one argument per output of the layer, JAX always one argument.
                upstream = upstreams if len(upstreams) > 1 else upstreams[0]
                dy, *sums = self._backpropagate_activation(upstream, wide, scales, offsets)
                d_beta, d_gamma = map(self._group_means, sums)
                d_gamma = (d_gamma - mean * d_beta) * inverse_std
                # The statistics depend on x, and the outputs of all replicas that share the
                # statistics depend on the statistics. Therefore dx is computed from means over
                # these replicas. The gradients of gamma and beta stay local, because the train step
                # sums them over replicas.
                mean_d_gamma, mean_d_beta = self._all_reduce_mean([d_gamma, d_beta])
                slopes = scale * inverse_std * mean_d_gamma
                constants = scale * mean_d_beta - slopes * mean
                dx = scales * dy - (
                    self._broadcast_to_images(slopes) * wide + self._broadcast_to_images(constants)
                )
                group_size = math.prod(ops.shape(x)[:3]) // ops.shape(mean)[0]
                group_size = ops.cast(group_size, scale.dtype)
                totals = (ops.sum(d, axis=0) * group_size for d in (d_gamma, d_beta))
                d_gamma, d_beta = (ops.cast(d, gamma.dtype) for d in totals)
                zeros = ops.zeros_like(mean), ops.zeros_like(inverse_std)
                return ops.cast(dx, x.dtype), d_gamma, d_beta, *zeros

            y = ops.cast(y, self.compute_dtype)
            return (y, squeezed) if self.fuse_squeeze else y, gradient

        parameters = (ops.reshape(p, (-1,)) for p in (self.gamma, self.beta))
        return normalize(x, *parameters, mean, ops.rsqrt(variance + self.epsilon))

    def _backpropagate_activation(self, upstream, x, scales, offsets):
        """Backpropagates through the squeeze and the activation, if they are fused.

        Args:
            upstream: gradient with respect to the output of the layer; a tuple of two gradients if
                `fuse_squeeze` is True.
            x: input of the layer, (n, h, w, c).
            scales: factors of the normalization, `y = x * scales + offsets`.
            offsets: summands of the normalization.

        Returns:
            A tuple: the gradient with respect to y, (n, h, w, c), the mean over positions of this
            gradient, (n, c), and the mean over positions of this gradient times x, (n, c).
        """
        if not self.fuse_squeeze:
            dy = ops.cast(upstream, x.dtype)
            return dy, _squeeze(dy), _squeeze(dy * x)
        d_swish, d_squeezed = (ops.cast(d, x.dtype) for d in upstream)
        d_mean = d_squeezed / ops.cast(ops.shape(x)[1] * ops.shape(x)[2], x.dtype)
        y = x * scales + offsets
        # Compilers recompute the sigmoid in this form instead of storing it.
        sigmoid = 0.5 + 0.5 * ops.tanh(0.5 * y)
        slope = sigmoid + y * sigmoid * (1.0 - sigmoid)
        # The gradient with respect to y is `dy + d_mean * slope`. The two terms are summed
        # separately, because then no sum depends on `d_mean`, and one pass over `d_swish` and x
        # computes all sums.
        dy = d_swish * slope
        sums = (_squeeze(dy * d) + d_mean * _squeeze(slope * d) for d in (1.0, x))
        return dy + d_mean[:, None, None, :] * slope, *sums

    def compute_output_shape(self, input_shape):
        """Returns the shape of the output, a tuple of two shapes if `fuse_squeeze` is True."""
        n, *_, c = input_shape
        return (input_shape, (n, c)) if self.fuse_squeeze else input_shape

    def get_config(self):
        """Returns the constructor arguments."""
        return {
            **super().get_config(),
            "virtual_batch_size": self.virtual_batch_size,
            "fuse_squeeze": self.fuse_squeeze,
        }


def _squeeze(x):
    """Averages x, (n, h, w, c), over positions; returns (n, c)."""
    return ops.mean(x, axis=(1, 2))


def at_least_float32(dtype):
    """Returns "float32" if a float dtype has half precision, otherwise the name of the dtype."""
    # `keras.backend.result_type` is not used, because it returns float64 for float32 on some
    # backends.
    name = keras.backend.standardize_dtype(dtype)
    return "float32" if name in ("float16", "bfloat16") else name


def unit_rows(x):
    """Returns rows (n, d) divided by their L2 norms."""
    return ops.normalize(x, axis=-1, order=2, epsilon=1e-12)
