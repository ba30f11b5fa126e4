"""The WordPiece algorithm in TensorFlow, for words of any length.

Like the reference tokenizer, `WordPiece` maps a word of at most 100 characters to [UNK] if some
part of the word is not in the vocabulary. The reference tokenizer maps all longer words to [UNK],
which would discard whole captions in Thai, Khmer, Lao and Burmese, because these languages are
written without spaces. `WordPiece` splits longer words in the same way as short words, except that
only their unknown characters become [UNK].
"""

from collections.abc import Sequence

from tf_mural.errors import UserError

MAX_WORD_CHARACTERS = 100  # the limit of the reference tokenizer
_CONTINUATION = "##"  # prefix of pieces that do not start a word
# The tokenizer of tensorflow-text would map words with more bytes to [UNK].
_MAX_WORD_BYTES = 2**31 - 1
_PRIVATE_USE = range(0xE000, 0xF900)


class WordPiece:
    """Splits texts into words, and words into the longest pieces of a vocabulary.

    The tokenizer of tensorflow-text is built with additional pieces: each character of the
    vocabulary as a piece that starts a word, and as a piece that continues a word. An additional
    piece matches only where no piece of the vocabulary matches, and is then mapped to [UNK].

    Args:
        pieces: pieces in the order of their ids, a vocabulary that `check_vocabulary` accepts.

    Raises:
        UserError: tensorflow-text is missing, or the vocabulary cannot be used.
    """

    def __init__(self, pieces: Sequence[str]):
        known = set(pieces)
        text = "".join(piece.removeprefix(_CONTINUATION) for piece in pieces)
        characters = sorted({character for character in text if not character.isspace()})
        # This character replaces all characters that are not in the vocabulary. Texts contain no
        # private-use characters, because `text_cleaning.clean` removes them.
        replacement = next(chr(code) for code in _PRIVATE_USE if chr(code) not in characters)
        forms = [form for c in [*characters, replacement] for form in (c, _CONTINUATION + c)]
        all_pieces = [*pieces, *(form for form in forms if form not in known)]
        self._size, self._unknown_id = len(pieces), pieces.index("[UNK]")
        self._replacement = ord(replacement)
        tf, tensorflow_text = import_tensorflow_text()
        # The tokenizer is created outside of any graph under construction, so that all functions
        # can use it.
        try:
            with tf.init_scope(), tf.device("CPU"):
                self._normalizer = tensorflow_text.FastBertNormalizer()
                self._tokenizer = tensorflow_text.FastWordpieceTokenizer(
                    all_pieces, max_bytes_per_word=_MAX_WORD_BYTES, token_out_type=tf.int32
                )
                self._is_start = tf.constant([not p.startswith(_CONTINUATION) for p in all_pieces])
                self._characters = tf.constant(list(map(ord, characters)), tf.int32)
        except RuntimeError as error:
            raise UserError(
                f"no tokenizer can be built from these {len(pieces)} pieces: {error}"
            ) from error

    def __call__(self, strings):
        """Returns the pieces of texts.

        Args:
            strings: string (n,), from `text_cleaning.clean`.

        Returns:
            RaggedTensor int32 (n, None).
        """
        import tensorflow as tf

        strings = self._normalizer.normalize(strings)
        pieces, starts, ends = self._tokenizer.tokenize_with_offsets(strings)
        return tf.cond(
            tf.reduce_any(self._is_unknown(pieces.flat_values)),
            lambda: self._replace_unknown(strings, pieces, starts, ends),
            lambda: pieces,
        )

    def has_unknown(self, strings):
        """Returns whether the pieces of each text contain [UNK], a bool tensor (n,)."""
        import tensorflow as tf

        pieces = self._tokenizer.tokenize(self._normalizer.normalize(strings))
        return tf.reduce_any(pieces.with_flat_values(self._is_unknown(pieces.flat_values)), axis=1)

    def _is_unknown(self, ids):
        return (ids == self._unknown_id) | (ids >= self._size)

    def _replace_unknown(self, strings, pieces, starts, ends):
        """Replaces the pieces of each word that has an unknown piece.

        Args:
            strings: string (n,).
            pieces: RaggedTensor int32 (n, None), which may contain additional pieces.
            starts, ends: RaggedTensors int64 (n, None), start and end of each piece in bytes.

        Returns:
            RaggedTensor int32 (n, None).
        """
        import tensorflow as tf

        ids = pieces.flat_values  # (p,)
        is_start = tf.gather(self._is_start, ids)
        word = tf.cumsum(tf.cast(is_start, tf.int32)) - 1  # (p,): the word of each piece
        is_unknown = tf.math.segment_max(tf.cast(self._is_unknown(ids), tf.int32), word) > 0  # (w,)
        start = tf.boolean_mask(starts.flat_values, is_start)
        num_bytes = tf.math.segment_max(ends.flat_values, word) - start

        # An unknown word keeps only its first piece, which becomes [UNK].
        in_unknown = tf.gather(is_unknown, word)
        keep = is_start | ~in_unknown
        num_kept = tf.concat([[0], tf.cumsum(tf.cast(keep, tf.int64))], axis=0)
        pieces_kept = tf.RaggedTensor.from_row_splits(
            tf.boolean_mask(tf.where(in_unknown, self._unknown_id, ids), keep),
            tf.gather(num_kept, pieces.row_splits),
            validate=False,
        )
        long = tf.where(is_unknown & (num_bytes > MAX_WORD_CHARACTERS))[:, 0]

        def with_long_words():
            row = tf.gather(tf.boolean_mask(pieces.value_rowids(), is_start), long)
            texts = tf.gather(strings, row)
            words = tf.strings.substr(texts, tf.gather(start, long), tf.gather(num_bytes, long))
            position = tf.gather(tf.boolean_mask(num_kept[:-1], is_start), long)
            is_long = tf.strings.length(words, "UTF8_CHAR") > MAX_WORD_CHARACTERS
            words, position = tf.boolean_mask(words, is_long), tf.boolean_mask(position, is_long)
            return _replace_at(pieces_kept, position, self._split_long_words(words))

        return tf.cond(tf.size(long) > 0, with_long_words, lambda: pieces_kept)

    def _split_long_words(self, words):
        """Splits words into the longest pieces; adjacent unknown characters become one [UNK].

        Args:
            words: string (m,).

        Returns:
            RaggedTensor int32 (m, None).
        """
        import tensorflow as tf

        codes = tf.strings.unicode_decode(words, "UTF-8")
        flat = codes.flat_values
        index = tf.searchsorted(self._characters, flat)
        index = tf.minimum(index, tf.size(self._characters) - 1)
        is_known = tf.gather(self._characters, index) == flat
        codes = codes.with_flat_values(tf.where(is_known, flat, self._replacement))
        pieces = self._tokenizer.tokenize(tf.strings.unicode_encode(codes, "UTF-8"))
        ids, word = pieces.flat_values, pieces.value_rowids()
        is_unknown = self._is_unknown(ids)
        # The word "-1" precedes the first word.
        previous_word = tf.concat([[tf.constant(-1, tf.int64)], word], axis=0)[:-1]
        follows_unknown = tf.concat([[False], is_unknown], axis=0)[:-1] & (previous_word == word)
        pieces = pieces.with_flat_values(tf.where(is_unknown, self._unknown_id, ids))
        keep = pieces.with_flat_values(~(is_unknown & follows_unknown))
        return tf.ragged.boolean_mask(pieces, keep)


def _replace_at(pieces, positions, replacements):
    """Replaces single pieces by lists of pieces.

    Args:
        pieces: RaggedTensor int32 (n, None), with p pieces in total.
        positions: int64 (m,), positions in the flat values of `pieces`.
        replacements: RaggedTensor int32 (m, None).

    Returns:
        RaggedTensor int32 (n, None).
    """
    import tensorflow as tf

    num_pieces = tf.size(pieces.flat_values, tf.int64)
    num_replacements = tf.size(positions, tf.int64)
    singles = tf.RaggedTensor.from_row_splits(pieces.flat_values, tf.range(num_pieces + 1))
    choices = tf.concat([singles, replacements], axis=0)  # (p + m, None)
    choice = tf.tensor_scatter_nd_update(
        tf.range(num_pieces), positions[:, None], num_pieces + tf.range(num_replacements)
    )
    chosen = tf.gather(choices, choice)  # (p, None)
    splits = tf.gather(chosen.row_splits, pieces.row_splits)
    return tf.RaggedTensor.from_row_splits(chosen.flat_values, splits, validate=False)


def import_tensorflow_text():
    """Returns the modules tensorflow and tensorflow_text.

    Raises:
        UserError: tensorflow-text is missing, or does not fit the installed TensorFlow.
    """
    try:
        import tensorflow
        import tensorflow_text
    except ImportError as error:
        raise UserError(
            f"tokenizing needs tensorflow-text, which does not import here ({error}): "
            "pip install tensorflow-text, with the version of the installed tensorflow"
        ) from error
    return tensorflow, tensorflow_text
