"""Encoded images and strings to numpy embeddings: any number, in order, in batches of one size."""

import itertools
import re

import numpy as np

from tf_mural.base import UserError


class BadImage(UserError):
    """An image that cannot be read; `position` counts from 0 in what was handed in."""

    def __init__(self, position, reason):
        super().__init__(
            f"image at position {position} cannot be read ({reason}); "
            "expected a whole PNG, JPEG, GIF or BMP: mend it or leave it out"
        )
        self.position = position


class Embedder:
    """Embeds with a model's two encoders, which only ever see batches of one size.

    Args:
        encode_images: uint8 (batch_size, H, W, 3) to (batch_size, width).
        encode_texts: int32 (batch_size, t) to (batch_size, width).
        tokenizer: strings (n,) to int32 (n, t).
        preprocess: encoded bytes, a scalar string tensor, to uint8 (H, W, 3); runs in the graph.
        width: of the embeddings.
        batch_size: rows the encoders see at once; the last batch is filled up and cut again.
        progress: called with ("images" or "texts", rows done) after each batch, or None.
    """

    def __init__(
        self,
        encode_images,
        encode_texts,
        tokenizer,
        preprocess,
        *,
        width,
        batch_size=64,
        progress=None,
    ):
        self._encode_images = encode_images
        self._encode_texts = encode_texts
        self._tokenizer = tokenizer
        self._preprocess = preprocess
        self._width = width
        self._batch_size = batch_size
        self._progress = progress

    def images(self, encoded):
        """Embeds encoded images, in order.

        Args:
            encoded: iterable of bytes, read once and not kept.

        Returns:
            float32 (n, width), unit rows.

        Raises:
            BadImage: one cannot be decoded; a UserError with its position.
            UserError: an embedding is not finite.
        """
        return self._embed("images", self._decoded(encoded), np.stack, self._encode_images)

    def texts(self, texts):
        """Embeds strings, in order: float32 (n, width), unit rows.

        Raises:
            UserError: an embedding is not finite.
        """
        return self._embed("texts", iter(texts), self._tokens, self._encode_texts)

    def _tokens(self, strings):
        import tensorflow as tf

        return self._tokenizer(tf.constant(strings, tf.string))

    def _embed(self, kind, items, collate, encode):
        """Fills batches from an iterator, encodes them, and puts the real rows together."""
        done, parts = 0, [np.zeros((0, self._width), np.float32)]
        while batch := list(itertools.islice(items, self._batch_size)):
            # Repeating the last item keeps every batch of one shape, for compilers' sake.
            filled = batch + batch[-1:] * (self._batch_size - len(batch))
            rows = np.asarray(encode(collate(filled)), np.float32)
            if rows.shape != (self._batch_size, self._width):
                raise ValueError(
                    f"the encoder of {kind} gave shape {rows.shape}: "
                    f"expected {(self._batch_size, self._width)}"
                )
            parts.append(_unit(rows[: len(batch)], kind, done))
            done += len(batch)
            if self._progress:
                self._progress(kind, done)
        return np.concatenate(parts)

    def _decoded(self, encoded):
        """Yields uint8 (H, W, 3), decoded ahead and in parallel, in order."""
        import tensorflow as tf

        failures = []

        def source():
            try:
                yield from encoded
            except Exception as error:  # passed on below: tf.data would bury it in a traceback
                failures.append(error)
                raise

        data = tf.data.Dataset.from_generator(source, output_signature=tf.TensorSpec((), tf.string))
        # One by one and not in batches: then a failure is that of the next image in order.
        data = data.map(self._preprocess, tf.data.AUTOTUNE, deterministic=True)
        images = iter(data.prefetch(2 * self._batch_size).as_numpy_iterator())
        for position in itertools.count():
            try:
                image = next(images, None)
            except tf.errors.OpError as error:
                if failures:
                    raise failures[0] from None
                raise BadImage(position, _reason(error)) from error
            if image is None:
                return
            yield image


def _reason(error):
    """What went wrong, without the path of operations that TensorFlow puts before it."""
    return re.sub(r".*Iterator::\S*: ", "", error.message.strip().split("\n")[0]).rstrip(".")


def _unit(rows, kind, first):
    """Rows of length 1. `first` is the position of the first row, for the message."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(lengths[:, 0]) | (lengths[:, 0] == 0))
    if bad.size:
        raise UserError(
            f"embeddings of {kind}: the one at position {first + bad[0]} has length "
            f"{lengths[bad[0], 0]}, expected a finite one above 0; the weights are broken, "
            "take an earlier checkpoint"
        )
    return rows / lengths
