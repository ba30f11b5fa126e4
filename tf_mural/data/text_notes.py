"""Notes about texts that a model truncates, or whose language the model was not trained on."""

import collections
import functools
import unicodedata

import numpy as np

from tf_mural import languages

# `SCRIPTS` is {language code: names of the scripts of the language}. The name of a script is the
# first word of the names of its Unicode characters, such as "LATIN SMALL LETTER A". The scripts of
# languages that are not listed are unknown.
_LATIN = """
af az bs ca ceb co cs cy da de en eo es et eu fi fil fr fy ga gd gl ha haw hmn hr ht hu id ig is it
jv la lb lt lv mg mi ms mt nb nl nn no ny pl pt ro rw sk sl sm sn so sq st su sv sw tk tl tr uz vi
wo xh yo zu
""".split()
SCRIPTS = {
    **dict.fromkeys(_LATIN, {"LATIN"}),
    **dict.fromkeys(("be", "bg", "kk", "ky", "mk", "mn", "ru", "tg", "tt", "uk"), {"CYRILLIC"}),
    "sr": {"CYRILLIC", "LATIN"},
    **dict.fromkeys(("ar", "ckb", "fa", "ps", "sd", "ug", "ur"), {"ARABIC"}),
    "ku": {"ARABIC", "LATIN"},
    **dict.fromkeys(("he", "yi"), {"HEBREW"}),
    **dict.fromkeys(("hi", "mr", "ne", "sa"), {"DEVANAGARI"}),
    **dict.fromkeys(("as", "bn"), {"BENGALI"}),
    **dict.fromkeys(("zh", "yue"), {"CJK", "BOPOMOFO"}),
    "ja": {"CJK", "HIRAGANA", "KATAKANA"},
    "ko": {"HANGUL", "CJK"},
    "el": {"GREEK"},
    "hy": {"ARMENIAN"},
    "ka": {"GEORGIAN"},
    "gu": {"GUJARATI"},
    "pa": {"GURMUKHI"},
    "ta": {"TAMIL"},
    "te": {"TELUGU"},
    "kn": {"KANNADA"},
    "ml": {"MALAYALAM"},
    "si": {"SINHALA"},
    "or": {"ORIYA"},
    "th": {"THAI"},
    "lo": {"LAO"},
    "km": {"KHMER"},
    "my": {"MYANMAR"},
    "bo": {"TIBETAN"},
    "am": {"ETHIOPIC"},
}
# {script subtag of a language code, as in sr-Latn: scripts of the texts}
_BY_TAG = {
    "Latn": {"LATIN"},
    "Cyrl": {"CYRILLIC"},
    "Arab": {"ARABIC"},
    "Deva": {"DEVANAGARI"},
    "Hant": SCRIPTS["zh"],
}
# Scripts with so many characters that the vocabulary may lack some characters of a training
# language. None stands for all characters without a script in `SCRIPTS`.
_UNBOUNDED = (None, "CJK", "HANGUL", "ETHIOPIC")
_KNOWN_SCRIPTS = frozenset().union(*SCRIPTS.values())


def _find_scripts(code):
    """Returns the scripts of a language code in any convention; None: unknown."""
    language = languages.find(code)
    tag, _, script = (language.code if language else code.lower()).partition("-")
    return _BY_TAG.get(script) if script else SCRIPTS.get(tag)


class TextNotes:
    """Finds texts that a model truncates, or whose language the model was not trained on.

    The language of a text is judged only by the letters of the text. A text gets a note if most of
    its letters belong to scripts in which no training language is written, or if the vocabulary
    lacks letters of one of its words. Languages with the same alphabet are therefore not
    distinguished: with a model of English and German, a Dutch text gets no note.

    Args:
        tokenizer: an object with the interface of `tokenizers.Tokenizer`. A tokenizer that splits
            unknown characters into bytes lacks no letters.
        languages: codes of the training languages. None: the training languages are unknown, and
            no text gets a note about its language.
    """

    def __init__(self, tokenizer, languages=None):
        self._tokenizer = tokenizer
        self._languages = tuple(languages or ())
        scripts = [_find_scripts(code) for code in self._languages]
        # A language whose scripts are unknown may be written in any script.
        self._scripts = None if None in scripts else frozenset().union(*scripts)

    def __call__(self, texts, tokens=None):
        """Returns a list of str with one note per text; "" means that a text has no note.

        Args:
            texts: iterable of str.
            tokens: see `length_notes`.
        """
        texts = list(texts)
        notes = zip(self.length_notes(texts, tokens), self.language_notes(texts), strict=True)
        return ["; ".join(note for note in pair if note) for pair in notes]

    def length_notes(self, texts, tokens=None):
        """Returns a list of str: for each text, a note if the text has too many tokens, else "".

        Args:
            texts: list of str.
            tokens: int32 (n, max_tokens), the tokens of the texts. With this argument, only texts
                whose row has no padding are tokenized again.
        """
        import tensorflow as tf

        notes = [""] * len(texts)
        candidates = range(len(texts))
        if tokens is not None:
            pad, end = self._tokenizer.pad_id, self._tokenizer.end
            # If the token at the end also pads rows, it is at the end of each row.
            last = np.asarray(tokens)[:, -1 - len(end) if pad in end else -1]
            candidates = np.flatnonzero(last != pad).tolist()
        if not candidates:
            return notes
        limit = self._tokenizer.max_tokens - self._tokenizer.num_special
        strings = tf.constant([texts[i] for i in candidates], tf.string)
        lengths = self._tokenizer.pieces(strings).row_lengths().numpy()
        for i, length in zip(candidates, lengths, strict=True):
            if length > limit:
                notes[i] = (
                    f"{_shorten(texts[i])} has {length} tokens, of which the model reads the first "
                    f"{limit}"
                )
        return notes

    def language_notes(self, texts):
        """Returns a list of str: the result of `language_note` for each text."""
        texts = [unicodedata.normalize("NFC", text) for text in texts]
        # Only a text with a suspicious character can have a note, and few texts have one.
        suspicious = set(filter(self._is_suspicious, set().union(*texts)))
        return ["" if suspicious.isdisjoint(text) else self.language_note(text) for text in texts]

    def language_note(self, text):
        """Returns a note if the text seems to be in none of the training languages, else ""."""
        if not self._languages:
            return ""
        known = ", ".join(self._languages)
        text = unicodedata.normalize("NFC", text)
        scripts = collections.Counter()
        for character, count in collections.Counter(text).items():
            scripts[script_of(character)] += count
        del scripts[None]
        if scripts and self._scripts is not None:
            foreign = {script: n for script, n in scripts.items() if script not in self._scripts}
            if 2 * sum(foreign.values()) > scripts.total():
                script = max(foreign, key=foreign.get).replace("CJK", "Chinese").capitalize()
                return (
                    f"{_shorten(text)} is written in {script} letters, but none of the languages "
                    f"of the training ({known}) is: expect poor results"
                )
        if word := next((word for word in text.split() if self._lacks_letters(word)), None):
            return (
                f"the vocabulary lacks letters of {_shorten(word)}: its language may not be one of "
                f"the training ({known}), expect poor results"
            )
        return ""

    def _is_suspicious(self, character):
        """Returns whether a text may have a language note because of this character."""
        if not self._languages:
            return False
        script = script_of(character)
        is_foreign = self._scripts is not None and script and script not in self._scripts
        # The lower case of Σ depends on its position in a word.
        return is_foreign or character == "Σ" or self._lacks_letters(character)

    def _lacks_letters(self, word):
        if self._tokenizer.has_bytes:
            return False
        word = self._tokenizer.normalize_word(word)
        letters = [c for c in word if script_of(c) not in _UNBOUNDED]
        # A vocabulary may lack some capital letters of a language that it was trained on.
        return any(not {c, c.lower()} & self._characters for c in letters)

    @functools.cached_property
    def _characters(self):
        """The set of the characters in all pieces of the vocabulary."""
        return frozenset().union(*self._tokenizer.vocabulary)


@functools.lru_cache(maxsize=1 << 16)
def script_of(character):
    """Returns the script of a letter, such as "LATIN".

    The result is None if the character is not a letter, or if its script is not in `SCRIPTS`.
    """
    if not unicodedata.category(character).startswith("L"):
        return None
    words = unicodedata.name(character, "").split()
    if words and words[0] in ("FULLWIDTH", "HALFWIDTH"):
        words = words[1:]
    return words[0] if words and words[0] in _KNOWN_SCRIPTS else None


def _shorten(text):
    return repr(text if len(text) <= 40 else text[:37] + "...")
