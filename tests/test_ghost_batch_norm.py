"""Batch normalization over virtual batches, compared with Keras' layer and with plain numpy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_mural import models


def norm_layers(virtual_batch_size):
    """Returns `GhostBatchNormalization` and Keras' layer with the same weights, and 6 images."""
    layer = models.GhostBatchNormalization(virtual_batch_size, momentum=0.8)
    reference = keras.layers.BatchNormalization(momentum=0.8)
    weights = [[1.0, 2.0, 3.0], [0.5, 0.0, -1.0], [0.1, 0.2, 0.3], [1.0, 1.5, 2.0]]
    for each in (layer, reference):
        each.build((6, 4, 5, 3))
        each.set_weights([np.array(value, "float32") for value in weights])
    x = np.random.default_rng(1).normal(2.0, 3.0, (6, 4, 5, 3))
    return layer, reference, x.astype("float32")


def round_to(arrays, dtype):
    """Rounds arrays to values that a dtype can represent; returns float64 arrays."""
    return [np.array(tf.cast(array, dtype), "f8") for array in arrays]


def relative_error(actual, expected):
    return np.linalg.norm(np.array(actual, "f8") - expected) / np.linalg.norm(expected)


def test_virtual_batches_equal_a_loop_over_them():
    layer, _, x = norm_layers(virtual_batch_size=2)
    actual = np.asarray(layer(x, training=True))
    gamma, beta = np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.0, -1.0])
    means, variances = [], []
    for start in (0, 2, 4):
        part = x[start : start + 2].astype(np.float64)
        means.append(part.mean(axis=(0, 1, 2)))
        variances.append(part.var(axis=(0, 1, 2)))
        expected = (part - means[-1]) / np.sqrt(variances[-1] + 1e-3) * gamma + beta
        np.testing.assert_allclose(actual[start : start + 2], expected, atol=1e-5)
    mean = 0.8 * np.array([0.1, 0.2, 0.3]) + 0.2 * np.mean(means, axis=0)
    variance = 0.8 * np.array([1.0, 1.5, 2.0]) + 0.2 * np.mean(variances, axis=0)
    np.testing.assert_allclose(layer.moving_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-5)


@pytest.mark.parametrize(
    "virtual_batch_size, training", [(None, True), (6, True), (None, False), (2, False)]
)
def test_a_single_virtual_batch_equals_keras(virtual_batch_size, training):
    layer, reference, x = norm_layers(virtual_batch_size)
    expected = reference(x, training=training)
    np.testing.assert_allclose(layer(x, training=training), expected, atol=1e-6)
    for actual, weight in zip(layer.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_allclose(actual, weight, rtol=1e-6)


@pytest.mark.parametrize("shift", [0.0, 30.0])
@pytest.mark.parametrize(
    "virtual_batch_size, dtype", [(None, "float64"), (2, "float64"), (2, "mixed_bfloat16")]
)
def test_the_gradient_equals_that_of_keras(virtual_batch_size, dtype, shift):
    """Compares the gradients with those of separate Keras layers, one layer for each virtual batch.

    The gradients of gamma and beta are summed over these layers.
    """
    rng = np.random.default_rng(3)
    x, upstream = rng.normal(shift, 3.0, (6, 4, 5, 3)), rng.normal(0.3, 1.0, (6, 4, 5, 3))
    half = dtype != "float64"
    x, upstream = round_to((x, upstream), tf.bfloat16 if half else tf.float64)

    def gradients(layer, images):
        layer.build((6, 4, 5, 3))
        layer.gamma.assign([1.0, 2.0, -3.0])
        layer.beta.assign([0.5, 0.0, -1.0])
        inputs = tf.constant(x[images], layer.compute_dtype)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = layer(inputs, training=True)
        sources = [inputs, layer.gamma.value, layer.beta.value]
        return tape.gradient(y, sources, tf.constant(upstream[images], layer.compute_dtype))

    layer = models.GhostBatchNormalization(virtual_batch_size, dtype=dtype)
    actual = gradients(layer, slice(None))
    assert actual[0].dtype == ("bfloat16" if half else "float64")
    size = virtual_batch_size or 6
    parts = [
        gradients(keras.layers.BatchNormalization(dtype="float64"), slice(i, i + size))
        for i in range(0, 6, size)
    ]
    expected = [np.concatenate([part[0] for part in parts])]
    expected += [sum(np.array(part[k]) for part in parts) for k in (1, 2)]
    for result, reference in zip(actual, expected, strict=True):
        assert relative_error(result, reference) < (2e-2 if half else 1e-9)


class NormSwishSqueeze(keras.Layer):
    """Normalizes, applies swish and averages over positions with separate layers of Keras."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = keras.layers.BatchNormalization(dtype=kwargs["dtype"])

    def build(self, shape):
        self.norm.build(shape)
        self.gamma, self.beta = self.norm.gamma, self.norm.beta

    def call(self, x, training):
        y = keras.ops.silu(self.norm(x, training=training))
        return y, keras.ops.mean(y, axis=(1, 2))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", ["float64", "mixed_bfloat16"])
@pytest.mark.parametrize("virtual_batch_size", [None, 2])
def test_a_fused_squeeze_equals_three_layers_of_keras(virtual_batch_size, dtype, training):
    """The loss multiplies two outputs; each output then affects the gradient of the other one."""
    rng = np.random.default_rng(5)
    x, upstream = rng.normal(1.0, 3.0, (6, 4, 5, 3)), rng.normal(0.3, 1.0, (6, 4, 5, 3))
    half = dtype != "float64"
    x, upstream = round_to((x, upstream), "bfloat16" if half else "float64")

    def outputs_and_gradients(layer, images):
        layer.build((6, 4, 5, 3))
        layer.gamma.assign([1.0, 2.0, -3.0])
        layer.beta.assign([0.5, 0.0, -1.0])
        inputs = tf.constant(x[images], layer.compute_dtype)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y, means = layer(inputs, training=training)
            excited = y * tf.sigmoid(3.0 * means)[:, None, None]
        sources = [inputs, layer.gamma.value, layer.beta.value]
        output_gradient = tf.constant(upstream[images], layer.compute_dtype)
        return [y, means], tape.gradient(excited, sources, output_gradient)

    layer = models.GhostBatchNormalization(virtual_batch_size, fuse_squeeze=True, dtype=dtype)
    outputs, gradients = outputs_and_gradients(layer, slice(None))
    assert [tuple(v.shape) for v in outputs] == list(layer.compute_output_shape(x.shape))
    assert {v.dtype.name for v in outputs} == {"bfloat16" if half else "float64"}
    size = virtual_batch_size or 6
    parts = [
        outputs_and_gradients(NormSwishSqueeze(dtype="float64"), slice(i, i + size))
        for i in range(0, 6, size)
    ]
    expected = [np.concatenate([part[0][k] for part in parts]) for k in (0, 1)]
    expected.append(np.concatenate([part[1][0] for part in parts]))
    expected += [sum(np.array(part[1][k]) for part in parts) for k in (1, 2)]
    for result, reference in zip([*outputs, *gradients], expected, strict=True):
        assert relative_error(result, reference) < (2e-2 if half else 1e-9)


def test_the_gradient_needs_only_the_input_of_the_layer():
    layer = models.GhostBatchNormalization(2)
    layer.build((6, 8, 8, 16))

    @tf.function(autograph=False)
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return tape.gradient(y, x, y)

    graph = gradient.get_concrete_function(tf.TensorSpec((6, 8, 8, 16))).graph.as_graph_def()
    # Automatic differentiation of squares, roots and quotients would add nodes with these names.
    assert not [n.name for n in graph.node if "gradient_tape" in n.name and "moments" in n.name]


def test_a_batch_that_is_not_a_multiple_of_the_virtual_batch_is_refused():
    layer, _, x = norm_layers(virtual_batch_size=4)
    with pytest.raises(ValueError, match="multiple of virtual_batch_size=4. Received: 6"):
        layer(x, training=True)
