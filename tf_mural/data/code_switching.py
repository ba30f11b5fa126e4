"""Code-switching: words of drawn texts are replaced by their translations from a lexicon.

`CodeSwitcher` implements three published methods. With `per="text"`, a text gets words of one
language (bilingual code-switching, BL-CS), and with `per="word"`, each word has a language of its
own (multilingual, ML-CS), both as in Litschko et al. 2023 (arXiv:2305.05295). The share `texts` of
texts and the choice among several translations are those of CoSDA-ML (Qin et al. 2020,
arXiv:2006.06402). With `max_words=3`, phrases of up to three words are replaced, longest first, as
in Wiki-CS of Litschko et al.; unlike Wiki-CS, a phrase is only replaced where it is a sequence of
whole words.

All random choices depend only on the seed, the draw, the field and the position of the word.
"""

import dataclasses
import hashlib
import itertools
import os
import re
import sys
import threading
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np

from tf_mural.data.lexicon import Lexicon
from tf_mural.data.sampling import uniform
from tf_mural.errors import UserError, lookup

MAX_WORDS = 128  # words after this one stay as they are
PER = {"word": False, "text": True}  # {value of `per`: whether a text has a single language}
# Random numbers of a text: for `texts` and the language of the text, and three numbers per word:
# whether the word is replaced, its language, and its translation.
_PER_TEXT, _PER_WORD = 2, 3
_COLUMNS = _PER_TEXT + _PER_WORD * MAX_WORDS


def _word_pattern():
    """Returns the pattern of a word, which may contain apostrophes and hyphens.

    The combining marks are listed, because `\\w` does not match them, but Indic scripts write
    vowels with them.
    """
    marks = [c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c)[0] == "M"]
    letter = f"[\\w{''.join(_ranges(marks))}]"
    return re.compile(f"({letter}+(?:['’\\-]{letter}+)*)")


def _ranges(characters):
    """Yields the ranges of a sorted list of characters for a class of a regular expression."""
    start = previous = characters[0]
    for character in [*characters[1:], ""]:
        if character and ord(character) == ord(previous) + 1:
            previous = character
            continue
        yield f"{start}-{previous}"
        start = previous = character


WORD = _word_pattern()


@dataclasses.dataclass(frozen=True)
class CodeSwitch:
    """Options of a source whose texts are code-switched.

    Attributes:
        fields: names of the text fields of the source whose texts are code-switched.
        lexicon: `Lexicon`, or the path of its folder. In a config, the path may be relative to the
            folder of the record sets, and "scenes" is the vocabulary of the data set scenes.
        languages: codes of the languages of the new words; empty: all languages of the lexicon.
        probability: probability, from 0 to 1, that a word is replaced. A word stays if the lexicon
            has no translation of it.
        per: "word": each word has a language of its own; "text": all words of a text have one
            language.
        texts: share of the texts, from 0 to 1, in which words are replaced.
        max_words: maximum number of words of a phrase that is replaced, from 1 to 3.

    Raises:
        UserError: a value is invalid.
    """

    fields: Sequence[str]
    lexicon: Lexicon | str | os.PathLike
    languages: Sequence[str] = ()
    probability: float = 0.5
    per: str = "word"
    texts: float = 1.0
    max_words: int = 1

    def __post_init__(self):
        for name in ("fields", "languages"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        if not self.fields:
            raise UserError("fields is empty: name the text fields whose words are replaced")
        for name in ("probability", "texts"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}, expected a number from 0 to 1")
        lookup(PER, self.per, "value of per:")
        if self.max_words not in (1, 2, 3):
            raise UserError(f"max_words is {self.max_words}, expected 1, 2 or 3")


class CodeSwitcher:
    """Replaces words of the texts of one field by their translations.

    Args:
        options: `CodeSwitch`, whose `lexicon` is a `Lexicon`.
        name: name of the source and the field, "source/field", which is mixed into the seed.
        seed: seed of the run.
        languages: codes of the languages of the texts. Texts in a language without a lexicon stay
            as they are.

    Attributes:
        lexicon: the `Lexicon`.
        targets: {language of texts: languages of the new words}.

    Raises:
        UserError: the lexicon has none of the languages.
    """

    def __init__(self, options: CodeSwitch, name: str, seed: int, languages: Sequence[str]):
        self._options, self.lexicon, self._name = options, options.lexicon, name
        _check_languages(options, name, languages)
        self.targets = {c: self.lexicon.targets(c, options.languages) for c in languages}
        self._tables = [
            [self.lexicon.tables[code, target] for target in targets]
            for code, targets in self.targets.items()
        ]
        self._sizes = _phrase_sizes(self._tables, options.max_words)
        self._num_tables = np.array([len(tables) for tables in self._tables], np.int64)
        digest = hashlib.sha256(f"code_switch/{name}".encode()).digest()
        self._key = np.array([seed, int.from_bytes(digest[:8], "big") >> 1], np.int64)
        self._lock, self._words, self._switched = threading.Lock(), 0, 0

    def __call__(self, texts: np.ndarray, languages: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Returns the texts with replaced words.

        Args:
            texts: (b,) UTF-8 bytes.
            languages: int64 (b,), positions of the languages of the texts.
            draws: int64 (b,), numbers of the draws.

        Returns:
            Object array (b,) of UTF-8 bytes. Texts without replaced words are unchanged.
        """
        pieces = [WORD.split(text.decode("utf-8", "surrogateescape")) for text in texts]
        lengths = np.array([len(parts) // 2 for parts in pieces], np.int64)
        replace = self._replace if self._options.max_words == 1 else self._replace_phrases
        switched, changed = replace(pieces, *self._choices(lengths, languages, draws))
        result = np.array(texts, object)
        for row in changed:
            result[row] = "".join(pieces[row]).encode("utf-8", "surrogateescape")
        with self._lock:
            self._words += int(lengths.sum())
            self._switched += switched
        return result

    def switched_share(self) -> float:
        """Returns the share of the words read so far that were replaced, from 0 to 1."""
        with self._lock:
            return self._switched / max(self._words, 1)

    def describe(self) -> str:
        """Returns a line about the replaced words."""
        options = self._options
        languages = "; ".join(f"{code} to {' '.join(t)}" for code, t in self.targets.items() if t)
        share = "" if options.texts == 1 else f" of {options.texts:.0%} of the texts"
        phrases = "" if options.max_words == 1 else f", phrases of up to {options.max_words} words"
        return (
            f"code-switching of {self._name}: words{share} are replaced with probability "
            f"{options.probability:g}, one language per {options.per}{phrases}; lexicon "
            f"{self.lexicon.name}, {languages}"
        )

    def _choices(self, lengths, languages, draws):
        """Returns the words that may be replaced, with their languages and translations.

        Args:
            lengths: int64 (b,), numbers of words.
            languages, draws: see `__call__`.

        Returns:
            Four lists with one entry per word, in the order of the texts: row, position of the
            word, table of translations, and a number in [0, 1) that selects a translation.
        """
        options, width = self._options, int(min(lengths.max(initial=0), MAX_WORDS))
        numbers = uniform(self._key, draws, _COLUMNS, _PER_TEXT + _PER_WORD * width)
        words = numbers[:, _PER_TEXT:].reshape(len(draws), width, _PER_WORD)
        num_tables = self._num_tables[languages]
        is_chosen = words[:, :, 0] < options.probability
        is_chosen &= np.arange(width) < lengths[:, None]
        is_chosen &= ((numbers[:, 0] < options.texts) & (num_tables > 0))[:, None]
        rows, positions = np.nonzero(is_chosen)
        language = numbers[rows, 1] if PER[options.per] else words[rows, positions, 1]
        index = (language * num_tables[rows]).astype(np.int64).tolist()
        sources = languages[rows].tolist()
        tables = [self._tables[source][i] for source, i in zip(sources, index, strict=True)]
        which = words[rows, positions, 2].tolist()
        return rows.tolist(), positions.tolist(), tables, which

    def _replace(self, pieces, rows, positions, tables, which):
        """Replaces words in `pieces`; returns their number, and the changed rows."""
        switched, changed = 0, set()
        for row, position, table, number in zip(rows, positions, tables, which, strict=True):
            word = pieces[row][2 * position + 1]
            translations = table.get(word.lower())
            if translations is not None:
                pieces[row][2 * position + 1] = _translation(word, translations, number)
                switched += 1
                changed.add(row)
        return switched, changed

    def _replace_phrases(self, pieces, rows, positions, tables, which):
        """Replaces phrases as `_replace` replaces words.

        A phrase begins with a word that was chosen, and has the language of this word. Longer
        phrases, by their number of characters, are replaced first. Of phrases with the same length,
        the last one is replaced first.
        """
        switched, changed, phrases = 0, set(), {}
        for row, position, table, number in zip(rows, positions, tables, which, strict=True):
            parts = pieces[row]
            phrase = parts[2 * position + 1].lower()
            for size in range(1, self._sizes.get(phrase, 1) + 1):
                if size > 1:
                    end = 2 * (position + size) - 1
                    if end >= len(parts) or not parts[end - 1].isspace():
                        break
                    phrase += " " + parts[end].lower()
                if phrase in table:
                    candidate = (len(phrase), position, size, table[phrase], number)
                    phrases.setdefault(row, []).append(candidate)
        for row, candidates in phrases.items():
            taken, parts = set(), pieces[row]
            for _, position, size, translations, number in sorted(candidates, reverse=True):
                span = range(position, position + size)
                if taken.isdisjoint(span):
                    taken.update(span)
                    start = 2 * position + 1
                    text = _translation(parts[start], translations, number)
                    parts[start : start + 2 * size - 1] = [text] + [""] * (2 * size - 2)
            switched += len(taken)
            changed.add(row)
        return switched, changed


def make_code_switchers(
    source: str,
    modalities: Mapping[str, str],
    options: CodeSwitch | None,
    seed: int,
    languages: Sequence[str],
) -> dict[str, CodeSwitcher]:
    """Returns {field: `CodeSwitcher`} of a source.

    Args:
        source: name of the source.
        modalities: {field: modality} of the source.
        options: `CodeSwitch`; None: no words are replaced, and the result is empty.
        seed: seed of the run.
        languages: codes of the languages of the texts.

    Raises:
        UserError: a field is not a text field of the source, or the lexicon cannot be used.
    """
    if options is None:
        return {}
    check_switched_fields(source, modalities, options.fields)
    if not isinstance(options.lexicon, Lexicon):
        options = dataclasses.replace(options, lexicon=Lexicon.open(options.lexicon))
    return {f: CodeSwitcher(options, f"{source}/{f}", seed, languages) for f in options.fields}


def check_switched_fields(
    source: str, modalities: Mapping[str, str], fields: Sequence[str]
) -> None:
    """Checks that code-switched fields are text fields of a source.

    Args:
        source: name of the source.
        modalities: {field: modality} of the source.
        fields: names of the code-switched fields.

    Raises:
        UserError: a field is unknown, or no text field.
    """
    for field in fields:
        modality = lookup(modalities, field, f"field (code-switching of the source {source!r})")
        if modality == "vectors":
            raise UserError(
                f"the field {field!r} of the source {source!r} reads stored vectors, which do not "
                "change with the words of a text: remove code_switch, or train a text tower "
                "without stored features"
            )
        if modality != "text":
            raise UserError(
                f"the field {field!r} of the source {source!r} has no texts (modality {modality}): "
                "code_switch needs text fields"
            )


def _phrase_sizes(tables, max_words):
    """Returns {first word of a phrase of several words: largest number of words}."""
    sizes = {}
    for table in itertools.chain(*tables) if max_words > 1 else ():
        for phrase in table:
            first, _, others = phrase.partition(" ")
            if others:
                size = min(2 + others.count(" "), max_words)
                sizes[first] = max(sizes.get(first, 1), size)
    return sizes


def _translation(word, translations, number):
    """Returns one of the translations, with a capital letter if the word begins with one."""
    text = translations[int(number * len(translations))]
    return text[:1].upper() + text[1:] if word[0].isupper() else text


def _check_languages(options, name, languages):
    """Checks that the lexicon has each target language, and a source language of the texts."""
    lexicon = options.lexicon
    known = dict.fromkeys(target for _, target in lexicon.tables)
    for code in options.languages:
        lookup(known, code, f"language of the lexicon {lexicon.name} (code-switching of {name}):")
    if not any(lexicon.targets(code, options.languages) for code in languages):
        pairs = ", ".join("-".join(pair) for pair in lexicon.tables)
        raise UserError(
            f"code-switching of {name}: the texts are in {', '.join(languages)}, but the lexicon "
            f"{lexicon.name} has {pairs}: choose a lexicon from a language of the texts"
        )
