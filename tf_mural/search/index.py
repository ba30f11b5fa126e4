"""Reads an index, and searches with FAISS if the FAISS file exists, otherwise with NumPy."""

import dataclasses
import hashlib
import io
import json
import os

import numpy as np

from tf_mural import file_io
from tf_mural.errors import StorageError, UserError
from tf_mural.search import neighbors

MANIFEST, FAISS, SCHEMA = "manifest.json", "index.faiss", 2
EF_SEARCH = "efSearch"  # Key in the manifest of an approximate index; named as in FAISS.

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
        has_depth = isinstance(manifest.get(EF_SEARCH, neighbors.MIN_EF_SEARCH), int)
        if _has_types(manifest, _KEYS) and has_source and has_parts and has_depth:
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
        if not file_io.exists(os.path.join(folder, MANIFEST)):
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
            except StorageError:
                raise
            except (OSError, ValueError, EOFError, KeyError) as error:
                raise UserError(
                    f"{folder}: part-{number:05d} cannot be read ({error!r}): remove the folder "
                    "and build the index again"
                ) from error
        self._ends = np.cumsum([len(part) for part in self._parts])
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

    def dim(self, width):
        """Returns the argument `dim` of `Embedder` with which the index was built.

        Args:
            width: width of the whole embeddings of the model.
        """
        return None if self.manifest["width"] == width else self.manifest["width"]

    @property
    def ef_search(self):
        """Number of candidates of an approximate search, at least 256."""
        # Earlier versions did not write this number.
        return max(self.manifest.get(EF_SEARCH, 0), neighbors.MIN_EF_SEARCH)

    @property
    def is_approximate(self):
        """Whether a search may miss some of the nearest images."""
        faiss_index = self._open_faiss()
        return hasattr(faiss_index, "hnsw") and len(self) > self.ef_search

    def search(self, queries, k, exact=False):
        """Finds the images that are nearest to each query.

        A search in a FAISS index of the kind "hnsw" is approximate: FAISS selects the best of
        `ef_search` candidates; the manifest contains this number. The candidates do not depend on
        k, therefore the first results of a larger k are the results of a smaller k. The search is
        exact if k is larger than `ef_search`.

        Args:
            queries: float32 (q, width), unit-norm rows.
            k: number of results per query; fewer if the index has fewer images.
            exact: whether the search is exact even in an approximate index.

        Returns:
            List of q lists of `Hit`, best first; equal scores are in the order of their rows.

        Raises:
            UserError: the queries have another width than the index.
        """
        queries, k = np.ascontiguousarray(queries, np.float32), min(k, len(self))
        if queries.ndim != 2 or queries.shape[1] != self.manifest["width"]:
            raise UserError(
                f"{self.folder} contains embeddings of the size {self.manifest['width']}, but the "
                f"queries have the shape {queries.shape}: embed them with "
                f"Embedder.load(model, dim={self.manifest['width']})"
            )
        if k < 1:
            return [[] for _ in queries]
        results = [None] * len(queries) if exact else self._search_faiss(queries, k)
        missing = [i for i, result in enumerate(results) if result is None]
        if missing:
            exact_results = neighbors.search_blocks(queries[missing], k, self._parts)
            for i, result in zip(missing, exact_results, strict=True):
                results[i] = result
        return [
            [Hit(float(s), int(row), self._items[row]) for s, row in zip(*result, strict=True)]
            for result in results
        ]

    def vectors(self, rows):
        """Returns the embeddings of some images: float32 (n, width).

        Args:
            rows: row numbers, int64 (n,).
        """
        parts = np.searchsorted(self._ends, rows, side="right")
        vectors = np.empty((len(rows), self.manifest["width"]), np.float32)
        for i, (part, row) in enumerate(zip(parts, rows, strict=True)):
            vectors[i] = self._parts[part][row - self._ends[part]]  # Counts from the part's end.
        return vectors

    def _search_faiss(self, queries, k):
        """Returns (scores, rows) of each query, or None for queries that need `search_blocks`."""
        faiss_index = self._open_faiss()
        if faiss_index is not None:
            if not hasattr(faiss_index, "hnsw"):
                return neighbors.search_flat(faiss_index, queries, k, self.vectors)
            if k <= self.ef_search < len(self):
                depth = self.ef_search
                return neighbors.search_hnsw(faiss_index, queries, k, self.vectors, depth)
        return [None] * len(queries)

    def _open_faiss(self):
        """Returns the FAISS index, or None without index.faiss or the package faiss."""
        path = os.path.join(self.folder, FAISS)
        if self._faiss is None and file_io.exists(path):
            try:
                import faiss
            except ImportError:
                return None
            try:
                with file_io.local_files([path]) as (local_path,):
                    faiss_index = faiss.read_index(local_path)
            except RuntimeError as error:
                raise UserError(f"{path} is damaged: remove it, search works without it") from error
            if (faiss_index.ntotal, faiss_index.d) != (len(self), self.manifest["width"]):
                raise UserError(f"{path} is of another index: remove it, search works without it")
            self._faiss = faiss_index
        return self._faiss

    def _open_part(self, path, part):
        lines = file_io.read_bytes(f"{path}.jsonl")
        if file_io.is_remote(path):
            rows = np.load(io.BytesIO(file_io.read_bytes(f"{path}.npy")))
        else:
            rows = np.load(f"{path}.npy", mmap_mode="r")
        if (sha256_hex(rows), sha256_hex(lines)) != (part["sha256"], part["items_sha256"]):
            raise ValueError("its checksum does not match")
        self._parts.append(rows)
        # The lines may contain file names that are not valid UTF-8.
        lines = lines.decode("utf-8", "surrogateescape").split("\n")
        self._items += [json.loads(line) for line in lines if line]
