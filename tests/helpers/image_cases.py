"""Image files with an orientation, transparency, 16 bits or ambiguous colors, and their pixels."""

import struct
import zlib

import numpy as np
from PIL import Image

from helpers.images import blurred_noise, encode
from tf_mural.data import image_headers

PHOTO = blurred_noise(4, 148, 92)


def tensorflow_pixels(data):
    """Returns the pixels that training decodes, int (h, w, 3)."""
    from tf_mural.data import image_ops

    return image_ops.decode(data).numpy().astype(int)


def with_exif(orientation, image=PHOTO, format="JPEG", **options):
    """Returns a file whose stored pixels become `image` when the EXIF orientation is applied."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    inverse = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # numbers of Image.Transpose
    stored = image.transpose(inverse[orientation]) if orientation in inverse else image
    return encode(stored, format, exif=exif.tobytes(), **options)


def with_alpha(image=PHOTO, levels=(0, 85, 170, 255)):
    """Returns an image in mode RGBA with columns of different opacity."""
    rgba = image.convert("RGBA")
    columns = np.resize(np.repeat(levels, 3), image.width).astype(np.uint8)
    rgba.putalpha(Image.fromarray(np.tile(columns, (image.height, 1))))
    return rgba


def composite(rgba, color=(255, 255, 255)):
    """Computes alpha * pixel + (1 - alpha) * color in float64, (h, w, 3)."""
    array = np.asarray(rgba).astype(float)
    alpha = array[..., 3:] / 255
    return alpha * array[..., :3] + (1 - alpha) * np.array(color)


def png16(array, transparent=None):
    """Returns a PNG with 16 bits per sample; `array` is uint16 (h, w, c)."""
    height, width, channels = array.shape
    color_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]

    def chunk(kind, content):
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    shade = b"" if transparent is None else chunk(b"tRNS", np.array(transparent, ">u2").tobytes())
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    body = chunk(b"IHDR", header) + shade + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def without_adobe(jpeg):
    """Removes Adobe's marker from a JPEG."""
    for marker, start, end in image_headers.jpeg_segments(jpeg):
        if marker == 0xEE:
            return jpeg[: start - 4] + jpeg[end:]
    raise AssertionError("no marker")


def plain_files():
    """Yields (name, data) of files whose headers show that TensorFlow decodes them correctly."""
    for mode in ("RGB", "L"):
        for options in ({}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}):
            yield f"JPEG {mode} {options}", encode(PHOTO.convert(mode), "JPEG", **options)
    yield "JPEG RGB without YCbCr", encode(PHOTO, "JPEG", keep_rgb=True)
    yield "CMYK", encode(PHOTO.convert("CMYK"), "JPEG")
    yield "EXIF without orientation", with_exif(1)
    for mode in ("RGB", "L", "P", "1"):
        yield f"PNG {mode}", encode(PHOTO.convert(mode))
    for bits in (1, 2, 4):
        yield f"PNG with palette of {bits} bits", encode(PHOTO.quantize(1 << bits), bits=bits)
    array = np.random.default_rng(0).integers(0, 1 << 16, (9, 11, 3), np.uint16)
    yield "PNG of 16 bits", png16(array)
    yield "gray PNG of 16 bits", png16(array[..., :1])
