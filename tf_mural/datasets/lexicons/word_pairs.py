"""Dictionaries of word pairs: those of MUSE, of CoSDA-ML, and any others with one pair per line.

MUSE (Lample et al. 2018) has files such as en-de.txt and en-de.0-5000.txt, in which white space
separates a word from a translation. CoSDA-ML (Qin et al. 2020) has files such as de2.txt, whose
words are English; a tab or a space separates the translation. Lines with other contents are
counted and left out, and the first of them is named.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence

from tf_mural import file_io, languages
from tf_mural.data.lexicon import BadLines, read_pairs
from tf_mural.datasets.lexicons import LexiconOptions, language_pair
from tf_mural.errors import UserError

MAX_LINE = 1 << 20
_MUSE = re.compile(r"([a-z]{2,3})-([a-z]{2,3})(\.\d+-\d+)?\.txt")
_COSDA = re.compile(r"([a-z]{2,3})2\.txt")


def make(
    inputs: Sequence[str], options: LexiconOptions, report: Callable[[str], None]
) -> dict[tuple[str, str], dict[str, list[str]]]:
    """Reads files of word pairs; see `tf_mural.datasets.lexicons` for the arguments.

    Raises:
        UserError: a file is missing or contains no pair, or its languages are not known.
    """
    tables = {}
    for path in inputs:
        table = tables.setdefault(_languages_of(path, options), {})
        bad_lines, size = BadLines(path), len(table)
        for word, translation in read_pairs(read_lines(path), bad_lines):
            values = table.setdefault(word, [])
            if len(values) < options.max_translations:
                values.append(translation)
        if bad_lines.count:
            report(bad_lines.note())
        if len(table) == size:
            raise UserError(
                f"{path}: none of the {bad_lines.total:,} lines has a new word and its "
                "translation: expected lines such as 'dog Hund'"
            )
    return tables


def read_lines(path: str) -> Iterator[str]:
    """Yields the lines of a text file in UTF-8; bytes that are not UTF-8 become U+FFFD.

    Longer lines than `MAX_LINE` bytes are cut into several ones, which bounds the memory.

    Raises:
        UserError: the file is missing or is a folder.
    """
    if not file_io.exists(path) or file_io.isdir(path):
        raise UserError(f"no file {path!r}")
    with file_io.open_file(path, "rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE), b"")):
            text = line.decode("utf-8", errors="replace")
            yield text.removeprefix("\ufeff") if number == 0 else text


def _languages_of(path, options):
    name = os.path.basename(path)
    if not options.languages:
        if match := _MUSE.fullmatch(name):
            return languages.canonicalize(match[1]), languages.canonicalize(match[2])
        if match := _COSDA.fullmatch(name):
            return "en", languages.canonicalize(match[1])
    return language_pair(options, path)
