"""Image operations that are shared by converters, input pipeline, embedder and export."""

import struct

import tensorflow as tf

# Maximum number of pixels of an image. An image of this size takes about 268 MB when decoded.
# Larger images could exhaust the memory.
MAX_PIXELS = 89_478_485


def header_size(data):
    """Reads the size of an image from the header of its file.

    Args:
        data: bytes of a PNG, JPEG, GIF or BMP.

    Returns:
        (width, height), or None if the header is not valid.
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
    """Reads (width, height) from the frame header of a JPEG, which follows other segments."""
    position = 2
    while position + 9 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        # A marker SOF0 to SOF15 starts the frame header. The range of these markers also contains
        # the markers DHT, JPG and DAC.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[position + 5 : position + 9])
            return width, height
        position += 1 if marker == 0xFF else 2 + length
    return None


def decode(data):
    """Decodes an image.

    Args:
        data: scalar string, an encoded JPEG, PNG, GIF (first frame) or BMP.

    Returns:
        uint8 (h, w, 3).
    """
    return tf.io.decode_image(data, channels=3, expand_animations=False)


def resize(image, size):
    """Resizes an image to a square, which may change its aspect ratio.

    The interpolation is bilinear without antialiasing, as in the paper and as by default in
    `tf.image.resize`. The values are rounded, so that resizing at conversion and in training gives
    the same pixels. An image that already has the size is returned unchanged, because resizing
    would not change its pixels.

    Args:
        image: uint8 (h, w, 3).
        size: height and width in pixels.

    Returns:
        uint8 (size, size, 3).
    """

    def resized():
        pixels = tf.image.resize(image, (size, size), method="bilinear", antialias=False)
        return tf.cast(tf.round(pixels), tf.uint8)

    image = tf.convert_to_tensor(image)
    has_size = tf.reduce_all(tf.shape(image)[:2] == size)
    return tf.ensure_shape(tf.cond(has_size, lambda: image, resized), (size, size, 3))


def random_crop(image, size, seed, flip=False):
    """Crops a random square, and mirrors it with probability 1/2 if `flip` is set.

    Args:
        image: uint8 (h, w, 3), at least `size` high and wide.
        size: height and width of the crop in pixels.
        seed: integers (2,), which determine the result.
        flip: whether the image may be mirrored. Mirroring falsifies captions that mention left or
            right.

    Returns:
        uint8 (size, size, 3).
    """
    num_offsets = tf.cast(tf.shape(image)[:2] - size + 1, tf.float32)
    draw = tf.random.stateless_uniform((3,), seed)
    top, left = tf.unstack(tf.cast(tf.floor(draw[:2] * num_offsets), tf.int32))
    image = tf.image.crop_to_bounding_box(image, top, left, size, size)
    if flip:
        image = tf.cond(draw[2] < 0.5, lambda: tf.reverse(image, axis=[1]), lambda: image)
    return image


def center_crop(image, size):
    """Crops the central square: uint8 (h, w, 3) to uint8 (size, size, 3)."""
    top, left = tf.unstack((tf.shape(image)[:2] - size) // 2)
    return tf.image.crop_to_bounding_box(image, top, left, size, size)


def preprocess_for_evaluation(data, resize_to, size):
    """Decodes JPEG or PNG bytes, resizes and center-crops to uint8 (size, size, 3)."""
    return center_crop(resize(decode(data), resize_to), size)
