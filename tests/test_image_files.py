"""Tests that TensorFlow correctly decodes every image that the validation accepts."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from helpers.images import encode
from PIL import Image

from tf_mural.data.image_normalization import normalize
from tf_mural.datasets import image_files
from tf_mural.errors import UserError

HEIGHT, WIDTH = 12, 20
IMAGE = Image.fromarray(np.random.default_rng(5).integers(0, 256, (3, 4, 3), np.uint8)).resize(
    (WIDTH, HEIGHT), Image.BICUBIC
)

TRANSLUCENT = IMAGE.copy()
TRANSLUCENT.putalpha(100)


def bitmap(bits, packing=0, header=40):
    """Returns a BMP in a variant that Pillow cannot write."""
    pixels = np.asarray(IMAGE)[::-1].astype(int)
    if bits == 16:
        red, green, blue = (pixels[..., i] >> 3 for i in range(3))
        body = (red << 10 | green << 5 | blue).astype("<u2").tobytes()
    elif bits == 8:  # A `packing` of 1 means run-length encoding; the palette is a gray ramp.
        gray = pixels[..., 0].astype(np.uint8)
        rows = (b"".join(bytes([1, value]) for value in row) + b"\0\0" for row in gray)
        body = b"".join(rows) + b"\0\1" if packing else gray.tobytes()
    else:
        with_alpha = np.concatenate([pixels[..., ::-1], np.full((HEIGHT, WIDTH, 1), 255)], 2)
        body = with_alpha[..., : bits // 8].astype(np.uint8).tobytes()
    entry_size = 3 if header == 12 else 4
    table = (
        b"".join(bytes([i] * 3) + bytes(entry_size - 3) for i in range(256)) if bits == 8 else b""
    )
    if header == 12:
        info = struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, bits)
    else:
        info = struct.pack(
            "<IiiHHIIiiII", header, WIDTH, HEIGHT, 1, bits, packing, len(body), 0, 0, 0, 0
        )
    start = 14 + len(info) + len(table)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + info + table + body


UNCHANGED = {  # images that TensorFlow decodes correctly
    "jpeg": encode(IMAGE, "JPEG"),
    "progressive": encode(IMAGE, "JPEG", progressive=True),
    "cmyk": encode(IMAGE.convert("CMYK"), "JPEG"),
    "several jpegs": encode(
        IMAGE, "MPO", save_all=True, append_images=[Image.new("RGB", (WIDTH, HEIGHT), "red")]
    ),
    "png": encode(IMAGE, "PNG"),
    "png with palette": encode(IMAGE.convert("P"), "PNG"),
    "gif": encode(IMAGE.convert("P"), "GIF"),
    "bmp": encode(IMAGE, "BMP"),
    "gray bmp": encode(IMAGE.convert("L"), "BMP"),
    "bmp of 32 bits": bitmap(32),
}
CONVERTED = {  # images that must be converted to PNG
    "webp": encode(TRANSLUCENT, "WEBP", lossless=True, exact=True),
    "animated webp": encode(
        IMAGE, "WEBP", lossless=True, save_all=True, append_images=[IMAGE.rotate(180)]
    ),
    "bmp with palette": encode(IMAGE.convert("P"), "BMP"),
    "black and white bmp": encode(IMAGE.convert("1"), "BMP"),
    "bmp of 16 bits": bitmap(16),
    "packed bmp": bitmap(8, packing=1),
    "old bmp": bitmap(8, header=12),
    # The first pixels have the same bytes as the corresponding fields of a longer BMP header.
    "ambiguous old bmp": (old := bitmap(24, header=12))[:28] + b"\x18" + bytes(5) + old[34:],
    "gif without its end": encode(IMAGE.convert("P"), "GIF")[:-2],
}


def pixels(data):
    with Image.open(io.BytesIO(data)) as image:
        white = Image.new("RGBA", image.size, "white")
        flat = Image.alpha_composite(white, image.convert("RGBA"))
        return np.asarray(flat.convert("RGB")).astype(int)


@pytest.mark.parametrize("name", [*UNCHANGED, *CONVERTED])
def test_validation_does_not_change_images(name):
    data = {**UNCHANGED, **CONVERTED}[name]
    assert image_files.validate_image(data) == (data, None)


@pytest.mark.parametrize("name", UNCHANGED)
def test_images_that_tensorflow_decodes_stay_unchanged(name):
    assert normalize(UNCHANGED[name]) == (UNCHANGED[name], ())


@pytest.mark.parametrize("name", CONVERTED)
def test_other_images_become_pngs_with_the_same_pixels(name):
    data, changes = normalize(CONVERTED[name])
    assert len(changes) == 1 and Image.open(io.BytesIO(data)).format == "PNG"
    np.testing.assert_array_equal(pixels(data), pixels(CONVERTED[name]))
    assert len(np.unique(pixels(data))) > 1


def test_tensorflow_decodes_every_accepted_image_to_its_pixels():
    import tensorflow as tf

    from tf_mural.data import image_ops

    for name, data in {**UNCHANGED, **CONVERTED}.items():
        validated, _ = normalize(data)
        difference = np.abs(image_ops.decode(validated).numpy().astype(int) - pixels(data)).max()
        assert difference <= (4 if validated[:2] == b"\xff\xd8" else 0), name
        if name in CONVERTED:
            try:
                actual = image_ops.decode(data).numpy().astype(int)
            except tf.errors.InvalidArgumentError:
                continue
            # Only images that TensorFlow decodes to wrong pixels need a conversion to PNG.
            assert np.abs(actual - pixels(data)).max() > 10, name


@pytest.mark.parametrize("name", ["png", "jpeg", "gif", "bmp", "webp"])
def test_truncated_images_are_refused(name):
    data = {**UNCHANGED, **CONVERTED}[name]
    removed = {1, 2, 4, 8, 12, 13, 20, 30, len(data) // 2, len(data) - 1, len(data)}
    refused = (None, "image does not decode")
    accepted = {n for n in removed if image_files.validate_image(data[:-n]) != refused}
    # A GIF decodes without its last one or two bytes. The last byte of the WebP is padding.
    assert accepted <= {"gif": {1, 2}, "webp": {1}}.get(name, set())
    for n in accepted:
        validated, _ = normalize(data[:-n])
        np.testing.assert_array_equal(pixels(validated), pixels(data))


def test_a_png_with_a_wrong_checksum_is_refused():
    data = bytearray(UNCHANGED["png"])
    start = data.index(b"IDAT")
    size = int.from_bytes(data[start - 4 : start])
    data[start + 4 + size] ^= 1
    assert image_files.validate_image(bytes(data)) == (None, "image does not decode")


def test_other_data_and_formats_are_refused():
    assert image_files.validate_image(b"") == (None, "image does not decode")
    reason = "image format is none of JPEG, PNG, GIF, BMP, WebP"
    assert image_files.validate_image(encode(IMAGE, "TIFF")) == (None, reason)


SIZES = {  # offset and struct format of the image size in the header
    "jpeg": (UNCHANGED["jpeg"].index(b"\xff\xc0") + 5, ">HH"),
    "png": (16, ">II"),
    "gif": (6, "<HH"),
    "bmp": (18, "<ii"),
}


@pytest.mark.parametrize("name", SIZES)
def test_images_with_huge_sizes_in_the_header_are_refused(name):
    data, (offset, layout) = bytearray(UNCHANGED[name]), SIZES[name]
    struct.pack_into(layout, data, offset, 60_000, 60_000)
    if name == "png":
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert image_files.validate_image(bytes(data)) == (None, "image too large")


def test_only_files_inside_of_the_folder_are_loaded(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(UNCHANGED["png"])
    (tmp_path / "b").mkdir()
    assert image_files.load_image(tmp_path, "a.png", "row 1") == (UNCHANGED["png"], None)
    assert image_files.load_image(tmp_path, "b/../a.png", "row 1") == (UNCHANGED["png"], None)
    for name in ("b", "c.png", "a\0.png"):
        assert image_files.load_image(tmp_path, name, "row 1") == (None, "image missing")
    for name in ("../a.png", "/etc/passwd", "b/../../a.png"):
        with pytest.raises(UserError, match=f"^row 1: the image {name!r} lies outside .*; set im"):
            image_files.load_image(tmp_path, name, "row 1")
    with open(tmp_path / "huge.png", "wb") as file:
        file.truncate(1 << 42)  # more bytes than fit into memory
    assert image_files.load_image(tmp_path, "huge.png", "row 1") == (None, "image too large")
    monkeypatch.setattr(image_files, "MAX_BYTES", len(UNCHANGED["png"]) - 1)
    assert image_files.validate_image(UNCHANGED["png"]) == (None, "image too large")
