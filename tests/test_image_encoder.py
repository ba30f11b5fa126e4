"""The image tower at its published sizes, compared with `keras.applications`.

Weights are copied layer by layer, and the outputs of the last MBConv block are compared. In
`keras.applications`, the output of the last MBConv block is the input of `top_conv`. Initial batch
norm statistics would hide every difference, and random statistics would amplify rounding errors.
Therefore the batch norm statistics are computed from the input image.
"""

import contextlib
import dataclasses
import functools
import re

import keras
import numpy as np
import pytest
from helpers.small_models import TINY_IMAGE, drop_rates, layers_by_name, random_images

from tf_mural import models

# At these image sizes, the inputs of all stride-2 convolutions have an odd height and width. At
# other sizes, KerasHub and `keras.applications` pad differently.
SIZES = {"b0": 225, "b3": 289, "b7": 289}
SIZE_PARAMETERS = ["b0", "b3", pytest.param("b7", marks=pytest.mark.slow)]
# With momentum 0, the moving averages are the statistics of the last batch. Both constants differ
# from the defaults of `image_tower`.
MOMENTUM, VIRTUAL_BATCH_SIZE = 0.0, 1
TOP_PARAMETERS = 640 * 2560 + 4 * 2560  # the top convolution of B7 and its batch norm


@dataclasses.dataclass(repr=False)
class Pair:
    """An image tower and the same network of `keras.applications`, with the same weights.

    Attributes:
        tower: output of `image_tower`.
        features: part of `tower` from pixels in [0, 255] to the last MBConv output.
        reference: network of `keras.applications`.
        reference_features: part of `reference` from pixels in [0, 255] to the last MBConv output.
        pixels: the image from which the batch norm statistics are computed, (1, size, size, 3).
    """

    tower: keras.Model
    features: keras.Model
    reference: keras.Model
    reference_features: keras.Model
    pixels: np.ndarray

    def error(self):
        """Returns the relative L2 distance between the two outputs."""
        actual = np.asarray(self.features(self.pixels, training=False))
        expected = np.asarray(self.reference_features(self.pixels, training=False))
        assert actual.shape == expected.shape and expected.std() > 0.1
        return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


@contextlib.contextmanager
def attribute_set(layers, attribute, value):
    """Context manager: sets an attribute of each layer, and restores the values at the end."""
    original = [getattr(layer, attribute) for layer in layers]
    for layer in layers:
        setattr(layer, attribute, value)
    try:
        yield
    finally:
        for layer, old in zip(layers, original, strict=True):
            setattr(layer, attribute, old)


def reference_name(name):
    """Returns the name in `keras.applications` of a layer of KerasHub."""
    return re.sub("_project$", "_project_conv", name.replace("_dwconv_bn", "_bn"))


def randomize_vectors(model, generator):
    """Sets scales, offsets and biases to random values.

    The initial values 1 and 0 would hide a mix-up of variables.
    """
    for variable in model.trainable_variables:
        if len(variable.shape) == 1:
            mean = 1.0 if variable.path.endswith("gamma") else 0.0
            variable.assign(generator.normal(mean, 0.1, variable.shape))


def copy_weights(source, target):
    """Copies all weights; fails unless both models have the same layers with the same shapes."""
    source_layers = {name: x for name, x in layers_by_name(source).items() if x.weights}
    target_layers = {name: x for name, x in layers_by_name(target).items() if x.weights}
    # With mean 0.5 and variance 0.25, the layer computes (x / 255 - 0.5) / 0.5 = x / 127.5 - 1.
    (name,) = layers_by_name(target, keras.layers.Normalization)
    normalization = target_layers.pop(name)
    normalization.set_weights([np.full(3, 0.5), np.full(3, 0.25), np.array(0)])
    normalization.finalize_state()
    assert {reference_name(name) for name in source_layers} == set(target_layers)
    for name, layer in source_layers.items():
        target_layers[reference_name(name)].set_weights(layer.get_weights())


def make_pair(name, size):
    generator = np.random.default_rng(0)
    tower = models.image_tower(
        name,
        size,
        virtual_batch_size=VIRTUAL_BATCH_SIZE,
        batch_norm_momentum=MOMENTUM,
        stochastic_depth=0.2,
    )
    features = keras.Model(tower.input, tower.get_layer("pool").input)
    pixels = generator.integers(0, 256, (1, size, size, 3)).astype("float32")
    randomize_vectors(features, generator)
    with attribute_set(layers_by_name(tower, keras.layers.Dropout).values(), "rate", 0.0):
        features(pixels, training=True)  # this call sets the batch norm statistics
    reference_class = getattr(keras.applications, f"EfficientNet{name.upper()}")
    reference = reference_class(include_top=False, weights=None, input_shape=(size, size, 3))
    reference_features = keras.Model(reference.input, reference.get_layer("top_conv").input)
    copy_weights(features, reference_features)
    return Pair(tower, features, reference, reference_features, pixels)


@pytest.fixture(scope="module")
def pairs():
    """Returns a callable that maps a key of `SIZES` to a `Pair`; each `Pair` is built once."""
    return functools.cache(lambda name: make_pair(name, SIZES[name]))


# --- the smallest size ----------------------------------------------------------------------------


def test_tiny_has_the_widths_and_resolutions_of_its_config():
    tower = models.image_tower(**TINY_IMAGE, embedding_dim=16)
    shapes = [stage.output_shape for stage in models.remat_blocks(tower)]
    # The stem and three of the four stages halve the resolution of the images, 32 x 32 pixels.
    assert shapes == [(None, 8, 8, 16), (None, 8, 8, 24), (None, 4, 4, 48), (None, 2, 2, 96)]
    assert tower.output_shape == (None, 16)
    assert drop_rates(tower) == []


def test_pixels_are_scaled_and_positions_averaged():
    tower = models.image_tower(**TINY_IMAGE, embedding_dim=96)
    images = random_images(2)
    features = images / 127.5 - 1.0
    for stage in models.remat_blocks(tower):
        features = stage(features)
    np.testing.assert_allclose(tower(images), np.asarray(features).mean(axis=(1, 2)), atol=1e-5)


# --- outputs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIZE_PARAMETERS)
def test_outputs_equal_those_of_keras_applications(pairs, name):
    assert pairs(name).error() < 1e-3


@pytest.mark.parametrize("name", SIZE_PARAMETERS)
def test_another_epsilon_changes_the_output(pairs, name):
    norms = layers_by_name(pairs(name).tower, keras.layers.BatchNormalization).values()
    with attribute_set(norms, "epsilon", 1e-5):  # the default epsilon of KerasHub
        assert pairs(name).error() > 0.1


def test_an_even_image_size_changes_the_output():
    assert make_pair("b0", SIZES["b0"] - 1).error() > 0.1


# --- parameters of each size ----------------------------------------------------------------------


def test_b7_has_the_published_parameters(pairs):
    b7 = pairs("b7")
    assert b7.tower.count_params() + TOP_PARAMETERS == 64_097_680
    # The normalization layer adds 7 numbers: 3 means, 3 variances and a count.
    assert b7.reference.count_params() == 64_097_680 + 7


def test_b7_has_640_features_without_a_projection(pairs):
    tower = pairs("b7").tower
    assert tower.output_shape == (None, 640)
    # The tower has neither a projection nor the top convolution with 2560 filters.
    assert not [v.path for v in tower.variables if "projection" in v.path or "top_" in v.path]
    assert max(v.shape[-1] for v in tower.variables if "project" in v.path) == 640


def test_b3_has_the_published_widths(pairs):
    tower = pairs("b3").tower
    # 16 * 1.2 = 19.2 is rounded to 24, because 16 would be more than 10 % smaller.
    assert layers_by_name(tower)["block1a_project"].kernel.shape[-1] == 24
    assert tower.get_layer("image_projection").kernel.shape == (384, 640)
    assert tower.output_shape == (None, 640)


@pytest.mark.parametrize("name", SIZE_PARAMETERS)
def test_every_batch_norm_is_a_ghost_batch_norm_with_the_published_epsilon(pairs, name):
    norms = layers_by_name(pairs(name).tower, keras.layers.BatchNormalization)
    # There is one batch norm after the stem, and one after each of the three convolutions of a
    # block. Blocks of the first stage have no expansion, and therefore only two batch norms.
    blocks = models.count_blocks(models.EFFICIENTNETS[name])
    first_stage = sum(re.fullmatch("block1._dwconv_bn", layer) is not None for layer in norms)
    assert first_stage == {"b0": 1, "b3": 2, "b7": 4}[name]
    assert len(norms) == 1 + 3 * blocks - first_stage
    for layer in norms.values():
        assert type(layer) is models.GhostBatchNormalization
        assert (layer.virtual_batch_size, layer.momentum, layer.epsilon) == (
            VIRTUAL_BATCH_SIZE,
            MOMENTUM,
            1e-3,
        )


# --- stochastic depth -----------------------------------------------------------------------------


def test_the_drop_rates_of_b7_rise_linearly_to_the_published_end(pairs):
    b7 = pairs("b7")
    # The stages have 3.1 (the depth coefficient) times (1, 2, 2, 3, 3, 4, 1) blocks, rounded up.
    repeats = [4, 7, 7, 10, 10, 13, 4]
    blocks = [f"block{s}{chr(97 + i)}" for s, n in enumerate(repeats, 1) for i in range(n)]
    assert models.count_blocks(models.EFFICIENTNETS["b7"]) == len(blocks) == 55
    drops = layers_by_name(b7.tower, keras.layers.Dropout)
    rates = {name.removesuffix("_drop"): layer.rate for name, layer in drops.items()}
    # Block i (from 0) of 55 blocks has the rate 0.2 i / 55. The first block of each stage has no
    # dropout, because this block is not residual.
    linear = {block: 0.2 * i / 55 for i, block in enumerate(blocks) if not block.endswith("a")}
    assert rates == pytest.approx(linear)
    assert rates["block7d"] == pytest.approx(0.196, abs=5e-4)
    assert "block1a" not in rates
    assert all(layer.noise_shape == (None, 1, 1, 1) for layer in drops.values())
    reference = layers_by_name(b7.reference, keras.layers.Dropout)
    assert {name: layer.rate for name, layer in reference.items()} == pytest.approx(
        {name: layer.rate for name, layer in drops.items()}
    )
