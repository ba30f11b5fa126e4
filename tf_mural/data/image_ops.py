"""Pictures: decode, resize, crop, flip. The converters and the pipeline share these functions."""

import struct

import tensorflow as tf

# Pixels of an image above which decoding it could take a machine's memory: about 268 MB of them.
MAX_PIXELS = 89_478_485


def stated_size(data):
    """(width, height) that the header of an encoded image states, or None where it states none.

    Args:
        data: bytes of a PNG, JPEG, GIF or BMP.
    """
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 24:
        return struct.unpack(">II", data[16:24])
    if data[:6] in (b"GIF87a", b"GIF89a") and len(data) >= 10:
        return struct.unpack("<HH", data[6:10])
    if data[:2] == b"BM" and len(data) >= 26:
        width, height = struct.unpack("<ii", data[18:26])
        return width, abs(height)
    return _jpeg_size(data) if data[:2] == b"\xff\xd8" else None


def _jpeg_size(data):
    """What the frame header says, which follows segments of any number."""
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        # SOF0 to SOF15, among which are DHT, JPG and DAC.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[place + 5 : place + 9])
            return width, height
        place += 1 if marker == 0xFF else 2 + length
    return None


def decode(data):
    """Encoded JPEG, PNG, GIF (first frame) or BMP, a scalar string, to uint8 (h, w, 3)."""
    return tf.io.decode_image(data, channels=3, expand_animations=False)


def resize(image, size):
    """uint8 (h, w, 3) to uint8 (size, size, 3), whatever the aspect ratio.

    Bilinear without antialiasing, as `tf.image.resize` does by default and as the recipe has it.
    The values are rounded, so that resizing at conversion and in training gives the same pixels.
    An image of that size is handed back as it is, which the operation would give too.
    """

    def resized():
        pixels = tf.image.resize(image, (size, size), method="bilinear", antialias=False)
        return tf.cast(tf.round(pixels), tf.uint8)

    image = tf.convert_to_tensor(image)
    as_wanted = tf.reduce_all(tf.shape(image)[:2] == size)
    return tf.ensure_shape(tf.cond(as_wanted, lambda: image, resized), (size, size, 3))


def random_crop(image, size, seed, flip=False):
    """A random square of `size`, mirrored with probability 1/2 if `flip`.

    Args:
        image: uint8 (h, w, 3), at least `size` a side.
        size: pixels a side of the crop.
        seed: (2,) integers; the result is a function of it.
        flip: whether mirroring is allowed; it falsifies captions that say left or right.

    Returns:
        uint8 (size, size, 3).
    """
    room = tf.cast(tf.shape(image)[:2] - size + 1, tf.float32)
    draw = tf.random.stateless_uniform((3,), seed)
    top, left = tf.unstack(tf.cast(tf.floor(draw[:2] * room), tf.int32))
    image = tf.image.crop_to_bounding_box(image, top, left, size, size)
    if flip:
        image = tf.cond(draw[2] < 0.5, lambda: tf.reverse(image, axis=[1]), lambda: image)
    return image


def centre_crop(image, size):
    """The central square: uint8 (h, w, 3) to uint8 (size, size, 3)."""
    top, left = tf.unstack((tf.shape(image)[:2] - size) // 2)
    return tf.image.crop_to_bounding_box(image, top, left, size, size)


def for_evaluation(data, resize_to, size):
    """Encoded bytes to uint8 (size, size, 3): decode, resize, centre crop."""
    return centre_crop(resize(decode(data), resize_to), size)
