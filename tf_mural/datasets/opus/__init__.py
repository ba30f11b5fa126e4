"""`opus`, `ccmatrix`: bitexts as OPUS publishes them in its Moses format.

A zip, such as de-en.txt.zip, has two text files, such as CCMatrix.de-en.de and CCMatrix.de-en.en,
whose lines say the same. Its other files (README, LICENSE, scores, ids) are not read. The two may
also lie unpacked in a folder.

A zip can be read from its start alone, so a part of a bitext is read by passing over what comes
before it: at about a million pairs a second, most of it unpacking. A bitext has 16 parts at most,
so that each pair is passed over 7.5 times at worst. The parts are cut by bytes of the first
language, so that planning them reads no text, and small bitexts share a unit.
"""

import dataclasses
import hashlib
import itertools

from tf_mural.data.records import Dropped, Record
from tf_mural.datasets.opus import files
from tf_mural.datasets.opus.forward_lines import Lines
from tf_mural.errors import UserError

SPLITS = ("train",)
AUGMENTATIONS = ()
# Of the first language. A part passes over what comes before it, at a twentieth of the time that
# converting it takes, so that many small parts would cost more than they gain.
_BYTES_PER_UNIT = (16 << 20, 256 << 20)
_MOST_UNITS = 512  # Every shard of a set is an open file while it is read.
_MOST_PARTS = 16  # of a bitext


@dataclasses.dataclass(frozen=True)
class Part:
    """The lines of a bitext whose first language starts in the bytes [start, end)."""

    bitext: files.Bitext
    start: int
    end: int


@dataclasses.dataclass(frozen=True)
class Unit:
    """Parts of bitexts, one after another."""

    parts: tuple[Part, ...]
    drop_identical: bool


def plan(
    raw_dir: str,
    split: str,
    languages: tuple[str, ...] | None = None,
    pairs: tuple[str, ...] | None = None,
    drop_identical: bool = False,
):
    """Finds the bitexts and parts them; reads none of their text.

    Args:
        raw_dir: a Moses zip of OPUS, or a folder that holds some at any depth, or unpacked ones.
        split: "train".
        languages: language codes; bitexts of two of them are kept. Default: all.
        pairs: pairs such as de-en, in either order, that are kept. Default: all.
        drop_identical: whether to leave out lines that are the same in both languages.

    Returns:
        List of `Unit`.

    Raises:
        UserError: no bitext, one that is incomplete or there twice, or an unknown language or pair.
    """
    bitexts = files.choose(files.find(raw_dir), raw_dir, languages, pairs)
    total = sum(bitext.sizes[0] for bitext in bitexts)
    least, most = _BYTES_PER_UNIT
    wanted = max(min(max(least, total // 4), most), -(-total // _MOST_UNITS))
    units, small, filled = [], [], 0
    for bitext in bitexts:
        size = bitext.sizes[0]
        count = min(_MOST_PARTS, -(-size // wanted))
        cuts = [size * number // count for number in range(count + 1)]
        parts = [Part(bitext, *ends) for ends in itertools.pairwise(cuts)]
        if count > 1:
            units += [Unit((part,), drop_identical) for part in parts]
            continue
        small += parts
        filled += size
        if filled >= wanted:
            units.append(Unit(tuple(small), drop_identical))
            small, filled = [], 0
    if small:
        units.append(Unit(tuple(small), drop_identical))
    return units


def read(unit):
    """Yields a `Record` or `Dropped` for each pair of lines of a unit.

    Raises:
        UserError: a file does not unpack, or the two of a bitext differ in length.
    """
    for part in unit.parts:
        bitext = part.bitext
        for number, first, second in _pairs(part):
            name = f"{bitext.name}:{number}"
            try:
                texts = tuple(line.decode().strip() for line in (first, second))
            except UnicodeDecodeError:
                yield Dropped("not UTF-8", name)
                continue
            if not all(texts):
                yield Dropped("empty side", name)
            elif unit.drop_identical and texts[0] == texts[1]:
                yield Dropped("both sides the same", f"{name}: {texts[0]}")
            else:
                yield Record(name, texts=tuple(zip(bitext.languages, texts, strict=True)))


def fingerprint(raw_dir, split, languages=None, pairs=None, **_):
    """A hash of the bitexts' names, sizes and checksums: of zips those that stand in them."""
    digest = hashlib.sha256()
    for bitext in files.choose(files.find(raw_dir), raw_dir, languages, pairs):
        digest.update(repr((bitext.name, bitext.sizes, files.checksums(bitext))).encode())
    return digest.hexdigest()


def _pairs(part):
    """Yields (number from 1, line, line) of a part; the last of a bitext proves both as long."""
    bitext = part.bitext
    with files.opened(bitext, 0) as one, files.opened(bitext, 1) as two:
        first, second = Lines(one, bitext.where(0)), Lines(two, bitext.where(1))
        first.pass_to(part.start)
        second.pass_lines(first.number)
        position, number, seconds = first.offset, first.number, iter(second)
        for line in first:
            if position >= part.end:
                return
            other = next(seconds, None)
            if other is None:
                raise _uneven(bitext)
            position += len(line) + 1
            number += 1
            yield number, line, other
        if part.end == bitext.sizes[0] and next(seconds, None) is not None:
            raise _uneven(bitext)


def _uneven(bitext):
    counts = []
    for side in (0, 1):
        with files.opened(bitext, side) as stream:
            lines = Lines(stream, bitext.where(side))
            lines.pass_to(None)
            counts.append(f"{bitext.members[side]} {lines.number:,}")
    return UserError(
        f"{bitext.path}: expected as many lines in one language as in the other, found "
        f"{' and '.join(counts)}; download it again"
    )
