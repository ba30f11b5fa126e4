"""Pictures: decode, resize, crop, flip. The converters and the pipeline share these functions."""

import tensorflow as tf


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
