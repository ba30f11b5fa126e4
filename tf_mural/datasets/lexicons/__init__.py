"""Makes lexicons from public dictionaries, word vectors, titles, translation pairs and grammars.

`SOURCES` maps the name of each source to the module that reads it. Each module has a function
`make(inputs, options, report)`, which returns {(source language, target language): {word or phrase
in lower case: list of translations}}. `report` is called with lines about unusable parts of the
inputs.
"""

import dataclasses
import importlib
from collections.abc import Callable, Collection, Mapping, Sequence

from tf_mural.data.lexicon import Lexicon
from tf_mural.errors import UserError, lookup

SOURCES = {
    "pairs": "lexicons.word_pairs",
    "vectors": "lexicons.word_vectors",
    "titles": "lexicons.wiki_titles",
    "bitext": "lexicons.alignment",
    "freedict": "lexicons.dictd",
    "scenes": "scenes.lexicon",
}
MAX_PHRASE = 3  # maximum number of words of a phrase, see `data.code_switching.CodeSwitch`


@dataclasses.dataclass(frozen=True)
class LexiconOptions:
    """Options of the sources of lexicons. Each source reads only some of them.

    Attributes:
        languages: codes, the language of the words first, then those of the translations. Empty:
            the names of the files determine them.
        max_translations: maximum number of translations of a word.
        max_words: maximum number of words that are read from a file of word vectors, or that are
            kept of each language of translation pairs, most frequent first.
        max_sentences: maximum number of translation pairs of each pair of languages.
        min_count: minimum number of translation pairs that contain a word.
        min_probability: minimum probability of a translation given the word, from 0 to 1.
        iterations: number of iterations of expectation maximization.
        stop_words: words of the source language that get no translations.

    Raises:
        UserError: a value is invalid.
    """

    languages: Sequence[str] = ()
    max_translations: int = 3
    max_words: int = 200_000
    max_sentences: int = 100_000
    min_count: int = 2
    min_probability: float = 0.2
    iterations: int = 8
    stop_words: frozenset = frozenset()

    def __post_init__(self):
        for name in ("max_translations", "max_words", "max_sentences", "min_count", "iterations"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, expected 1 or more")
        if not 0 <= self.min_probability <= 1:
            raise UserError(
                f"min_probability is {self.min_probability}, expected a number from 0 to 1"
            )


def make_lexicon(
    source: str,
    inputs: Sequence[str],
    options: LexiconOptions,
    report: Callable[[str], None] = print,
) -> Lexicon:
    """Returns the lexicon of a source.

    Args:
        source: a key of `SOURCES`.
        inputs: paths of files; of record sets for "bitext"; empty for "scenes".
        options: `LexiconOptions`.
        report: called with lines about the progress, and about unusable parts of the inputs.

    Raises:
        UserError: an input is missing or has another format, or no word has a translation.
    """
    name = lookup(SOURCES, source, "source of a lexicon")
    module = importlib.import_module(f"tf_mural.datasets.{name}")
    tables = {}
    for pair, table in module.make(inputs, options, report).items():
        kept = {
            word: list(dict.fromkeys(translations))[: options.max_translations]
            for word, translations in table.items()
            if word not in options.stop_words
        }
        if kept:
            tables[pair] = kept
        else:
            report(f"{pair[0]}-{pair[1]}: no translations, no file is written")
    if not tables:
        raise UserError(f"the source {source!r} gives no translations of {', '.join(inputs)}")
    return Lexicon(tables, source)


def language_pair(options: LexiconOptions, path: str) -> tuple[str, str]:
    """Returns the two languages of a file, which `options` must name.

    Raises:
        UserError: `options` has not exactly two languages.
    """
    if len(options.languages) != 2:
        raise UserError(
            f"{path}: the languages are not known from the name of the file: give "
            "`languages=en,de`, that of the words and that of the translations"
        )
    return tuple(options.languages)


def quality(
    table: Mapping[str, Sequence[str]], reference: Mapping[str, Collection[str]]
) -> tuple[float, float, int]:
    """Compares the translations of a lexicon with correct ones, without regard to case.

    Args:
        table: {word: translations}.
        reference: {word: correct translations}.

    Returns:
        (precision, recall, number of words in both). Precision is the share of the translations of
        these words that are correct. Recall is the share of the words of the reference that have a
        correct translation.
    """
    common = [word for word in reference if word in table]
    correct = {word: {text.lower() for text in reference[word]} for word in common}
    hits = [[text.lower() in correct[word] for text in table[word]] for word in common]
    total = sum(map(len, hits))
    precision = sum(map(sum, hits)) / max(total, 1)
    return precision, sum(map(any, hits)) / max(len(reference), 1), len(common)
