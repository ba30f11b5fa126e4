"""`tatoeba`: sentences of 112 languages with their English translation, the test set of LASER.

One record a pair, its texts in the order (language, English). Languages have the codes of the file
names, ISO 639-3 such as cmn or lvs, English too (eng): results on this set are published by them.
"""

import dataclasses
import hashlib
import os
import re

from tf_mural.data.records import Dropped, Record
from tf_mural.datasets import text_lines
from tf_mural.errors import UserError, lookup

SPLITS = ("test",)
AUGMENTATIONS = ()
_FOLDERS = ("", "data/tatoeba/v1", "tatoeba/v1", "v1")
_NAME = re.compile(r"tatoeba\.([a-z]{3})-eng\.(eng|\1)")
_LANGUAGES_PER_UNIT = 16


@dataclasses.dataclass(frozen=True)
class Unit:
    """The files of some languages: (language, its file, the English file)."""

    files: tuple[tuple[str, str, str], ...]


def plan(raw_dir: str, split: str, languages: tuple[str, ...] | None = None):
    """Finds the files.

    Args:
        raw_dir: folder of tatoeba.xxx-eng.xxx and tatoeba.xxx-eng.eng, or a clone of LASER.
        split: "test".
        languages: codes such as deu, of languages to keep. Default: all that are there.

    Returns:
        List of `Unit`.

    Raises:
        UserError: there are none, one of two files is missing, or a language is unknown.
    """
    lookup(dict.fromkeys(SPLITS), split, "split of tatoeba")
    found = _find(raw_dir, languages)
    starts = range(0, len(found), _LANGUAGES_PER_UNIT)
    return [Unit(tuple(found[start : start + _LANGUAGES_PER_UNIT])) for start in starts]


def read(unit):
    """Yields a `Record` or `Dropped` for each line of a unit.

    Raises:
        UserError: a file is empty or no UTF-8, or has not as many lines as its English file.
    """
    for code, path, english in unit.files:
        both = text_lines.read(path), text_lines.read(english)
        if not both[0] or len(both[0]) != len(both[1]):
            raise UserError(
                f"{path} has {len(both[0]):,} lines and {english} {len(both[1]):,}; expected as "
                "many in both, and some; download them again"
            )
        for number, (text, translation) in enumerate(zip(*both, strict=True), 1):
            name = f"tatoeba.{code}-eng:{number}"
            if text and translation:
                yield Record(name, texts=((code, text), ("eng", translation)))
            else:
                yield Dropped("empty side", name)


def fingerprint(raw_dir, split, languages=None):
    """A hash of the files."""
    digest = hashlib.sha256()
    for code, *paths in _find(raw_dir, languages):
        digest.update(code.encode())
        for path in paths:
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _find(raw_dir, languages):
    """List of (language, its file, the English file), sorted."""
    if not raw_dir or not os.path.isdir(raw_dir):
        raise UserError(f"expected raw_dir to be a folder; {raw_dir!r} is none")
    for folder in (os.path.join(raw_dir, below) for below in _FOLDERS):
        names = os.listdir(folder) if os.path.isdir(folder) else ()
        codes = sorted({match[1] for name in names if (match := _NAME.fullmatch(name))} - {"eng"})
        if codes:
            break
    else:
        raise UserError(
            f"no files such as tatoeba.deu-eng.deu in {raw_dir}; expected those of data/tatoeba/v1 "
            "of https://github.com/facebookresearch/LASER"
        )
    for code in languages or ():
        lookup(dict.fromkeys(codes), code, f"language (of {folder})")
    found = []
    for code in codes if languages is None else sorted(set(languages)):
        paths = [os.path.join(folder, f"tatoeba.{code}-eng.{side}") for side in (code, "eng")]
        for path, other in (paths, paths[::-1]):
            if not os.path.isfile(path):
                raise UserError(f"{path} is missing, but {other} is there; download it again")
        found.append((code, *paths))
    return found
