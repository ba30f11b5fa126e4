"""Images made smaller once, so that training decodes little."""

import dataclasses
import functools
import multiprocessing
import os
import sys

from tf_mural.conversion import image_probe
from tf_mural.data.records import Dropped


class Resize:
    """A check, see `filters`, that makes all images squares of `Steps.resize` pixels a side.

    By the pipeline's own function, so that resizing early or late gives the same pixels, but for
    what JPEG loses. Images that have this size are left as they are.
    """

    def __init__(self, steps):
        self._side = steps.resize
        self._quality = steps.resize_quality

    def __call__(self, row, record, drop):
        """The record with its images resized, or None where one does not decode."""
        made = []
        for image in record.images:
            new = resized(image, self._side, self._quality)
            if isinstance(new, str):
                return drop(Dropped(new, record.id))
            made.append(new)
        return dataclasses.replace(record, images=tuple(made)) if made else record


def resized(data, side, quality):
    """Encoded bytes of an image as those of a JPEG of side x side, or a string: why not."""
    size = image_probe.size(data)
    if isinstance(size, str) or size == (side, side):
        return size if isinstance(size, str) else data
    tf, images = _tensorflow()
    try:
        image = images.resize(images.decode(data), side)
    except tf.errors.InvalidArgumentError:
        return "image does not decode"
    return tf.io.encode_jpeg(image, quality=quality).numpy()


@functools.cache
def _tensorflow():
    """Imports and returns TensorFlow and `image_ops`, without TensorFlow's messages on stderr."""
    sys.stderr.flush()
    stderr, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        import tensorflow as tf

        from tf_mural.data import image_ops

        if multiprocessing.parent_process() is not None:  # One of many: a core and no GPU each.
            tf.config.set_visible_devices([], "GPU")
            tf.config.threading.set_intra_op_parallelism_threads(1)
            tf.config.threading.set_inter_op_parallelism_threads(1)
        tf.constant(0)  # What TensorFlow says of GPUs, it says at the first operation.
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nothing)
    return tf, image_ops
