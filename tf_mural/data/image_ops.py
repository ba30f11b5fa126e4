"""Image operations that are shared by converters, input pipeline, embedder and export."""

import tensorflow as tf


def decode(data):
    """Decodes an image.

    Args:
        data: scalar string, an encoded JPEG, PNG, GIF (first frame) or BMP.

    Returns:
        uint8 (h, w, 3).
    """
    return tf.io.decode_image(data, channels=3, expand_animations=False)


def resize(image, size, method="bilinear", antialias=False, keep_aspect_ratio=False):
    """Resizes an image to a square, which may change its aspect ratio, or its shorter side.

    By default, the interpolation is bilinear without antialiasing, as in the paper and as in
    `tf.image.resize` by default. The values are rounded to integers, so that resizing during a
    conversion and resizing in training give the same pixels. An image that already has the size is
    returned unchanged, because resizing would not change its pixels.

    Args:
        image: uint8 (h, w, 3).
        size: height and width in pixels, or the length of the shorter side.
        method: see `preprocessing.Preprocessing`.
        antialias: see `preprocessing.Preprocessing`.
        keep_aspect_ratio: see `preprocessing.Preprocessing`.

    Returns:
        uint8 (size, size, 3). With `keep_aspect_ratio`, uint8 (h, w, 3), whose shorter side has
        `size` pixels.
    """

    def resized():
        pixels = tf.image.resize(image, target, method=method, antialias=antialias)
        if method != "bilinear":  # Other methods may give values outside of [0, 255] at edges.
            pixels = tf.clip_by_value(tf.cast(pixels, tf.float32), 0.0, 255.0)
        return tf.cast(tf.round(pixels), tf.uint8)

    image = tf.convert_to_tensor(image)
    shape = tf.shape(image)[:2]
    # Integer division equals int(size * long / short) of Hugging Face.
    target = size * shape // tf.reduce_min(shape) if keep_aspect_ratio else (size, size)
    has_size = tf.reduce_all(shape == target)
    static_shape = (None, None, 3) if keep_aspect_ratio else (size, size, 3)
    return tf.ensure_shape(tf.cond(has_size, lambda: image, resized), static_shape)


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


def resize_for(image, preprocessing):
    """Resizes an image, uint8 (h, w, 3), as a `preprocessing.Preprocessing` describes."""
    return resize(
        image,
        preprocessing.resize,
        preprocessing.method,
        preprocessing.antialias,
        preprocessing.keep_aspect_ratio,
    )


def preprocess_pixels(image, preprocessing):
    """Resizes and center-crops an image for evaluation.

    Args:
        image: uint8 (h, w, 3).
        preprocessing: `preprocessing.Preprocessing`.

    Returns:
        uint8 (crop, crop, 3).
    """
    return center_crop(resize_for(image, preprocessing), preprocessing.crop)


def preprocess_for_evaluation(data, preprocessing):
    """Decodes a normalized image file, bytes, and calls `preprocess_pixels`."""
    return preprocess_pixels(decode(data), preprocessing)
