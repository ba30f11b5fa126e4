"""Encoded images and strings to numpy embeddings: any number, in order, in few static shapes."""

import collections
import itertools
import re

import numpy as np

from tf_mural.data.pipeline_options import untuned
from tf_mural.errors import UserError

# Widths that rows of tokens are cut to: few, since each is another shape to trace or compile.
TEXT_LENGTHS = (8, 16, 32, 64)

# Batches of texts that are sorted by length together.
_WINDOW = 64

# Batches that an accelerator may still be at while the next one is made ready.
_AHEAD = 2


class BadItem(UserError):
    """An item that has no embedding; `position` counts from 0 in what was handed in."""

    def __init__(self, message, position):
        super().__init__(message)
        self.position = position


class BadImage(BadItem):
    """An image that cannot be read."""

    def __init__(self, position, reason):
        message = (
            f"image at position {position} cannot be read ({reason}); "
            "expected a whole PNG, JPEG, GIF, BMP or WebP: mend it or leave it out"
        )
        super().__init__(message, position)
        self.reason = reason


class Embedder:
    """Embeds with a model's two encoders, which only ever see batches of one size.

    Texts are sorted by length, some thousands at a time, and each batch is cut to the shortest of
    `text_lengths` that holds it; their embeddings are put back in order.

    Args:
        encode_images: uint8 (batch_size, H, W, 3) to (batch_size, width).
        encode_texts: int32 (batch_size, t) to (batch_size, width), where padding at the end of a
            row changes nothing.
        tokenizer: strings (n,) to int32 (n, t). Rows are cut only if it says, as `pad_id`, which
            token pads their ends.
        preprocess: encoded bytes, a scalar string tensor, to uint8 (H, W, 3); runs in the graph.
        width: of the embeddings.
        batch_size: rows the encoders see at once; the last batch is filled up and cut again.
        text_lengths: ascending widths to cut rows of tokens to; () cuts none.
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
        text_lengths=TEXT_LENGTHS,
        progress=None,
    ):
        self._encode = {"images": encode_images, "texts": encode_texts}
        self._tokenizer = tokenizer
        self._preprocess = preprocess
        self._width = width
        self._batch_size = batch_size
        self._text_lengths = tuple(text_lengths)
        self.progress = progress

    def images(self, encoded):
        """Embeds encoded images, in order.

        Args:
            encoded: iterable of bytes, read once and not kept.

        Returns:
            float32 (n, width), unit rows.

        Raises:
            BadImage: one cannot be decoded; a UserError with its position, that of the first one.
            BadItem: an embedding is not finite; a UserError with its position.
        """
        return self._embed("images", self._image_batches(self._decoded(encoded)))

    def texts(self, texts):
        """Embeds strings, in order: float32 (n, width), unit rows.

        Args:
            texts: iterable of str, read some thousands ahead and not kept.

        Raises:
            BadItem: an embedding is not finite; a UserError with its position.
        """
        return self._embed("texts", self._text_batches(iter(texts)))

    def _image_batches(self, decoded):
        """Yields (positions, uint8 (batch_size, H, W, 3)) of a batch each."""
        first = 0
        while batch := list(itertools.islice(decoded, self._batch_size)):
            yield np.arange(first, first + len(batch)), np.stack(self._filled(batch))
            first += len(batch)

    def _text_batches(self, strings):
        """Yields (positions, int32 (batch_size, t)) of a batch each, short texts first."""
        import tensorflow as tf

        first = 0
        while window := list(itertools.islice(strings, _WINDOW * self._batch_size)):
            tokens = np.asarray(self._tokenizer(tf.constant(window, tf.string)))
            used = self._used(tokens)
            order = np.argsort(used, kind="stable")
            for start in range(0, len(order), self._batch_size):
                rows = order[start : start + self._batch_size]
                fitting = (length for length in self._text_lengths if length >= used[rows[-1]])
                length = next(fitting, tokens.shape[1])
                yield first + rows, tokens[self._filled(rows), :length]
            first += len(window)

    def _used(self, tokens):
        """How many tokens of each row are left when those that pad its end are cut off."""
        pad = getattr(self._tokenizer, "pad_id", None)
        if pad is None or not self._text_lengths:
            return np.full(len(tokens), tokens.shape[1])
        return tokens.shape[1] - np.argmax(tokens[:, ::-1] != pad, axis=1)

    def _filled(self, batch):
        """The batch with its last item repeated, for one size spares compilers much work."""
        short = self._batch_size - len(batch)
        if isinstance(batch, list):
            return batch + batch[-1:] * short
        return np.pad(batch, (0, short), mode="edge")

    def _embed(self, kind, batches):
        """Encodes batches, whose positions may come in any order, and puts all rows in theirs."""
        done, parts = 0, []
        for positions, rows in self._encoded(kind, batches):
            parts.append((positions, _unit(rows, kind, positions)))
            done += len(positions)
            if self.progress:
                self.progress(kind, done)
        embedded = np.empty((done, self._width), np.float32)
        while parts:  # each is let go as it is copied, so that memory holds the rows about once
            positions, rows = parts.pop()
            embedded[positions] = rows
        return embedded

    def _encoded(self, kind, batches):
        """Yields (positions, float32 rows) of each batch, some batches after it was handed over."""
        running = collections.deque()
        # An accelerator computes on while the next batches are made ready.
        for batch in itertools.chain(batches, [None] * _AHEAD):
            if batch is not None:
                running.append((batch[0], self._encode[kind](batch[1])))
            if len(running) > _AHEAD or (batch is None and running):
                positions, rows = running.popleft()
                rows = np.asarray(rows, np.float32)
                if rows.shape != (self._batch_size, self._width):
                    raise ValueError(
                        f"the encoder of {kind} gave shape {rows.shape}: "
                        f"expected {(self._batch_size, self._width)}"
                    )
                yield positions, rows[: len(positions)]

    def _decoded(self, encoded):
        """Yields uint8 (H, W, 3), decoded ahead and in parallel, in order."""
        import tensorflow as tf

        given, failures = 0, []

        def source():
            nonlocal given
            try:
                for data in encoded:
                    yield data
                    given += 1
            except Exception as error:  # passed on below: tf.data would bury it in a traceback
                failures.append(error)
                raise

        data = tf.data.Dataset.from_generator(source, output_signature=tf.TensorSpec((), tf.string))
        # One by one and not in batches: then a failure is that of the next image in order.
        data = data.map(self._preprocess, tf.data.AUTOTUNE, deterministic=True)
        data = untuned(data.prefetch(2 * self._batch_size))
        images = iter(data.as_numpy_iterator())
        for position in itertools.count():
            try:
                image = next(images, None)
            except tf.errors.OpError as error:
                # It is read ahead: one before it may not decode.
                if failures and position >= given:
                    raise failures[0] from None
                raise BadImage(position, _reason(error)) from error
            if image is None:
                return
            yield image


def _reason(error):
    """What went wrong, without the path of operations that TensorFlow puts before it."""
    return re.sub(r".*Iterator::\S*: ", "", error.message.strip().split("\n")[0]).rstrip(".")


def _unit(rows, kind, positions):
    """Rows of length 1. `positions` are those of the rows in what was handed in."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(lengths[:, 0]) | (lengths[:, 0] == 0))
    if bad.size:
        first = bad[np.argmin(positions[bad])]
        raise BadItem(
            f"embeddings of {kind}: the one at position {positions[first]} has length "
            f"{lengths[first, 0]}, expected a finite one above 0; the weights are broken, "
            "take an earlier checkpoint",
            int(positions[first]),
        )
    return rows / lengths
