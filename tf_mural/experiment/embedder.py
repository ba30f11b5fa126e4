"""A trained model as one object: texts and images in, numpy embeddings out."""

import contextlib
import functools
import os
import sys
import time

import numpy as np

from tf_mural import experiment, file_io, reports
from tf_mural.data import image_ops
from tf_mural.datasets import image_files
from tf_mural.errors import UserError
from tf_mural.evaluation.batch_embedder import BadImage

_FIRST_WORD, _EVERY = 5.0, 5.0  # seconds until progress is told, and between two words of it


class Embedder:
    """Embeds texts of any language and images into one space.

        embedder = tf_mural.Embedder.load("runs/tiny/etcl-s0")
        scores = embedder.texts(["ein Hund"]) @ embedder.images(["dog.jpg", "cat.jpg"]).T

    Args:
        embed: `embedder.Embedder`.
        encoder: `models.DualEncoder`.
        tokenizer: `text.Tokenizer`.
        sizes: {"resize", "crop"} of images, in pixels.

    Attributes:
        width: of the embeddings.
    """

    def __init__(self, embed, encoder, tokenizer, sizes):
        self._embed, self._encoder, self._tokenizer = embed, encoder, tokenizer
        self._sizes = dict(sizes)
        self.width = encoder.towers["text"].output.shape[-1]

    @classmethod
    def load(cls, path, strategy=None, batch_size=64):
        """Loads a model.

        Args:
            path: workdir of a finished run, the folder of a preset (see tools/export.py), or a
                preset on a hub: "hf://user/name", "kaggle://user/name/keras/variant".
            strategy: "one", "mirrored", "tpu" or what `distribute.make_strategy` returns: the
                devices that share the work; None is one of them.
            batch_size: rows at a time, over all devices.

        Raises:
            UserError: there is no such model, or it is not whole.
        """
        path = os.fspath(path)
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}, expected rows, 1 or more")
        if isinstance(strategy, str):
            strategy = experiment.rooms()[0].make_strategy(strategy)
        model = experiment.load(path, strategy, batch_size)
        return cls(model.embed, model.encoder, model.tokenizer, model.sizes)

    @functools.cached_property
    def fingerprint(self):
        """Names the model by weights, vocabulary and image sizes: 32 hexadecimal digits."""
        return experiment.fingerprint(self._encoder, self._tokenizer, self._sizes)

    def texts(self, texts, progress=None):
        """Embeds strings.

        Args:
            texts: iterable of str; a single str is refused, since its letters would be texts.
            progress: whether to tell rate and time left on stderr; None: if that is a terminal.

        Returns:
            float32 (n, width), unit rows in order.

        Raises:
            UserError: something is no string.
        """
        if isinstance(texts, str | bytes):
            raise UserError(
                f"texts is {texts[:40]!r}, expected a list of strings: [{texts[:40]!r}]"
            )
        with _told(self._embed, texts, progress):
            return self._embed.texts(_strings(texts))

    def images(self, images, progress=None):
        """Embeds images: PNG, JPEG, GIF or WebP (their first frame) or BMP of any size, or pixels.

        Args:
            images: iterable of encoded bytes, of paths, of uint8 arrays (h, w) or (h, w, 1, 3 or
                4), or of pictures of Pillow.
            progress: see `texts`.

        Returns:
            float32 (n, width), unit rows in order.

        Raises:
            BadImage: one cannot be read, or has too many pixels; a UserError with its `position`.
        """
        if isinstance(images, str | bytes | os.PathLike):
            raise UserError("images is a single one, expected a list of them: [image]")
        names = {}
        try:
            with _told(self._embed, images, progress):
                return self._embed.images(_encoded(images, names))
        except BadImage as error:
            if error.position in names and names[error.position] not in str(error):
                raise BadImage(
                    error.position, f"{names[error.position]}: {error.reason}"
                ) from error
            raise

    def knows(self, texts):
        """Whether a text has a token that the vocabulary knows: bool (n,)."""
        texts = list(_strings(texts))
        if not texts:
            return np.zeros(0, bool)
        return np.asarray(self._tokenizer.has_known(self._tokenizer(texts)))


def _strings(texts):
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(
                f"text at position {position} is of type {type(text).__name__}, expected a string"
            )
        # A lone surrogate, as from a file name that is not UTF-8, would be no text to TensorFlow.
        yield text.encode("utf-8", "replace").decode("utf-8")


def _encoded(given, names):
    """Yields bytes; puts the names of those that came as paths into `names`, by position."""
    for position, image in enumerate(given):
        if isinstance(image, str | os.PathLike):
            names[position] = os.fspath(image)
            try:
                image = file_io.read_bytes(names[position])
            except OSError as error:
                reason = error.strerror or str(error)
                raise BadImage(position, f"{names[position]}: {reason}") from error
        elif not isinstance(image, bytes):
            image = _png(image, position)
        if image[:4] == b"RIFF" and image[8:12] == b"WEBP":  # as converters take it
            image, reason = image_files.usable(image)
            if reason:
                raise BadImage(position, reason)
        size = image_ops.stated_size(image)
        if size and size[0] * size[1] > image_ops.MAX_PIXELS:
            raise BadImage(
                position,
                f"{size[0]} x {size[1]} pixels, above {image_ops.MAX_PIXELS:,}: shrink it first",
            )
        yield image


def _png(image, position):
    import tensorflow as tf

    if hasattr(image, "convert"):
        image = _pixels(image, position)
    array = np.asarray(image)
    array = array[..., np.newaxis] if array.ndim == 2 else array
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] not in (1, 3, 4):
        raise BadImage(
            position,
            f"an array {array.shape} of {array.dtype}, expected uint8 (h, w, 3)",
        )
    return tf.io.encode_png(array).numpy()


def _pixels(image, position):
    """uint8 array of a picture of Pillow, as that of its file would be."""
    try:
        if image.mode.startswith("I;16"):  # Pillow would cut it off at 255
            return (np.asarray(image) >> 8).astype(np.uint8)
        low, high = image.getextrema() if image.mode in ("I", "F") else (0, 255)
        if low < 0 or high > 255:
            raise BadImage(position, f"grey from {low} to {high}, expected 0 to 255")
        return np.asarray(image.convert("RGB"))
    except (*image_files.ERRORS, AssertionError) as error:  # it reads its file only now
        raise BadImage(position, str(error) or "the picture is closed") from error


@contextlib.contextmanager
def _told(embed, items, progress):
    """Inside, long work is told of on stderr."""
    if progress is None:
        progress = sys.stderr.isatty()
    total = len(items) if hasattr(items, "__len__") else None
    began = time.monotonic()
    last = began + _FIRST_WORD - _EVERY

    def tell(kind, done):
        nonlocal last
        now = time.monotonic()
        if now - last < _EVERY:
            return
        last, rate = now, done / (now - began)
        of = f" of {total:,}" if total else ""
        left = f", {reports.eta((total - done) / rate)} left" if total else ""
        print(f"{kind}: {done:,}{of}, {rate:,.0f} a second{left}", file=sys.stderr, flush=True)

    before, embed.progress = embed.progress, tell if progress else None
    try:
        yield
    finally:
        embed.progress = before
