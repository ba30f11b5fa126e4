"""`tatoeba`: sentences of 112 languages with English translations, the test set of LASER.

A record is a pair, with its texts in the order (language, English). Language codes are the
ISO 639-3 codes in the file names, such as cmn, lvs and eng, because published results on this set
use these codes.
"""

import dataclasses
import hashlib
import os
import re

from tf_mural.data.records import Record, Skipped
from tf_mural.data.text_cleaning import is_blank
from tf_mural.datasets import archives, bounded_read
from tf_mural.errors import UserError, lookup

SPLITS = ("test",)
AUGMENTATIONS = ()
_FOLDERS = ("", "data/tatoeba/v1", "tatoeba/v1", "v1")
_FILE_NAME = re.compile(r"tatoeba\.([a-z]{3})-eng\.(eng|\1)")
_LANGUAGES_PER_UNIT = 16


@dataclasses.dataclass(frozen=True)
class Unit:
    """A unit: tuples (language, path of the texts, path of their English translations)."""

    files: tuple[tuple[str, str, str], ...]


def plan(raw_dir: str, split: str, languages: tuple[str, ...] | None = None):
    """Finds the files and divides them into units.

    Args:
        raw_dir: folder of tatoeba.xxx-eng.xxx and tatoeba.xxx-eng.eng, or a clone of LASER.
        split: "test".
        languages: language codes to keep, such as deu. Default: all languages that have files.

    Returns:
        List of `Unit`.

    Raises:
        UserError: no files exist, one file of a pair is missing, or a language is unknown.
    """
    lookup(dict.fromkeys(SPLITS), split, "split of tatoeba")
    files = _find_files(raw_dir, languages)
    starts = range(0, len(files), _LANGUAGES_PER_UNIT)
    return [Unit(tuple(files[start : start + _LANGUAGES_PER_UNIT])) for start in starts]


def read(unit):
    """Yields a `Record` or `Skipped` for each line of a unit.

    Raises:
        UserError: a file is empty or not UTF-8, or has another number of lines than its English
            file.
    """
    for code, path, english_path in unit.files:
        texts, translations = bounded_read.read_lines(path), bounded_read.read_lines(english_path)
        if not texts or len(texts) != len(translations):
            raise UserError(
                f"{path} has {len(texts):,} lines and {english_path} {len(translations):,}; "
                "expected the same number in both, and at least one; download them again"
            )
        for number, (text, translation) in enumerate(zip(texts, translations, strict=True), 1):
            id = f"tatoeba.{code}-eng:{number}"
            if is_blank(text) or is_blank(translation):
                yield Skipped("empty side", id)
            else:
                yield Record(id, texts=((code, text), ("eng", translation)))


def fingerprint(raw_dir, split, languages=None):
    """Returns a hash of the files."""
    digest = hashlib.sha256()
    for code, *paths in _find_files(raw_dir, languages):
        digest.update(code.encode())
        for path in paths:
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _find_files(raw_dir, languages):
    """Returns a sorted list of (language, path of its file, path of the English file)."""
    archives.check_raw_dir(raw_dir)
    for folder in (os.path.join(raw_dir, relative_path) for relative_path in _FOLDERS):
        names = os.listdir(folder) if os.path.isdir(folder) else ()
        matches = filter(None, map(_FILE_NAME.fullmatch, names))
        codes = sorted({match[1] for match in matches} - {"eng"})
        if codes:
            break
    else:
        raise UserError(
            f"no files such as tatoeba.deu-eng.deu in {raw_dir}; expected those of data/tatoeba/v1 "
            "of https://github.com/facebookresearch/LASER"
        )
    for code in languages or ():
        lookup(dict.fromkeys(codes), code, f"language (of {folder})")
    files = []
    for code in codes if languages is None else sorted(set(languages)):
        paths = [os.path.join(folder, f"tatoeba.{code}-eng.{suffix}") for suffix in (code, "eng")]
        for path, other in (paths, paths[::-1]):
            if not os.path.isfile(path):
                raise UserError(f"{path} is missing, but {other} exists; download it again")
        files.append((code, *paths))
    return files
