"""Bilingual lexicons: translations of words and short phrases, from folders of text files.

A lexicon is a folder with one file for each pair of languages, `<source>-<target>.txt`. A line has
a word or phrase of the source language and one translation, separated by a tab. Without a tab, the
line has two words, separated by white space, as in the dictionaries of MUSE and CoSDA-ML. A word
with several translations has several lines.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from tf_mural import file_io
from tf_mural.errors import UserError

_FILE = re.compile(r"(.+)-([a-z]{2,3}(?:-[A-Z][A-Za-z]+)*)\.txt")
_CODE = re.compile(r"[a-z]{2,3}(-[A-Z][A-Za-z]+)*")


class BadLines:
    """Counts the lines of a file that cannot be used.

    Args:
        path: path of the file, for messages.

    Attributes:
        total: number of lines of the file.
        count: number of lines that cannot be used.
    """

    def __init__(self, path: str):
        self.path, self.total, self.count, self._first = path, 0, 0, ""

    def add(self, number: int, text: str, reason: str) -> None:
        """Counts line `number` (from 1) as unusable; the first such line appears in `note`."""
        self.count += 1
        if not self._first:
            short = text if len(text) <= 40 else text[:37] + "..."
            self._first = f"line {number} {reason}: {short!r}"

    def note(self) -> str:
        """Returns a line about the unusable lines; "" if there are none."""
        if not self.count:
            return ""
        lines = "line" if self.total == 1 else "lines"
        return f"{self.path}: {self.count:,} of {self.total:,} {lines} skipped; {self._first}"


def read_pairs(lines: Iterable[str], bad_lines: BadLines) -> Iterator[tuple[str, str]]:
    """Yields the pairs (word in lower case, translation) of the lines of a lexicon.

    Args:
        lines: lines of a file; empty lines are ignored.
        bad_lines: counts the lines and those that contain no pair.
    """
    for number, line in enumerate(lines, 1):
        bad_lines.total = number
        text = line.strip("\r\n")
        if not text.strip():
            continue
        parts = [part.strip() for part in text.split("\t")] if "\t" in text else text.split()
        if len(parts) != 2 or not all(parts) or "\ufffd" in text:
            bad_lines.add(number, text, "is not a word and its translation")
            continue
        yield " ".join(parts[0].lower().split()), parts[1]


class Lexicon:
    """Translations of words and phrases between pairs of languages.

    Args:
        tables: {(source language, target language): {word in lower case: its translations}}.
        name: name for messages, such as the folder.

    Attributes:
        tables, name: the arguments.
        notes: lines about unusable lines of the files, list of str.
        digest: hash of all pairs, 32 hexadecimal digits.

    Raises:
        UserError: there is no pair of languages, or a pair has no translations.
    """

    def __init__(
        self, tables: Mapping[tuple[str, str], Mapping[str, Sequence[str]]], name: str = "lexicon"
    ):
        self.tables = {
            key: {word: tuple(values) for word, values in table.items()}
            for key, table in sorted(tables.items())
        }
        self.name, self.notes = name, []
        if not self.tables:
            raise UserError(
                f"{name} contains no lexicon: expected files such as en-de.txt, with a word and "
                "its translation in each line (tools/lexicon.py makes them)"
            )
        for (source, target), table in self.tables.items():
            if not table:
                raise UserError(f"{name}: {source}-{target}.txt contains no translation")
        digest = hashlib.sha256()
        for key, table in self.tables.items():
            digest.update(repr((key, sorted(table.items()))).encode())
        self.digest = digest.hexdigest()[:32]

    @classmethod
    def open(cls, folder: str | os.PathLike) -> "Lexicon":
        """Reads all files `<source>-<target>.txt` of a folder.

        Lines that contain no pair are left out, and `notes` names the first of each file.

        Raises:
            UserError: the folder is missing or has no such file, or a file contains no pair.
        """
        folder = os.fspath(folder)
        if not file_io.isdir(folder):
            raise UserError(
                f"no folder {folder!r} with a lexicon: tools/lexicon.py makes one, or give "
                "lexicon='scenes' for the vocabulary of scenes"
            )
        tables, notes = {}, []
        for file in sorted(file_io.listdir(folder)):
            match = _FILE.fullmatch(file)
            if not match or not _CODE.fullmatch(match[1]):
                continue
            path = os.path.join(folder, file)
            table, bad_lines = tables.setdefault(match.groups(), {}), BadLines(path)
            lines = file_io.read_bytes(path).decode("utf-8-sig", errors="replace").split("\n")
            for word, translation in read_pairs(lines, bad_lines):
                values = table.setdefault(word, [])
                if translation not in values:
                    values.append(translation)
            notes += [bad_lines.note()] if bad_lines.count else []
        lexicon = cls(tables, folder)
        lexicon.notes = notes
        return lexicon

    def write(self, folder: str | os.PathLike) -> None:
        """Writes the files of the lexicon; files of other pairs of languages stay."""
        file_io.makedirs(os.fspath(folder))
        for (source, target), table in self.tables.items():
            path = os.path.join(folder, f"{source}-{target}.txt")
            with file_io.atomic_write(path) as temporary:
                with file_io.open_file(temporary, "wb") as file:
                    for word, translations in sorted(table.items()):
                        lines = "".join(f"{word}\t{text}\n" for text in translations)
                        file.write(lines.encode("utf-8"))

    def targets(self, source: str, languages: Sequence[str] = ()) -> tuple[str, ...]:
        """Returns the languages into which words of a language can be translated, sorted.

        Args:
            source: code of the language.
            languages: codes of allowed languages; empty: all languages.
        """
        return tuple(
            target
            for start, target in self.tables
            if start == source and target != source and (not languages or target in languages)
        )
