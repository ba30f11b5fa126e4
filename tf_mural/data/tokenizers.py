"""WordPiece vocabularies, and a tokenizer like that of LaBSE or of uncased BERT in TensorFlow.

Special tokens in a text are treated as plain text: "[SEP]" in a caption is five characters.
Therefore no text can inject a special token.
"""

import functools
import hashlib
import os
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from tf_mural import file_io
from tf_mural.data import text_cleaning
from tf_mural.data.wordpiece import WordPiece
from tf_mural.errors import UserError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

# The largest number of bytes of a piece, without the prefix "##", that tensorflow-text accepts.
MAX_PIECE_BYTES = 256


class Tokenizer:
    """Maps strings to padded rows of token ids, with TensorFlow operations only.

    Args:
        vocabulary: pieces in the order of their ids, or the path of a file with one piece per line.
        max_tokens: number of tokens per row, including [CLS] and [SEP].
        lower_case: whether case and accents are removed first, as for an uncased BERT. LaBSE keeps
            case and accents.

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
        if len(ids) == len(self._pieces):
            raise UserError(
                f"no tokenizer can be built from these {len(ids)} pieces: all are special tokens"
            )
        self._word_piece = WordPiece(self._pieces)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Pieces in the order of their ids."""
        return self._pieces

    @property
    def size(self) -> int:
        """Number of pieces, which is also the number of rows of an embedding table."""
        return len(self._pieces)

    @property
    def max_tokens(self) -> int:
        """Number of tokens per row."""
        return self._max_tokens

    @property
    def lower_case(self) -> bool:
        """Whether case and accents are removed before a text is split into pieces."""
        return self._lower_case

    @property
    def pad_id(self) -> int:
        """Id of [PAD]."""
        return self._pad

    @property
    def hash(self) -> str:
        """Hash of the vocabulary, followed by "-lower" if `lower_case` is set.

        The hash is stored with weights and results.
        """
        return vocabulary_hash(self._pieces) + ("-lower" if self._lower_case else "")

    def pieces(self, strings: Any) -> Any:
        """Tokenizes strings without adding special tokens and without truncation.

        Bytes that are not UTF-8 are dropped.

        Args:
            strings: string (n,).

        Returns:
            RaggedTensor int32 (n, None).
        """
        import tensorflow as tf

        if tf.executing_eagerly():
            return self._compute_pieces(strings)
        return self._traced_pieces(strings)

    def _compute_pieces(self, strings):
        strings = text_cleaning.clean(strings, self._lower_case, self._word_piece.has_unknown)
        return self._word_piece(strings)

    @functools.cached_property
    def _traced_pieces(self):
        """A function that is traced once, because each trace takes more than a second."""
        import tensorflow as tf

        signature = [tf.TensorSpec((None,), tf.string)]
        return tf.function(self._compute_pieces, input_signature=signature, autograph=False)

    def __call__(self, strings: Any) -> Any:
        """Tokenizes strings to `[CLS] pieces... [SEP] [PAD]...`.

        The last pieces of long texts are dropped; [SEP] is kept.

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

    def has_known_tokens(self, tokens: Any) -> Any:
        """Returns whether each row contains a piece other than [UNK].

        Args:
            tokens: int32 (n, t), from `__call__`.

        Returns:
            bool (n,).
        """
        import tensorflow as tf

        inner = tokens[:, 1:-1]  # without [CLS] and the last column, which contains no piece
        known = (inner != self._unk) & (inner != self._pad) & (inner != self._sep)
        return tf.reduce_any(known, axis=1)


# --- vocabularies ---------------------------------------------------------------------------------


def vocabulary_hash(pieces: Sequence[str]) -> str:
    """Returns the first 16 hexadecimal digits of the SHA-256 of the pieces, joined by newlines."""
    return hashlib.sha256("\n".join(pieces).encode("utf-8")).hexdigest()[:16]


def check_vocabulary(pieces: Sequence[str], where: str = "the vocabulary") -> None:
    """Checks that a tokenizer can be built from a vocabulary.

    Args:
        pieces: pieces in the order of their ids.
        where: name of the vocabulary in messages.

    Raises:
        UserError: a special token is missing, or a piece is a duplicate, is empty, is longer than
            `MAX_PIECE_BYTES`, or contains a control character; the message gives `where` and the
            line, counted from 1.
    """
    missing = [token for token in SPECIAL_TOKENS if token not in pieces]
    if missing:
        raise UserError(
            f"{where} has {len(pieces)} pieces but no {', '.join(missing)}: a cased WordPiece "
            f"vocabulary with {' '.join(SPECIAL_TOKENS)} is needed; tools/build_vocab.py trains one"
        )
    first_line = {}
    for line, piece in enumerate(pieces, start=1):
        if not piece:
            raise UserError(
                f"{where}, line {line}: expected a piece, but the line is empty; remove it"
            )
        if piece in first_line:
            raise UserError(
                f"{where}, line {line}: piece {piece!r} is already on line {first_line[piece]}; "
                "every piece must be unique, because its line is its id"
            )
        if any(unicodedata.category(character) == "Cc" for character in piece):
            raise UserError(
                f"{where}, line {line}: piece {piece!r} contains a control character, which "
                "tokenizers remove; is this a WordPiece vocabulary with one piece per line?"
            )
        if (num_bytes := _num_bytes(piece)) > MAX_PIECE_BYTES:
            raise UserError(
                f"{where}, line {line}: piece {piece[:20]!r}... has {num_bytes} bytes, expected at "
                f"most {MAX_PIECE_BYTES}; is this a WordPiece vocabulary with one piece per line?"
            )
        first_line[piece] = line


def _num_bytes(piece):
    return len(piece.removeprefix("##").encode("utf-8"))


def load_vocabulary(path: str | os.PathLike) -> list[str]:
    """Reads a vocabulary file in UTF-8 with one piece per line; ids are line numbers from 0.

    Raises:
        UserError: the file is missing, is not UTF-8, or cannot be used (see `check_vocabulary`).
    """
    try:
        content = file_io.read_bytes(path)
    except OSError as error:
        raise UserError(
            f"vocabulary {path}: {error.strerror}; expected a file with one piece per line, "
            "as tools/build_vocab.py writes it"
        ) from error
    try:
        lines = content.decode("utf-8").split("\n")  # splitlines() would also cut at U+2028
    except UnicodeDecodeError as error:
        raise UserError(f"vocabulary {path}: not UTF-8 at byte {error.start}") from error
    pieces = [line.removesuffix("\r") for line in lines]
    if pieces[-1] == "":
        pieces.pop()
    check_vocabulary(pieces, f"vocabulary {path}")
    return pieces


def save_vocabulary(path: str | os.PathLike, pieces: Sequence[str]) -> None:
    """Writes a vocabulary file atomically, one piece per line.

    Raises:
        UserError: the vocabulary cannot be used (see `check_vocabulary`).
    """
    check_vocabulary(pieces)
    with file_io.atomic_write(path) as temporary, file_io.open_file(temporary, "wb") as file:
        file.write("".join(piece + "\n" for piece in pieces).encode("utf-8"))


def train_vocabulary(texts: Iterable[str], size: int, min_frequency: int = 2) -> list[str]:
    """Trains a cased WordPiece vocabulary: special tokens first, then the pieces, sorted.

    Texts are normalized to Unicode NFC, accents are kept, and CJK characters are split, as in
    `Tokenizer`. Pieces of more than `MAX_PIECE_BYTES` bytes, which the tokenizer does not accept,
    are dropped; the tokenizer then uses shorter pieces. Repeated training gives slightly different
    pieces, so a vocabulary is stored and not trained again.

    Args:
        texts: iterable of texts, read once.
        size: maximum number of pieces, including special tokens. With few texts, the vocabulary has
            fewer pieces.
        min_frequency: a pair of pieces that occurs less often is not merged.

    Raises:
        UserError: `size` is too small, or `texts` contains no text.
    """
    from tokenizers import BertWordPieceTokenizer

    if size < 2 * len(SPECIAL_TOKENS):
        raise UserError(f"vocabulary size {size}: expected {2 * len(SPECIAL_TOKENS)} or more")
    trainer = BertWordPieceTokenizer(strip_accents=False, lowercase=False)
    trainer.train_from_iterator(
        map(text_cleaning.normalize, texts),
        vocab_size=size,
        min_frequency=min_frequency,
        # A character may need two pieces: at the start of a word, and inside of a word. The rarest
        # characters are dropped to leave space for longer pieces. The default limit of 1,000
        # characters would drop many Chinese characters.
        limit_alphabet=(size - len(SPECIAL_TOKENS)) // 3,
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
    )
    pieces = set(trainer.get_vocab()) - set(SPECIAL_TOKENS)
    pieces = sorted(piece for piece in pieces if _num_bytes(piece) <= MAX_PIECE_BYTES)
    if not pieces:
        raise UserError("no text to train a vocabulary from: the records or the file contain none")
    return [*SPECIAL_TOKENS, *pieces]
