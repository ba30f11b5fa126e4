"""Reads and writes files of byte-pair encodings: vocab.json with merges.txt, and CLIP's file."""

import gzip
import json
import os
import zlib

from tf_mural import file_io
from tf_mural.data.byte_pair_tokenizer import END_OF_WORD, byte_alphabet
from tf_mural.data.tokenizer_settings import read_object
from tf_mural.errors import UserError

VOCABULARY, MERGES = "vocab.json", "merges.txt"
# OpenAI's file contains more merges than its models use.
CLIP_FILE, _NUM_CLIP_MERGES = "bpe_simple_vocab_16e6.txt.gz", 49_152 - 256 - 2
CLIP_SPECIAL_TOKENS = ("<|startoftext|>", "<|endoftext|>")


def read_vocabulary(folder: str) -> tuple[list[str], list[tuple[str, str]]]:
    """Reads vocab.json and merges.txt.

    Args:
        folder: folder of both files.

    Returns:
        Pieces in the order of their ids, and merges in the order of their ranks.

    Raises:
        UserError: a file is missing or damaged, or the ids have gaps.
    """
    path, merges_path = (os.path.join(folder, name) for name in (VOCABULARY, MERGES))
    for a, b in ((path, merges_path), (merges_path, path)):
        if not file_io.exists(a):
            raise UserError(
                f"{folder} has {os.path.basename(b)} but no {os.path.basename(a)}; a byte-pair "
                "encoding needs both files"
            )
    ids = read_object(path)
    if sorted(ids.values(), key=repr) != sorted(range(len(ids)), key=repr):
        raise UserError(
            f"{path}: expected the ids 0 to {len(ids) - 1} of {len(ids)} pieces, each of them once"
        )
    return sorted(ids, key=ids.get), _parse_merges(merges_path, file_io.read_bytes(merges_path))


def write_vocabulary(folder: str, pieces, merges) -> None:
    """Writes vocab.json and merges.txt to a folder."""
    ids = json.dumps({piece: i for i, piece in enumerate(pieces)}, ensure_ascii=False)
    lines = "".join(f"{left} {right}\n" for left, right in merges)
    for name, text in ((VOCABULARY, ids), (MERGES, "#version: 0.2\n" + lines)):
        path = os.path.join(folder, name)
        with file_io.atomic_write(path) as temporary, file_io.open_file(temporary, "wb") as file:
            file.write(text.encode("utf-8"))


def read_clip_file(path: str) -> tuple[list[str], list[tuple[str, str]]]:
    """Reads bpe_simple_vocab_16e6.txt.gz of OpenAI's CLIP and of OpenCLIP.

    Returns:
        Pieces in the order of their ids, and merges in the order of their ranks.

    Raises:
        UserError: the file is damaged.
    """
    try:
        content = gzip.decompress(file_io.read_bytes(path))
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is damaged ({error}); copy or download it again") from error
    merges = _parse_merges(path, content)[:_NUM_CLIP_MERGES]
    if len(merges) < _NUM_CLIP_MERGES:
        raise UserError(
            f"{path}: expected {_NUM_CLIP_MERGES} merges or more, found {len(merges)}; copy or "
            "download it again"
        )
    alphabet = sorted(byte_alphabet())  # Printable characters precede the others.
    pieces = [*alphabet, *(character + END_OF_WORD for character in alphabet)]
    return [*pieces, *map("".join, merges), *CLIP_SPECIAL_TOKENS], merges


def _parse_merges(path, content):
    """Returns the pairs in the lines of a file, without its first line, which states a version."""
    try:
        lines = content.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}") from error
    first = 1 if "#version" in lines[0] else 0
    merges = []
    for number, line in enumerate(lines[first:], start=first + 1):
        parts = line.rstrip("\r").split(" ")
        if parts == [""]:
            continue
        if len(parts) != 2 or not all(parts):
            raise UserError(f"{path}, line {number}: expected two pieces, found {line[:40]!r}")
        merges.append(tuple(parts))
    return merges
