"""Texts, lexicons and random numbers of the recorded code-switched texts.

The recorder and the test use this file. Texts are in lower case and without punctuation, because
the published functions split texts in other ways.
"""

import hashlib

NAME, SEED = "captions/caption", 7
LANGUAGES = ("de", "fr", "ru")
PROBABILITIES = (0.0, 0.25, 0.5, 0.75, 1.0)
TEXT_SHARE = 0.6  # `ratio` of CoSDA-ML
MAX_WORDS = 128
_WORDS = (
    "a", "big", "red", "circle", "small", "blue", "star", "is", "above", "the", "left", "of",
    "and", "dog", "with", "house",
)  # fmt: skip
# {language: {word: translations}}. Each lexicon lacks some words.
LEXICON = {
    "de": {w: [f"{w}de{i}" for i in range(1 + n % 3)] for n, w in enumerate(_WORDS) if n % 4},
    "fr": {w: [f"{w}fr{i}" for i in range(1 + n % 2)] for n, w in enumerate(_WORDS) if n % 3},
    "ru": {w: [f"{w}ру{i}" for i in range(2)] for n, w in enumerate(_WORDS) if n % 5},
}
# Phrases of one to three words, as titles of Wikipedia. No phrase is a part of a word of `TEXTS`
# or of a translation, because Wiki-CS would replace these parts as well.
PHRASES = {
    "big red circle": "GROßKREIS",
    "red circle": "ROTKREIS",
    "blue star": "BLAUSTERN",
    "star is above": "STEHTÜBER",
    "small blue": "KLEINBLAU",
    "house": "HAUS",
    "left of the": "LINKS",
}
NUM_TEXTS = 24


def text(number):
    """Returns text `number`, of 4 to 19 words."""
    values = numbers(number + 1_000)
    return " ".join(_WORDS[int(v * len(_WORDS))] for v in values[2 : 6 + number % 16])


TEXT_RANGE = range(NUM_TEXTS)


def phrase_text(number):
    """Returns a text that contains several of `PHRASES`."""
    values, phrases = numbers(number + 2_000), [*PHRASES, "dog", "with a"]
    return " ".join(phrases[int(v * len(phrases))] for v in values[2 : 4 + number % 5])


def numbers(draw):
    """Returns the random numbers of a draw, computed without NumPy.

    They are the two numbers of the text (for its share, and for its language), and three numbers
    of each word (whether it is replaced, its language, and its translation).
    """
    bits, columns = (1 << 64) - 1, 2 + 3 * MAX_WORDS
    key = int.from_bytes(hashlib.sha256(f"code_switch/{NAME}".encode()).digest()[:8], "big") >> 1
    result = []
    for column in range(columns):
        z = (draw * columns + column + SEED * 0x9E3779B97F4A7C15 + key) & bits
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & bits
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & bits
        z ^= z >> 31
        result.append((z >> 11) / (1 << 53))
    return result
