"""Embeds any number of image files and strings, in order, in batches of few static shapes."""

import collections
import itertools
import re

import numpy as np

from tf_mural.data.input_pipeline import disable_autotune
from tf_mural.errors import UserError

# Widths in tokens to which token rows are cut. The list is short, because the encoder is compiled
# for each width.
TEXT_LENGTHS = (8, 16, 32, 64)

# Number of batches whose texts are sorted by length together.
_WINDOW_BATCHES = 64

# Maximum number of batches that an accelerator still computes while the CPU prepares the next
# batch.
_MAX_PENDING = 2


class BadItem(UserError):
    """An item that cannot be embedded; `position` is its index among the items, from 0."""

    def __init__(self, message, position):
        super().__init__(message)
        self.position = position


class BadImage(BadItem):
    """An image that cannot be decoded."""

    def __init__(self, position, reason):
        message = (
            f"image at position {position} cannot be read ({reason}); "
            "expected a complete PNG, JPEG, GIF, BMP or WebP: replace it or leave it out"
        )
        super().__init__(message, position)
        self.reason = reason


class BatchEmbedder:
    """Embeds images and texts with the two encoders of a model, in batches of one fixed size.

    Texts are sorted by their number of tokens, a few thousand texts at a time. The token rows of a
    batch are cut to the smallest of `text_lengths` that fits all tokens of the batch. The
    embeddings are returned in the original order.

    Args:
        encode_images: Function from uint8 (batch_size, H, W, 3) to (batch_size, width).
        encode_texts: Function from int32 (batch_size, t) to (batch_size, width). Padding at the
            end of a row must not change the embedding of the row.
        tokenizer: Function from strings (n,) to int32 (n, t). Token rows are cut only if the
            tokenizer has an attribute `pad_id`, the token that pads the end of rows.
        preprocess: Function from the bytes of an image file (JPEG, PNG and so on), a scalar string
            tensor, to uint8 (H, W, 3). The function runs in a graph of tf.data.
        width: Width of the embeddings.
        batch_size: Number of items per batch. The last batch is padded to `batch_size`.
        text_lengths: Ascending widths to which rows of tokens are cut; () disables cutting.
        progress: Function that is called with ("images" or "texts", number of embedded items)
            after each batch, or None.
        normalize: Whether the rows of the encoders are scaled to length 1.

    Attributes:
        small_batches: Ascending numbers of rows, () by default. An input that fits in one of these
            numbers is encoded in a batch of this size instead of `batch_size`. A query then takes
            the time of one row, but its embedding may differ by rounding from the embedding of the
            same item in a large batch.
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
        normalize=True,
    ):
        self._encoders = {"images": encode_images, "texts": encode_texts}
        self._tokenizer = tokenizer
        self._preprocess = preprocess
        self._width = width
        self._batch_size = batch_size
        self._text_lengths = tuple(text_lengths)
        self.progress, self._normalize = progress, normalize
        self.small_batches = ()

    @property
    def width(self):
        """Width of the embeddings."""
        return self._width

    def embed_images(self, encoded):
        """Embeds images, in order.

        Args:
            encoded: Iterable of bytes, the contents of image files; consumed once and not stored.

        Returns:
            float32 (n, width), unit rows.

        Raises:
            BadImage: An image cannot be decoded; the error has the `position` of the first such
                image.
            BadItem: An embedding is not finite; the error has the `position` of its image.
        """
        self._check_encoder("images")
        return self._embed("images", self._image_batches(self._decode(encoded)))

    def embed_texts(self, texts, on_tokens=None):
        """Embeds strings; returns float32 (n, width), one row of norm 1 per string, in order.

        Args:
            texts: Iterable of str, consumed once, a few thousand strings at a time.
            on_tokens: Function that is called for every few thousand strings, with a list of str
                and their tokens, int32 (n, t); or None.

        Raises:
            BadItem: An embedding is not finite; the error has the `position` of its text.
        """
        self._check_encoder("texts")
        return self._embed("texts", self._text_batches(iter(texts), on_tokens))

    def _check_encoder(self, part):
        if self._encoders[part] is None:
            raise UserError(f"the model has no encoder of {part}: choose another model")

    def with_encoders(self, encode_images, encode_texts, width):
        """Returns a `BatchEmbedder` with other encoders, but the same batches and preprocessing.

        Args:
            encode_images, encode_texts, width: See `BatchEmbedder`.
        """
        return BatchEmbedder(
            encode_images,
            encode_texts,
            self._tokenizer,
            self._preprocess,
            width=width,
            batch_size=self._batch_size,
            text_lengths=self._text_lengths,
        )

    def _image_batches(self, decoded):
        """Yields (positions, uint8 (batch_size, H, W, 3)) of each batch."""
        first = 0
        while batch := list(itertools.islice(decoded, self._batch_size)):
            rows = self._batch_rows(first + len(batch))
            yield np.arange(first, first + len(batch)), np.stack(_pad_batch(batch, rows))
            first += len(batch)

    def _text_batches(self, strings, on_tokens=None):
        """Yields (positions, int32 (batch_size, t)) of batches of texts with similar lengths."""
        import tensorflow as tf

        first = 0
        while window := list(itertools.islice(strings, _WINDOW_BATCHES * self._batch_size)):
            tokens = np.asarray(self._tokenizer(tf.constant(window, tf.string)))
            if on_tokens:
                on_tokens(window, tokens)
            lengths = self._lengths(tokens)
            order = np.argsort(lengths, kind="stable")
            num_rows = self._batch_rows(first + len(window))
            for start in range(0, len(order), self._batch_size):
                rows = order[start : start + self._batch_size]
                fitting = (length for length in self._text_lengths if length >= lengths[rows[-1]])
                length = next(fitting, tokens.shape[1])
                yield first + rows, tokens[_pad_batch(rows, num_rows), :length]
            first += len(window)

    def _lengths(self, tokens):
        """Returns the number of tokens of each row, not counting the padding at the end."""
        pad = getattr(self._tokenizer, "pad_id", None)
        if pad is None or not self._text_lengths:
            return np.full(len(tokens), tokens.shape[1])
        lengths = tokens.shape[1] - np.argmax(tokens[:, ::-1] != pad, axis=1)
        # CLIP pads rows with the token at the end of the text, and reads the first of these tokens.
        num_end = int(pad in getattr(self._tokenizer, "end", ()))
        return np.minimum(lengths + num_end, tokens.shape[1])

    def _batch_rows(self, count):
        """Returns the number of rows of a batch of an input that has `count` items so far."""
        sizes = [size for size in self.small_batches if size < self._batch_size]
        return next((size for size in sizes if size >= count), self._batch_size)

    def _embed(self, kind, batches):
        """Encodes batches, and returns the embeddings sorted by position."""
        num_done, parts = 0, []
        for positions, rows in self._encode(kind, batches):
            parts.append((positions, self._checked(rows, kind, positions)))
            num_done += len(positions)
            if self.progress:
                self.progress(kind, num_done)
        embeddings = np.empty((num_done, self._width), np.float32)
        # Each part is freed after it is copied. Therefore memory never holds all rows twice.
        while parts:
            positions, rows = parts.pop()
            embeddings[positions] = rows
        return embeddings

    def _checked(self, rows, kind, positions):
        # An error is raised for rows that are not finite.
        unit_rows = normalize(rows, kind, positions)
        return unit_rows if self._normalize else rows

    def _encode(self, kind, batches):
        """Yields (positions, float32 rows) of each batch, after the next batches are started."""
        pending = collections.deque()
        # An accelerator computes a batch while the CPU prepares the next batches.
        for batch in itertools.chain(batches, [None] * _MAX_PENDING):
            if batch is not None:
                pending.append((batch[0], len(batch[1]), self._encoders[kind](batch[1])))
            if len(pending) > _MAX_PENDING or (batch is None and pending):
                positions, num_rows, rows = pending.popleft()
                rows = np.asarray(rows, np.float32)
                if rows.shape != (num_rows, self._width):
                    raise ValueError(
                        f"the encoder of {kind} returned shape {rows.shape}: "
                        f"expected {(num_rows, self._width)}"
                    )
                yield positions, rows[: len(positions)]

    def _decode(self, encoded):
        """Yields the decoded images, uint8 (H, W, 3), in order; decodes ahead and in parallel."""
        import tensorflow as tf

        failures = []

        def source():
            try:
                yield from encoded
            except Exception as error:
                # `_decode` raises the error below, after it has yielded the preceding images. If
                # `source` raised the error, TensorFlow would print a traceback for each of its
                # threads.
                failures.append(error)

        data = tf.data.Dataset.from_generator(source, output_signature=tf.TensorSpec((), tf.string))
        # The images are not batched here. Therefore an error is always the error of the next image
        # in order.
        data = data.map(self._preprocess, tf.data.AUTOTUNE, deterministic=True)
        data = disable_autotune(data.prefetch(2 * self._batch_size))
        images = iter(data.as_numpy_iterator())
        for position in itertools.count():
            try:
                image = next(images, None)
            except tf.errors.OpError as error:
                raise BadImage(position, _reason(error)) from error
            if image is None:
                if failures:
                    raise failures[0]
                return
            yield image


def _pad_batch(batch, num_rows):
    """Repeats the last item of a batch up to a number of rows, which keeps shapes static."""
    if isinstance(batch, list):
        return batch + batch[-1:] * (num_rows - len(batch))
    return np.pad(batch, (0, num_rows - len(batch)), mode="edge")


def _reason(error):
    """Returns the message of a TensorFlow error without the leading path of operations."""
    return re.sub(r".*Iterator::\S*: ", "", error.message.strip().split("\n")[0]).rstrip(".")


def normalize(rows, kind, positions):
    """Scales rows to length 1.

    Args:
        rows: Float array (n, width).
        kind: "images" or "texts", for error messages.
        positions: Index of the item of each row, for error messages.

    Raises:
        BadItem: A row is not finite, or has length 0.
    """
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(lengths[:, 0]) | (lengths[:, 0] == 0))
    if bad.size:
        first = bad[np.argmin(positions[bad])]
        raise BadItem(
            f"embeddings of {kind}: the one at position {positions[first]} has length "
            f"{lengths[first, 0]}, expected a finite length above 0; the weights are broken, "
            "use an earlier checkpoint",
            int(positions[first]),
        )
    return rows / lengths
