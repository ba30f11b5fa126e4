"""Texts to tokens in the graph, by cased WordPiece as LaBSE's; and the training of a vocabulary.

Special tokens written in a text stay plain text: a caption that says "[SEP]" is five characters
long, so no text can inject a token.
"""

import hashlib
import os
import unicodedata
import uuid
from collections.abc import Iterable, Sequence

from tf_mural.base import UserError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

# Control, format, private and replacement characters: the reference tokenizer drops them before it
# splits words, FastBertTokenizer keeps some. RE2 syntax, for tf.strings.regex_replace.
_UNWANTED = r"[\x00-\x08\x0B\x0C\x0E-\x1F\x7F-\x{9F}\p{Cf}\p{Co}\x{FFFD}]"

# The reference turns words of over 100 characters into [UNK]; the limit here counts bytes, and a
# character of Thai, Khmer or Malayalam takes three.
_MAX_BYTES_PER_WORD = 400


class Tokenizer:
    """Strings to padded rows of token ids, by tensorflow operations alone.

    Args:
        vocabulary: the pieces in the order of their ids, or the path of a file, one piece a line.
        max_tokens: width of a row, [CLS] and [SEP] included.

    Raises:
        UserError: the file is missing, or the vocabulary cannot be used (see `check_vocabulary`).
    """

    def __init__(self, vocabulary: Sequence[str] | str | os.PathLike, max_tokens: int = 64):
        if isinstance(vocabulary, str | os.PathLike):
            vocabulary = load_vocabulary(vocabulary)
        else:
            check_vocabulary(vocabulary)
        if max_tokens < 3:
            raise UserError(
                f"max_tokens is {max_tokens}, but [CLS], one piece and [SEP] need 3: set 3 or more"
            )
        self._pieces = tuple(vocabulary)
        self._max_tokens = max_tokens
        ids = {piece: i for i, piece in enumerate(self._pieces) if piece in SPECIAL_TOKENS}
        self._pad, self._cls, self._sep = ids["[PAD]"], ids["[CLS]"], ids["[SEP]"]
        self._fast = _fast_tokenizer(self._pieces)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The pieces in the order of their ids."""
        return self._pieces

    @property
    def size(self) -> int:
        """Number of pieces: the rows that an embedding table needs."""
        return len(self._pieces)

    @property
    def max_tokens(self) -> int:
        """Width of a row."""
        return self._max_tokens

    @property
    def pad_id(self) -> int:
        """Id of [PAD]."""
        return self._pad

    @property
    def hash(self) -> str:
        """16 hexadecimal digits that name this vocabulary wherever weights or results are kept."""
        return vocabulary_hash(self._pieces)

    def pieces(self, strings):
        """All token ids of each string, without [CLS] and [SEP]: RaggedTensor int32 (n, None).

        Bytes that are not UTF-8 are dropped.
        """
        import tensorflow as tf

        strings = tf.strings.unicode_transcode(strings, "UTF-8", "UTF-8", errors="replace")
        strings = tf.strings.regex_replace(strings, _UNWANTED, "")
        return self._fast.tokenize(strings)

    def __call__(self, strings):
        """Rows `[CLS] pieces... [SEP] [PAD]...`; long texts lose their last pieces, never [SEP].

        Args:
            strings: (n,) strings, a tensor or anything that becomes one.

        Returns:
            int32 (n, max_tokens).
        """
        import tensorflow as tf

        strings = tf.convert_to_tensor(strings, tf.string)
        strings.shape.assert_has_rank(1)
        pieces = self.pieces(strings)
        room = self._max_tokens - 2
        body = pieces.to_tensor(self._pad, shape=(None, room))  # cut and padded: (n, room)
        tokens = tf.pad(body, [[0, 0], [1, 0]], constant_values=self._cls)
        tokens = tf.pad(tokens, [[0, 0], [0, 1]], constant_values=self._pad)  # (n, max_tokens)
        last = 1 + tf.minimum(pieces.row_lengths(), room)
        at_end = tf.range(self._max_tokens, dtype=last.dtype) == last[:, None]
        tokens = tf.where(at_end, self._sep, tokens)
        return tf.ensure_shape(tokens, (strings.shape[0], self._max_tokens))


def _fast_tokenizer(pieces: Sequence[str]):
    try:
        import tensorflow as tf
        import tensorflow_text
    except ImportError as error:
        raise UserError(
            f"tokenising needs tensorflow-text, which does not import here ({error}): "
            "pip install tensorflow-text, in the version of the installed tensorflow"
        ) from error
    # Lifted out of any graph under construction, so that one tokenizer serves every tf.function.
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
            f"no tokenizer can be built of these {len(pieces)} pieces: {error}"
        ) from error


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
        with open(path, "rb") as file:
            content = file.read()
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
    temporary = f"{os.fspath(path)}.{uuid.uuid4().hex}.tmp"
    with open(temporary, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(piece + "\n" for piece in pieces)
    os.replace(temporary, path)


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
