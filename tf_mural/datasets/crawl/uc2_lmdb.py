"""UC2's texts in LMDB folders, one a language: an entry a text, MessagePack packed by LZ4.

An entry has the tokens of XLM-R as `input_ids` and the name of the image's features as `img_fname`;
beside the database, txt2img.json says of which image each text is. Where an entry has the text
itself (caption, text, sentence or raw), it is taken; else the tokens are decoded with XLM-R's
SentencePiece model. That gives the text but for what the tokenizer had changed: blanks are
single, characters are normalised (NFKC), and those that it does not know are " ⁇ ".

What is held of a text is a hash of its image's id and its key, about 20 bytes, for each language.
"""

import contextlib
import dataclasses
import functools
import importlib
import json
import os

import numpy as np

from tf_mural.data.records import Dropped
from tf_mural.datasets.crawl import index, rows, shards, to_records
from tf_mural.errors import UserError

_TEXTS = ("caption", "text", "sentence", "raw")
_SIDES = ("left", "right")
# XLM-R has fairseq's ids: <s>, <pad>, </s>, <unk>, then SentencePiece's from 3, each plus 1.
_UNKNOWN = 3


@dataclasses.dataclass(frozen=True)
class Databases:
    """Where texts are.

    Attributes:
        folders: (language, folder) pairs.
        model: XLM-R's SentencePiece model, or "".
        ids: a list of image ids and urls, or "".
    """

    folders: tuple[tuple[str, str], ...]
    model: str = ""
    ids: str = ""


@dataclasses.dataclass(frozen=True)
class Unit:
    """Some shards, to be read; or if `rest`, the texts of images that no shard speaks of."""

    shards: tuple[shards.Shard, ...]
    databases: Databases
    rest: bool = False


def check(databases):
    """Raises UserError if packages or files are missing, or there are tokens and no model."""
    with _Texts(databases) as opened:
        opened.check()


def paths(databases):
    """The files that there are, to tell these from others."""
    files = [os.path.join(folder, "data.mdb") for _, folder in databases.folders]
    files += [os.path.join(folder, "txt2img.json") for _, folder in databases.folders]
    return [path for path in (*files, databases.model, databases.ids) if os.path.isfile(path)]


def read(unit):
    """Yields a `Record` or `Dropped` for each image, or for each image's texts without it."""
    with _Texts(unit.databases) as opened:
        if unit.rest:
            yield from opened.rest(unit.shards)
            return
        for shard in unit.shards:
            yield from to_records.of_shard(shard, opened)


class _Texts:
    """The opened databases, as captions for `kept.of_shard`."""

    def __init__(self, databases):
        self.expected = tuple(code for code, _ in databases.folders)
        self._databases = databases

    def __enter__(self):
        lmdb = _package("lmdb")
        with contextlib.ExitStack() as stack:
            self._opened = []
            for code, folder in self._databases.folders:
                try:
                    env = lmdb.open(folder, readonly=True, create=False, lock=False)
                except lmdb.Error as error:
                    raise UserError(f"{folder} is no LMDB ({error}); download it again") from error
                stack.enter_context(contextlib.closing(env))
                transaction = stack.enter_context(env.begin())
                self._opened.append((code, folder, transaction))
            links = self._databases.ids
            self._links = stack.enter_context(index.Index(links, "ids")) if links else None
            self._tables = {code: _table(folder) for code, folder, _ in self._opened}
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        self._stack.close()

    def check(self):
        """Reads the first text of each language."""
        for code, folder, transaction in self._opened:
            _, keys, _ = self._tables[code]
            if not len(keys):
                raise UserError(f"{folder}/txt2img.json names no texts; download it again")
            self._text(code, folder, transaction, bytes(keys[0]))

    def texts(self, sample):
        """The (language, text) pairs of a sample, and why there are none where there are none."""
        for name in self._names(sample.url, sample.key):
            if found := tuple(self._of(name)):
                return found, None
        return (), "image of no row of the list"

    def rest(self, some):
        """Yields `Dropped` for each image with texts that no shard speaks of."""
        told = [hash(n) for s in some for url, key in s.names() for n in self._names(url, key)]
        told = np.array(told, np.int64)
        for code, _, _ in self._opened:
            hashes, keys, places = self._tables[code]
            _, first = np.unique(hashes, return_index=True)  # An image has one text or several.
            without = first[~np.isin(hashes[first], told)]
            for key in keys[without[np.argsort(places[without])]]:
                yield Dropped("image was not downloaded", f"that of {code} {bytes(key).decode()}")
            told = np.concatenate([told, hashes])

    def _names(self, url, key):
        if url and self._links is not None:
            for line in self._links.lines(url.strip().encode()):
                yield rows.id_of(line.split(b"\t")[0].decode(errors="replace")).encode()
        yield rows.id_of(key).encode()

    def _of(self, name):
        """Yields (language, text) of the image of that id."""
        for code, folder, transaction in self._opened:
            hashes, keys, _ = self._tables[code]
            start, end = (int(np.searchsorted(hashes, hash(name), side)) for side in _SIDES)
            for key in keys[start:end]:
                text = self._text(code, folder, transaction, bytes(key), name)
                if text and text.strip():
                    yield code, text.strip()

    def _text(self, code, folder, transaction, key, name=None):
        """The text of an entry; None if it is not there, or of another image than `name`."""
        packed = transaction.get(key)
        if packed is None:
            return None
        try:
            entry = _package("msgpack").unpackb(_package("lz4.frame").decompress(packed), raw=False)
            image, found = entry.get("img_fname"), [entry.get(field) for field in _TEXTS]
            tokens = [int(token) for token in entry.get("input_ids", ())]
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise UserError(
                f"{folder}: the entry {key.decode()} does not unpack ({error}); download it again"
            ) from error
        if name is not None and isinstance(image, str) and rows.id_of(image).encode() != name:
            return None
        for one in found:
            one = one.get(code) if isinstance(one, dict) else one
            if isinstance(one, str):
                return one
        if not self._databases.model:
            raise UserError(
                f"{folder} holds tokens ({', '.join(sorted(entry))}) and no texts; to decode them "
                "give XLM-R's sentencepiece.bpe.model by the option sentencepiece"
            )
        return _decode(self._databases.model, tokens)


def _decode(path, tokens):
    model = _model(path)
    pieces = [model.unk_id() if token == _UNKNOWN else token - 1 for token in tokens if token > 2]
    return model.decode([piece for piece in pieces if piece < model.get_piece_size()])


@functools.lru_cache(maxsize=1)
def _model(path):
    model = _package("sentencepiece").SentencePieceProcessor()
    try:
        model.Load(path)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path} is no SentencePiece model ({error}); download it again") from error
    return model


def _table(folder):
    """Hashes of images' ids, sorted; the keys of their texts; and their order in the file."""
    path = os.path.join(folder, "txt2img.json")
    try:
        status = os.stat(path)
    except OSError:
        raise UserError(f"{path} is missing; it says of which image each text is") from None
    return _read_table(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=32)  # The units that a process reads share the databases.
def _read_table(path, size, changed):
    try:
        with open(path, encoding="utf-8") as file:
            pairs = json.load(file).items()
        keys = np.array([key.encode() for key, _ in pairs], np.bytes_)
        hashes = np.array([hash(rows.id_of(image).encode()) for _, image in pairs], np.int64)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}: expected an object from text to image ({error}); download it again"
        ) from error
    places = np.argsort(hashes, kind="stable")
    return hashes[places], keys[places], places


def _package(name):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        needs = "lmdb lz4 msgpack sentencepiece"
        raise UserError(f"reading UC2's databases needs {name}: pip install {needs}") from error
