"""Vocabulary files: reading, writing, validation, hashes and training."""

import hashlib
import os
import unicodedata
from collections.abc import Iterable, Sequence

from tf_mural import file_io
from tf_mural.errors import UserError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def vocabulary_hash(pieces: Sequence[str]) -> str:
    """Returns the first 16 hexadecimal digits of the SHA-256 of the pieces, joined by newlines."""
    return hashlib.sha256("\n".join(pieces).encode("utf-8")).hexdigest()[:16]


def check_vocabulary(pieces: Sequence[str], where: str = "the vocabulary") -> None:
    """Checks that a tokenizer can be built from a vocabulary.

    Args:
        pieces: pieces in the order of their ids.
        where: name of the vocabulary in messages.

    Raises:
        UserError: a special token is missing, or a piece is a duplicate, is empty, or contains a
            control character; the message gives `where` and the line, counted from 1.
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
        first_line[piece] = line


def load_vocabulary(path: str | os.PathLike) -> list[str]:
    """Reads a vocabulary file: UTF-8, one piece per line; the id is the line number.

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
    with file_io.replacing(path) as temporary, file_io.open_file(temporary, "wb") as file:
        file.write("".join(piece + "\n" for piece in pieces).encode("utf-8"))


def train_vocabulary(texts: Iterable[str], size: int, min_frequency: int = 2) -> list[str]:
    """Trains a cased WordPiece vocabulary: special tokens first, then the pieces, sorted.

    Accents are kept and CJK characters are split, as `Tokenizer` does. Repeated training gives
    slightly different pieces, so a vocabulary is stored and not trained again.

    Args:
        texts: iterable of texts, read once.
        size: maximum number of pieces, including special tokens; few texts give fewer.
        min_frequency: a pair of pieces that occurs less often is not merged.

    Raises:
        UserError: `size` is too small, or there was no text.
    """
    from tokenizers import BertWordPieceTokenizer

    if size < 2 * len(SPECIAL_TOKENS):
        raise UserError(f"vocabulary size {size}: expected {2 * len(SPECIAL_TOKENS)} or more")
    trainer = BertWordPieceTokenizer(strip_accents=False, lowercase=False)
    trainer.train_from_iterator(
        texts,
        vocab_size=size,
        min_frequency=min_frequency,
        # A character may need two pieces (at the start of a word and inside). The rarest ones are
        # dropped, to leave space for longer pieces. The default of 1000 loses many Chinese ones.
        limit_alphabet=(size - len(SPECIAL_TOKENS)) // 3,
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
    )
    pieces = sorted(set(trainer.get_vocab()) - set(SPECIAL_TOKENS))
    if not pieces:
        raise UserError("no text to train a vocabulary from: the records or the file contain none")
    return [*SPECIAL_TOKENS, *pieces]
