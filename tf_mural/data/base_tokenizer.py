"""The interface of all tokenizers, and the layout of the rows of tokens that models read."""

import functools
import hashlib
import unicodedata
from collections.abc import Sequence
from typing import Any

from tf_mural.errors import UserError


class BaseTokenizer:
    """Maps strings to padded rows of token ids, with TensorFlow operations only.

    A row consists of the tokens at the start, the pieces of the text, the tokens at the end, and
    padding. A subclass defines `vocabulary`, `hash` and `_compute_pieces`.

    Args:
        max_tokens: number of tokens per row, including the tokens at the start and at the end.
        pad_id: token that pads rows. Some models pad rows with the token at the end.
        unknown_id: token of texts that are not in the vocabulary; None: there is no such token.
        start: tokens before each text.
        end: tokens behind each text.
        lower_case: whether texts are converted to lower case.
        prefix: string that is put before each text, such as "query: " of E5.

    Raises:
        UserError: `max_tokens` is too small.
    """

    def __init__(
        self,
        max_tokens: int,
        pad_id: int,
        unknown_id: int | None,
        start: Sequence[int] = (),
        end: Sequence[int] = (),
        lower_case: bool = False,
        prefix: str = "",
    ):
        self._max_tokens, self._pad_id, self._unknown_id = max_tokens, pad_id, unknown_id
        self._start, self._end = tuple(start), tuple(end)
        self._lower_case, self._prefix = lower_case, prefix
        self._check_max_tokens("the special tokens and one piece")

    def _check_max_tokens(self, content):
        if self._max_tokens < (needed := self.num_special + 1):
            raise UserError(
                f"max_tokens is {self._max_tokens}, but {content} need {needed}: set {needed} or "
                "more"
            )

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Pieces in the order of their ids."""
        raise NotImplementedError

    @property
    def hash(self) -> str:
        """Hash of everything that changes ids. It is stored with weights and results."""
        raise NotImplementedError

    def _compute_pieces(self, strings):
        raise NotImplementedError

    @property
    def size(self) -> int:
        """Number of pieces, which is also the number of rows of an embedding table."""
        return len(self.vocabulary)

    @property
    def max_tokens(self) -> int:
        """Number of tokens per row."""
        return self._max_tokens

    @property
    def num_special(self) -> int:
        """Number of tokens at the start and at the end of each text."""
        return len(self._start) + len(self._end)

    @property
    def lower_case(self) -> bool:
        """Whether texts are converted to lower case before they are split into pieces."""
        return self._lower_case

    @property
    def prefix(self) -> str:
        """String that is put before each text."""
        return self._prefix

    @property
    def pad_id(self) -> int:
        """Token that pads rows."""
        return self._pad_id

    @property
    def unknown_id(self) -> int | None:
        """Token of texts that are not in the vocabulary."""
        return self._unknown_id

    @property
    def start(self) -> tuple[int, ...]:
        """Tokens before each text."""
        return self._start

    @property
    def end(self) -> tuple[int, ...]:
        """Tokens behind each text. A model that pools the end of a text uses the first of them."""
        return self._end

    @property
    def has_bytes(self) -> bool:
        """Whether characters that are not in the vocabulary are split into bytes."""
        return False

    def normalize_word(self, word: str) -> str:
        """Returns a word with the characters that pieces of the vocabulary are compared with."""
        word = unicodedata.normalize("NFKC", word)
        return word.lower() if self.lower_case else word

    def _hash_suffix(self):
        if not self._prefix:
            return ""
        return "-prefix-" + hashlib.sha256(self._prefix.encode("utf-8")).hexdigest()[:8]

    def pieces(self, strings: Any) -> Any:
        """Tokenizes strings without adding special tokens and without truncation.

        `prefix` is put before each string. Bytes that are not UTF-8 are dropped.

        Args:
            strings: string (n,).

        Returns:
            RaggedTensor int32 (n, None).
        """
        return self._traced_pieces(strings)

    def _prefixed_pieces(self, strings):
        import tensorflow as tf

        if self._prefix:
            strings = tf.strings.join([self._prefix, strings])
        return self._compute_pieces(strings)

    @functools.cached_property
    def _traced_pieces(self):
        """A function that is traced once, because tracing the operations takes long."""
        import tensorflow as tf

        signature = [tf.TensorSpec((None,), tf.string)]
        return tf.function(self._prefixed_pieces, input_signature=signature, autograph=False)

    def __call__(self, strings: Any) -> Any:
        """Tokenizes strings to rows of a fixed length.

        The last pieces of long texts are dropped; the tokens at the end are kept.

        Args:
            strings: string (n,), a tensor or anything that can be converted to one.

        Returns:
            int32 (n, max_tokens).
        """
        import tensorflow as tf

        strings = tf.convert_to_tensor(strings, tf.string)
        strings.shape.assert_has_rank(1)
        pieces = self.pieces(strings)
        max_pieces = self._max_tokens - self.num_special
        body = pieces.to_tensor(self._pad_id, shape=(None, max_pieces))  # truncated or padded
        count = tf.shape(body)[0]
        start = tf.tile(tf.constant([self._start], body.dtype), [count, 1])
        rest = tf.fill([count, len(self._end)], tf.constant(self._pad_id, body.dtype))
        tokens = tf.concat([start, body, rest], axis=1)  # (n, max_tokens)
        last = len(self._start) + tf.minimum(pieces.row_lengths(), max_pieces)
        columns = tf.range(self._max_tokens, dtype=last.dtype)
        for i, token in enumerate(self._end):
            tokens = tf.where(columns == last[:, None] + i, token, tokens)
        return tf.ensure_shape(tokens, (strings.shape[0], self._max_tokens))

    def has_known_tokens(self, tokens: Any) -> Any:
        """Returns whether each row has a piece that is neither special nor unknown nor a space.

        Pieces of `prefix` are not counted.

        Args:
            tokens: int32 (n, t), from `__call__`.

        Returns:
            bool (n,).
        """
        import tensorflow as tf

        inner = tokens[:, len(self._start) + self._num_prefix_pieces :]
        others = {self._pad_id, self._unknown_id, *self._start, *self._end, *self._space_ids}
        others = tf.constant(sorted(others - {None}), tokens.dtype)
        is_other = tf.reduce_any(inner[..., None] == others, axis=-1)
        return tf.reduce_any(~is_other, axis=1)

    @property
    def _space_ids(self):
        """Ids of pieces that contain only white space."""
        return ()

    @functools.cached_property
    def _num_prefix_pieces(self):
        import tensorflow as tf

        if not self._prefix:
            return 0
        with tf.init_scope():
            return int(self.pieces(tf.constant([""])).row_lengths()[0])
