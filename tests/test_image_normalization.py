"""Tests the normalization of images to upright, opaque 8-bit RGB in files for TensorFlow."""

import io
import struct
import zlib

import numpy as np
import pytest
from helpers import shared_inputs
from helpers.image_cases import (
    PHOTO,
    composite,
    plain_files,
    png16,
    tensorflow_pixels,
    with_alpha,
    with_exif,
    without_adobe,
)
from helpers.images import blurred_noise, encode
from helpers.shared_inputs import ROTATIONS, TRANSPARENT
from PIL import Image, ImageOps

from tf_mural.data import image_headers, image_normalization
from tf_mural.data.image_normalization import (
    AMBIGUOUS_CMYK,
    FLATTENED,
    REENCODED,
    ROTATED,
    UnreadableImage,
    normalize,
    parse_color,
    to_rgb,
)
from tf_mural.errors import UserError

# --- published examples ---------------------------------------------------------------------------


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("name", TRANSPARENT)
def test_transparency_of_the_examples_becomes_white(name, lossless):
    folder = shared_inputs.inputs("05_transparency")
    expected = "expected_half.png" if name == "half.png" else "expected.png"
    data, changes = normalize(shared_inputs.read(f"{folder}/{name}"), lossless=lossless)
    difference = np.abs(tensorflow_pixels(data) - shared_inputs.pixels(f"{folder}/{expected}"))
    assert difference.max() <= 1 and changes == (FLATTENED,)


@pytest.mark.parametrize("name", ROTATIONS)
def test_rotated_examples_become_upright(name):
    folder = shared_inputs.inputs("06_orientation")
    data, changes = normalize(shared_inputs.read(f"{folder}/{name}"))
    expected = shared_inputs.pixels(f"{folder}/expected.png")
    assert np.abs(tensorflow_pixels(data) - expected).mean() <= 2
    assert changes == (() if name == "turned_1.jpg" else (ROTATED,))


@pytest.mark.parametrize("name", ["adobe_cmyk.jpg", "adobe_ycck.jpg", "usual.jpg"])
def test_marked_colors_of_the_examples_stay_unchanged(name):
    folder = shared_inputs.inputs("07_inks")
    data = shared_inputs.read(f"{folder}/{name}")
    assert normalize(data) == (data, ())
    difference = np.abs(tensorflow_pixels(data) - shared_inputs.pixels(f"{folder}/expected.png"))
    assert difference.mean() <= 2


@pytest.mark.parametrize("name", ["bare_cmyk.jpg", "bare_cmyk_turned.jpg", "bare_ycck.jpg"])
def test_examples_of_ambiguous_colors_are_refused_also_as_pillow_images(name):
    path = f"{shared_inputs.inputs('07_inks')}/{name}"
    with pytest.raises(UnreadableImage, match="CMYK JPEG without Adobe's marker"):
        normalize(shared_inputs.read(path))
    with Image.open(path) as image, pytest.raises(UnreadableImage, match="save it as RGB"):
        to_rgb(image)


# --- own examples of the same kinds ---------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("JPEG", {"quality": 95}),
        ("JPEG", {"quality": 90, "progressive": True}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("MPO", {"quality": 95}),
    ],
)
def test_every_orientation_of_every_format_is_followed(format, options, orientation):
    data = with_exif(orientation, format=format, **options)
    with Image.open(io.BytesIO(data)) as image:
        reference = np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int)
    assert np.abs(reference - np.asarray(PHOTO)).mean() < 2  # The stored pixels are correct.
    for lossless in (False, True):
        result = normalize(data, lossless=lossless)
        assert (ROTATED in result.changes) == (orientation > 1)
        difference = np.abs(tensorflow_pixels(result.data) - reference)
        if result.changes:
            assert difference.max() == 0
        else:
            assert difference.mean() <= 1.5
        # A second normalization must not rotate again.
        assert normalize(result.data, lossless=lossless) == (result.data, ())


def test_large_rotated_jpegs_stay_jpegs_unless_lossless():
    photo = blurred_noise(5, 600, 500)
    data = with_exif(6, photo)
    stored = normalize(data).data
    assert stored[:2] == b"\xff\xd8" and normalize(stored) == (stored, ())
    assert np.abs(tensorflow_pixels(stored) - np.asarray(photo)).mean() <= 2
    assert normalize(data, lossless=True).data[:4] == b"\x89PNG"
    assert normalize(with_exif(6)).data[:4] == b"\x89PNG"


def test_a_gray_rotated_jpeg_stays_gray():
    data, changes = normalize(with_exif(8, PHOTO.convert("L")))
    assert changes == (ROTATED,) and Image.open(io.BytesIO(data)).mode == "L"
    difference = tensorflow_pixels(data) - np.asarray(PHOTO.convert("L"))[..., None]
    assert np.abs(difference).mean() <= 2


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", [1, 3])
def test_exif_data_of_both_byte_orders_are_read(order, orientation):
    mark = b"II" if order == "<" else b"MM"
    entries = struct.pack(order + "HHII", 0x010F, 2, 4, 0x616263)
    entries += struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    tiff = mark + struct.pack(order + "HIH", 42, 8, 2) + entries + bytes(4)
    segment = b"Exif\0\0" + tiff
    marker = b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment
    jpeg = encode(PHOTO, "JPEG")
    data = jpeg[:2] + marker + jpeg[2:]
    assert image_headers.decodes_alike(data) == (orientation == 1)
    assert normalize(data).changes == ((ROTATED,) if orientation > 1 else ())


def test_an_orientation_in_xmp_data_is_followed_as_pillow_follows_it():
    xmp = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:tiff='t' tiff:Orientation=\"6\"/>"
    jpeg = encode(PHOTO, "JPEG")
    data = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(xmp) + 2) + xmp + jpeg[2:]
    with Image.open(io.BytesIO(data)) as image:
        assert ImageOps.exif_transpose(image).size == (PHOTO.height, PHOTO.width)
    result = normalize(data)
    assert result.changes == (ROTATED,)
    assert tensorflow_pixels(result.data).shape == (PHOTO.width, PHOTO.height, 3)


def test_an_upright_orientation_in_exif_or_xmp_data_is_decided_by_the_headers():
    def marked(jpeg, orientation):
        xmp = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="%d"/>' % orientation
        return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(xmp) + 2) + xmp + jpeg[2:]

    plain, upright = encode(PHOTO, "JPEG"), with_exif(1)
    assert image_headers.decodes_alike(marked(plain, 1))
    assert not image_headers.decodes_alike(marked(plain, 8))
    # As in Pillow, the orientation in EXIF data has priority over the orientation in XMP data.
    assert image_headers.decodes_alike(marked(upright, 8))
    assert normalize(marked(upright, 8)).changes == ()
    assert not image_headers.decodes_alike(marked(with_exif(3), 1))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("content", [b"", b"garbage", b"II*\0\xff\xff\xff\xff"])
def test_damaged_exif_data_do_not_change_the_pixels(content):
    exif = b"Exif\0\0" + content
    jpeg = encode(PHOTO, "JPEG")
    data = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]
    assert normalize(data) == (data, ())


@pytest.mark.parametrize("color", ["white", "black", "#3366cc"])
@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_partial_transparency_is_composited_on_the_background(format, color):
    rgba = with_alpha()
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    data, changes = normalize(encode(rgba, format, **options), color)
    difference = np.abs(tensorflow_pixels(data) - composite(rgba, parse_color(color)))
    assert difference.max() <= 1 and changes == (FLATTENED,)


def test_transparent_palettes_and_shades_of_all_depths_become_white():
    index = (np.arange(23 * 37) % 256).astype(np.uint8).reshape(23, 37)
    for bits in (1, 2, 4, 8):
        palette = Image.fromarray(index & (1 << bits) - 1, "P")
        palette.putpalette(sum(([i, 255 - i, i // 2] for i in range(1 << bits)), []))
        opacities = bytes([0, 128][: 1 << bits])
        data = encode(palette, bits=bits, transparency=opacities)
        rgba = Image.open(io.BytesIO(data)).convert("RGBA")
        assert np.asarray(rgba)[..., 3].min() == 0
        difference = np.abs(tensorflow_pixels(normalize(data).data) - composite(rgba))
        assert difference.max() <= 1, bits
    black_and_white = Image.fromarray(index % 2 * 255).convert("1")
    data = encode(black_and_white, transparency=0)
    assert (tensorflow_pixels(normalize(data).data) == 255).all()
    color = encode(PHOTO, transparency=PHOTO.getpixel((3, 4)))
    assert tuple(tensorflow_pixels(normalize(color).data)[4, 3]) == (255, 255, 255)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_keep_their_high_byte(channels):
    array = np.random.default_rng(channels).integers(0, 1 << 16, (9, 11, channels), np.uint16)
    data, changes = normalize(png16(array))
    high = (array >> 8).astype(np.uint8)
    colors = np.repeat(high[..., :1], 3, 2) if channels < 3 else high[..., :3]
    if channels in (1, 3):
        assert changes == ()
        expected = colors
    else:
        assert changes == (FLATTENED,)
        expected = composite(np.concatenate([colors, high[..., -1:]], 2))
    assert np.abs(tensorflow_pixels(data) - expected).max() <= 2


@pytest.mark.parametrize("channels", [1, 3])
def test_a_transparent_color_of_16_bits_becomes_white(channels):
    array = np.random.default_rng(1).integers(300, 1 << 16, (9, 11, channels), np.uint16)
    expected = np.repeat(array >> 8, 3 // channels, 2)
    expected[2, 5] = 255
    data, changes = normalize(png16(array, array[2, 5]))
    assert changes == (FLATTENED,)
    np.testing.assert_array_equal(tensorflow_pixels(data), expected)


def test_opaque_alpha_channels_leave_png_files_unchanged():
    for mode in ("RGBA", "LA"):
        data = encode(PHOTO.convert(mode))
        assert normalize(data) == (data, ())
        expected = np.asarray(PHOTO.convert(mode).convert("RGB"))
        np.testing.assert_array_equal(tensorflow_pixels(data), expected)


def test_an_animation_gives_its_first_frame():
    frames = [with_alpha(), with_alpha(PHOTO.transpose(Image.Transpose.ROTATE_180))]
    for format, options in (("WEBP", {"lossless": True, "exact": True}), ("PNG", {})):
        data = encode(frames[0], format, save_all=True, append_images=frames[1:], **options)
        assert Image.open(io.BytesIO(data)).n_frames == 2
        difference = np.abs(tensorflow_pixels(normalize(data).data) - composite(frames[0]))
        assert difference.max() <= 1
    palettes = [frame.convert("RGB").convert("P") for frame in frames]
    for options in ({}, {"transparency": palettes[0].getpixel((0, 0))}):
        data = encode(palettes[0], "GIF", save_all=True, append_images=palettes[1:], **options)
        rgba = Image.open(io.BytesIO(data)).convert("RGBA")
        difference = np.abs(tensorflow_pixels(normalize(data).data) - composite(rgba))
        assert difference.max() <= 1


def test_a_gif_frame_that_is_smaller_than_the_image_keeps_its_place():
    data = bytearray(encode(PHOTO.convert("P"), "GIF"))
    data[6:10] = struct.pack("<HH", 200, 150)
    result = normalize(bytes(data))
    assert result.changes and tensorflow_pixels(result.data).shape == (150, 200, 3)


def test_a_gif_whose_palette_lacks_colors_is_encoded_again():
    data = bytearray(encode(PHOTO.quantize(8), "GIF"))
    assert normalize(bytes(data)) == (data, ())
    assert data[10] & 0x87 == 0x82  # a palette of 8 colors
    data[10] -= 1
    del data[13 + 3 * 4 : 13 + 3 * 8]
    result = normalize(bytes(data))
    assert result.changes == (REENCODED,)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(tensorflow_pixels(result.data), expected)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_a_bmp_with_bytes_after_its_pixels_is_encoded_again(mode):
    image = PHOTO.convert(mode).resize((7, 5))
    data = encode(image, "BMP")
    assert normalize(data) == (data, ())
    result = normalize(data + bytes(2))
    assert result.changes == (REENCODED,)
    np.testing.assert_array_equal(tensorflow_pixels(result.data), tensorflow_pixels(data))


def test_a_cmyk_jpeg_without_adobes_marker_is_refused_in_every_form():
    marked = encode(PHOTO.convert("CMYK"), "JPEG", quality=95)
    assert normalize(marked) == (marked, ())
    assert np.abs(tensorflow_pixels(marked) - np.asarray(PHOTO)).mean() <= 2
    bare = without_adobe(marked)
    with pytest.raises(UnreadableImage) as caught:
        normalize(bare)
    assert str(caught.value) == AMBIGUOUS_CMYK
    # Pixels in memory are not ambiguous: Pillow's mode CMYK defines them.
    rgb, changes = to_rgb(PHOTO.convert("CMYK"))
    assert changes == () and np.abs(np.asarray(rgb).astype(int) - np.asarray(PHOTO)).max() <= 2


def test_a_rotated_cmyk_jpeg_becomes_rgb_and_upright():
    rotated = with_exif(6, PHOTO.convert("CMYK"), quality=95)
    data, changes = normalize(rotated)
    assert changes == (ROTATED,) and Image.open(io.BytesIO(data)).mode == "RGB"
    with Image.open(io.BytesIO(rotated)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int)
    assert np.abs(tensorflow_pixels(data) - expected).mean() <= 2


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr", "HSV"])
def test_pillow_images_of_all_modes_become_rgb(mode):
    image = PHOTO.convert(mode)
    rgb, changes = to_rgb(image)
    assert rgb.mode in ("RGB", "L") and changes == ()
    np.testing.assert_array_equal(np.asarray(rgb.convert("RGB")), np.asarray(image.convert("RGB")))


def test_pillow_images_with_premultiplied_alpha_are_composited():
    rgba = with_alpha()
    rgb, changes = to_rgb(rgba.convert("RGBa"))
    # Premultiplication by alpha rounds the color of each pixel.
    assert changes == (FLATTENED,)
    assert np.abs(np.asarray(rgb) - composite(rgba)).max() <= 2


# --- the decision by headers ----------------------------------------------------------------------


def test_files_that_the_headers_call_plain_have_the_same_pixels_in_tensorflow_and_pillow():
    for name, data in plain_files():
        assert image_headers.decodes_alike(data), name
        assert normalize(data) == (data, ()), name
        with Image.open(io.BytesIO(data)) as image:
            rgb, changes = to_rgb(image)
            expected = np.asarray(rgb.convert("RGB")).astype(int)
        difference = np.abs(tensorflow_pixels(data) - expected)
        assert changes == () and difference.mean() <= 2, name
        if data[:4] == b"\x89PNG":
            assert difference.max() == 0, name


def test_files_that_tensorflow_decodes_wrongly_are_not_called_plain():
    jpeg = encode(PHOTO.convert("CMYK"), "JPEG")
    others = [with_exif(i, format=f) for i in range(2, 9) for f in ("JPEG", "PNG")]
    others += [encode(with_alpha()), encode(PHOTO, transparency=PHOTO.getpixel((0, 0)))]
    others += [without_adobe(jpeg), encode(PHOTO, "WEBP"), encode(PHOTO.convert("P"), "BMP"), b""]
    arithmetic = bytearray(encode(PHOTO, "JPEG"))
    arithmetic[arithmetic.index(b"\xff\xc0") + 1] = 0xC9
    twelve_bits = bytearray(encode(PHOTO, "JPEG"))
    twelve_bits[twelve_bits.index(b"\xff\xc0") + 4] = 12
    for data in [*others, bytes(arithmetic), bytes(twelve_bits)]:
        assert not image_headers.decodes_alike(data)


def test_truncated_headers_are_never_called_plain():
    for data in (with_exif(6), with_exif(6, format="PNG"), encode(PHOTO, "JPEG")):
        scan = data.find(b"\xff\xda") if data[:2] == b"\xff\xd8" else len(data) - 4
        for end in range(0, min(scan, 700), 3):
            assert not image_headers.decodes_alike(data[:end])


# --- refusals -------------------------------------------------------------------------------------


def test_other_formats_and_damaged_files_are_refused():
    with pytest.raises(UnreadableImage, match="image format is none of JPEG, PNG, GIF, BMP, WebP"):
        normalize(encode(PHOTO, "TIFF"))
    with pytest.raises(UnreadableImage, match="image format is none of"):
        normalize(encode(PHOTO.convert("CMYK"), "TIFF"))
    for data in (b"", b"no image", encode(with_alpha())[:-200], with_exif(3)[:300]):
        with pytest.raises(UnreadableImage, match="image does not decode"):
            normalize(data)


def test_a_decompression_bomb_is_refused():
    data = bytearray(encode(with_alpha()))
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    with pytest.raises(UnreadableImage, match="image too large"):
        normalize(bytes(data))


def test_unknown_colors_are_refused():
    assert parse_color("#102030") == (16, 32, 48) and parse_color("white") == (255, 255, 255)
    with pytest.raises(UserError, match="background is 'blank', expected the name of a color"):
        parse_color("blank")


def test_names_of_changes_differ():
    names = {ROTATED, FLATTENED, REENCODED, AMBIGUOUS_CMYK}
    assert len(names) == 4 and image_normalization.FORMATS == ("JPEG", "PNG", "GIF", "BMP", "WebP")
