"""Word translations from the translation pairs of record sets.

The translations of a word are those of IBM model 1 (Brown et al. 1993), which expectation
maximization estimates in both directions: a word must be probable given its translation, and the
translation given the word. Texts of languages without spaces between words, such as Chinese, have
no words to align; their sequences of up to `MAX_CHARACTERS` characters are compared by the Dice
coefficient instead.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from tf_mural import languages
from tf_mural.data.code_switching import WORD
from tf_mural.data.records import DamagedRecord, RecordSet
from tf_mural.datasets.lexicons import LexiconOptions
from tf_mural.errors import UserError
from tf_mural.progress import Progress

# Languages whose words are not separated by spaces.
UNSEGMENTED = ("zh", "zh-Hant", "yue", "ja", "th", "lo", "km", "my", "bo")
MAX_CHARACTERS = 6  # maximum length of a translation into one of these languages
MAX_LENGTH = 80  # pairs with a text of more words are left out
# Maximum number of pairs (word, word of the other text) of all sentences, which bounds the memory
# to about 1 GiB.
MAX_ENTRIES = 20_000_000
# A translation must have at least this share of the probability of the best one.
_MIN_RELATIVE = 0.1
_EVERY = 5_000  # number of records between two updates of the progress


def make(
    inputs: Sequence[str], options: LexiconOptions, report: Callable[[str], None]
) -> dict[tuple[str, str], dict[str, list[str]]]:
    """Learns translations from record sets.

    Without languages in `options`, the words are English, and the translations are in all other
    languages of the record sets.

    Raises:
        UserError: a record set is missing, or no record has texts in two of the languages.
    """
    sets = [RecordSet.open(folder) for folder in inputs]
    source, *targets = _choose_languages(sets, options)
    sentences = read_sentences(sets, source, targets, options, report)
    tables = {}
    for target, pairs in sentences.items():
        if not pairs:
            report(f"{source}-{target}: no record has texts in both languages")
            continue
        learn = dice_translations if target in UNSEGMENTED else model_1_translations
        tables[source, target] = learn(pairs, options)
        report(
            f"{source}-{target}: {len(tables[source, target]):,} words from {len(pairs):,} pairs"
        )
    return tables


def _choose_languages(sets, options):
    if not sets:
        raise UserError("expected the folders of record sets with translation pairs")
    available = tuple(sorted({code for record_set in sets for code in record_set.languages}))
    codes = languages.choose(options.languages or ("en",), available)
    if len(codes) == 1:
        codes += [code for code in available if code != codes[0]]
    if len(codes) < 2:
        raise UserError(f"{sets[0].folder} has texts in {', '.join(available)} only")
    if codes[0] in UNSEGMENTED:
        raise UserError(
            f"the words of {codes[0]} are not separated by spaces, so they cannot be replaced: "
            "give a source language that separates words"
        )
    return codes


def read_sentences(
    sets: Sequence[RecordSet],
    source: str,
    targets: Sequence[str],
    options: LexiconOptions,
    report: Callable[[str], None],
) -> dict[str, list[tuple[list[str], list[str]]]]:
    """Returns {target language: list of (words of the source text, words of the target text)}.

    The first text of a record in each language is used. Damaged records are left out and counted.
    """
    sentences, damaged = {target: [] for target in targets}, 0
    total = sum(map(len, sets))
    with Progress("reading", total, "records", print_fn=report) as progress:
        for number, record in enumerate(_records(sets), 1):
            if number % _EVERY == 0 or number == total:
                progress.update(number)
            if record is None:
                damaged += 1
                continue
            texts = dict(reversed(record.texts))  # the first text of each language
            if source not in texts:
                continue
            words = None
            for target in sentences.keys() & texts.keys():
                if len(sentences[target]) < options.max_sentences:
                    words = words or split_words(texts[source], source)
                    others = split_words(texts[target], target)
                    if 0 < len(words) <= MAX_LENGTH and others:
                        sentences[target].append((words, others))
    if damaged:
        report(f"{damaged:,} of {total:,} records are damaged and left out")
    return sentences


def _records(sets):
    """Yields all records, and None for damaged ones."""
    for record_set in sets:
        for number in range(len(record_set)):
            record = None
            with contextlib.suppress(DamagedRecord):
                record = record_set[number]
            yield record


def split_words(text: str, language: str) -> list[str]:
    """Returns the words of a text in lower case.

    The words of a language of `UNSEGMENTED` are all sequences of up to `MAX_CHARACTERS` characters.
    """
    words = WORD.findall(text.lower())
    if language not in UNSEGMENTED:
        return words[:MAX_LENGTH]
    return list(
        dict.fromkeys(
            word[start:end]
            for word in words
            for start in range(len(word))
            for end in range(start + 1, min(start + MAX_CHARACTERS, len(word)) + 1)
        )
    )


class _Entries:
    """The pairs (source word, target word) of all sentences, as arrays.

    Args:
        pairs: list of (source words, target words).
        options: `LexiconOptions`.

    Attributes:
        sources, targets: lists of words; the first source is the empty word of IBM model 1.
        source, target: int64 (m,), the words of each pair that occurs.
        entry: int64 (k,), number of the pair of each entry.
        slot: int64 (k,), number of the occurrence of a target word to which an entry belongs.
    """

    def __init__(self, pairs, options):
        self.sources = ["", *_frequent((s for s, _ in pairs), options)]
        self.targets = _frequent((t for _, t in pairs), options)
        ids = [{word: i for i, word in enumerate(words)} for words in (self.sources, self.targets)]
        keys, slots, count, slot = [], [], 0, 0
        for pair in pairs:
            source, target = (
                np.array([i[w] for w in words if w in i], np.int64)
                for i, words in zip(ids, pair, strict=True)
            )
            source = np.append(source, 0)
            keys.append((source[:, None] * len(self.targets) + target).ravel())
            slots.append(np.tile(np.arange(slot, slot + len(target)), len(source)))
            slot, count = slot + len(target), count + keys[-1].size
            if count > MAX_ENTRIES:
                break
        unique, self.entry = np.unique(np.concatenate(keys), return_inverse=True)
        self.slot = np.concatenate(slots)
        self.source, self.target = (
            unique // max(len(self.targets), 1),
            unique % max(len(self.targets), 1),
        )


def _frequent(sentences, options):
    counts = Counter(word for words in sentences for word in words)
    return [w for w, n in counts.most_common(options.max_words) if n >= options.min_count]


def model_1_translations(
    pairs: Sequence[tuple[list[str], list[str]]], options: LexiconOptions
) -> dict[str, list[str]]:
    """Returns {word: translations, most probable first} of IBM model 1 in both directions."""
    forward = _model_1(pairs, options)
    backward = _model_1([(t, s) for s, t in pairs], options)
    candidates = {}
    for (word, translation), probability in forward.items():
        if backward.get((translation, word), 0.0) >= options.min_probability:
            candidates.setdefault(word, []).append((-probability, translation))
    table = {}
    for word, values in candidates.items():
        limit = _MIN_RELATIVE * -min(values)[0]
        table[word] = [text for score, text in sorted(values) if -score >= limit]
    return table


def _model_1(pairs, options):
    """Returns {(source word, target word): probability of the target word given the source}."""
    entries = _Entries(pairs, options)
    probability = np.ones(len(entries.source))
    for _ in range(options.iterations):
        expected = probability[entries.entry]
        expected /= np.bincount(entries.slot, expected)[entries.slot]
        counts = np.bincount(entries.entry, expected, len(probability))
        probability = counts / np.bincount(entries.source, counts)[entries.source]
    return {
        (entries.sources[s], entries.targets[t]): p
        for s, t, p in zip(
            entries.source.tolist(), entries.target.tolist(), probability.tolist(), strict=True
        )
        if s and p > 1e-3
    }


def dice_translations(
    pairs: Sequence[tuple[list[str], list[str]]], options: LexiconOptions
) -> dict[str, list[str]]:
    """Returns {word: [translation]} by mutual best Dice coefficients; ties go to the longer text.

    The Dice coefficient is the number of sentences with both words, divided by the mean of the
    numbers of sentences with each of them. It must be at least `options.min_probability`.
    """
    entries = _Entries([(list(dict.fromkeys(s)), t) for s, t in pairs], options)
    both = np.bincount(entries.entry, minlength=len(entries.source))
    is_null = entries.source == 0  # the empty word occurs once in each sentence
    target_counts = np.zeros(len(entries.targets))
    target_counts[entries.target[is_null]] = both[is_null]
    source_counts = Counter(word for words, _ in pairs for word in dict.fromkeys(words))
    best, best_source = {}, {}
    for s, t, n in zip(entries.source, entries.target, both, strict=True):
        if not s:
            continue
        word, translation = entries.sources[s], entries.targets[t]
        dice = 2 * n / (source_counts[word] + target_counts[t])
        candidate = (dice, len(translation), translation)
        if dice >= options.min_probability and candidate > best.get(word, (0,)):
            best[word] = candidate
        best_source[translation] = max(best_source.get(translation, 0), dice)
    return {w: [text] for w, (dice, _, text) in best.items() if dice >= best_source[text]}
