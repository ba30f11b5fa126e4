"""Normalization steps of public tokenizers, as TensorFlow operations.

A public tokenizer normalizes a text before it splits the text into pieces. `apply` performs the
same steps in the graph. The steps are named, because saved tokenizers store their names.
"""

import string
from collections.abc import Sequence

from tf_mural.errors import UserError, lookup

# The white space of Unicode. `\s` of RE2 contains only that of ASCII.
WHITE_SPACE = r"\t-\r \x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}"
_VALID = r"[\x{0}-\x{D7FF}\x{E000}-\x{10FFFF}]*"  # surrogates are not valid in UTF-8


def valid_utf8(strings):
    """Drops the bytes of strings (n,) that are not UTF-8."""
    import tensorflow as tf

    # Few texts have invalid bytes, and the check is faster than the replacement.
    return tf.cond(
        tf.reduce_all(tf.strings.regex_full_match(strings, _VALID)),
        lambda: tf.identity(strings),
        lambda: tf.strings.unicode_transcode(strings, "UTF-8", "UTF-8", errors="ignore"),
    )


def _unicode_form(form):
    def normalize(strings):
        import tensorflow_text

        return tensorflow_text.normalize_utf8(strings, form)

    return normalize


def _replace(pattern, replacement):
    def replace(strings):
        import tensorflow as tf

        return tf.strings.regex_replace(strings, pattern, replacement)

    return replace


def _lower(strings):
    import tensorflow as tf

    # `tf.strings.lower` gives ς at the end of a word. The step "lower" gives σ everywhere, because
    # the normalizers of Hugging Face convert each character separately.
    return tf.strings.lower(tf.strings.regex_replace(strings, "Σ", "σ"), encoding="utf-8")


def _lower_words(strings):
    import tensorflow as tf

    return tf.strings.lower(strings, encoding="utf-8")


_PUNCTUATION = "".join(f"\\{character}" for character in string.punctuation)

# {name: function of strings (n,)}
STEPS = {
    "nfc": _unicode_form("NFC"),
    "nfd": _unicode_form("NFD"),
    "nfkc": _unicode_form("NFKC"),
    "nfkd": _unicode_form("NFKD"),
    "lower": _lower,  # case, per character
    "lower_words": _lower_words,  # case, with ς at the end of a word, as `str.lower`
    "strip_accents": _replace(r"\p{Mn}", ""),
    "strip_punctuation": _replace(f"[{_PUNCTUATION}]", ""),  # only that of ASCII
    "single_spaces": _replace(f"[{WHITE_SPACE}]+", " "),
    "strip": _replace(f"^[{WHITE_SPACE}]+|[{WHITE_SPACE}]+$", ""),
}
_LOWER = ("lower", "lower_words")


def check_steps(steps: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of steps as a tuple.

    Raises:
        UserError: a step is not in `STEPS`.
    """
    if isinstance(steps, str):
        raise UserError(f"steps is {steps!r}, expected a sequence of names of steps")
    for step in steps:
        lookup(STEPS, step, "normalization step")
    return tuple(steps)


def lowers(steps: Sequence[str]) -> bool:
    """Returns whether one of the steps converts texts to lower case."""
    return any(step in _LOWER for step in steps)


def with_lower_case(steps: Sequence[str], lower_case: bool | None) -> tuple[str, ...]:
    """Returns steps that convert to lower case if `lower_case`; None: `steps` unchanged.

    A new step "lower" is the first one, but follows a normalization of Unicode at the start.
    """
    steps = tuple(steps)
    if lower_case is None or lower_case == lowers(steps):
        return steps
    if not lower_case:
        return tuple(step for step in steps if step not in _LOWER)
    start = 1 if steps[:1] and steps[0].startswith("nf") else 0
    return (*steps[:start], "lower", *steps[start:])


def apply(strings, steps: Sequence[str]):
    """Drops bytes that are not UTF-8 from strings (n,), and performs steps in their order."""
    strings = valid_utf8(strings)
    for step in steps:
        strings = STEPS[step](strings)
    return strings
