"""What is taken for a picture, and that TensorFlow gives its pixels."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from tf_mural.datasets import image_files
from tf_mural.errors import UserError

HEIGHT, WIDTH = 12, 20
SOFT = Image.fromarray(np.random.default_rng(5).integers(0, 256, (3, 4, 3), np.uint8)).resize(
    (WIDTH, HEIGHT), Image.BICUBIC
)

TRANSLUCENT = SOFT.copy()
TRANSLUCENT.putalpha(100)


def encoded(image, format, **how):
    out = io.BytesIO()
    image.save(out, format, **how)
    return out.getvalue()


def bitmap(bits, packing=0, header=40):
    """A BMP as Pillow does not write it."""
    pixels = np.asarray(SOFT)[::-1].astype(int)
    if bits == 16:
        red, green, blue = (pixels[..., i] >> 3 for i in range(3))
        body = (red << 10 | green << 5 | blue).astype("<u2").tobytes()
    elif bits == 8:  # run-length encoded, or plain, of a palette from white to black
        grey = pixels[..., 0].astype(np.uint8)
        rows = (b"".join(bytes([1, value]) for value in row) + b"\0\0" for row in grey)
        body = b"".join(rows) + b"\0\1" if packing else grey.tobytes()
    else:
        filled = np.concatenate([pixels[..., ::-1], np.full((HEIGHT, WIDTH, 1), 255)], 2)
        body = filled[..., : bits // 8].astype(np.uint8).tobytes()
    entry = 3 if header == 12 else 4
    table = b"".join(bytes([i] * 3) + bytes(entry - 3) for i in range(256)) if bits == 8 else b""
    if header == 12:
        info = struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, bits)
    else:
        info = struct.pack(
            "<IiiHHIIiiII", header, WIDTH, HEIGHT, 1, bits, packing, len(body), 0, 0, 0, 0
        )
    start = 14 + len(info) + len(table)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + info + table + body


SAME = {  # taken as they stand
    "jpeg": encoded(SOFT, "JPEG"),
    "progressive": encoded(SOFT, "JPEG", progressive=True),
    "cmyk": encoded(SOFT.convert("CMYK"), "JPEG"),
    "several jpegs": encoded(
        SOFT, "MPO", save_all=True, append_images=[Image.new("RGB", (WIDTH, HEIGHT), "red")]
    ),
    "png": encoded(SOFT, "PNG"),
    "png with palette": encoded(SOFT.convert("P"), "PNG"),
    "gif": encoded(SOFT.convert("P"), "GIF"),
    "bmp": encoded(SOFT, "BMP"),
    "grey bmp": encoded(SOFT.convert("L"), "BMP"),
    "bmp of 32 bits": bitmap(32),
}
ANEW = {  # written as PNG
    "webp": encoded(TRANSLUCENT, "WEBP", lossless=True, exact=True),
    "webp that moves": encoded(
        SOFT, "WEBP", lossless=True, save_all=True, append_images=[SOFT.rotate(180)]
    ),
    "bmp with palette": encoded(SOFT.convert("P"), "BMP"),
    "black and white bmp": encoded(SOFT.convert("1"), "BMP"),
    "bmp of 16 bits": bitmap(16),
    "packed bmp": bitmap(8, packing=1),
    "old bmp": bitmap(8, header=12),
    # Its pixels say what the longer header of a newer one would.
    "old bmp like a new one": (old := bitmap(24, header=12))[:28] + b"\x18" + bytes(5) + old[34:],
    "gif without its end": encoded(SOFT.convert("P"), "GIF")[:-2],
}


def pixels(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.parametrize("name", SAME)
def test_what_tensorflow_reads_stays_as_it_is(name):
    assert image_files.usable(SAME[name]) == (SAME[name], None)


@pytest.mark.parametrize("name", ANEW)
def test_what_it_does_not_becomes_a_png_of_the_same_pixels(name):
    data, reason = image_files.usable(ANEW[name])
    assert reason is None and Image.open(io.BytesIO(data)).format == "PNG"
    np.testing.assert_array_equal(pixels(data), pixels(ANEW[name]))
    assert len(np.unique(pixels(data))) > 1


def test_tensorflow_gives_the_pixels_of_all():
    import tensorflow as tf

    from tf_mural.data import image_ops

    for name, data in {**SAME, **ANEW}.items():
        taken, _ = image_files.usable(data)
        difference = np.abs(image_ops.decode(taken).numpy().astype(int) - pixels(data)).max()
        assert difference <= (4 if taken[:2] == b"\xff\xd8" else 0), name
        if name in ANEW:
            try:
                found = image_ops.decode(data).numpy().astype(int)
            except tf.errors.InvalidArgumentError:
                continue
            # Or it need not be written anew.
            assert np.abs(found - pixels(data)).max() > 10, name


@pytest.mark.parametrize("name", ["png", "jpeg", "gif", "bmp", "webp"])
def test_pictures_cut_anywhere_are_none(name):
    data = {**SAME, **ANEW}[name]
    ends = {1, 2, 4, 8, 12, 13, 20, 30, len(data) // 2, len(data) - 1, len(data)}
    wrong = {n for n in ends if image_files.usable(data[:-n]) != (None, "image does not decode")}
    # Without its last byte a GIF has all its pixels; an even size of WebP ends in one that is none.
    assert wrong <= {"gif": {1, 2}, "webp": {1}}.get(name, set())
    for n in wrong:
        np.testing.assert_array_equal(pixels(image_files.usable(data[:-n])[0]), pixels(data))


def test_a_png_with_a_wrong_checksum():
    data = bytearray(SAME["png"])
    place = data.index(b"IDAT")
    size = int.from_bytes(data[place - 4 : place])
    data[place + 4 + size] ^= 1
    assert image_files.usable(bytes(data)) == (None, "image does not decode")


def test_what_is_no_picture():
    assert image_files.usable(b"") == (None, "image does not decode")
    reason = "image format is none of JPEG, PNG, GIF, BMP, WebP"
    assert image_files.usable(encoded(SOFT, "TIFF")) == (None, reason)


SIZES = {  # where the header of a picture says its size, and how
    "jpeg": (SAME["jpeg"].index(b"\xff\xc0") + 5, ">HH"),
    "png": (16, ">II"),
    "gif": (6, "<HH"),
    "bmp": (18, "<ii"),
}


@pytest.mark.parametrize("name", SIZES)
def test_headers_that_claim_to_be_huge(name):
    data, (place, form) = bytearray(SAME[name]), SIZES[name]
    struct.pack_into(form, data, place, 60_000, 60_000)
    if name == "png":
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert image_files.usable(bytes(data)) == (None, "image too large")


def test_files(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(SAME["png"])
    (tmp_path / "b").mkdir()
    assert image_files.load(tmp_path, "a.png", "row 1") == (SAME["png"], None)
    assert image_files.load(tmp_path, "b/../a.png", "row 1") == (SAME["png"], None)
    for name in ("b", "c.png", "a\0.png"):
        assert image_files.load(tmp_path, name, "row 1") == (None, "image missing")
    for name in ("../a.png", "/etc/passwd", "b/../../a.png"):
        with pytest.raises(UserError, match=f"^row 1: the image {name!r} lies outside .*; set im"):
            image_files.load(tmp_path, name, "row 1")
    with open(tmp_path / "huge.png", "wb") as file:
        file.truncate(1 << 42)  # more than there is memory for
    assert image_files.load(tmp_path, "huge.png", "row 1") == (None, "image too large")
    monkeypatch.setattr(image_files, "MOST_BYTES", len(SAME["png"]) - 1)
    assert image_files.usable(SAME["png"]) == (None, "image too large")
