"""`sts2017`: sentence pairs with a similarity score from 0 to 5, in ten tracks.

This is the test set of STS 2017 with the tracks that Reimers and Gurevych added. A record has two
texts in the order of the columns. The name of the file gives the languages of the texts: (es, en)
for STS.es-en.txt, (en, ar) for STS.en-ar.txt, (en, en) for STS.en-en.txt. The id of a record starts
with its track ("STS.es-en:1").
"""

import dataclasses
import hashlib
import math
import os
import re
import zipfile

from tf_mural.data.records import Record, Skipped
from tf_mural.data.text_cleaning import is_blank
from tf_mural.datasets import archives, bounded_read
from tf_mural.errors import UserError, lookup

SPLITS = ("test",)
AUGMENTATIONS = ()
_ARCHIVE = "STS2017-extended.zip"
_FOLDERS = ("", "STS2017-extended")
_FILE_NAME = re.compile(r"STS\.(([a-z]{2})-([a-z]{2}))\.txt")
_MAX_SCORE = 5


@dataclasses.dataclass(frozen=True)
class Unit:
    """All selected tracks.

    Attributes:
        location: path of the zip or the folder that contains the tracks.
        tracks: pairs (track, file name).
    """

    location: str
    tracks: tuple[tuple[str, str], ...]


def plan(raw_dir: str, split: str, tracks: tuple[str, ...] | None = None):
    """Finds the tracks.

    Args:
        raw_dir: STS2017-extended.zip, a folder that contains it, or the folder of the tracks.
        split: "test".
        tracks: tracks to keep, such as es-en, with the languages in either order. Default: all.

    Returns:
        List of a single `Unit`, because all tracks together have only 2,500 pairs.

    Raises:
        UserError: no tracks exist, a track is unknown or exists twice, or the zip is corrupt.
    """
    lookup(dict.fromkeys(SPLITS), split, "split of sts2017")
    location = _locate(raw_dir)
    files = {}
    for name in _list_names(location):
        if match := _FILE_NAME.fullmatch(os.path.basename(name)):
            if other := files.get(match[1]):
                raise UserError(f"{location} contains {other} and {name}; keep one of them")
            files[match[1]] = name
    if not files:
        raise UserError(f"no files such as STS.en-en.txt in {location}; download {_ARCHIVE} again")
    kept = sorted(files)
    if tracks is not None:
        aliases = {"-".join(track.split("-")[::-1]): track for track in files}
        aliases.update({track: track for track in files})
        kept = sorted({lookup(aliases, track, "track") for track in tracks})
    return [Unit(location, tuple((track, files[track]) for track in kept))]


def read(unit):
    """Yields a `Record` or `Skipped` for each line of a unit.

    Raises:
        UserError: a file is empty or not UTF-8, or a line does not have two sentences and a score
            from 0 to 5.
    """
    for track, name in unit.tracks:
        path = os.path.join(unit.location, name)
        lines = bounded_read.split_lines(_read_bytes(unit.location, name), path)
        if not lines:
            raise UserError(f"{path} is empty; download it again")
        for number, line in enumerate(lines, 1):
            yield _parse_line(track, number, line, f"{path}, line {number}")


def fingerprint(raw_dir, split, tracks=None):
    """Returns a hash of the tracks, which is the same for a zip and a folder."""
    digest = hashlib.sha256()
    for unit in plan(raw_dir, split, tracks):
        for track, name in unit.tracks:
            data = _read_bytes(unit.location, name)
            digest.update(track.encode() + hashlib.sha256(data).digest())
    return digest.hexdigest()


def _parse_line(track, number, line, location):
    """Returns the `Record` or `Skipped` of a line; `location` names the line in messages."""
    id = f"STS.{track}:{number}"
    cells = [cell.strip() for cell in line.split("\t")]
    if len(cells) not in (2, 3):
        raise UserError(
            f"{location}: expected sentence<tab>sentence<tab>score, got {len(cells)} columns: "
            f"{line[:60]!r}"
        )
    *sentences, score_text = cells if len(cells) == 3 else (*cells, "")
    if not score_text:
        return Skipped("no score", id)
    if any(map(is_blank, sentences)):
        return Skipped("empty side", id)
    try:
        score = float(score_text)
    except ValueError:
        score = math.nan
    if not 0 <= score <= _MAX_SCORE:
        raise UserError(f"{location}: expected a score from 0 to {_MAX_SCORE}, got {score_text!r}")
    return Record(id, texts=tuple(zip(track.split("-"), sentences, strict=True)), score=score)


# --- zip or folder --------------------------------------------------------------------------------


def _locate(raw_dir):
    """Returns the path of the zip, or of the folder that contains the tracks."""
    if raw_dir and os.path.isfile(raw_dir):
        return raw_dir
    if not raw_dir or not os.path.isdir(raw_dir):
        raise UserError(f"expected raw_dir to be a folder, or {_ARCHIVE}; got {raw_dir!r}")
    for folder in (os.path.join(raw_dir, relative_path) for relative_path in _FOLDERS):
        if os.path.isdir(folder) and any(map(_FILE_NAME.fullmatch, os.listdir(folder))):
            return folder
    archive = os.path.join(raw_dir, _ARCHIVE)
    return archive if os.path.isfile(archive) else raw_dir


def _list_names(location):
    if os.path.isdir(location):
        return sorted(os.listdir(location))
    with bounded_read.file_errors(location), zipfile.ZipFile(location) as archive:
        names = sorted(archive.namelist())
    for name in names:
        archives.check_member_name(location, name)
    return names


def _read_bytes(location, name):
    if os.path.isdir(location):
        return bounded_read.read_bytes(os.path.join(location, name))
    return bounded_read.read_zip_member(location, name)
