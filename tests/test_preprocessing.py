"""Tests `Preprocessing`: validation, stored forms, and resizing that equals Pillow's."""

import json

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from helpers import shared_inputs
from helpers.images import blurred_noise, encode, random_pixels
from PIL import Image

from tf_mural import models
from tf_mural.data import image_ops
from tf_mural.data.preprocessing import METHODS, Preprocessing
from tf_mural.errors import UserError
from tf_mural.models.model_configs import efficientnet_config

PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
IMAGENET = {"scale": 1 / 255, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def share_within(actual, expected, levels=1):
    """Returns the share of values that differ by at most `levels`."""
    difference = np.abs(np.asarray(actual).astype(int) - np.asarray(expected).astype(int))
    return (difference <= levels).mean()


@pytest.mark.parametrize("size", [64, 224])
@pytest.mark.parametrize("method", PILLOW)
def test_antialiased_resizing_of_the_example_equals_pillow(method, size):
    folder = shared_inputs.inputs("11_resizing")
    image = tf.constant(shared_inputs.pixels(f"{folder}/photograph.png"), tf.uint8)
    expected = np.load(f"{folder}/{method}_{size}.npy")
    preprocessing = Preprocessing(size, size, method=method, antialias=True)
    assert share_within(image_ops.resize_for(image, preprocessing), expected) >= 0.99
    # Without antialiasing, most pixels differ.
    without = Preprocessing(size, size, method=method)
    assert share_within(image_ops.resize_for(image, without), expected) < 0.6


@pytest.mark.parametrize("method", PILLOW)
@pytest.mark.parametrize("shape", [(97, 61), (300, 40), (31, 33)])
def test_antialiased_resizing_of_other_sizes_equals_pillow(method, shape):
    noise = random_pixels(height=shape[0], width=shape[1]).astype(int) % 64
    image = Image.fromarray(
        (np.asarray(blurred_noise(2, shape[1], shape[0])) * 0.75 + noise).astype(np.uint8)
    )
    expected = image.resize((48, 48), PILLOW[method])
    actual = image_ops.resize(np.asarray(image), 48, method, antialias=True)
    assert share_within(actual, expected) >= 0.99


def test_the_default_is_the_plain_bilinear_resizing_of_tensorflow_bit_for_bit():
    image = random_pixels(height=91, width=130)
    expected = tf.image.resize(image, (40, 40), method="bilinear", antialias=False)
    expected = tf.cast(tf.round(expected), tf.uint8)
    np.testing.assert_array_equal(image_ops.resize_for(image, Preprocessing(40, 32)), expected)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_white_and_black(method):
    edges = np.repeat([0, 255] * 20, 2)[:, None, None].astype(np.uint8)
    image = np.tile(edges, (1, 70, 3))
    for antialias in (False, True):
        actual = image_ops.resize(image, 53, method, antialias).numpy()
        assert actual.dtype == np.uint8 and actual.shape == (53, 53, 3)
        white = image_ops.resize(np.full((70, 80, 3), 255, np.uint8), 53, method, antialias)
        assert white.numpy().min() >= 254


def test_evaluation_resizes_and_crops_in_the_middle():
    image = np.asarray(blurred_noise(1, 90, 70))
    preprocessing = Preprocessing(40, 32, method="bicubic", antialias=True)
    expected = image_ops.resize(image, 40, "bicubic", True)[4:36, 4:36]
    actual = image_ops.preprocess_for_evaluation(encode(image), preprocessing)
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("shape", [(90, 61), (61, 90), (47, 47), (40, 200), (40, 40)])
def test_the_aspect_ratio_is_kept_as_by_pillow(shape):
    image = np.asarray(blurred_noise(3, shape[1], shape[0]))
    preprocessing = Preprocessing(40, 32, "bicubic", True, keep_aspect_ratio=True)
    long = int(40 * max(shape) / min(shape))
    size = (40, long) if shape[0] >= shape[1] else (long, 40)  # (width, height)
    expected = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    actual = image_ops.resize_for(image, preprocessing)
    assert actual.shape == expected.shape and share_within(actual, expected) >= 0.99
    top, left = (expected.shape[0] - 32) // 2, (expected.shape[1] - 32) // 2
    cropped = image_ops.preprocess_pixels(image, preprocessing)
    assert share_within(cropped, expected[top : top + 32, left : left + 32]) >= 0.99
    seed = tf.constant([1, 2])
    assert image_ops.random_crop(actual, 32, seed).shape == (32, 32, 3)


def test_another_size_keeps_the_ratio_of_resize_and_crop():
    preprocessing = Preprocessing(256, 224, "bicubic", mean=0.5).with_size(448)
    assert preprocessing == Preprocessing(512, 448, "bicubic", mean=0.5)


def test_plain_data_round_trip():
    options = {**IMAGENET, "padding": "end", "keep_aspect_ratio": True}
    preprocessing = Preprocessing(256, 224, "bicubic", True, "black", **options)
    stored = json.loads(json.dumps(preprocessing.to_json()))
    assert Preprocessing.from_config(stored) == preprocessing
    assert set(preprocessing.changes()) == set(stored) - {"resize", "crop"}
    # Earlier versions of `tf_mural` stored only the sizes.
    assert Preprocessing.from_config({"resize": 72, "crop": 64}) == Preprocessing(72, 64)
    assert Preprocessing(72, 64).changes() == {}
    tower = {"backbone": "tiny", "padding": "end", "scale": None, "mean": [0.5]}
    expected = Preprocessing(72, 64, mean=(0.5,), padding="end")
    assert Preprocessing.from_config({"resize": 72, "crop": 64}, tower) == expected


def test_scale_mean_and_std_give_the_input_of_the_tower():
    default = Preprocessing(8, 8)
    assert (default.input_scale, default.input_offset) == (1 / 127.5, -1.0)
    preprocessing = Preprocessing(8, 8, **IMAGENET)
    pixel = np.array([10.0, 100.0, 250.0])
    expected = (pixel / 255 - np.array(IMAGENET["mean"])) / np.array(IMAGENET["std"])
    actual = pixel * preprocessing.input_scale + preprocessing.input_offset
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_a_tower_scales_its_pixels_as_described():
    def rescaled(**arguments):
        tower = models.image_tower("tiny", 32, 16, **arguments)
        return np.asarray(tower.get_layer("rescale")(pixels))

    pixels = random_pixels(height=32, width=32).astype(np.float32)[None]
    np.testing.assert_array_equal(rescaled(), pixels * np.float32(1 / 127.5) - 1)
    expected = (pixels / 255 - np.array(IMAGENET["mean"])) / np.array(IMAGENET["std"])
    np.testing.assert_allclose(rescaled(**IMAGENET), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"crop": 80}, "crop is 80 and resize is 72, expected 1 <= crop <= resize"),
        ({"method": "bicubik"}, "unknown method of resizing 'bicubik'; known: .* bicubic"),
        ({"padding": "start"}, "unknown padding 'start'; known: symmetric, end"),
        ({"background": "blank"}, "background is 'blank'"),
        ({"mean": (1.0, 2.0)}, "mean has 2 values, expected 1, or 3 for R, G and B"),
        ({"std": (0.0,)}, "std is .*expected values above 0"),
        ({"scale": -1.0}, "scale is -1.0"),
    ],
)
def test_invalid_values_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        Preprocessing(**{"resize": 72, "crop": 64, **values})


def test_a_preset_with_an_unknown_padding_gets_a_warning_with_the_cure(recwarn):
    assert models.resolve_padding(None) == models.resolve_padding("symmetric", "x") == "symmetric"
    assert models.resolve_padding("end", "x") == "end" and not recwarn.list
    with pytest.warns(UserWarning, match="the backbone 'x' does not record .* need padding='end'"):
        assert models.resolve_padding(None, "x") == "symmetric"


def small_efficientnet():
    config = efficientnet_config("tiny")
    return keras_hub.models.EfficientNetBackbone(**config, input_shape=(32, 32, 3))


def test_an_encoder_applies_the_padding_of_its_preprocessing():
    pixels = random_pixels(height=32, width=32).astype(np.float32)[None]

    def encode(padding):
        keras.utils.set_random_seed(0)
        preprocessing = Preprocessing(32, 32, scale=1.0, mean=(0.0,), padding=padding)
        backbone = small_efficientnet()
        encoder = models.ImageEncoder(backbone, 8, preprocessing=preprocessing)
        return backbone, np.asarray(encoder(pixels))

    (backbone, end), (_, symmetric) = encode("end"), encode("symmetric")
    padded = np.asarray(backbone.get_layer("stem_conv_pad")(pixels))
    np.testing.assert_array_equal(padded, np.pad(pixels, [(0, 0), (0, 1), (0, 1), (0, 0)]))
    paddings = {
        layer.name: layer.padding
        for layer in backbone._flatten_layers()
        if isinstance(layer, keras.layers.ZeroPadding2D)
    }
    shapes = models.block_shapes(backbone.get_config())
    strided = {f"{name}_dwconv_pad" for name, shape in shapes.items() if shape[3] == 2}
    changed = {name for name, ((before, after), _) in paddings.items() if before < after}
    assert changed == {"stem_conv_pad", *strided} and len(changed) > 1
    assert np.abs(end - symmetric).max() > 1e-3


def test_an_encoder_around_an_efficientnet_asks_for_its_padding():
    with pytest.warns(UserWarning, match="does not record how its weights were padded"):
        models.ImageEncoder(small_efficientnet(), 8)
    other = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Conv2D(4, 3)])
    with pytest.raises(UserError, match="the padding is 'end', but .* no EfficientNet of KerasHub"):
        models.ImageEncoder(other, 8, preprocessing=Preprocessing(32, 32, padding="end"))
