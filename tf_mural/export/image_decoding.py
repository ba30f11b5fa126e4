"""Decodes image files to upright, opaque pixels in the graph of a SavedModel.

`data.image_normalization` decodes image files in the same way with Pillow, which a graph cannot
call.
"""

import tensorflow as tf

from tf_mural.data import image_ops

_PNG = b"\x89PNG\r\n\x1a\n"
_ORIENTATION = 0x0112

LIMITS = """\
- WebP files with transparency or animation are not read correctly. Convert them to PNG.
- Transparent areas of GIF and BMP files keep the color that the file stores for them.
- An orientation that is stored only in XMP data is not followed.
- In CMYK JPEGs without Adobe's marker, 0 is read as "no ink"; no field of such a file states this.
- The first frame of an animated GIF is used. A frame that is smaller than the image is not placed
  on the canvas."""


def decode_upright(data, background=(255, 255, 255)):
    """Decodes an image file, applies the EXIF orientation, and composites transparent pixels.

    Args:
        data: scalar string, the bytes of a JPEG, PNG (8 or 16 bits), GIF or BMP.
        background: (red, green, blue), color of transparent pixels of PNG files.

    Returns:
        uint8 (h, w, 3).
    """
    is_png = tf.strings.substr(data, 0, len(_PNG)) == _PNG
    is_jpeg = tf.strings.substr(data, 0, 2) == b"\xff\xd8"
    has_alpha = tf.cond(is_png, lambda: _has_alpha(data), lambda: tf.constant(False))
    pixels = tf.cond(
        has_alpha, lambda: _decode_png(data, background), lambda: image_ops.decode(data)
    )
    tiff = tf.case(
        [
            (is_png, lambda: _find_png_chunk(data, b"eXIf")),
            (is_jpeg, lambda: _find_jpeg_exif(data)),
        ],
        default=lambda: tf.constant(-1),
    )
    orientation = tf.cond(tiff < 0, lambda: tf.constant(1), lambda: _read_orientation(data, tiff))
    return tf.ensure_shape(_turn_upright(pixels, orientation), (None, None, 3))


def _has_alpha(png):
    """Returns whether a PNG has an alpha channel or a transparent color."""
    # With four channels, TensorFlow decodes opaque gray PNGs of 1, 2 and 4 bits wrongly.
    has_channel = tf.bitwise.bitwise_and(_Bytes(png).integer(25, 1), 4) > 0  # the color type
    return has_channel | (_find_png_chunk(png, b"tRNS") >= 0)


def _decode_png(data, background):
    """Decodes a PNG with transparency to 8 bits, and composites its pixels on a color."""
    rgba = tf.cast(tf.io.decode_png(data, channels=4), tf.int32)  # (h, w, 4)
    color, alpha = rgba[..., :3], rgba[..., 3:]
    mixed = color * alpha + tf.constant(background, tf.int32) * (255 - alpha)
    return tf.cast((mixed + 127) // 255, tf.uint8)


def _turn_upright(pixels, orientation):
    """Applies an EXIF orientation from 1 to 8 to pixels (h, w, c)."""
    transposed = tf.transpose(pixels, (1, 0, 2))
    upright = [
        pixels,
        tf.reverse(pixels, [1]),
        tf.reverse(pixels, [0, 1]),
        tf.reverse(pixels, [0]),
        transposed,
        tf.reverse(transposed, [1]),
        tf.reverse(transposed, [0, 1]),
        tf.reverse(transposed, [0]),
    ]
    return tf.switch_case(orientation - 1, [lambda x=x: x for x in upright])


class _Bytes:
    """Reads bytes of a string at any position in the graph; bytes after the end are 0.

    Args:
        data: scalar string.
        little_endian: bool scalar, the order of the bytes of integers.
    """

    def __init__(self, data, little_endian=False):
        self.values = tf.io.decode_raw(data, tf.uint8)
        self.size = tf.size(self.values)
        self._little_endian = tf.convert_to_tensor(little_endian)

    def integer(self, position, width):
        """Returns the integer of `width` bytes at each position, int32."""
        offsets = tf.range(width)
        indices = tf.convert_to_tensor(position)[..., tf.newaxis] + offsets
        valid = (indices >= 0) & (indices < self.size)
        values = tf.gather(self.values, tf.where(valid, indices, 0))
        values = tf.where(valid, tf.cast(values, tf.int32), 0)
        shifts = tf.where(self._little_endian, offsets, width - 1 - offsets)
        return tf.reduce_sum(tf.bitwise.left_shift(values, 8 * shifts), axis=-1)


def _find_jpeg_exif(data):
    """Returns the position of the EXIF data (a TIFF header) in a JPEG, or -1."""
    content = _Bytes(data)

    def step(position, result):
        marker, length = content.integer(position + 1, 1), content.integer(position + 2, 2)
        is_exif = (marker == 0xE1) & (tf.strings.substr(data, position + 4, 6) == b"Exif\0\0")
        result = tf.where(is_exif, position + 10, result)
        is_last = is_exif | (marker == 0xDA) | (content.integer(position, 1) != 0xFF)
        following = tf.where(marker == 0xFF, position + 1, position + 2 + length)
        return tf.where(is_last, content.size, following), result

    return _search(content, step, start=2, reserve=10)


def _find_png_chunk(data, wanted):
    """Returns the position of the content of a chunk of a PNG, such as b"eXIf", or -1."""
    content = _Bytes(data)

    def step(position, result):
        length, kind = content.integer(position, 4), tf.strings.substr(data, position + 4, 4)
        is_wanted = kind == wanted
        result = tf.where(is_wanted, position + 8, result)
        is_last = is_wanted | (kind == b"IEND") | (length < 0)
        return tf.where(is_last, content.size, position + 12 + length), result

    return _search(content, step, start=8, reserve=8)


def _search(content, step, start, reserve):
    """Runs `step` on (position, result) while `reserve` bytes follow; returns the result."""
    _, result = tf.while_loop(
        lambda position, _: position <= content.size - reserve,
        step,
        (tf.constant(start), tf.constant(-1)),
    )
    return result


def _read_orientation(data, tiff):
    """Returns the orientation, from 1 to 8, in EXIF data; 1 if the data contain no valid one.

    Args:
        data: scalar string, an image file.
        tiff: position of the TIFF header of the EXIF data.
    """
    content = _Bytes(data, little_endian=tf.strings.substr(data, tiff, 2) == b"II")
    directory = tiff + content.integer(tiff + 4, 4)
    entries = directory + 2 + 12 * tf.range(content.integer(directory, 2))
    is_orientation = content.integer(entries, 2) == _ORIENTATION
    values = tf.where(is_orientation, content.integer(entries + 8, 2), 0)
    orientation = tf.reduce_max(tf.concat([values, [0]], 0))
    return tf.where((orientation >= 1) & (orientation <= 8), orientation, 1)
