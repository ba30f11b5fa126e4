"""WordPiece vocabularies, and a tokenizer like that of LaBSE or of uncased BERT in TensorFlow.

Special tokens in a text are treated as plain text: "[SEP]" in a caption is five characters.
Therefore no text can inject a special token.
"""

import hashlib
import os
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from tf_mural import file_io
from tf_mural.data import text_cleaning
from tf_mural.data.base_tokenizer import BaseTokenizer
from tf_mural.data.wordpiece import WordPiece
from tf_mural.errors import UserError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

# The largest number of bytes of a piece, without the prefix "##", that tensorflow-text accepts.
MAX_PIECE_BYTES = 256


class Tokenizer(BaseTokenizer):
    """Maps strings to padded rows of token ids, `[CLS] pieces... [SEP] [PAD]...`.

    Args:
        vocabulary: pieces in the order of their ids, or the path of a file with one piece per line.
        max_tokens: number of tokens per row, including [CLS] and [SEP].
        lower_case: whether case and accents are removed first, as for an uncased BERT. LaBSE keeps
            case and accents.
        prefix: string that is put before each text, such as "query: " of E5.

    Raises:
        UserError: the file is missing, or the vocabulary cannot be used (see `check_vocabulary`).
    """

    def __init__(
        self,
        vocabulary: Sequence[str] | str | os.PathLike,
        max_tokens: int = 64,
        lower_case: bool = False,
        prefix: str = "",
    ):
        if isinstance(vocabulary, str | os.PathLike):
            vocabulary = load_vocabulary(vocabulary)
        else:
            check_vocabulary(vocabulary)
        self._pieces = tuple(vocabulary)
        ids = {piece: i for i, piece in enumerate(self._pieces) if piece in SPECIAL_TOKENS}
        super().__init__(
            max_tokens,
            ids["[PAD]"],
            ids["[UNK]"],
            start=(ids["[CLS]"],),
            end=(ids["[SEP]"],),
            lower_case=lower_case,
            prefix=prefix,
        )
        if len(ids) == len(self._pieces):
            raise UserError(
                f"no tokenizer can be built from these {len(ids)} pieces: all are special tokens"
            )
        self._word_piece = WordPiece(self._pieces)

    def _check_max_tokens(self, content="[CLS], one piece and [SEP]"):
        super()._check_max_tokens("[CLS], one piece and [SEP]")

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Pieces in the order of their ids."""
        return self._pieces

    @property
    def hash(self) -> str:
        """Hash of the vocabulary, followed by "-lower" if `lower_case` is set.

        The hash is stored with weights and results.
        """
        lower = "-lower" if self._lower_case else ""
        return vocabulary_hash(self._pieces) + lower + self._hash_suffix()

    def normalize_word(self, word: str) -> str:
        """Returns a word with the characters that pieces of the vocabulary are compared with."""
        word = unicodedata.normalize("NFC", word)
        return unicodedata.normalize("NFD", word).lower() if self._lower_case else word

    def pieces(self, strings: Any) -> Any:
        """Tokenizes strings without adding special tokens and without truncation.

        `prefix` is put before each string. Bytes that are not UTF-8 are dropped.

        Args:
            strings: string (n,).

        Returns:
            RaggedTensor int32 (n, None).
        """
        import tensorflow as tf

        # Tracing the operations takes more than a second.
        if tf.executing_eagerly():
            return self._prefixed_pieces(tf.convert_to_tensor(strings, tf.string))
        return self._traced_pieces(strings)

    def _compute_pieces(self, strings):
        strings = text_cleaning.clean(strings, self._lower_case, self._word_piece.has_unknown)
        return self._word_piece(strings)


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
