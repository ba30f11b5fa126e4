"""Finds bitexts in zips and in folders."""

import contextlib
import dataclasses
import hashlib
import os
import zipfile

from tf_mural import languages as language_codes
from tf_mural.data.records import is_language
from tf_mural.datasets import bounded_read
from tf_mural.errors import UserError, lookup


@dataclasses.dataclass(frozen=True)
class Bitext:
    """Two text files whose lines are translations of each other.

    Attributes:
        name: corpus and languages, such as "CCMatrix.de-en".
        languages: language codes of both texts as in records, such as zh for OPUS's zh_cn. A region
            is kept only if both texts are in the same language, such as pt and pt-br.
        path: path of the zip, or of the folder of the two files.
        members: names of both files in the zip or folder.
        sizes: unpacked sizes of both files in bytes.
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
        """Returns the name of one of the two texts (side 0 or 1) for messages."""
        return f"{self.members[side]} of {self.path}"


def find_bitexts(raw_dir):
    """Finds all bitexts in a zip, or in a folder and those below it.

    Returns:
        A list of `Bitext`, sorted by name.

    Raises:
        UserError: there is no bitext; a bitext is repeated, incomplete or empty; or a zip is
            damaged, has no bitext, or contains a path outside of itself.
    """
    if not raw_dir or not os.path.exists(raw_dir):
        raise UserError(
            f"expected raw_dir to be a zip of OPUS or a folder of such; got {raw_dir!r}"
        )
    if os.path.isfile(raw_dir):
        bitexts = _bitexts_in_zip(raw_dir)
    else:
        bitexts = []
        for folder, subfolders, names in os.walk(raw_dir):
            subfolders.sort()
            bitexts += _bitexts_in_folder(folder, names)
            for name in sorted(names):
                if name.endswith(".zip"):
                    bitexts += _bitexts_in_zip(os.path.join(folder, name))
    if not bitexts:
        raise UserError(
            f"no bitext in {raw_dir}; expected zips of OPUS's Moses format, such as de-en.txt.zip, "
            "or their contents, such as CCMatrix.de-en.de and CCMatrix.de-en.en"
        )
    by_name = {}
    for bitext in bitexts:
        if not all(bitext.sizes):
            empty = bitext.where(bitext.sizes.index(0))
            raise UserError(f"{empty} is empty; download it again")
        other = by_name.setdefault(bitext.name, bitext)
        if other is not bitext:
            raise UserError(f"{bitext.name} is in {other.path} and {bitext.path}; keep one of them")
    return [by_name[name] for name in sorted(by_name)]


def choose_bitexts(bitexts, raw_dir, languages=None, pairs=None):
    """Returns the bitexts of some languages and pairs.

    Args:
        bitexts: list of `Bitext`.
        raw_dir, languages, pairs: as for `opus.plan`.

    Raises:
        UserError: a language or pair is unknown, or no bitext remains.
    """
    chosen = bitexts
    if languages is not None:
        known_codes = sorted({code for bitext in bitexts for code in bitext.languages})
        allowed = set(language_codes.choose(languages, known_codes, f"language (of {raw_dir})"))
        chosen = [bitext for bitext in chosen if allowed.issuperset(bitext.languages)]
    if pairs is not None:
        known_pairs = {"-".join(bitext.languages): None for bitext in bitexts}
        all_names = {name for bitext in bitexts for name in _pair_names(bitext)}
        allowed = {_normalize(pair) for pair in pairs}
        for pair in sorted(allowed - all_names):
            lookup(known_pairs, pair, f"pair (of {raw_dir})")
        chosen = [bitext for bitext in chosen if _pair_names(bitext) & allowed]
    if not chosen:
        raise UserError(f"no bitext in {raw_dir} has two of the languages and is one of the pairs")
    for bitext in chosen:
        for code in bitext.languages:
            if not is_language(code):
                raise UserError(
                    f"{bitext.path}: expected language codes such as de, got {code!r} in "
                    f"{bitext.name}; exclude it with the options languages or pairs"
                )
    return chosen


@contextlib.contextmanager
def open_side(bitext, side):
    """Context manager that opens one of the two texts (side 0 or 1) as a binary stream.

    Raises:
        UserError: the text cannot be unpacked; may also be raised while the stream is read.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(bounded_read.file_errors(bitext.where(side)))
        if bitext.in_zip:
            archive = stack.enter_context(zipfile.ZipFile(bitext.path))
            stream = archive.open(bitext.members[side])
        else:
            stream = open(os.path.join(bitext.path, bitext.members[side]), "rb")
        yield stack.enter_context(stream)


def checksums(bitext):
    """Returns a checksum of each text: the CRC-32 in the zip, or the SHA-256 of the file."""
    if bitext.in_zip:
        with _open_zip(bitext.path) as archive:
            return tuple(archive.getinfo(member).CRC for member in bitext.members)
    digests = []
    for member in bitext.members:
        with open(os.path.join(bitext.path, member), "rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return tuple(digests)


def _normalize(code):
    return code.replace("_", "-")


def _stored_codes(first, second):
    """Returns the codes that records store for the two language codes of a bitext."""
    codes = [_normalize(code) for code in (first, second)]
    stored = [match.code if (match := language_codes.find(code)) else code for code in codes]
    return tuple(codes if stored[0] == stored[1] else stored)


def _pair_names(bitext):
    """Returns the names of a pair in both orders, with the codes of records and of the files."""
    original = [_normalize(member.rpartition(".")[2]) for member in bitext.members]
    orders = (codes[::step] for codes in (bitext.languages, original) for step in (1, -1))
    return {"-".join(codes) for codes in orders}


def _bitexts_in_folder(folder, names):
    for name, codes, members in _match_names(sorted(names), folder):
        sizes = tuple(os.path.getsize(os.path.join(folder, member)) for member in members)
        yield Bitext(name, codes, folder, members, sizes)


def _bitexts_in_zip(path):
    with _open_zip(path) as archive:
        infos = {info.filename: info for info in archive.infolist()}
    bitexts = []
    for name, codes, members in _match_names(infos, path):
        for member in members:
            if member.startswith("/") or ".." in member.split("/"):
                raise UserError(f"{path} has {member!r}, a path outside of it; it is not of OPUS")
            if infos[member].flag_bits & 1:
                raise UserError(f"{path}: {member} is encrypted; it is not of OPUS")
        sizes = tuple(infos[member].file_size for member in members)
        bitexts.append(Bitext(name, codes, path, members, sizes))
    if not bitexts:
        raise UserError(
            f"{path} holds no bitext of OPUS's Moses format, two files such as CCMatrix.de-en.de "
            f"and CCMatrix.de-en.en, but {', '.join(list(infos)[:5]) or 'nothing'}; move it away"
        )
    return bitexts


def _open_zip(path):
    with bounded_read.file_errors(path):
        return zipfile.ZipFile(path)


def _match_names(names, where):
    """Yields (name, languages, members) of each pair of names STEM.a-b.a and STEM.a-b.b."""
    by_stem = {}
    for name in names:
        stem, _, code = name.rpartition(".")
        if stem and not os.path.basename(name).startswith("."):
            by_stem.setdefault(stem, {})[code] = name
    for stem, sides in by_stem.items():
        codes = [(a, b) for a in sides for b in sides if a != b and stem.endswith(f".{a}-{b}")]
        for a, b in codes:
            yield os.path.basename(stem), _stored_codes(a, b), (sides[a], sides[b])
        for code, name in sides.items() if not codes else ():
            if stem.endswith(f"-{code}") or f".{code}-" in stem:
                raise UserError(f"{where} has {name}, but not the other language; add its file")
