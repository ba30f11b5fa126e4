"""Dictionaries of FreeDict in the format of dictd: eng-deu.index and eng-deu.dict(.dz).

A line of the index has a headword, and the position and length of its article in base 64. The first
line of an article is the headword with its pronunciation; the other lines are translations, with
remarks in brackets and numbers of senses.
"""

import gzip
import os
import re
import zlib
from collections.abc import Callable, Sequence

from tf_mural import file_io, languages
from tf_mural.data.lexicon import BadLines
from tf_mural.datasets.lexicons import MAX_PHRASE, LexiconOptions, language_pair
from tf_mural.datasets.lexicons.word_pairs import read_lines
from tf_mural.errors import UserError

MAX_BYTES = 1 << 30  # maximum size of an uncompressed file of articles
_NAME = re.compile(r"([a-z]{3})-([a-z]{3})\.index")
_DIGITS = {
    c: i for i, c in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
}
_REMARKS = re.compile(r"<[^>]*>|\([^)]*\)|\[[^\]]*\]|\{[^}]*\}|/[^/]*/")
_NUMBER = re.compile(r"^\s*(\d+\.|[a-z]\))\s*")
# Lines that are no translations: examples, notes and references to other articles.
_OTHER_LINE = re.compile(r"^\s*(\"|see( also)?:|synonyms?:|antonyms?:|note:|usage:|cf\.)", re.I)


def make(
    inputs: Sequence[str], options: LexiconOptions, report: Callable[[str], None]
) -> dict[tuple[str, str], dict[str, list[str]]]:
    """Reads dictionaries; the inputs are the files .index, next to which the articles lie.

    Raises:
        UserError: a file is missing or damaged, or the languages are not known.
    """
    tables = {}
    for path in inputs:
        pair = _languages_of(path, options)
        table, bad_lines = tables.setdefault(pair, {}), BadLines(path)
        data = read_articles(path.removesuffix(".index"))
        for number, line in enumerate(read_lines(path), 1):
            bad_lines.total = number
            text = line.rstrip("\r\n")
            if not text.strip() or text.startswith("00"):  # such as 00-database-info
                continue
            article = _article(text.split("\t"), data)
            if article is None:
                bad_lines.add(number, text, "has no article")
                continue
            word = " ".join(text.split("\t")[0].lower().split())
            words = translations(article)
            if words and word.count(" ") < MAX_PHRASE:
                table.setdefault(word, []).extend(words)
        if bad_lines.count:
            report(bad_lines.note())
        if not table:
            raise UserError(f"{path}: no article of the dictionary has a translation")
    return tables


def read_articles(stem: str) -> bytes:
    """Returns the content of `<stem>.dict.dz`, which gzip can read, or of `<stem>.dict`.

    Raises:
        UserError: both files are missing, or the file is damaged or larger than `MAX_BYTES`.
    """
    for path in (f"{stem}.dict.dz", f"{stem}.dict"):
        if not file_io.exists(path):
            continue
        try:
            with file_io.open_file(path, "rb") as raw:
                file = gzip.open(raw) if path.endswith(".dz") else raw
                data = file.read(MAX_BYTES + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path} is cut or damaged: {error}; download it again") from error
        if len(data) > MAX_BYTES:
            raise UserError(f"{path} has more than {MAX_BYTES:,} bytes, which is not a dictionary")
        return data
    raise UserError(f"no file {stem}.dict.dz or {stem}.dict with the articles of {stem}.index")


def translations(article: str) -> list[str]:
    """Returns the translations of an article, without remarks, of at most three words each."""
    words = []
    for line in article.split("\n")[1:]:
        if _OTHER_LINE.match(line):
            continue
        text = _NUMBER.sub("", _REMARKS.sub(" ", line))
        for part in re.split("[,;]", text):
            word = " ".join(part.split()).strip(" .:-")
            if word and word.count(" ") < MAX_PHRASE and any(map(str.isalpha, word)):
                words.append(word)
    return list(dict.fromkeys(words))


def _article(fields, data):
    """Returns the text of an article; None if the line of the index is invalid."""
    if len(fields) < 3 or not fields[0].strip():
        return None
    try:
        start, length = (_decode(field) for field in fields[1:3])
    except KeyError:
        return None
    if length == 0 or start + length > len(data):
        return None
    return data[start : start + length].decode("utf-8", errors="replace")


def _decode(field):
    value = 0
    for character in field:
        value = value * 64 + _DIGITS[character]
    return value


def _languages_of(path, options):
    match = _NAME.fullmatch(os.path.basename(path))
    if options.languages or not match:
        return language_pair(options, path)
    return languages.canonicalize(match[1]), languages.canonicalize(match[2])
