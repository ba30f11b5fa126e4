"""Which bitexts there are, in zips and in folders."""

import contextlib
import dataclasses
import hashlib
import os
import zipfile

from tf_mural.data.records import is_language
from tf_mural.datasets import bounded_read
from tf_mural.errors import UserError, lookup


@dataclasses.dataclass(frozen=True)
class Bitext:
    """Two texts whose lines say the same.

    Attributes:
        name: "CCMatrix.de-en".
        languages: of its sides, as records have them: OPUS's zh_cn is zh-cn.
        path: the zip, or the folder of the two files.
        members: the names of both files in there.
        sizes: how many bytes they have, unpacked.
    """

    name: str
    languages: tuple[str, str]
    path: str
    members: tuple[str, str]
    sizes: tuple[int, int]

    @property
    def in_zip(self):
        """Whether `path` is a zip."""
        return not os.path.isdir(self.path)

    def where(self, side):
        """Names a side in messages."""
        return f"{self.members[side]} of {self.path}"


def find(raw_dir):
    """All bitexts in a zip, or in a folder and those below it.

    Returns:
        List of `Bitext`, sorted by name.

    Raises:
        UserError: there are none, one is there twice, incomplete or empty; a zip that is broken,
            has none, or names a place outside of it.
    """
    if not raw_dir or not os.path.exists(raw_dir):
        raise UserError(
            f"expected raw_dir to be a zip of OPUS or a folder of such; got {raw_dir!r}"
        )
    if os.path.isfile(raw_dir):
        found = _in_zip(raw_dir)
    else:
        found = []
        for folder, below, names in os.walk(raw_dir):
            below.sort()
            found += _in_folder(folder, names)
            for name in sorted(names):
                if name.endswith(".zip"):
                    found += _in_zip(os.path.join(folder, name))
    if not found:
        raise UserError(
            f"no bitext in {raw_dir}; expected zips of OPUS's Moses format, such as de-en.txt.zip, "
            "or what is in them, such as CCMatrix.de-en.de and CCMatrix.de-en.en"
        )
    by_name = {}
    for bitext in found:
        if not all(bitext.sizes):
            empty = bitext.where(bitext.sizes.index(0))
            raise UserError(f"{empty} is empty; download it again")
        other = by_name.setdefault(bitext.name, bitext)
        if other is not bitext:
            raise UserError(f"{bitext.name} is in {other.path} and {bitext.path}; keep one of them")
    return [by_name[name] for name in sorted(by_name)]


def choose(bitexts, raw_dir, languages=None, pairs=None):
    """Those of some languages and pairs; arguments as for `opus.plan`.

    Raises:
        UserError: a language or pair is unknown, or none is left.
    """
    kept = bitexts
    if languages is not None:
        known = dict.fromkeys(sorted({code for b in bitexts for code in b.languages}))
        for code in languages:
            lookup(known, _tag(code), f"language (of {raw_dir})")
        wanted = {_tag(code) for code in languages}
        kept = [bitext for bitext in kept if wanted.issuperset(bitext.languages)]
    if pairs is not None:
        known = {"-".join(bitext.languages): None for bitext in bitexts}
        turned = {"-".join(bitext.languages[::-1]): None for bitext in bitexts}
        wanted = {_tag(pair) for pair in pairs}
        for pair in sorted(wanted - turned.keys()):
            lookup(known, pair, f"pair (of {raw_dir})")
        kept = [
            bitext
            for bitext in kept
            if not wanted.isdisjoint(("-".join(bitext.languages), "-".join(bitext.languages[::-1])))
        ]
    if not kept:
        raise UserError(f"no bitext of {raw_dir} has two of the languages, and is of the pairs")
    for bitext in kept:
        for code in bitext.languages:
            if not is_language(code):
                raise UserError(
                    f"{bitext.path}: expected language codes such as de, got {code!r} in "
                    f"{bitext.name}; leave it out with the options languages or pairs"
                )
    return kept


@contextlib.contextmanager
def opened(bitext, side):
    """A side as a binary stream. Raises UserError where it cannot be unpacked, then or later."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(bounded_read.errors(bitext.where(side)))
        if bitext.in_zip:
            archive = stack.enter_context(zipfile.ZipFile(bitext.path))
            stream = archive.open(bitext.members[side])
        else:
            stream = open(os.path.join(bitext.path, bitext.members[side]), "rb")
        yield stack.enter_context(stream)


def checksums(bitext):
    """One of each side: what the zip says, or the SHA-256 of the file."""
    if bitext.in_zip:
        with _archive(bitext.path) as archive:
            return tuple(archive.getinfo(member).CRC for member in bitext.members)
    found = []
    for member in bitext.members:
        with open(os.path.join(bitext.path, member), "rb") as file:
            found.append(hashlib.file_digest(file, "sha256").hexdigest())
    return tuple(found)


def _tag(code):
    return code.replace("_", "-")


def _in_folder(folder, names):
    for name, codes, members in _matched(sorted(names), folder):
        sizes = tuple(os.path.getsize(os.path.join(folder, member)) for member in members)
        yield Bitext(name, codes, folder, members, sizes)


def _in_zip(path):
    with _archive(path) as archive:
        infos = {info.filename: info for info in archive.infolist()}
    found = []
    for name, codes, members in _matched(infos, path):
        for member in members:
            if member.startswith("/") or ".." in member.split("/"):
                raise UserError(f"{path} has {member!r}, a place outside of it; it is not of OPUS")
            if infos[member].flag_bits & 1:
                raise UserError(f"{path}: {member} is encrypted; it is not of OPUS")
        sizes = tuple(infos[member].file_size for member in members)
        found.append(Bitext(name, codes, path, members, sizes))
    if not found:
        raise UserError(
            f"{path} holds no bitext of OPUS's Moses format, two files such as CCMatrix.de-en.de "
            f"and CCMatrix.de-en.en, but {', '.join(list(infos)[:5]) or 'nothing'}; move it away"
        )
    return found


def _archive(path):
    with bounded_read.errors(path):
        return zipfile.ZipFile(path)


def _matched(names, where):
    """Yields (name, languages, members) of each two names STEM.a-b.a and STEM.a-b.b."""
    by_stem = {}
    for name in names:
        stem, _, side = name.rpartition(".")
        if stem and not os.path.basename(name).startswith("."):
            by_stem.setdefault(stem, {})[side] = name
    for stem, sides in by_stem.items():
        both = [(a, b) for a in sides for b in sides if a != b and stem.endswith(f".{a}-{b}")]
        for a, b in both:
            yield os.path.basename(stem), (_tag(a), _tag(b)), (sides[a], sides[b])
        for side, name in sides.items() if not both else ():
            if stem.endswith(f"-{side}") or f".{side}-" in stem:
                raise UserError(f"{where} has {name}, but not its other language; add it")
