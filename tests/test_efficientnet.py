"""The image tower at its published sizes against `keras.applications`, another code by others.

Weights are copied layer by layer, and outputs compared up to the last MBConv block: what the tower
averages is what goes into `top_conv` there. Fresh batch-norm statistics would hide every difference
and random ones would blow up rounding errors, so the statistics are those of the image itself.
"""

import contextlib
import dataclasses
import functools
import re

import keras
import numpy as np
import pytest

from tf_mural import models

# The sides at which every input of a stride-2 convolution is odd: the paddings differ elsewhere.
SIZES = {"b0": 225, "b3": 289, "b7": 289}
# 0 takes the statistics of the last batch as they are; both differ from what KerasHub would build.
MOMENTUM, GROUP = 0.0, 1
TOP = 640 * 2560 + 4 * 2560  # B7's top convolution and its batch norm


@dataclasses.dataclass(repr=False)
class Pair:
    """Our tower and the same network of `keras.applications`, with the same weights.

    Attributes:
        tower: as `image_tower` gives it.
        ours, theirs: from pixels in 0..255 to the last MBConv output.
        reference: the whole network that `theirs` is a part of.
        pixels: (1, size, size, 3), which the batch-norm statistics are of.
    """

    tower: keras.Model
    ours: keras.Model
    reference: keras.Model
    theirs: keras.Model
    pixels: np.ndarray

    def distance(self):
        """Relative L2 of the two outputs."""
        models_of_both = (self.ours, self.theirs)
        ours, theirs = (np.asarray(m(self.pixels, training=False)) for m in models_of_both)
        assert ours.shape == theirs.shape and theirs.std() > 0.1
        return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def layers_of(model, kind=keras.layers.Layer):
    """{name: layer} of the layers of a kind, those of models inside included."""
    leaves = [layer for layer in model._flatten_layers() if not isinstance(layer, keras.Model)]
    return {layer.name: layer for layer in leaves if isinstance(layer, kind)}


@contextlib.contextmanager
def changed(layers, attribute, value):
    """Inside, an attribute of each layer has another value."""
    before = [getattr(layer, attribute) for layer in layers]
    for layer in layers:
        setattr(layer, attribute, value)
    try:
        yield
    finally:
        for layer, old in zip(layers, before, strict=True):
            setattr(layer, attribute, old)


def name_there(name):
    """What `keras.applications` calls a layer of KerasHub."""
    return re.sub("_project$", "_project_conv", name.replace("_dwconv_bn", "_bn"))


def randomize_vectors(model, generator):
    """New values for scales, offsets and biases, which start at 1 and 0 and would hide a mix-up."""
    for variable in model.trainable_variables:
        if len(variable.shape) == 1:
            start = 1.0 if variable.path.endswith("gamma") else 0.0
            variable.assign(generator.normal(start, 0.1, variable.shape))


def copy_weights(ours, theirs):
    """Copies every weight; raises unless both have the same layers with weights of one shape."""
    weighty = {name: layer for name, layer in layers_of(ours).items() if layer.weights}
    there = {name: layer for name, layer in layers_of(theirs).items() if layer.weights}
    # (x / 255 - 0.5) / 0.5 is our x / 127.5 - 1.
    (name,) = layers_of(theirs, keras.layers.Normalization)
    normalization = there.pop(name)
    normalization.set_weights([np.full(3, 0.5), np.full(3, 0.25), np.array(0)])
    normalization.finalize_state()
    assert {name_there(name) for name in weighty} == set(there)
    for name, layer in weighty.items():
        there[name_there(name)].set_weights(layer.get_weights())


def make_pair(name, size):
    generator = np.random.default_rng(0)
    tower = models.image_tower(
        name, size, virtual_batch_size=GROUP, batch_norm_momentum=MOMENTUM, stochastic_depth=0.2
    )
    ours = keras.Model(tower.input, tower.get_layer("pool").input)
    pixels = generator.integers(0, 256, (1, size, size, 3)).astype("float32")
    randomize_vectors(ours, generator)
    with changed(layers_of(tower, keras.layers.Dropout).values(), "rate", 0.0):
        ours(pixels, training=True)  # leaves the statistics behind
    published = getattr(keras.applications, f"EfficientNet{name.upper()}")
    reference = published(include_top=False, weights=None, input_shape=(size, size, 3))
    theirs = keras.Model(reference.input, reference.get_layer("top_conv").input)
    copy_weights(ours, theirs)
    return Pair(tower, ours, reference, theirs, pixels)


@pytest.fixture(scope="module")
def pairs():
    """Function of a name of `SIZES` to its `Pair`, built once."""
    return functools.cache(lambda name: make_pair(name, SIZES[name]))


# --- outputs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIZES)
def test_outputs_equal_those_of_keras_applications(pairs, name):
    assert pairs(name).distance() < 1e-3


@pytest.mark.parametrize("name", SIZES)
def test_another_epsilon_would_be_seen(pairs, name):
    norms = layers_of(pairs(name).tower, keras.layers.BatchNormalization).values()
    with changed(norms, "epsilon", 1e-5):  # KerasHub's default
        assert pairs(name).distance() > 0.1


def test_an_even_side_would_be_seen():
    assert make_pair("b0", SIZES["b0"] - 1).distance() > 0.1


# --- what each size is made of --------------------------------------------------------------------


def test_b7_has_the_published_parameters(pairs):
    b7 = pairs("b7")
    assert b7.tower.count_params() + TOP == 64_097_680
    # The mean, variance and count of its normalisation are 7 numbers more.
    assert b7.reference.count_params() == 64_097_680 + 7


def test_b7_is_640_wide_by_itself(pairs):
    tower = pairs("b7").tower
    assert tower.output_shape == (None, 640)
    # Neither the projection nor the top convolution, which is 2560 wide.
    assert not [v.path for v in tower.variables if "projection" in v.path or "top_" in v.path]
    assert max(v.shape[-1] for v in tower.variables if "project" in v.path) == 640


def test_b3_has_the_published_widths(pairs):
    tower = pairs("b3").tower
    # 16 * 1.2 = 19.2, which rounds to 24 since 16 would be over 10 % less.
    assert layers_of(tower)["block1a_project"].kernel.shape[-1] == 24
    assert tower.get_layer("image_projection").kernel.shape == (384, 640)
    assert tower.output_shape == (None, 640)


@pytest.mark.parametrize("name", SIZES)
def test_every_batch_norm_is_grouped_and_as_published(pairs, name):
    norms = layers_of(pairs(name).tower, keras.layers.BatchNormalization)
    # One after the stem, and after each of a block's three convolutions; the blocks of the first
    # stage, which do not expand, have two.
    blocks = models.count_blocks(models.EFFICIENTNETS[name])
    first = sum(re.fullmatch("block1._dwconv_bn", layer) is not None for layer in norms)
    assert first == {"b0": 1, "b3": 2, "b7": 4}[name]
    assert len(norms) == 1 + 3 * blocks - first
    for layer in norms.values():
        assert type(layer) is models.GhostBatchNormalization
        assert (layer.virtual_batch_size, layer.momentum, layer.epsilon) == (GROUP, MOMENTUM, 1e-3)


# --- stochastic depth -----------------------------------------------------------------------------


def test_the_drop_rates_of_b7_rise_linearly_to_the_published_end(pairs):
    b7 = pairs("b7")
    # 3.1 times (1, 2, 2, 3, 3, 4, 1) blocks, each rounded up.
    repeats = [4, 7, 7, 10, 10, 13, 4]
    blocks = [f"block{s}{chr(97 + i)}" for s, n in enumerate(repeats, 1) for i in range(n)]
    assert models.count_blocks(models.EFFICIENTNETS["b7"]) == len(blocks) == 55
    drops = layers_of(b7.tower, keras.layers.Dropout)
    rates = {name.removesuffix("_drop"): layer.rate for name, layer in drops.items()}
    # Block i of 55 drops with 0.2 i / 55; the first of a stage, which is no residual, never does.
    linear = {block: 0.2 * i / 55 for i, block in enumerate(blocks) if not block.endswith("a")}
    assert rates == pytest.approx(linear)
    assert rates["block7d"] == pytest.approx(0.196, abs=5e-4)
    assert "block1a" not in rates
    assert all(layer.noise_shape == (None, 1, 1, 1) for layer in drops.values())
    theirs = layers_of(b7.reference, keras.layers.Dropout)
    assert {name: layer.rate for name, layer in theirs.items()} == pytest.approx(
        {name: layer.rate for name, layer in drops.items()}
    )
