"""The batch norm of TensorFlow's kernels on CPUs, compared with `GhostBatchNormalization`."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.small_models import TINY_IMAGE, layers_by_name, random_images

from tf_mural import models
from tf_mural.backends import tensorflow as tf_backend
from tf_mural.backends.tensorflow import batch_norm
from tf_mural.errors import UserError


def relative_error(actual, expected):
    actual, expected = np.asarray(actual, "f8"), np.asarray(expected, "f8")
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("fuse_squeeze", [False, True])
@pytest.mark.parametrize("virtual_batch_size", [None, 2, 6])
@pytest.mark.parametrize("shift", [0.0, 30.0])
def test_outputs_gradients_and_moving_averages_are_those_of_the_layer(
    virtual_batch_size, fuse_squeeze, shift
):
    rng = np.random.default_rng(3)
    x, upstream = rng.normal(shift, 3.0, (6, 4, 5, 3)), rng.normal(0.3, 1.0, (6, 4, 5, 3))
    calls = []

    def counted_kernel(*arguments):
        calls.append(arguments)
        return tf_backend.batch_norm_kernel()(*arguments)

    def results(dtype, kernel):
        layer = models.GhostBatchNormalization(
            virtual_batch_size, fuse_squeeze=fuse_squeeze, kernel=kernel, dtype=dtype, momentum=0.8
        )
        layer.build((6, 4, 5, 3))
        layer.gamma.assign([1.0, 2.0, -3.0])
        layer.beta.assign([0.5, 0.0, -1.0])
        inputs = tf.constant(x.astype("float32"), dtype)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = layer(inputs, training=True)
            if fuse_squeeze:  # each output affects the gradient of the other one
                y = y[0] * tf.sigmoid(3.0 * y[1])[:, None, None]
        sources = [inputs, layer.gamma.value, layer.beta.value]
        gradients = tape.gradient(y, sources, tf.constant(upstream.astype("float32"), dtype))
        return [y, *gradients, layer.moving_mean, layer.moving_variance]

    actual = results("float32", counted_kernel)
    expected = results("float64", counted_kernel)  # the kernel is not called in float64
    assert len(calls) == 1
    for result, reference in zip(actual, expected, strict=True):
        assert relative_error(result, reference) < 1e-5


@pytest.mark.parametrize("virtual_batch_size", [None, 2])
def test_the_gradient_of_every_variable_of_a_tower_is_the_same(virtual_batch_size):
    def gradients(mode):
        keras.utils.set_random_seed(3)
        tower = models.image_tower(
            **TINY_IMAGE,
            embedding_dim=16,
            virtual_batch_size=virtual_batch_size,
            batch_norm=mode,
            batch_norm_kernel=tf_backend.batch_norm_kernel(),
        )
        with tf.GradientTape() as tape:
            y = tower(random_images(4), training=True)
            loss = tf.reduce_sum(y * np.random.default_rng(1).normal(size=y.shape))
        values = tape.gradient(loss, [w.value for w in tower.trainable_weights])
        norms = layers_by_name(tower, models.GhostBatchNormalization).values()
        moving = [np.array(w) for w in tower.non_trainable_weights if "moving" in w.path]
        return {norm._kernel is not None for norm in norms}, [np.array(v) for v in values] + moving

    (with_kernel, actual), (without_kernel, expected) = map(gradients, ("auto", "per_image"))
    assert (with_kernel, without_kernel) == ({True}, {False}) and len(actual) > 50
    # Gradients that are zero but for rounding, such as those before a batch norm, get a floor.
    scale = max(np.linalg.norm(value) for value in expected) / np.sqrt(len(expected))
    for result, reference in zip(actual, expected, strict=True):
        floor = max(np.linalg.norm(reference), 1e-3 * scale)
        assert np.linalg.norm(result - reference) / floor < 1e-3


@pytest.mark.parametrize("accelerator, is_used", [(None, True), ("GPU", False), ("TPU", False)])
def test_the_kernel_is_used_only_without_an_accelerator(monkeypatch, accelerator, is_used):
    names = ["CPU"] + ([accelerator] if accelerator else [])
    devices = [tf.config.LogicalDevice(f"/device:{name}:0", name) for name in names]
    monkeypatch.setattr(batch_norm.tf.config, "list_logical_devices", lambda: devices)
    assert (batch_norm.batch_norm_kernel() is not None) == is_used


def test_a_tower_without_a_kernel_and_an_unknown_mode():
    tower = models.image_tower(**TINY_IMAGE, embedding_dim=16)
    norms = layers_by_name(tower, models.GhostBatchNormalization).values()
    assert {norm._kernel for norm in norms} == {None}
    assert tower.get_config()["arguments"]["batch_norm"] == "auto"
    with pytest.raises(UserError, match="unknown batch norm 'fused'; known: auto, per_image"):
        models.image_tower(**TINY_IMAGE, embedding_dim=16, batch_norm="fused")


def test_jax_computes_batch_norm_without_a_kernel():
    pytest.importorskip("jax", reason="JAX is not installed: pip install -r requirements-jax.txt")
    from tf_mural.backends import jax as jax_backend

    assert jax_backend.batch_norm_kernel() is None
