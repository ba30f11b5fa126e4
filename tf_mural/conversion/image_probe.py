"""Size, grayscale version and resizing of image files (JPEG, PNG, ...).

Only resizing imports TensorFlow; the other functions need only Pillow.
"""

import dataclasses
import functools
import io
import multiprocessing
import os
import sys

from tf_mural.data.image_headers import has_known_format
from tf_mural.data.image_normalization import (
    DECODE_ERRORS,
    Normalized,
    UnreadableImage,
    import_pillow,
    normalize,
    upright,
)
from tf_mural.data.records import Skipped

_GRAY_SIDE = 256  # pixels; enough for a perceptual hash
_MAX_TRIED_SIDE = 128  # pixels; see `resize_image`


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

    Large JPEGs are decoded at a reduced size, which is faster. The EXIF orientation is applied, and
    transparent pixels become white.
    """
    image_module = import_pillow()
    try:
        with image_module.open(io.BytesIO(data)) as image:
            image.draft("L", (_GRAY_SIDE, _GRAY_SIDE))
            image.load()
            image, _ = upright(image)
            if image.mode in ("P", "PA", "LA", "RGBA"):
                image = image.convert("RGBA")
                white = image_module.new("RGBA", image.size, "white")
                image = image_module.alpha_composite(white, image)
            return image.convert("L")
    except image_module.DecompressionBombError:
        return "image too large"
    except DECODE_ERRORS:
        return "image does not decode"


class ImageNormalizer:
    """A record filter (see `record_filters`) that normalizes images; see `image_normalization`.

    Args:
        filters: `FilterConfig`, with `background`. If images are resized later, rotated JPEGs are
            encoded without loss, so that they are compressed only once.
        on_change: function (change, example) that counts a changed image.
    """

    def __init__(self, filters, on_change):
        self._background = filters.background
        self._lossless = filters.resize is not None
        self._on_change = on_change

    def __call__(self, index, record, skip):
        """Returns the record with normalized images, or None if an image cannot be used."""
        images = []
        for data in record.images:
            if not has_known_format(data):  # Each data set decides which other formats it accepts.
                images.append(Normalized(data, ()))
                continue
            try:
                images.append(normalize(data, self._background, self._lossless))
            except UnreadableImage as error:
                return skip(Skipped(str(error), record.id))
        if not any(image.changes for image in images):
            return record
        for change in (change for image in images for change in image.changes):
            self._on_change(change, record.id)
        return dataclasses.replace(record, images=tuple(image.data for image in images))


class ImageResizer:
    """A record filter (see `record_filters`) that resizes images to squares.

    The resize function is that of the input pipeline. Resizing during the conversion therefore
    gives the same pixels as resizing during training, except for the loss of JPEG compression.
    Images that already have the requested size keep their bytes.

    Args:
        filters: `FilterConfig`, with `resize`, `resize_quality`, `resize_method` and
            `resize_antialias`.
    """

    def __init__(self, filters):
        self._resize = functools.partial(
            resize_image,
            side=filters.resize,
            quality=filters.resize_quality,
            method=filters.resize_method,
            antialias=filters.resize_antialias,
        )

    def __call__(self, index, record, skip):
        """Returns the record with resized images, or None if an image does not decode."""
        images = []
        for data in record.images:
            resized = self._resize(data)
            if isinstance(resized, str):
                return skip(Skipped(resized, record.id))
            images.append(resized)
        return dataclasses.replace(record, images=tuple(images)) if images else record


def resize_image(data, side, quality, method="bilinear", antialias=False):
    """Returns an image file of side x side pixels, or the reason why the image is unusable.

    The result is a JPEG without chroma subsampling, or a PNG if the PNG is smaller, as for
    drawings. A JPEG becomes a PNG only if `side` is at most 128, because encoding an image in both
    formats takes time.

    Args:
        data: bytes of a normalized image file.
        side: height and width in pixels.
        quality: quality of the JPEG, from 1 to 100.
        method, antialias: see `preprocessing.Preprocessing`.
    """
    size = image_size(data)
    if isinstance(size, str) or size == (side, side):
        return size if isinstance(size, str) else data
    tf, image_ops = _import_tensorflow()
    try:
        image = image_ops.resize(image_ops.decode(data), side, method, antialias)
    except tf.errors.InvalidArgumentError:
        return "image does not decode"
    jpeg = tf.io.encode_jpeg(image, quality=quality, chroma_downsampling=False).numpy()
    if side > _MAX_TRIED_SIDE and data[:2] == b"\xff\xd8":
        return jpeg
    png = tf.io.encode_png(image).numpy()
    return png if len(png) < len(jpeg) else jpeg


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
