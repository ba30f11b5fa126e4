"""Batch norm for CPUs: TensorFlow's fused kernels instead of separate operations."""

import tensorflow as tf


def batch_norm_kernel():
    """Returns `_batch_norm` if this process has no accelerator, else None."""
    is_cpu = all(device.device_type == "CPU" for device in tf.config.list_logical_devices())
    return _batch_norm if is_cpu else None


def _batch_norm(x, gamma, beta, epsilon, groups=1, fuse_squeeze=False):
    """Normalizes groups of images with their own statistics.

    TensorFlow's kernels read a tensor two or three times. Separate operations for the sums, the
    products and the differences read it about ten times in the forward and the backward pass.

    Args:
        x: float32 (n, h, w, c).
        gamma: float32 (c,), the scales.
        beta: float32 (c,), the offsets.
        epsilon: float that is added to the variance.
        groups: number of groups of consecutive images, a divisor of n.
        fuse_squeeze: see `models.GhostBatchNormalization`.

    Returns:
        A tuple: the output (n, h, w, c), or a tuple of the swish of the output and its means over
        positions (n, c) if `fuse_squeeze` is True; and the means and the variances of the groups,
        float32 (groups, c).
    """
    gamma, beta = tf.convert_to_tensor(gamma), tf.convert_to_tensor(beta)
    normalize = _normalize_swish if fuse_squeeze else _normalize
    parts = [x] if groups == 1 else tf.split(x, groups)
    results = [normalize(part, gamma, beta, epsilon) for part in parts]
    outputs = [
        values[0] if groups == 1 else tf.concat(values, 0) for values in zip(*results, strict=True)
    ]
    *outputs, _, _ = outputs
    means, variances = (tf.stack([result[k] for result in results]) for k in (-2, -1))
    return tuple(outputs) if fuse_squeeze else outputs[0], means, variances


def _normalize(x, gamma, beta, epsilon):
    """Returns the normalized images of a group, and their mean and variance, (c,)."""
    y, mean, variance, *_ = _fused(x, gamma, beta, epsilon)
    return y, tf.stop_gradient(mean), tf.stop_gradient(variance * _bias(x))


def _normalize_swish(x, gamma, beta, epsilon):
    """Returns the swish of the normalized images, its means, and the mean and variance."""

    # As in `models.GhostBatchNormalization`, only x is stored for the backward pass.
    @tf.custom_gradient
    def normalize(x, gamma, beta):
        y, mean, variance, *reserved = _fused(x, gamma, beta, epsilon)
        variance *= _bias(x)
        swish = tf.nn.silu(y)

        def gradient(d_swish, d_squeezed, *_):
            y, *_ = tf.raw_ops.FusedBatchNormV3(
                x=x,
                scale=gamma,
                offset=beta,
                mean=mean,
                variance=variance,
                epsilon=epsilon,
                is_training=False,
            )
            positions = tf.cast(tf.reduce_prod(tf.shape(x)[1:3]), x.dtype)
            sigmoid = tf.sigmoid(y)
            slope = sigmoid * (1.0 + y * (1.0 - sigmoid))
            dy = (d_swish + (d_squeezed / positions)[:, None, None]) * slope
            dx, d_gamma, d_beta, *_ = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=dy,
                x=x,
                scale=gamma,
                reserve_space_1=reserved[0],
                reserve_space_2=reserved[1],
                reserve_space_3=reserved[2],
                epsilon=epsilon,
                is_training=True,
            )
            return dx, d_gamma, d_beta

        return (swish, tf.reduce_mean(swish, [1, 2]), mean, variance), gradient

    return normalize(x, gamma, beta)


def _fused(x, gamma, beta, epsilon):
    empty = tf.zeros([0], x.dtype)
    return tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=gamma,
        offset=beta,
        mean=empty,
        variance=empty,
        epsilon=epsilon,
        is_training=True,
    )


def _bias(x):
    """Returns the factor from the variance of the kernel, a sum over count - 1, to the mean."""
    count = tf.cast(tf.reduce_prod(tf.shape(x)[:3]), x.dtype)
    return (count - 1.0) / count
