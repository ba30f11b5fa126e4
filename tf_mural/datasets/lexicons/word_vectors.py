"""Nearest neighbors of aligned word vectors, such as wiki.multi.en.vec and wiki.multi.de.vec.

The translations of a word are the words of the other language with the largest cosine similarity,
as in Litschko et al. 2023 (arXiv:2305.05295). A file of fastText or MUSE has a header "words
width", and then in each line a word and its vector, most frequent words first.
"""

import os
import re
from collections.abc import Callable, Sequence

import numpy as np

from tf_mural import languages
from tf_mural.data.lexicon import BadLines
from tf_mural.datasets.lexicons import LexiconOptions
from tf_mural.datasets.lexicons.word_pairs import read_lines
from tf_mural.errors import UserError
from tf_mural.progress import Progress

_NAME = re.compile(
    r"(?:wiki|cc)\.(?:multi\.|align\.)?([a-z]{2,3})(?:\.[\w.]+)?\.vec|([a-z]{2,3})\.vec"
)
_ROWS = 512  # number of words whose similarities are computed at a time


def make(
    inputs: Sequence[str], options: LexiconOptions, report: Callable[[str], None]
) -> dict[tuple[str, str], dict[str, list[str]]]:
    """Finds neighbors in files of word vectors; the words are those of the first file.

    Raises:
        UserError: a file is missing or has no vectors, the widths differ, or the languages of the
            files are not known.
    """
    if len(inputs) < 2:
        raise UserError(
            "expected a file of vectors of the source language, and one or more of other languages"
        )
    codes = _languages_of(inputs, options)
    words, vectors = read_vectors(inputs[0], options.max_words, report)
    tables = {}
    for path, code in zip(inputs[1:], codes[1:], strict=True):
        others, candidates = read_vectors(path, options.max_words, report)
        if candidates.shape[1] != vectors.shape[1]:
            raise UserError(
                f"{path}: the vectors have {candidates.shape[1]} numbers, but those of "
                f"{inputs[0]} have {vectors.shape[1]}: use vectors of one space"
            )
        tables[codes[0], code] = table = {}
        with Progress(f"{codes[0]}-{code}", len(words), "words", print_fn=report) as progress:
            for start in range(0, len(words), _ROWS):
                scores = vectors[start : start + _ROWS] @ candidates.T
                for word, row in zip(words[start : start + _ROWS], scores, strict=True):
                    nearest = _largest(row, options.max_translations)
                    table.setdefault(word, []).extend(others[i] for i in nearest)
                progress.update(min(start + _ROWS, len(words)))
    return tables


def read_vectors(
    path: str, max_words: int, report: Callable[[str], None]
) -> tuple[list[str], np.ndarray]:
    """Reads the first words of a file of vectors.

    Args:
        path: path of the file.
        max_words: maximum number of words.
        report: called with a line about unusable lines.

    Returns:
        (words in lower case, unit vectors float32 (n, d)).

    Raises:
        UserError: the file is missing, or has no vectors.
    """
    words, rows, width, bad_lines = [], [], None, BadLines(path)
    for number, line in enumerate(read_lines(path), 1):
        word, *values = line.rstrip("\n ").split(" ")
        if number == 1 and len(values) == 1 and word.isdigit() and values[0].isdigit():
            width = int(values[0])
            continue
        if len(words) == max_words:
            break
        bad_lines.total = number
        vector = _parse(values)
        width = width or (len(values) if vector is not None else None)
        if vector is None or len(vector) != width or not word or "\ufffd" in word:
            bad_lines.add(number, line.rstrip(), f"is not a word and {width or 'its'} numbers")
            continue
        words.append(word.lower())
        rows.append(vector)
    if bad_lines.count:
        report(bad_lines.note())
    if not words:
        raise UserError(f"{path} has no word vectors: expected lines of a word and its numbers")
    vectors = np.stack(rows)
    return words, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _parse(values):
    """Returns a vector float32, or None if it is not finite or zero."""
    try:
        vector = np.array(values, np.float32)
    except ValueError:
        return None
    return vector if len(vector) and np.isfinite(vector).all() and vector.any() else None


def _largest(scores, count):
    count = min(count, len(scores))
    nearest = np.argpartition(-scores, count - 1)[:count]
    return nearest[np.argsort(-scores[nearest], kind="stable")]


def _languages_of(inputs, options):
    if options.languages:
        if len(options.languages) != len(inputs):
            raise UserError(
                f"{len(inputs)} files of vectors, but the languages {', '.join(options.languages)}:"
                " expected one language per file"
            )
        return tuple(options.languages)
    codes = []
    for path in inputs:
        if not (match := _NAME.fullmatch(os.path.basename(path))):
            raise UserError(
                f"{path}: the language is not known from the name of the file: give one language "
                "per file, such as `languages=en,de`"
            )
        codes.append(languages.canonicalize(match[1] or match[2]))
    return tuple(codes)
