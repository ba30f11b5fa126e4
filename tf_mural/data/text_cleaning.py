"""Normalizes the Unicode characters of texts, and detects texts without visible characters.

The operations of `clean` are TensorFlow operations. Therefore, training, evaluation and exported
models clean texts in the same way, and record sets store the texts as they were read.
"""

import unicodedata

from tf_mural.data.wordpiece import MAX_WORD_CHARACTERS

# Patterns in the syntax of RE2.
_ZERO_WIDTH_SPACE = r"\x{200B}"
_VALID = r"[\x{0}-\x{D7FF}\x{E000}-\x{10FFFF}]*"  # surrogates are not valid in UTF-8
_SPACES = r"[\t\n\r\p{Zs}]"
# Control, format, private-use and replacement characters. The reference tokenizer drops these
# characters before it splits words; the tokenizer of tensorflow-text keeps some of them.
_IGNORED = r"[\x00-\x08\x0B\x0C\x0E-\x1F\x7F-\x{9F}\p{Cf}\p{Co}\x{FFFD}]"
# Characters without a glyph that `unicodedata` classifies as letters, marks or symbols.
_FILLERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0").union(
    map(chr, [*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)])
)


def is_blank(text: str) -> bool:
    """Returns whether a text has no visible characters.

    Invisible characters are white space, control and format characters (for example U+200B and
    U+2060), and characters with an empty glyph (for example U+3164, the Hangul filler).
    """
    if text[:1].isalnum() and text[0] not in _FILLERS:
        return False  # This check is fast, and decides for most texts.
    return all(
        character.isspace()
        or character in _FILLERS
        or unicodedata.category(character) in ("Cc", "Cf")
        for character in text
    )


def valid_unicode(text: str) -> str:
    """Replaces characters that are not valid Unicode, such as lone surrogates in JSON, by "?"."""
    return text.encode(errors="replace").decode()


def normalize(text: str) -> str:
    """Returns a text in Unicode NFC; zero-width spaces in long runs become spaces, as in `clean`.

    A vocabulary is trained on texts in this form.
    """
    text = unicodedata.normalize("NFC", text)
    if "\u200b" not in text:
        return text
    runs = text.split()
    return " ".join(
        run.replace("\u200b", " ") if len(run) > MAX_WORD_CHARACTERS else run for run in runs
    )


def clean(strings, lower_case, has_unknown):
    """Normalizes texts to Unicode NFC, and removes the characters that tokenizers ignore.

    Bytes that are not UTF-8 are dropped. If `lower_case` is set, accents and case are removed too.

    A zero-width space (U+200B) either separates words or is removed, as in the reference tokenizer.
    It separates words in a run of non-space characters of more than `MAX_WORD_CHARACTERS`
    characters. In a shorter run, it separates words only if all pieces of the run are then known,
    and would not be known otherwise.

    Args:
        strings: string (n,).
        lower_case: whether accents and case are removed.
        has_unknown: function that maps clean strings (n,) to a bool tensor (n,): whether a text has
            pieces that are not in the vocabulary.

    Returns:
        string (n,).
    """
    import tensorflow as tf
    import tensorflow_text

    # Few texts have invalid bytes. The check takes a third of the time of the replacement.
    strings = tf.cond(
        tf.reduce_all(tf.strings.regex_full_match(strings, _VALID)),
        lambda: tf.identity(strings),
        lambda: tf.strings.unicode_transcode(strings, "UTF-8", "UTF-8", errors="replace"),
    )
    if not lower_case:  # `_lowered` applies NFD, whose result does not depend on a previous NFC.
        strings = tensorflow_text.normalize_utf8(strings, "NFC")
    finish = _lowered if lower_case else tf.identity
    cleaned = _remove_ignored(strings)
    # Few texts have ignored characters. Only these texts are searched for zero-width spaces.
    changed = tf.where(tf.strings.length(cleaned) != tf.strings.length(strings))[:, 0]

    def separate():
        texts = tf.gather(strings, changed)
        has_zero_width = tf.strings.regex_full_match(texts, f"(?s).*{_ZERO_WIDTH_SPACE}.*")
        rows = tf.boolean_mask(changed, has_zero_width)
        texts = tf.boolean_mask(texts, has_zero_width)
        runs = tf.strings.split(tf.strings.regex_replace(texts, _SPACES, " "), " ")
        joined = _remove_ignored(runs.flat_values)
        spaced = tf.strings.regex_replace(runs.flat_values, _ZERO_WIDTH_SPACE, " ")
        separated = _remove_ignored(spaced)
        is_long = tf.strings.length(runs.flat_values, "UTF8_CHAR") > MAX_WORD_CHARACTERS
        becomes_known = has_unknown(finish(joined)) & ~has_unknown(finish(separated))
        runs = runs.with_flat_values(tf.where(is_long | becomes_known, separated, joined))
        texts = tf.strings.reduce_join(runs, axis=1, separator=" ")
        return tf.tensor_scatter_nd_update(cleaned, rows[:, None], texts)

    return finish(tf.cond(tf.size(changed) > 0, separate, lambda: cleaned))


def _remove_ignored(strings):
    import tensorflow as tf

    return tf.strings.regex_replace(strings, _IGNORED, "")


def _lowered(strings):
    """Removes accents and case.

    The option `lower_case_nfd_strip_accents` of FastBertNormalizer is not used, because it would
    also replace full-width characters such as ！ and ２.
    """
    import tensorflow as tf
    import tensorflow_text

    strings = tensorflow_text.normalize_utf8(strings, "NFD")
    # Σ is replaced separately, because `tf.strings.lower` would give ς at the end of a word. The
    # reference tokenizer gives σ everywhere.
    strings = tf.strings.regex_replace(tf.strings.regex_replace(strings, r"\p{Mn}", ""), "Σ", "σ")
    return tf.strings.lower(strings, encoding="utf-8")
