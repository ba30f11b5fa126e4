"""Vocabularies: files of pieces, checked, hashed, read, written, and learnt from texts."""

import hashlib
import os
import unicodedata
from collections.abc import Iterable, Sequence

from tf_mural import file_io
from tf_mural.errors import UserError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def vocabulary_hash(pieces: Sequence[str]) -> str:
    """First 16 hexadecimal digits of the SHA-256 of the pieces joined by newlines."""
    return hashlib.sha256("\n".join(pieces).encode("utf-8")).hexdigest()[:16]


def check_vocabulary(pieces: Sequence[str], where: str = "the vocabulary") -> None:
    """Refuses what no tokenizer can be built from.

    Raises:
        UserError: a special token is missing, a piece comes twice, is empty, or holds a control
            character; the message names `where` and the line, counted from 1.
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
                f"{where}, line {line}: expected a piece, found an empty line; remove it"
            )
        if piece in first_line:
            raise UserError(
                f"{where}, line {line}: piece {piece!r} is already on line {first_line[piece]}; "
                "every piece must come once, since its line is its id"
            )
        if any(unicodedata.category(character) == "Cc" for character in piece):
            raise UserError(
                f"{where}, line {line}: piece {piece!r} holds a control character, which no text "
                "keeps; is this a WordPiece vocabulary, one piece a line?"
            )
        first_line[piece] = line


def load_vocabulary(path: str | os.PathLike) -> list[str]:
    """Pieces of a vocabulary file: UTF-8, one piece a line, the id is the line.

    Raises:
        UserError: no such file, not UTF-8, or not usable (see `check_vocabulary`).
    """
    try:
        content = file_io.read_bytes(path)
    except OSError as error:
        raise UserError(
            f"vocabulary {path}: {error.strerror}; expected a file with one piece a line, "
            "tools/build_vocab.py writes one"
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
    """Writes one piece a line; the file appears when it is whole.

    Raises:
        UserError: the vocabulary is not usable (see `check_vocabulary`).
    """
    check_vocabulary(pieces)
    with file_io.replacing(path) as temporary, file_io.open_file(temporary, "wb") as file:
        file.write("".join(piece + "\n" for piece in pieces).encode("utf-8"))


def train_vocabulary(texts: Iterable[str], size: int, min_frequency: int = 2) -> list[str]:
    """Learns a cased WordPiece vocabulary: special tokens first, then the pieces, sorted.

    Accents are kept and CJK characters split, as `Tokenizer` does. The learner's own runs differ by
    a few pieces, so a vocabulary is a file to keep and not a step to repeat.

    Args:
        texts: any number of texts, read once.
        size: pieces to reach at most, special tokens included; few texts give fewer.
        min_frequency: a pair of pieces seen less often is not merged.

    Raises:
        UserError: `size` has no room for pieces, or there was no text.
    """
    from tokenizers import BertWordPieceTokenizer

    if size < 2 * len(SPECIAL_TOKENS):
        raise UserError(f"vocabulary size {size}: expected {2 * len(SPECIAL_TOKENS)} or more")
    learner = BertWordPieceTokenizer(strip_accents=False, lowercase=False)
    learner.train_from_iterator(
        texts,
        vocab_size=size,
        min_frequency=min_frequency,
        # A character may cost two pieces (at the head of a word and inside); the rarest go rather
        # than leave no room for longer pieces. The library's default of 1000 loses much of Chinese.
        limit_alphabet=(size - len(SPECIAL_TOKENS)) // 3,
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
    )
    pieces = sorted(set(learner.get_vocab()) - set(SPECIAL_TOKENS))
    if not pieces:
        raise UserError("no text to learn a vocabulary from: the records or the file hold none")
    return [*SPECIAL_TOKENS, *pieces]
