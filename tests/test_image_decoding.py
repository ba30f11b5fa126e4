"""Tests the decoding of image files in the graph of a SavedModel."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import shared_inputs
from helpers.image_cases import (
    PHOTO,
    composite,
    plain_files,
    png16,
    tensorflow_pixels,
    with_alpha,
    with_exif,
)
from helpers.images import encode, random_pixels
from helpers.shared_inputs import ROTATIONS
from PIL import Image

from tf_mural.data import image_normalization
from tf_mural.export.image_decoding import LIMITS, decode_upright


@pytest.fixture(scope="module")
def decode():
    """Returns `decode_upright` as a graph function that takes bytes and returns an int array."""
    function = tf.function(decode_upright, input_signature=[tf.TensorSpec((), tf.string)])
    return lambda data: function(data).numpy().astype(int)


@pytest.mark.parametrize("name", [name for name in ROTATIONS if not name.endswith("webp")])
def test_rotated_examples_become_upright(decode, name):
    folder = shared_inputs.inputs("06_orientation")
    expected = shared_inputs.pixels(f"{folder}/expected.png")
    actual = decode(shared_inputs.read(f"{folder}/{name}"))
    assert np.abs(actual - expected).mean() <= 2


@pytest.mark.parametrize("name", ["rgba.png", "la.png", "palette.png", "grey.png", "half.png"])
def test_transparency_of_the_examples_becomes_white(decode, name):
    folder = shared_inputs.inputs("05_transparency")
    expected = "expected_half.png" if name == "half.png" else "expected.png"
    difference = decode(shared_inputs.read(f"{folder}/{name}")) - shared_inputs.pixels(
        f"{folder}/{expected}"
    )
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_orientations_are_applied_as_pillow_applies_them(decode, orientation):
    for format, options in (("JPEG", {"quality": 95}), ("PNG", {}), ("MPO", {})):
        data = with_exif(orientation, format=format, **options)
        expected = tensorflow_pixels(image_normalization.normalize(data, lossless=True).data)
        assert np.abs(decode(data) - expected).mean() <= 1.5
    odd = with_exif(orientation, Image.fromarray(random_pixels(height=7, width=13)), "PNG")
    expected = tensorflow_pixels(image_normalization.normalize(odd).data)
    np.testing.assert_array_equal(decode(odd), expected)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_and_alpha_channels_are_read(decode, channels):
    array = np.random.default_rng(channels).integers(0, 1 << 16, (9, 11, channels), np.uint16)
    high = (array >> 8).astype(np.uint8)
    colors = np.repeat(high[..., :1], 3, 2) if channels < 3 else high[..., :3]
    alpha = high[..., -1:] if channels in (2, 4) else np.full_like(high[..., :1], 255)
    expected = composite(np.concatenate([colors, alpha], 2))
    assert np.abs(decode(png16(array)) - expected).max() <= 1


def test_the_background_is_an_argument():
    rgba = with_alpha()
    actual = decode_upright(encode(rgba), (10, 200, 30)).numpy().astype(int)
    assert np.abs(actual - composite(rgba, (10, 200, 30))).max() <= 1


def test_plain_files_are_decoded_as_in_training(decode):
    files = dict(plain_files())
    files |= {"gif": encode(PHOTO.convert("P"), "GIF"), "bmp": encode(PHOTO, "BMP")}
    for name, data in files.items():
        np.testing.assert_array_equal(decode(data), tensorflow_pixels(data), name)


def test_damaged_exif_data_are_ignored_and_damaged_files_are_errors(decode):
    jpeg = encode(PHOTO, "JPEG")
    for exif in (b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"):
        marker = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big")
        data = jpeg[:2] + marker + exif + jpeg[2:]
        np.testing.assert_array_equal(decode(data), tensorflow_pixels(jpeg))
    for data in (b"", b"no image", with_exif(6)[:100], encode(with_alpha())[:60]):
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode(data)


def test_what_the_graph_cannot_read_is_named(decode):
    bare = shared_inputs.inputs("07_inks") + "/bare_cmyk_turned.jpg"
    expected = shared_inputs.pixels(shared_inputs.inputs("07_inks") + "/expected.png")
    assert np.abs(decode(shared_inputs.read(bare)) - expected).mean() > 100
    for word in ("WebP", "GIF", "BMP", "XMP", "CMYK"):
        assert word in LIMITS
