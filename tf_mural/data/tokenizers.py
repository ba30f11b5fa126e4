"""WordPiece tokenizer in the TensorFlow graph, as those of LaBSE and of uncased BERT.

Special tokens written in a text stay plain text: a caption that contains "[SEP]" has five
characters there, so no text can inject a token.
"""

import os
from collections.abc import Sequence

from tf_mural.data.vocabulary import (
    SPECIAL_TOKENS,
    check_vocabulary,
    load_vocabulary,
    save_vocabulary,
    train_vocabulary,
    vocabulary_hash,
)
from tf_mural.errors import UserError

__all__ = [
    "SPECIAL_TOKENS",
    "Tokenizer",
    "check_vocabulary",
    "load_vocabulary",
    "save_vocabulary",
    "train_vocabulary",
    "vocabulary_hash",
]

# Control, format, private-use and replacement characters. The reference tokenizer drops them before
# it splits words; FastBertTokenizer keeps some. RE2 syntax, for tf.strings.regex_replace.
_IGNORED_CHARACTERS = r"[\x00-\x08\x0B\x0C\x0E-\x1F\x7F-\x{9F}\p{Cf}\p{Co}\x{FFFD}]"

# The reference maps words of over 100 characters to [UNK]. The limit here counts bytes, and a
# character of Thai, Khmer or Malayalam has three.
_MAX_BYTES_PER_WORD = 400


class Tokenizer:
    """Maps strings to padded rows of token ids, with TensorFlow operations only.

    Args:
        vocabulary: pieces in the order of their ids, or the path of a file with one piece per line.
        max_tokens: row length, including [CLS] and [SEP].
        lower_case: whether case and accents are removed first, as for an uncased BERT; LaBSE keeps
            them.

    Raises:
        UserError: the file is missing, or the vocabulary cannot be used (see `check_vocabulary`).
    """

    def __init__(
        self,
        vocabulary: Sequence[str] | str | os.PathLike,
        max_tokens: int = 64,
        lower_case: bool = False,
    ):
        if isinstance(vocabulary, str | os.PathLike):
            vocabulary = load_vocabulary(vocabulary)
        else:
            check_vocabulary(vocabulary)
        if max_tokens < 3:
            raise UserError(
                f"max_tokens is {max_tokens}, but [CLS], one piece and [SEP] need 3: set 3 or more"
            )
        self._pieces = tuple(vocabulary)
        self._max_tokens, self._lower_case = max_tokens, lower_case
        ids = {piece: i for i, piece in enumerate(self._pieces) if piece in SPECIAL_TOKENS}
        self._pad, self._cls, self._sep = ids["[PAD]"], ids["[CLS]"], ids["[SEP]"]
        self._unk = ids["[UNK]"]
        self._fast = _fast_tokenizer(self._pieces)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Pieces in the order of their ids."""
        return self._pieces

    @property
    def size(self) -> int:
        """Number of pieces, which is the number of rows of an embedding table."""
        return len(self._pieces)

    @property
    def max_tokens(self) -> int:
        """Row length."""
        return self._max_tokens

    @property
    def pad_id(self) -> int:
        """Id of [PAD]."""
        return self._pad

    @property
    def hash(self) -> str:
        """Hash of vocabulary and case ("-lower" at the end), stored with weights and results."""
        return vocabulary_hash(self._pieces) + ("-lower" if self._lower_case else "")

    def pieces(self, strings):
        """Tokenizes strings without [CLS], [SEP] and truncation; drops bytes that are not UTF-8.

        Args:
            strings: string (n,).

        Returns:
            RaggedTensor int32 (n, None).
        """
        import tensorflow as tf

        strings = tf.strings.unicode_transcode(strings, "UTF-8", "UTF-8", errors="replace")
        strings = tf.strings.regex_replace(strings, _IGNORED_CHARACTERS, "")
        return self._fast.tokenize(_lowered(strings) if self._lower_case else strings)

    def __call__(self, strings):
        """Tokenizes strings to `[CLS] pieces... [SEP] [PAD]...`.

        Long texts lose their last pieces, but keep [SEP].

        Args:
            strings: string (n,), a tensor or anything that can be converted to one.

        Returns:
            int32 (n, max_tokens).
        """
        import tensorflow as tf

        strings = tf.convert_to_tensor(strings, tf.string)
        strings.shape.assert_has_rank(1)
        pieces = self.pieces(strings)
        max_pieces = self._max_tokens - 2
        body = pieces.to_tensor(self._pad, shape=(None, max_pieces))  # truncated or padded
        tokens = tf.pad(body, [[0, 0], [1, 0]], constant_values=self._cls)
        tokens = tf.pad(tokens, [[0, 0], [0, 1]], constant_values=self._pad)  # (n, max_tokens)
        last = 1 + tf.minimum(pieces.row_lengths(), max_pieces)
        at_end = tf.range(self._max_tokens, dtype=last.dtype) == last[:, None]
        tokens = tf.where(at_end, self._sep, tokens)
        return tf.ensure_shape(tokens, (strings.shape[0], self._max_tokens))

    def has_known_tokens(self, tokens):
        """Whether rows contain a piece other than [UNK].

        Args:
            tokens: int32 (n, t), from `__call__`.

        Returns:
            bool (n,).
        """
        import tensorflow as tf

        inner = tokens[:, 1:-1]  # without [CLS] and the last column, which contains no piece
        known = (inner != self._unk) & (inner != self._pad) & (inner != self._sep)
        return tf.reduce_any(known, axis=1)


def _lowered(strings):
    """Removes accents and case. `lower_case_nfd_strip_accents` would also fold ！ and ２."""
    import tensorflow as tf
    import tensorflow_text

    strings = tensorflow_text.normalize_utf8(strings, "NFD")
    # Σ is replaced separately: the operation would give ς at the end of a word, and the reference
    # gives σ everywhere.
    strings = tf.strings.regex_replace(tf.strings.regex_replace(strings, r"\p{Mn}", ""), "Σ", "σ")
    return tf.strings.lower(strings, encoding="utf-8")


def _fast_tokenizer(pieces: Sequence[str]):
    try:
        import tensorflow as tf
        import tensorflow_text
    except ImportError as error:
        raise UserError(
            f"tokenising needs tensorflow-text, which does not import here ({error}): "
            "pip install tensorflow-text, with the version of the installed tensorflow"
        ) from error
    # Created outside of any graph under construction, so that all functions can use the tokenizer.
    try:
        with tf.init_scope(), tf.device("CPU"):
            return tensorflow_text.FastBertTokenizer(
                list(pieces),
                max_bytes_per_word=_MAX_BYTES_PER_WORD,
                token_out_type=tf.int32,
                lower_case_nfd_strip_accents=False,
            )
    except RuntimeError as error:
        raise UserError(
            f"no tokenizer can be built from these {len(pieces)} pieces: {error}"
        ) from error
