"""`opus`, `ccmatrix`: bitexts as OPUS publishes them in its Moses format.

A zip, such as de-en.txt.zip, contains two text files, such as CCMatrix.de-en.de and
CCMatrix.de-en.en, whose lines are translations of each other. The other files of the zip (README,
LICENSE, scores, ids) are not read. The two text files may also be unpacked in a folder.

A member of a zip can only be read from its start. The reader of a part of a bitext must therefore
skip the pairs before this part. About a million pairs are skipped per second, and most of this time
is spent on decompression. A bitext has at most 16 parts; a pair is then skipped at most 7.5 times
on average. The parts are ranges of bytes in the text of the first language, because planning then
reads no text. Small bitexts share a unit.
"""

import dataclasses
import hashlib
import itertools

from tf_mural.data.records import Record, Skipped
from tf_mural.data.text_cleaning import is_blank
from tf_mural.datasets.opus import files
from tf_mural.datasets.opus.forward_lines import ForwardLines
from tf_mural.errors import UserError

SPLITS = ("train",)
VERSION = 2
AUGMENTATIONS = ()
# Minimum and maximum size of a unit in bytes of the first language. Skipping a text takes 5 % of
# the time of converting it, therefore many small parts would cost more time than they save.
_BYTES_PER_UNIT = (16 << 20, 256 << 20)
_MAX_UNITS = 512  # A reader keeps every shard of a record set open.
_MAX_PARTS = 16  # Maximum number of parts of a bitext.


@dataclasses.dataclass(frozen=True)
class Part:
    """The pairs of a bitext whose line in the first language starts in the bytes [start, end)."""

    bitext: files.Bitext
    start: int
    end: int


@dataclasses.dataclass(frozen=True)
class Unit:
    """Parts of bitexts, which are read in order."""

    parts: tuple[Part, ...]
    drop_identical: bool


def plan(
    raw_dir: str,
    split: str,
    languages: tuple[str, ...] | None = None,
    pairs: tuple[str, ...] | None = None,
    drop_identical: bool = False,
):
    """Finds the bitexts and divides them into units without reading their text.

    Args:
        raw_dir: a Moses zip of OPUS, or a folder that contains zips or unpacked bitexts at any
            depth.
        split: "train".
        languages: language codes; bitexts of two of these languages are kept. Default: all.
        pairs: pairs to keep, such as de-en, in either order. Default: all.
        drop_identical: drop lines that are equal in both languages.

    Returns:
        A list of `Unit`.

    Raises:
        UserError: there is no bitext, a bitext is incomplete or repeated, or a language or pair is
            unknown.
    """
    bitexts = files.choose_bitexts(files.find_bitexts(raw_dir), raw_dir, languages, pairs)
    total = sum(bitext.sizes[0] for bitext in bitexts)
    minimum, maximum = _BYTES_PER_UNIT
    unit_bytes = max(min(max(minimum, total // 4), maximum), -(-total // _MAX_UNITS))
    units, small, small_bytes = [], [], 0
    for bitext in bitexts:
        size = bitext.sizes[0]
        count = min(_MAX_PARTS, -(-size // unit_bytes))
        cuts = [size * number // count for number in range(count + 1)]
        parts = [Part(bitext, *ends) for ends in itertools.pairwise(cuts)]
        if count > 1:
            units += [Unit((part,), drop_identical) for part in parts]
            continue
        small += parts
        small_bytes += size
        if small_bytes >= unit_bytes:
            units.append(Unit(tuple(small), drop_identical))
            small, small_bytes = [], 0
    if small:
        units.append(Unit(tuple(small), drop_identical))
    return units


def read(unit):
    """Yields a `Record` or `Skipped` for each pair of lines of a unit.

    Raises:
        UserError: a file does not unpack, or the files of a bitext differ in length.
    """
    for part in unit.parts:
        bitext = part.bitext
        for number, first, second in _read_pairs(part):
            name = f"{bitext.name}:{number}"
            try:
                texts = tuple(line.decode().strip() for line in (first, second))
            except UnicodeDecodeError:
                yield Skipped("not UTF-8", name)
                continue
            if any(map(is_blank, texts)):
                yield Skipped("empty side", name)
            elif unit.drop_identical and texts[0] == texts[1]:
                yield Skipped("both sides the same", f"{name}: {texts[0]}")
            else:
                yield Record(name, texts=tuple(zip(bitext.languages, texts, strict=True)))


def fingerprint(raw_dir, split, languages=None, pairs=None, **_):
    """Returns a hash of the names, sizes and checksums of the bitexts."""
    digest = hashlib.sha256()
    for bitext in files.choose_bitexts(files.find_bitexts(raw_dir), raw_dir, languages, pairs):
        digest.update(repr((bitext.name, bitext.sizes, files.checksums(bitext))).encode())
    return digest.hexdigest()


def _read_pairs(part):
    """Yields (line number from 1, line, line in the other language) of a part.

    The last part of a bitext checks that both languages have the same number of lines.
    """
    bitext = part.bitext
    with files.open_side(bitext, 0) as stream_0, files.open_side(bitext, 1) as stream_1:
        first = ForwardLines(stream_0, bitext.where(0))
        second = ForwardLines(stream_1, bitext.where(1))
        first.skip_to(part.start)
        second.skip_lines(first.number)
        position, number, second_lines = first.offset, first.number, iter(second)
        for line in first:
            if position >= part.end:
                return
            other = next(second_lines, None)
            if other is None:
                raise _unequal_lengths(bitext)
            position += len(line) + 1
            number += 1
            yield number, line, other
        if part.end == bitext.sizes[0] and next(second_lines, None) is not None:
            raise _unequal_lengths(bitext)


def _unequal_lengths(bitext):
    counts = []
    for side in (0, 1):
        with files.open_side(bitext, side) as stream:
            lines = ForwardLines(stream, bitext.where(side))
            lines.skip_to(None)
            counts.append(f"{bitext.members[side]} {lines.number:,}")
    return UserError(
        f"{bitext.path}: expected as many lines in one language as in the other, found "
        f"{' and '.join(counts)}; download it again"
    )
