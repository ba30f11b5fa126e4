"""Size, grayscale version and resizing of image files (JPEG, PNG, ...).

Only resizing imports TensorFlow; the other functions need only Pillow.
"""

import dataclasses
import functools
import io
import multiprocessing
import os
import sys

from tf_mural.data.records import Skipped
from tf_mural.datasets.image_files import DECODE_ERRORS, import_pillow

_GRAY_SIDE = 256  # pixels; enough for a perceptual hash


def image_size(data):
    """Returns (width, height) of JPEG or PNG bytes, or the reason why the image is unusable."""
    image_module = import_pillow()
    try:
        with image_module.open(io.BytesIO(data)) as image:
            return image.size
    except image_module.DecompressionBombError:
        return "image too large"
    except DECODE_ERRORS:
        return "image does not decode"


def to_grayscale(data):
    """Decodes an image to a grayscale Pillow image; returns the reason if the image is unusable.

    Large JPEGs are decoded at a reduced size, which is faster. Transparent pixels become white.
    """
    image_module = import_pillow()
    try:
        with image_module.open(io.BytesIO(data)) as image:
            image.draft("L", (_GRAY_SIDE, _GRAY_SIDE))
            if image.mode in ("P", "PA", "LA", "RGBA"):
                image = image.convert("RGBA")
                white = image_module.new("RGBA", image.size, "white")
                image = image_module.alpha_composite(white, image)
            return image.convert("L")
    except image_module.DecompressionBombError:
        return "image too large"
    except DECODE_ERRORS:
        return "image does not decode"


class ImageResizer:
    """A record filter (see `record_filters`) that resizes images to squares.

    The resize function is that of the input pipeline. Resizing during the conversion therefore
    gives the same pixels as resizing during training, except for the loss of JPEG compression.
    Images that already have the requested size keep their bytes.

    Args:
        filters: `FilterConfig`, with `resize` and `resize_quality`.
    """

    def __init__(self, filters):
        self._side = filters.resize
        self._quality = filters.resize_quality

    def __call__(self, index, record, skip):
        """Returns the record with resized images, or None if an image does not decode."""
        images = []
        for data in record.images:
            resized = resize_to_jpeg(data, self._side, self._quality)
            if isinstance(resized, str):
                return skip(Skipped(resized, record.id))
            images.append(resized)
        return dataclasses.replace(record, images=tuple(images)) if images else record


def resize_to_jpeg(data, side, quality):
    """Returns a JPEG of side x side pixels, or a string that says why the image is unusable."""
    size = image_size(data)
    if isinstance(size, str) or size == (side, side):
        return size if isinstance(size, str) else data
    tf, image_ops = _import_tensorflow()
    try:
        image = image_ops.resize(image_ops.decode(data), side)
    except tf.errors.InvalidArgumentError:
        return "image does not decode"
    return tf.io.encode_jpeg(image, quality=quality).numpy()


@functools.cache
def _import_tensorflow():
    """Returns TensorFlow and `image_ops`, imported without TensorFlow's messages on stderr."""
    sys.stderr.flush()
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        import tensorflow as tf

        from tf_mural.data import image_ops

        if multiprocessing.parent_process() is not None:  # A worker uses one core and no GPU.
            tf.config.set_visible_devices([], "GPU")
            tf.config.threading.set_intra_op_parallelism_threads(1)
            tf.config.threading.set_inter_op_parallelism_threads(1)
        tf.constant(0)  # TensorFlow logs its messages about GPUs at the first operation.
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)
    return tf, image_ops
