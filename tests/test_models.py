"""The towers by hand at small sizes, and batch norm in groups.

The published sizes of the image tower are in test_efficientnet.py.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_mural import models

TINY = dict(name="tiny", image_size=32, stochastic_depth=0.0)
NANO = dict(name="nano", vocabulary_size=20, max_tokens=8, dropout=0.0)


def layers_of(model):
    """{name: layer} of a model and the models in it."""
    return {layer.name: layer for layer in model._flatten_layers()}


def drop_rates(tower):
    """Rates of stochastic depth, sorted."""
    drops = [x for x in tower._flatten_layers() if isinstance(x, keras.layers.Dropout)]
    return sorted(layer.rate for layer in drops if layer.noise_shape)


def pixels(rows, size=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (rows, size, size, 3)).astype("float32")


# --- the image tower ------------------------------------------------------------------------------


def test_tiny_has_the_widths_and_grid_of_its_table():
    tower = models.image_tower(**TINY, embedding_dim=16)
    shapes = [stage.output_shape for stage in models.remat_blocks(tower)]
    # The stem and three of the four stages halve 32.
    assert shapes == [(None, 8, 8, 16), (None, 8, 8, 24), (None, 4, 4, 48), (None, 2, 2, 96)]
    assert tower.output_shape == (None, 16)
    assert drop_rates(tower) == []


def test_pixels_are_scaled_and_positions_averaged():
    tower = models.image_tower(**TINY, embedding_dim=96)
    images = pixels(2)
    features = images / 127.5 - 1.0
    for stage in models.remat_blocks(tower):
        features = stage(features)
    np.testing.assert_allclose(tower(images), np.asarray(features).mean(axis=(1, 2)), atol=1e-5)


# --- batch norm -----------------------------------------------------------------------------------


def norm_layers(group):
    """Our layer and Keras' own with the same weights, and an input of 6 images."""
    ours = models.GhostBatchNormalization(group, momentum=0.8)
    keras_own = keras.layers.BatchNormalization(momentum=0.8)
    values = [[1.0, 2.0, 3.0], [0.5, 0.0, -1.0], [0.1, 0.2, 0.3], [1.0, 1.5, 2.0]]
    for layer in (ours, keras_own):
        layer.build((6, 4, 5, 3))
        layer.set_weights([np.array(value, "float32") for value in values])
    x = np.random.default_rng(1).normal(2.0, 3.0, (6, 4, 5, 3))
    return ours, keras_own, x.astype("float32")


def test_groups_equal_a_loop_over_groups():
    layer, _, x = norm_layers(group=2)
    found = np.asarray(layer(x, training=True))
    gamma, beta = np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.0, -1.0])
    means, variances = [], []
    for start in (0, 2, 4):
        part = x[start : start + 2].astype(np.float64)
        means.append(part.mean(axis=(0, 1, 2)))
        variances.append(part.var(axis=(0, 1, 2)))
        expected = (part - means[-1]) / np.sqrt(variances[-1] + 1e-3) * gamma + beta
        np.testing.assert_allclose(found[start : start + 2], expected, atol=1e-5)
    mean = 0.8 * np.array([0.1, 0.2, 0.3]) + 0.2 * np.mean(means, axis=0)
    variance = 0.8 * np.array([1.0, 1.5, 2.0]) + 0.2 * np.mean(variances, axis=0)
    np.testing.assert_allclose(layer.moving_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-5)


@pytest.mark.parametrize("group, training", [(None, True), (6, True), (None, False), (2, False)])
def test_without_groups_it_is_keras_own(group, training):
    layer, own, x = norm_layers(group)
    np.testing.assert_allclose(layer(x, training=training), own(x, training=training), atol=1e-6)
    for ours, theirs in zip(layer.get_weights(), own.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("shift", [0.0, 30.0])
@pytest.mark.parametrize("group, dtype", [(None, "float64"), (2, "float64"), (2, "mixed_bfloat16")])
def test_the_gradient_is_that_of_the_layers_of_keras(group, dtype, shift):
    """One layer of Keras for each group, and the sum of what they say of gamma and beta."""
    rng = np.random.default_rng(3)
    x, upstream = rng.normal(shift, 3.0, (6, 4, 5, 3)), rng.normal(0.3, 1.0, (6, 4, 5, 3))
    gamma, beta = np.array([1.0, 2.0, -3.0]), np.array([0.5, 0.0, -1.0])
    half = dtype != "float64"
    x, upstream = (
        np.array(tf.cast(a, tf.bfloat16 if half else tf.float64), "f8") for a in (x, upstream)
    )

    def gradients(layer, rows):
        layer.build((6, 4, 5, 3))
        layer.gamma.assign(gamma)
        layer.beta.assign(beta)
        inputs = tf.constant(x[rows], layer.compute_dtype)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = layer(inputs, training=True)
        wanted = [inputs, layer.gamma.value, layer.beta.value]
        return tape.gradient(y, wanted, tf.constant(upstream[rows], layer.compute_dtype))

    found = gradients(models.GhostBatchNormalization(group, dtype=dtype), slice(None))
    assert found[0].dtype == ("bfloat16" if half else "float64")
    parts = [slice(None)] if group is None else [slice(i, i + group) for i in range(0, 6, group)]
    each = [gradients(keras.layers.BatchNormalization(dtype="float64"), part) for part in parts]
    expected = [np.concatenate([part[0] for part in each])]
    expected += [sum(np.array(part[k]) for part in each) for k in (1, 2)]
    for ours, theirs in zip(found, expected, strict=True):
        error = np.linalg.norm(np.array(ours, "f8") - theirs) / np.linalg.norm(theirs)
        assert error < (2e-2 if half else 1e-9), error


class NormAndSwish(keras.Layer):
    """Normalises, applies swish and averages over positions, layer by layer of Keras."""

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
@pytest.mark.parametrize("group", [None, 2])
def test_a_batch_norm_that_squeezes_is_three_layers_of_keras(group, dtype, training):
    """Excited by what is squeezed, so that each result has a say in the gradient of the other."""
    rng = np.random.default_rng(5)
    x, upstream = rng.normal(1.0, 3.0, (6, 4, 5, 3)), rng.normal(0.3, 1.0, (6, 4, 5, 3))
    half = dtype != "float64"
    x, upstream = (
        np.array(tf.cast(a, "bfloat16" if half else "float64"), "f8") for a in (x, upstream)
    )

    def outcome(layer, rows):
        layer.build((6, 4, 5, 3))
        layer.gamma.assign([1.0, 2.0, -3.0])
        layer.beta.assign([0.5, 0.0, -1.0])
        inputs = tf.constant(x[rows], layer.compute_dtype)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y, means = layer(inputs, training=training)
            excited = y * tf.sigmoid(3.0 * means)[:, None, None]
        wanted = [inputs, layer.gamma.value, layer.beta.value]
        given = tf.constant(upstream[rows], layer.compute_dtype)
        return [y, means], tape.gradient(excited, wanted, given)

    layer = models.GhostBatchNormalization(group, fuse_squeeze=True, dtype=dtype)
    values, found = outcome(layer, slice(None))
    assert [tuple(v.shape) for v in values] == list(layer.compute_output_shape(x.shape))
    assert {v.dtype.name for v in values} == {"bfloat16" if half else "float64"}
    size = group or 6
    each = [outcome(NormAndSwish(dtype="float64"), slice(i, i + size)) for i in range(0, 6, size)]
    expected = [np.concatenate([part[0][k] for part in each]) for k in (0, 1)]
    expected.append(np.concatenate([part[1][0] for part in each]))
    expected += [sum(np.array(part[1][k]) for part in each) for k in (1, 2)]
    for ours, theirs in zip([*values, *found], expected, strict=True):
        error = np.linalg.norm(np.array(ours, "f8") - theirs) / np.linalg.norm(theirs)
        assert error < (2e-2 if half else 1e-9), error


def test_the_gradient_of_the_tower_is_that_of_the_blocks_of_kerashub(monkeypatch):
    """Every block's batch norm squeezes; the layers that KerasHub calls one by one say the same."""

    def gradients():
        keras.utils.set_random_seed(3)
        tower = models.image_tower(
            **TINY, embedding_dim=16, virtual_batch_size=2, batch_norm_momentum=0.9
        )
        with tf.GradientTape() as tape:
            y = tower(pixels(4), training=True)
            loss = tf.reduce_sum(y * np.random.default_rng(1).normal(size=y.shape))
        norms = [x for x in layers_of(tower).values() if getattr(x, "fuse_squeeze", False)]
        weights = tower.trainable_weights
        found = tape.gradient(loss, [w.value for w in weights])
        moving = [np.array(w) for w in tower.non_trainable_weights if "moving" in w.path]
        return len(norms), [w.path for w in weights], found, moving

    def as_it_is(backbone, average):
        found = {x.name: x.input for x in backbone.layers if x.name.endswith("expand_conv")}
        return backbone, {**found, "top_conv": backbone.get_layer("top_conv").input}

    keras.config.set_dtype_policy("float64")
    try:
        squeezing, paths, found, moving = gradients()
        monkeypatch.setattr("tf_mural.models.image_encoder.fuse_squeeze_excite", as_it_is)
        plain, plain_paths, expected, expected_moving = gradients()
    finally:
        keras.config.set_dtype_policy("float32")
    assert (squeezing, plain) == (5, 0) and paths == plain_paths
    for ours, theirs in zip([*found, *moving], [*expected, *expected_moving], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-10)


def test_batch_norm_keeps_its_input_alone_for_the_gradient():
    layer = models.GhostBatchNormalization(2)
    layer.build((6, 8, 8, 16))

    @tf.function(autograph=False)
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return tape.gradient(y, x, y)

    graph = gradient.get_concrete_function(tf.TensorSpec((6, 8, 8, 16))).graph.as_graph_def()
    # The derivative of squares, roots and quotients would be nodes of these names.
    assert not [n.name for n in graph.node if "gradient_tape" in n.name and "moments" in n.name]


def test_a_batch_that_does_not_divide_is_refused():
    layer, _, x = norm_layers(group=4)
    with pytest.raises(ValueError, match="multiple of virtual_batch_size=4. Received: 6"):
        layer(x, training=True)


def test_the_original_layer_comes_back():
    original = keras.layers.BatchNormalization
    with models.ghost_batch_norm_scope(4, 0.9):
        layer = keras.layers.BatchNormalization(epsilon=1e-2, momentum=0.5)
        assert (layer.virtual_batch_size, layer.momentum, layer.epsilon) == (4, 0.9, 1e-2)
    assert keras.layers.BatchNormalization is original
    with pytest.raises(RuntimeError), models.ghost_batch_norm_scope(4, 0.9):
        raise RuntimeError
    assert keras.layers.BatchNormalization is original


# --- the text tower -------------------------------------------------------------------------------

TOKENS = np.array([[2, 7, 9, 3, 0, 0], [2, 8, 3, 0, 0, 0]], "int32")


def test_the_embedding_is_a_projection_of_cls():
    tower = models.text_tower(**NANO, embedding_dim=16)
    sequence = next(x for x in tower.layers if isinstance(x, keras.Model))
    mask = (TOKENS > 0).astype("int32")
    hidden = sequence({"token_ids": TOKENS, "padding_mask": mask, "segment_ids": 0 * TOKENS})
    kernel, bias = tower.get_layer("text_projection").get_weights()
    assert kernel.shape == (96, 16)
    np.testing.assert_allclose(tower(TOKENS), np.asarray(hidden)[:, 0] @ kernel + bias, atol=1e-5)
    # The pooler would be a variable without a gradient.
    assert not [v.path for v in tower.variables if "pool" in v.path]


def test_padding_does_not_matter_and_words_and_their_order_do():
    tower = models.text_tower(**NANO, embedding_dim=16)
    rows = np.asarray(tower(TOKENS))
    np.testing.assert_allclose(tower(np.pad(TOKENS, ((0, 0), (0, 2)))), rows, atol=1e-5)
    np.testing.assert_allclose(tower(TOKENS[:, :4]), rows, atol=1e-5)
    swapped = np.asarray(tower(TOKENS[:, [0, 2, 1, 3, 4, 5]]))
    assert np.abs(swapped - rows).max() > 1e-3
    assert np.abs(rows[0] - rows[1]).max() > 1e-3


def test_positions_end_at_max_tokens():
    tower = models.text_tower(**NANO, embedding_dim=16)
    (positions,) = [v for v in tower.variables if "position" in v.path]
    assert tuple(positions.shape) == (8, 96)
    tower(np.ones((1, 8), "int32"))
    with pytest.raises(Exception, match="(?i)size|shape|slice|length"):
        tower(np.ones((1, 9), "int32"))


def test_dropout_is_on_in_training_alone():
    tower = models.text_tower(**{**NANO, "dropout": 0.5}, embedding_dim=16)
    still = [np.asarray(tower(TOKENS, training=False)) for _ in range(2)]
    moving = [np.asarray(tower(TOKENS, training=True)) for _ in range(2)]
    np.testing.assert_array_equal(*still)
    assert np.abs(moving[0] - moving[1]).max() > 1e-2
