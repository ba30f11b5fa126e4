"""The tokenizer of CLIP, byte-level byte-pair encoding, in TensorFlow.

A text is split into words, and a word into bytes. Then the adjacent pair with the lowest rank in
the list of merges is merged, until the list contains no pair of the word. All words of a batch are
merged at the same time, and each different word only once.

Special tokens in a text are treated as plain text: "<|endoftext|>" in a caption is three words.
Hugging Face's tokenizers convert such a text to the special token.
"""

import functools
import hashlib
import json
from collections.abc import Sequence

import numpy as np

from tf_mural.data import text_steps
from tf_mural.data.base_tokenizer import BaseTokenizer
from tf_mural.data.wordpiece import import_tensorflow_text
from tf_mural.errors import UserError

END_OF_WORD = "</w>"  # end of a piece that ends a word
CLIP_STEPS = ("nfc", "single_spaces", "lower")
# Each part of a longer word is merged separately, because the time grows with the square of the
# number of bytes. A row of CLIP contains a few hundred bytes.
MAX_WORD_BYTES = 2000
# The words of CLIP: the endings of English, letters, a digit, or other characters.
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_NO_MERGE = np.iinfo(np.int32).max


def byte_alphabet() -> list[str]:
    """Returns the character that stands for each byte in pieces.

    Printable characters of Latin-1 stand for themselves. The other bytes have the characters from
    U+0100 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


class BytePairTokenizer(BaseTokenizer):
    """Maps strings to padded rows of token ids of a byte-pair encoding like that of CLIP.

    Args:
        vocabulary: pieces in the order of their ids. Each byte must be a piece, with and without
            the end of a word.
        merges: pairs of pieces in the order of their ranks.
        start: tokens before each text. None: the last token but one of the vocabulary.
        end: tokens behind each text. None: the last token of the vocabulary.
        max_tokens: number of tokens per row, including the tokens at the start and at the end.
        pad_id: token that pads rows. None: the token at the end, as in OpenAI's CLIP. Pooling "eos"
            of a text tower takes the first of these tokens.
        steps: names of the steps that normalize texts (see `text_steps`).
        prefix: string that is put before each text.

    Raises:
        UserError: the vocabulary lacks a byte or a piece of `merges`, `max_tokens` is too small, or
            a step is unknown.
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        merges: Sequence[tuple[str, str]],
        max_tokens: int = 77,
        start: Sequence[int] | None = None,
        end: Sequence[int] | None = None,
        pad_id: int | None = None,
        steps: Sequence[str] = CLIP_STEPS,
        prefix: str = "",
    ):
        self._pieces = tuple(vocabulary)
        self._merges = tuple(tuple(pair) for pair in merges)
        self._steps = text_steps.check_steps(steps)
        size = len(self._pieces)
        end = (size - 1,) if end is None else end
        super().__init__(
            max_tokens,
            end[0] if pad_id is None else pad_id,
            None,
            start=(size - 2,) if start is None else start,
            end=end,
            lower_case=text_steps.lowers(self._steps),
            prefix=prefix,
        )
        ids = {piece: i for i, piece in enumerate(self._pieces)}
        if len(ids) < size:
            raise UserError(f"the vocabulary has {size} pieces, but only {len(ids)} are different")
        self._bytes = _byte_ids(ids)
        self._keys, self._ranks, self._results = _merge_table(ids, self._merges)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Pieces in the order of their ids, written with the characters of `byte_alphabet`."""
        return self._pieces

    @property
    def merges(self) -> tuple[tuple[str, str], ...]:
        """Pairs of pieces in the order of their ranks."""
        return self._merges

    @property
    def steps(self) -> tuple[str, ...]:
        """Names of the steps that normalize texts."""
        return self._steps

    @property
    def has_bytes(self) -> bool:
        """Whether characters that are not in the vocabulary are split into bytes."""
        return True

    @functools.cached_property
    def hash(self) -> str:
        """Hash of the pieces, merges, normalization, special tokens and `prefix`."""
        merges = [" ".join(pair) for pair in self._merges]
        settings = [self._pieces, merges, self._start, self._end, self._pad_id, self._steps]
        content = json.dumps(settings).encode("utf-8")
        return f"bpe-{hashlib.sha256(content).hexdigest()[:16]}{self._hash_suffix()}"

    def _compute_pieces(self, strings):
        import tensorflow as tf

        _, tensorflow_text = import_tensorflow_text()
        texts = text_steps.apply(strings, self._steps)
        words = tensorflow_text.regex_split(texts, _WORDS, _WORDS)
        # The spaces between words remain.
        words = tf.ragged.boolean_mask(words, ~tf.strings.regex_full_match(words, r"\s*"))
        unique, index = tf.unique(words.flat_values, out_idx=tf.int64)
        pieces = tf.gather(self._split_words(unique), index)  # (w, None)
        return words.with_flat_values(pieces).merge_dims(1, 2)

    def _split_words(self, words):
        """Returns the pieces of words, string (u,), as RaggedTensor int32 (u, None)."""
        import tensorflow as tf

        num_bytes = tf.strings.length(words)
        text = tf.strings.reduce_join(words)
        values = tf.cast(tf.io.decode_raw(text[None], tf.uint8)[0], tf.int32)  # (b,)
        word = tf.repeat(tf.range(tf.size(words)), num_bytes)
        starts = tf.cumsum(num_bytes, exclusive=True)
        position = tf.range(tf.size(values)) - tf.gather(starts, word)
        is_last = position == tf.gather(num_bytes, word) - 1
        ids = tf.gather_nd(
            tf.constant(self._bytes), tf.stack([tf.cast(is_last, tf.int32), values], axis=1)
        )
        part = tf.cumsum(tf.cast(position % MAX_WORD_BYTES == 0, tf.int32)) - 1

        def merge(ids, word, part, _):
            rank, result = self._look_up(ids, part)
            best = tf.math.unsorted_segment_min(rank, part[:-1], tf.size(rank) + 1)
            is_best = (rank == tf.gather(best, part[:-1])) & (rank < _NO_MERGE)
            merged = _every_other(is_best)
            no = tf.zeros([1], tf.bool)
            ids = tf.where(tf.concat([merged, no], 0), tf.concat([result, [0]], 0), ids)
            keep = ~tf.concat([no, merged], 0)
            ids, word, part = (tf.boolean_mask(x, keep) for x in (ids, word, part))
            return ids, word, part, tf.reduce_any(merged)

        state = (ids, word, part, tf.size(ids) > 1)
        unknown = tf.TensorShape([None])
        ids, word, _, _ = tf.while_loop(
            lambda *state: state[-1],
            merge,
            state,
            shape_invariants=(unknown, unknown, unknown, tf.TensorShape([])),
        )
        return tf.RaggedTensor.from_value_rowids(
            ids, tf.cast(word, tf.int64), tf.size(words, tf.int64), validate=False
        )

    def _look_up(self, ids, part):
        """Returns rank and merged id of each adjacent pair, int32 (p - 1,) each."""
        import tensorflow as tf

        pair = tf.cast(ids[:-1], tf.int64) * self.size + tf.cast(ids[1:], tf.int64)
        keys = tf.constant(self._keys)
        index = tf.minimum(tf.searchsorted(keys, pair), len(self._keys) - 1)
        is_known = (tf.gather(keys, index) == pair) & (part[:-1] == part[1:])
        rank = tf.where(is_known, tf.gather(tf.constant(self._ranks), index), _NO_MERGE)
        return rank, tf.gather(tf.constant(self._results), index)


def _every_other(mask):
    """Keeps the first, third, ... element of each run of True: adjacent pairs share a piece."""
    import tensorflow as tf

    is_start = mask & ~tf.concat([[False], mask[:-1]], axis=0)
    starts = tf.concat([[0], tf.where(is_start)[:, 0]], axis=0)
    run = tf.cumsum(tf.cast(is_start, tf.int32))
    position = tf.range(tf.size(mask, tf.int64)) - tf.gather(starts, run)
    return mask & (position % 2 == 0)


def _byte_ids(ids):
    """Returns the ids of the bytes, int32 (2, 256): inside of a word, and at its end."""
    alphabet = byte_alphabet()
    for suffix in ("", END_OF_WORD):
        missing = [character for character in alphabet if character + suffix not in ids]
        if missing:
            raise UserError(
                f"the vocabulary has no piece {missing[0] + suffix!r}, but a byte-level vocabulary "
                f"has 256 bytes with and without {END_OF_WORD}, as that of CLIP"
            )
    return np.array([[ids[c + suffix] for c in alphabet] for suffix in ("", END_OF_WORD)], np.int32)


def _merge_table(ids, merges):
    """Returns keys (sorted), ranks and merged ids of the pairs of pieces."""
    if not merges:
        raise UserError("the list of merges is empty, expected pairs of pieces")
    table = {}
    for rank, (left, right) in enumerate(merges):
        for piece in (left, right, left + right):
            if piece not in ids:
                raise UserError(
                    f"merge {rank} is {left!r} + {right!r}, but the vocabulary has no {piece!r}; "
                    "the files belong to different tokenizers"
                )
        table.setdefault(ids[left] * len(ids) + ids[right], (rank, ids[left + right]))
    keys = np.array(sorted(table), np.int64)
    ranks, results = np.array([table[key] for key in keys.tolist()], np.int32).T
    return keys, np.ascontiguousarray(ranks), np.ascontiguousarray(results)
