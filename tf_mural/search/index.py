"""Reading an index: exact nearest neighbours by numpy, or by FAISS where its file is there."""

import dataclasses
import hashlib
import json
import os

import numpy as np

from tf_mural import file_io
from tf_mural.errors import UserError

MANIFEST, FAISS, SCHEMA = "manifest.json", "index.faiss", 2
_BLOCK = 1 << 16  # rows whose scores are held at a time
_KEYS = {"schema": int, "model": str, "model_path": str, "width": int, "source": dict}
_KEYS |= {"parts": list, "skipped": dict, "examples": list, "read": int, "count": int}
_KEYS |= {"whole": bool}
_PART = {"file": str, "rows": int, "sha256": str, "items_sha256": str}


@dataclasses.dataclass(frozen=True)
class Hit:
    """An image that was found.

    Attributes:
        score: cosine similarity to the query.
        row: in the index.
        item: what the index says of it.
    """

    score: float
    row: int
    item: dict


def read_manifest(folder):
    """The manifest of the index in a folder. Raises UserError where it is none of an index."""
    path = os.path.join(folder, MANIFEST)
    manifest = file_io.read_json(path)
    if _has(manifest, {"schema": int, "model": str, "parts": list}):
        if manifest["schema"] != SCHEMA:
            raise UserError(
                f"{folder} holds an index of version {manifest['schema']}, expected {SCHEMA}: "
                "index again, into another folder"
            )
        source = manifest.get("source")
        whole = _has(manifest, _KEYS) and all(_has(part, _PART) for part in manifest["parts"])
        if whole and (_has(source, {"folder": str}) or _has(source, {"records": str})):
            return manifest
    raise UserError(f"{path} is of no index, or is damaged: choose another folder")


def digest_of(data):
    """SHA-256 of bytes or of a contiguous array, in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def _has(found, kinds):
    return isinstance(found, dict) and all(isinstance(found.get(k), t) for k, t in kinds.items())


class Index:
    """An index that is whole.

    Args:
        folder: of `make_index`.

    Attributes:
        manifest: content of manifest.json.

    Raises:
        UserError: there is none, or it is not whole, or damaged: all of it is read once.
    """

    def __init__(self, folder):
        self.folder = folder
        if not os.path.exists(os.path.join(folder, MANIFEST)):
            raise UserError(f"{folder} holds no index: make one with tools/index.py")
        self.manifest = read_manifest(folder)
        if not self.manifest["whole"]:
            raise UserError(
                f"{folder}: the index is unfinished; the same command of tools/index.py goes on "
                "with it"
            )
        self._parts, self._items, self._faiss = [], [], None
        for number, part in enumerate(self.manifest["parts"]):
            try:
                self._open(os.path.join(folder, part["file"]), part)
            except (OSError, ValueError, EOFError, KeyError) as error:
                raise UserError(
                    f"{folder}: part-{number:05d} cannot be read ({error!r}): remove the folder "
                    "and index again"
                ) from error
        rows = sum(len(part) for part in self._parts)
        if not rows == len(self._items) == self.manifest["count"]:
            raise UserError(
                f"{folder}: {rows} embeddings, {len(self._items)} items and a count of "
                f"{self.manifest['count']} do not agree; remove the folder and index again"
            )

    def __len__(self):
        return len(self._items)

    def item(self, row):
        """What the index says of an image."""
        return self._items[row]

    def check(self, fingerprint, name):
        """Refuses queries of another model than that of the index.

        Args:
            fingerprint: see `api.Embedder.fingerprint`.
            name: of that model, for the message.

        Raises:
            UserError: it is another one.
        """
        if fingerprint != self.manifest["model"]:
            raise UserError(
                f"{self.folder} holds embeddings of the model {self.manifest['model']} "
                f"({self.manifest['model_path']}), but {name} is {fingerprint}: their spaces have "
                "nothing in common; index again with this model, or search with that one"
            )

    def search(self, queries, k):
        """The nearest images of each query.

        Args:
            queries: float32 (q, width), unit rows.
            k: how many of each; fewer where the index holds fewer.

        Returns:
            A list of `Hit`s a query, best first; of equal scores the one of the lower row.
        """
        queries, k = np.ascontiguousarray(queries, np.float32), min(k, len(self))
        if not k:
            return [[] for _ in queries]
        scores, rows = self._by_faiss(queries, k) or self._by_numpy(queries, k)
        return [
            [Hit(float(s), int(r), self._items[r]) for s, r in zip(*one, strict=True) if r >= 0]
            for one in zip(scores, rows, strict=True)
        ]

    def _by_numpy(self, queries, k):
        best = np.full((len(queries), 0), 0, np.float32), np.zeros((len(queries), 0), np.int64)
        first = 0
        for part in self._parts:
            for start in range(0, len(part), _BLOCK):
                scores = queries @ np.asarray(part[start : start + _BLOCK]).T  # (q, rows)
                rows = np.arange(first + start, first + start + scores.shape[1])
                scores = np.concatenate([best[0], scores], axis=1)
                rows = np.concatenate([best[1], np.tile(rows, (len(queries), 1))], axis=1)
                order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
                best = tuple(np.take_along_axis(x, order, axis=1) for x in (scores, rows))
            first += len(part)
        return best

    def _by_faiss(self, queries, k):
        """As `_by_numpy`, or None without the file or the package."""
        path = os.path.join(self.folder, FAISS)
        if not os.path.exists(path):
            return None
        if self._faiss is None:
            try:
                import faiss
            except ImportError:
                return None
            try:
                self._faiss = faiss.read_index(path)
            except RuntimeError as error:
                raise UserError(f"{path} is damaged: remove it, it is not needed") from error
            if (self._faiss.ntotal, self._faiss.d) != (len(self), self.manifest["width"]):
                raise UserError(f"{path} is of another index: remove it, it is not needed")
        if hasattr(
            self._faiss, "hnsw"
        ):  # whose search stops early, the earlier the smaller this is
            self._faiss.hnsw.efSearch = max(64, 2 * k)
        return self._faiss.search(queries, k)

    def _open(self, path, part):
        rows, lines = np.load(f"{path}.npy", mmap_mode="r"), file_io.read_bytes(f"{path}.jsonl")
        if (digest_of(rows), digest_of(lines)) != (part["sha256"], part["items_sha256"]):
            raise ValueError("its checksum does not fit")
        self._parts.append(rows)
        # Names of files need not be UTF-8.
        lines = lines.decode("utf-8", "surrogateescape").split("\n")
        self._items += [json.loads(line) for line in lines if line]
