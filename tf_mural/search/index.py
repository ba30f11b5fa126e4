"""Reads an index, and searches with FAISS if the FAISS file exists, otherwise with NumPy."""

import dataclasses
import hashlib
import json
import os

import numpy as np

from tf_mural import file_io
from tf_mural.errors import UserError

MANIFEST, FAISS, SCHEMA = "manifest.json", "index.faiss", 2
_BLOCK = 1 << 16  # Number of rows that are scored at a time.

# Keys of a manifest and of its parts, with their types.
_KEYS = {"schema": int, "model": str, "model_path": str, "width": int, "source": dict}
_KEYS |= {"parts": list, "skipped": dict, "examples": list, "read": int, "count": int}
_KEYS |= {"whole": bool}
_PART_KEYS = {"file": str, "rows": int, "sha256": str, "items_sha256": str}


@dataclasses.dataclass(frozen=True)
class Hit:
    """A search result.

    Attributes:
        score: cosine similarity to the query.
        row: number of the row in the index, from 0.
        item: dict of the image: {"path"}, or {"record", "id", "texts"}.
    """

    score: float
    row: int
    item: dict


def read_manifest(folder):
    """Returns the manifest of an index; raises UserError if the file is not an intact manifest."""
    path = os.path.join(folder, MANIFEST)
    manifest = file_io.read_json(path)
    if _has_types(manifest, {"schema": int, "model": str, "parts": list}):
        if manifest["schema"] != SCHEMA:
            raise UserError(
                f"{folder} contains an index of version {manifest['schema']}, expected {SCHEMA}: "
                "build the index again, in another folder"
            )
        source = manifest.get("source")
        has_source = _has_types(source, {"folder": str}) or _has_types(source, {"records": str})
        has_parts = all(_has_types(part, _PART_KEYS) for part in manifest["parts"])
        if _has_types(manifest, _KEYS) and has_source and has_parts:
            return manifest
    raise UserError(f"{path} is damaged or not of an index: choose another folder")


def sha256_hex(data):
    """Returns the SHA-256 of bytes or of a contiguous array, as hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def _has_types(data, types):
    return isinstance(data, dict) and all(isinstance(data.get(k), t) for k, t in types.items())


class Index:
    """A complete index, opened for search.

    All parts are read once to verify their checksums.

    Args:
        folder: the folder that `make_index` wrote.

    Attributes:
        manifest: content of manifest.json.

    Raises:
        UserError: the folder contains no index, or the index is unfinished or damaged.
    """

    def __init__(self, folder):
        self.folder = folder
        if not os.path.exists(os.path.join(folder, MANIFEST)):
            raise UserError(f"{folder} contains no index: build one with tools/index.py")
        self.manifest = read_manifest(folder)
        if not self.manifest["whole"]:
            raise UserError(
                f"{folder}: the index is unfinished; run the same command of tools/index.py again "
                "to resume it"
            )
        self._parts, self._items, self._faiss = [], [], None
        for number, part in enumerate(self.manifest["parts"]):
            try:
                self._open_part(os.path.join(folder, part["file"]), part)
            except (OSError, ValueError, EOFError, KeyError) as error:
                raise UserError(
                    f"{folder}: part-{number:05d} cannot be read ({error!r}): remove the folder "
                    "and build the index again"
                ) from error
        num_rows = sum(len(part) for part in self._parts)
        if not num_rows == len(self._items) == self.manifest["count"]:
            raise UserError(
                f"{folder}: {num_rows} embeddings, {len(self._items)} items and a count of "
                f"{self.manifest['count']} do not agree; remove the folder and build the index "
                "again"
            )

    def __len__(self):
        return len(self._items)

    def item(self, row):
        """Returns the dict of an image; see `Hit.item`."""
        return self._items[row]

    def check_model(self, fingerprint, name):
        """Checks that the index was built with a given model.

        Args:
            fingerprint: `Embedder.fingerprint` of the model.
            name: name of the model, for the error message.

        Raises:
            UserError: the index was built with another model.
        """
        if fingerprint != self.manifest["model"]:
            raise UserError(
                f"{self.folder} contains embeddings of the model {self.manifest['model']} "
                f"({self.manifest['model_path']}), but {name} is {fingerprint}: embeddings of "
                "different models cannot be compared; build the index again with this model, or "
                "search with that one"
            )

    def search(self, queries, k):
        """Finds the images that are nearest to each query.

        Args:
            queries: float32 (q, width), unit-norm rows.
            k: number of results per query; fewer if the index has fewer images.

        Returns:
            List of q lists of `Hit`, best first; equal scores are in the order of their rows.
        """
        queries, k = np.ascontiguousarray(queries, np.float32), min(k, len(self))
        if not k:
            return [[] for _ in queries]
        scores, rows = self._search_faiss(queries, k) or self._search_numpy(queries, k)
        return [
            [
                Hit(float(score), int(row), self._items[row])
                for score, row in zip(query_scores, query_rows, strict=True)
                if row >= 0
            ]
            for query_scores, query_rows in zip(scores, rows, strict=True)
        ]

    def _search_numpy(self, queries, k):
        """Returns the k best scores (q, k) and their rows (q, k) for each query."""
        best = np.full((len(queries), 0), 0, np.float32), np.zeros((len(queries), 0), np.int64)
        offset = 0
        for part in self._parts:
            for start in range(0, len(part), _BLOCK):
                scores = queries @ np.asarray(part[start : start + _BLOCK]).T  # (q, block)
                rows = np.arange(offset + start, offset + start + scores.shape[1])
                scores = np.concatenate([best[0], scores], axis=1)
                rows = np.concatenate([best[1], np.tile(rows, (len(queries), 1))], axis=1)
                order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
                best = tuple(np.take_along_axis(x, order, axis=1) for x in (scores, rows))
            offset += len(part)
        return best

    def _search_faiss(self, queries, k):
        """Returns the same as `_search_numpy`, or None without index.faiss or the package faiss."""
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
                raise UserError(f"{path} is damaged: remove it, search works without it") from error
            if (self._faiss.ntotal, self._faiss.d) != (len(self), self.manifest["width"]):
                raise UserError(f"{path} is of another index: remove it, search works without it")
        if hasattr(self._faiss, "hnsw"):
            # A smaller search depth `efSearch` is faster, but misses more neighbors.
            self._faiss.hnsw.efSearch = max(64, 2 * k)
        return self._faiss.search(queries, k)

    def _open_part(self, path, part):
        rows, lines = np.load(f"{path}.npy", mmap_mode="r"), file_io.read_bytes(f"{path}.jsonl")
        if (sha256_hex(rows), sha256_hex(lines)) != (part["sha256"], part["items_sha256"]):
            raise ValueError("its checksum does not match")
        self._parts.append(rows)
        # The lines may contain file names that are not valid UTF-8.
        lines = lines.decode("utf-8", "surrogateescape").split("\n")
        self._items += [json.loads(line) for line in lines if line]
