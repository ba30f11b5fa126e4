"""UC2's texts in LMDB folders, one for each language, with one entry per text.

An entry is MessagePack compressed by LZ4. An entry has the tokens of XLM-R as `input_ids` and the
name of the image as `img_fname`; txt2img.json next to the database maps the key of each text to its
image. If an entry has the text itself (key caption, text, sentence or raw), this text is used.
Without such a text, the tokens are decoded with XLM-R's SentencePiece model, which restores the
text except for the normalization of the tokenizer: single spaces, NFKC, and " ⁇ " for unknown
characters.

Memory use is about 20 bytes for each text: the key, and a hash of the id of its image.
"""

import contextlib
import dataclasses
import functools
import importlib
import json
import os

import numpy as np

from tf_mural.data.records import Skipped
from tf_mural.datasets.crawl import caption_formats, caption_index, shards, to_records
from tf_mural.errors import UserError

_TEXT_KEYS = ("caption", "text", "sentence", "raw")
_SIDES = ("left", "right")
# XLM-R has fairseq's ids: 0 to 3 are <s>, <pad>, </s> and <unk>. Ids of SentencePiece from 3 on
# are increased by 1.
_UNKNOWN = 3


@dataclasses.dataclass(frozen=True)
class Databases:
    """Paths of the databases and of the files that are needed to read them.

    Attributes:
        folders: (language, folder) pairs.
        model: path of XLM-R's SentencePiece model, or "".
        ids: path of a list of image ids and URLs, or "".
    """

    folders: tuple[tuple[str, str], ...]
    model: str = ""
    ids: str = ""


@dataclasses.dataclass(frozen=True)
class Unit:
    """A unit that reads some shards or, if `missing`, finds texts whose image is in no shard."""

    shards: tuple[shards.Shard, ...]
    databases: Databases
    missing: bool = False


def check(databases):
    """Raises UserError if packages or files are missing, or if there are tokens but no model."""
    with _DatabaseCaptions(databases) as captions:
        captions.check()


def list_files(databases):
    """Returns the existing files of the databases."""
    files = [os.path.join(folder, "data.mdb") for _, folder in databases.folders]
    files += [os.path.join(folder, "txt2img.json") for _, folder in databases.folders]
    return [path for path in (*files, databases.model, databases.ids) if os.path.isfile(path)]


def read(unit):
    """Yields a `Record` or `Skipped` for each image, or for the texts of each missing image."""
    with _DatabaseCaptions(unit.databases) as captions:
        if unit.missing:
            yield from captions.missing_images(unit.shards)
            return
        for shard in unit.shards:
            yield from to_records.shard_to_records(shard, captions)


class _DatabaseCaptions:
    """The opened databases as captions for `to_records.shard_to_records`."""

    def __init__(self, databases):
        self.expected = tuple(code for code, _ in databases.folders)
        self._databases = databases

    def __enter__(self):
        lmdb = _import_package("lmdb")
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
            self._ids = None
            if self._databases.ids:
                index = caption_index.CaptionIndex(self._databases.ids, "ids")
                self._ids = stack.enter_context(index)
            self._tables = {code: _load_table(folder) for code, folder, _ in self._opened}
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
            self._read_text(code, folder, transaction, bytes(keys[0]))

    def texts(self, sample):
        """Returns ((language, text) pairs of a sample, None), or ((), reason)."""
        for id in self._image_ids(sample.url, sample.key):
            if texts := tuple(self._texts_of_image(id)):
                return texts, None
        return (), "image of no row of the list"

    def missing_images(self, image_shards):
        """Yields `Skipped` for each image with texts that no shard mentions."""
        names = (name for shard in image_shards for name in shard.names())
        seen = [hash(id) for url, key in names for id in self._image_ids(url, key)]
        seen = np.array(seen, np.int64)
        for code, _, _ in self._opened:
            hashes, keys, order = self._tables[code]
            _, first = np.unique(hashes, return_index=True)  # An image may have several texts.
            missing = first[~np.isin(hashes[first], seen)]
            for key in keys[missing[np.argsort(order[missing])]]:
                yield Skipped("image was not downloaded", f"that of {code} {bytes(key).decode()}")
            seen = np.concatenate([seen, hashes])

    def _image_ids(self, url, key):
        """Yields the possible ids of an image as bytes, best first."""
        if url and self._ids is not None:
            for line in self._ids.lines(url.strip().encode()):
                name = line.split(b"\t")[0].decode(errors="replace")
                yield caption_formats.image_id(name).encode()
        yield caption_formats.image_id(key).encode()

    def _texts_of_image(self, id):
        """Yields (language, text) of an image."""
        for code, folder, transaction in self._opened:
            hashes, keys, _ = self._tables[code]
            start, end = (int(np.searchsorted(hashes, hash(id), side)) for side in _SIDES)
            for key in keys[start:end]:
                text = self._read_text(code, folder, transaction, bytes(key), id)
                if text and text.strip():
                    yield code, text.strip()

    def _read_text(self, code, folder, transaction, key, id=None):
        """Returns the text of an entry, or None if it is missing or belongs to another image."""
        packed = transaction.get(key)
        if packed is None:
            return None
        frame, msgpack = _import_package("lz4.frame"), _import_package("msgpack")
        try:
            entry = msgpack.unpackb(frame.decompress(packed), raw=False)
            image, values = entry.get("img_fname"), [entry.get(name) for name in _TEXT_KEYS]
            tokens = [int(token) for token in entry.get("input_ids", ())]
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise UserError(
                f"{folder}: the entry {key.decode()} does not unpack ({error}); download it again"
            ) from error
        is_other = isinstance(image, str) and caption_formats.image_id(image).encode() != id
        if id is not None and is_other:
            return None
        for value in values:
            value = value.get(code) if isinstance(value, dict) else value
            if isinstance(value, str):
                return value
        if not self._databases.model:
            raise UserError(
                f"{folder} holds tokens ({', '.join(sorted(entry))}) and no texts; to decode them "
                "pass XLM-R's sentencepiece.bpe.model with the option sentencepiece"
            )
        return _decode(self._databases.model, tokens)


def _decode(path, tokens):
    """Decodes token ids of XLM-R to a text."""
    model = _load_model(path)
    pieces = [model.unk_id() if token == _UNKNOWN else token - 1 for token in tokens if token > 2]
    return model.decode([piece for piece in pieces if piece < model.get_piece_size()])


@functools.lru_cache(maxsize=1)
def _load_model(path):
    model = _import_package("sentencepiece").SentencePieceProcessor()
    try:
        model.Load(path)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path} is no SentencePiece model ({error}); download it again") from error
    return model


def _load_table(folder):
    """Returns (sorted hashes of image ids, keys of the texts, positions in the file)."""
    path = os.path.join(folder, "txt2img.json")
    try:
        status = os.stat(path)
    except OSError:
        raise UserError(f"{path} is missing; it maps each text to its image") from None
    return _read_table(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=32)  # The units of a process share one table.
def _read_table(path, size, modified):
    """Reads a table; `size` and `modified` are part of the cache key."""
    try:
        with open(path, encoding="utf-8") as file:
            pairs = json.load(file).items()
        keys = np.array([key.encode() for key, _ in pairs], np.bytes_)
        ids = (caption_formats.image_id(image).encode() for _, image in pairs)
        hashes = np.array([hash(id) for id in ids], np.int64)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}: expected an object from text to image ({error}); download it again"
        ) from error
    order = np.argsort(hashes, kind="stable")
    return hashes[order], keys[order], order


def _import_package(name):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        packages = "lmdb lz4 msgpack sentencepiece"
        raise UserError(f"reading UC2's databases needs {name}: pip install {packages}") from error
