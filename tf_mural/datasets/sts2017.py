"""`sts2017`: sentence pairs with a score of how alike they are, 0 to 5, in ten tracks.

The test set of STS 2017 with the tracks that Reimers and Gurevych added. A record has two texts in
the order of the file, whose name says their languages: (es, en) for STS.es-en.txt, (en, ar) for
STS.en-ar.txt, twice the same for STS.en-en.txt. Its id begins with the track ("STS.es-en:1").
"""

import dataclasses
import hashlib
import math
import os
import re
import zipfile

from tf_mural.data.records import Dropped, Record
from tf_mural.datasets import bounded_read, text_lines
from tf_mural.errors import UserError, lookup

SPLITS = ("test",)
AUGMENTATIONS = ()
_ARCHIVE = "STS2017-extended.zip"
_FOLDERS = ("", "STS2017-extended")
_NAME = re.compile(r"STS\.(([a-z]{2})-([a-z]{2}))\.txt")
_HIGHEST = 5


@dataclasses.dataclass(frozen=True)
class Unit:
    """All tracks: (track, name of its file). `place` is the zip or the folder that they are in."""

    place: str
    tracks: tuple[tuple[str, str], ...]


def plan(raw_dir: str, split: str, tracks: tuple[str, ...] | None = None):
    """Finds the tracks.

    Args:
        raw_dir: STS2017-extended.zip or a folder that holds it, or the folder of the tracks.
        split: "test".
        tracks: such as es-en, in either order, to keep. Default: all that are there.

    Returns:
        A list of one `Unit`: all tracks are 2,500 pairs.

    Raises:
        UserError: there are none, or a track is unknown or there twice; a zip that does not unpack.
    """
    lookup(dict.fromkeys(SPLITS), split, "split of sts2017")
    place = _place(raw_dir)
    found = {}
    for name in _names(place):
        if match := _NAME.fullmatch(os.path.basename(name)):
            if other := found.get(match[1]):
                raise UserError(f"{place} has {other} and {name}; keep one of them")
            found[match[1]] = name
    if not found:
        raise UserError(f"no files such as STS.en-en.txt in {place}; download {_ARCHIVE} again")
    kept = sorted(found)
    if tracks is not None:
        either = {"-".join(track.split("-")[::-1]): track for track in found}
        either.update({track: track for track in found})
        kept = sorted({lookup(either, track, "track") for track in tracks})
    return [Unit(place, tuple((track, found[track]) for track in kept))]


def read(unit):
    """Yields a `Record` or `Dropped` for each line of a unit.

    Raises:
        UserError: a file is empty or no UTF-8, or a line has other columns than two sentences and
            a score of 0 to 5.
    """
    for track, name in unit.tracks:
        path = os.path.join(unit.place, name)
        rows = text_lines.split(_bytes(unit.place, name), path)
        if not rows:
            raise UserError(f"{path} is empty; download it again")
        for number, row in enumerate(rows, 1):
            yield _item(track, number, row, f"{path}, line {number}")


def fingerprint(raw_dir, split, tracks=None):
    """A hash of the tracks, the same whether they are in a zip or not."""
    digest = hashlib.sha256()
    for unit in plan(raw_dir, split, tracks):
        for track, name in unit.tracks:
            digest.update(track.encode() + hashlib.sha256(_bytes(unit.place, name)).digest())
    return digest.hexdigest()


def _item(track, number, row, where):
    name = f"STS.{track}:{number}"
    cells = [cell.strip() for cell in row.split("\t")]
    if len(cells) not in (2, 3):
        raise UserError(
            f"{where}: expected sentence<tab>sentence<tab>score, got {len(cells)} columns: "
            f"{row[:60]!r}"
        )
    *sentences, score = cells if len(cells) == 3 else (*cells, "")
    if not score:
        return Dropped("no score", name)
    if not all(sentences):
        return Dropped("empty side", name)
    try:
        value = float(score)
    except ValueError:
        value = math.nan
    if not 0 <= value <= _HIGHEST:
        raise UserError(f"{where}: expected a score of 0 to {_HIGHEST}, got {score!r}")
    return Record(name, texts=tuple(zip(track.split("-"), sentences, strict=True)), score=value)


# --- a zip or a folder ----------------------------------------------------------------------------


def _place(raw_dir):
    """The zip, or the folder that holds the tracks."""
    if raw_dir and os.path.isfile(raw_dir):
        return raw_dir
    if not raw_dir or not os.path.isdir(raw_dir):
        raise UserError(f"expected raw_dir to be a folder, or {_ARCHIVE}; got {raw_dir!r}")
    for folder in (os.path.join(raw_dir, below) for below in _FOLDERS):
        if os.path.isdir(folder) and any(map(_NAME.fullmatch, os.listdir(folder))):
            return folder
    archive = os.path.join(raw_dir, _ARCHIVE)
    return archive if os.path.isfile(archive) else raw_dir


def _names(place):
    if os.path.isdir(place):
        return sorted(os.listdir(place))
    with bounded_read.errors(place), zipfile.ZipFile(place) as archive:
        names = sorted(archive.namelist())
    for name in names:
        if name.startswith("/") or ".." in name.split("/"):
            raise UserError(f"{place} has {name!r}, a place outside of it; download it again")
    return names


def _bytes(place, name):
    if os.path.isdir(place):
        return bounded_read.read(os.path.join(place, name))
    return bounded_read.of_zip(place, name)
