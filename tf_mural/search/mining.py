"""Mines hard negatives: embeds the images and texts of records, and writes similar records.

The embeddings are computed in parts of consecutive records, and the negatives in parts too. A
stopped run continues with the first part that is not finished.
"""

import dataclasses
import hashlib
import json
import os
import shutil

import numpy as np

from tf_mural import __version__, file_io
from tf_mural.data.mined_negatives import MANIFEST, NEGATIVES, SCHEMA, SCORES, read_mined
from tf_mural.errors import UserError
from tf_mural.progress import Progress
from tf_mural.search.hard_negatives import HardNegatives, Rows, positive_scores

_RECORDS_PER_PART = 4096
# Images and texts with equal bytes have different hashes.
_HASH_PERSONS = {"images": b"images", "texts": b"texts"}


def mine(
    source,
    folder,
    embed,
    model,
    options,
    candidates=None,
    index=None,
    overwrite=False,
    print_fn=None,
):
    """Mines hard negatives for the records of a set, and writes them to a folder.

    A candidate is a true positive, and never a negative, if it has an image or a text of the
    record. Memory holds the rows of two parts of 4,096 records and about 200 MB of similarities,
    whatever the number of records; the rows of all records are on the disk, in a folder beside
    `folder`, which is removed at the end.

    Args:
        source: `RecordSet`.
        folder: local folder to write; see `data.mined_negatives` for its files.
        embed: {"images": callable from a list of image files (bytes) to float32 (n, width), unit
            rows, "texts": callable from a list of str}. For an image that cannot be decoded, the
            callable raises a UserError with the attributes `position` and `reason`.
        model: {"name": name of the model, "fingerprint": its fingerprint}.
        options: `MiningOptions`.
        candidates: `RecordSet` of the candidates; None: `source`.
        index: `Index` of the images of the candidates, whose embeddings replace those of images;
            only the first image of each record is in an index. None: no index.
        overwrite: whether to replace the negatives of other options in `folder`.
        print_fn: callable that receives each line. Default: the lines are printed.

    Returns:
        The manifest, a dict.

    Raises:
        UserError: the records have no such images or texts, the index is of other records or is
            not used, or the folder has other files or negatives of other options.
    """
    if candidates is None or candidates.digest == source.digest:
        candidates = source
    _check(source, candidates, folder, options, index)
    recipe = _recipe(source, candidates, model, options, index)
    report = print_fn or print
    existing = _existing(folder, recipe, overwrite)
    if existing is not None:
        report(f"{folder}: already there, negatives of {existing['records']['count']:,} records")
        return existing
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
    work = f"{os.path.normpath(folder)}.unfinished-{digest}"
    file_io.makedirs(work)
    needed = {options.anchors}
    if candidates is source or options.has_margin:
        needed.add(options.negatives)
    own = others = _Parts(source, work, "records", needed, embed, options)
    if candidates is not source:
        others = _Parts(candidates, work, "candidates", {options.negatives}, embed, options)
    for parts in (own, others) if index is not None else ():
        if parts.record_set.digest == candidates.digest:
            parts.use_index(index)
    own.make(f"{folder}: embeddings", print_fn)
    if others is not own:
        others.make(f"{folder}: embeddings of candidates", print_fn)
    _mine_parts(own, others, work, options, folder, print_fn)
    manifest = _write(folder, work, own, recipe, options)
    shutil.rmtree(work, ignore_errors=True)
    return manifest


def _check(source, candidates, folder, options, index):
    if file_io.is_remote(folder):
        raise UserError(f"{folder} is not a folder of this machine: mine to a local folder")
    for record_set, part in ((source, options.anchors), (candidates, options.negatives)):
        if not record_set.manifest[part]:
            raise UserError(f"{record_set.folder} has no {part}")
    for code in options.languages or ():
        if code not in source.languages and code not in candidates.languages:
            known = ", ".join(source.languages) or "no language"
            raise UserError(f"{source.folder} has no texts in {code!r}; it has texts in {known}")
    if index is None:
        return
    of_candidates = {options.negatives} | ({options.anchors} if candidates is source else set())
    if "images" not in of_candidates:
        raise UserError(
            f"{index.folder} has embeddings of images, but no images of {candidates.folder} are "
            "compared: omit `index`"
        )
    spec = index.manifest["source"]
    if spec.get("digest") != candidates.digest:
        of = spec.get("records") or spec.get("folder")
        raise UserError(
            f"{index.folder} is an index of {of}, but the candidates are the records of "
            f"{candidates.folder}: choose an index of these records (`records` of tools/index.py)"
        )


def _recipe(source, candidates, model, options, index):
    return {
        "schema": SCHEMA,
        "records": {"folder": os.path.abspath(source.folder), **_facts(source)},
        "candidates": {"folder": os.path.abspath(candidates.folder), **_facts(candidates)},
        "model": dict(model),
        "index_width": None if index is None else index.manifest["width"],
        "options": json.loads(json.dumps(dataclasses.asdict(options))),
    }


def _facts(record_set):
    return {"digest": record_set.digest, "count": len(record_set)}


def _existing(folder, recipe, overwrite):
    """Returns the manifest of finished negatives of the same recipe, or None.

    Raises:
        UserError: the folder has other files, or negatives of another recipe that must be kept.
    """
    if not os.path.isdir(folder) or not os.listdir(folder):
        return None
    if not os.path.exists(os.path.join(folder, MANIFEST)):
        # A run that was stopped while it wrote the folder leaves files without a manifest.
        if all(name.startswith((NEGATIVES, SCORES, MANIFEST)) for name in os.listdir(folder)):
            return None
        raise UserError(f"{folder} contains other files: choose another folder")
    manifest = read_mined(folder)
    if overwrite:
        return None
    before, now = ({**r, **r["options"], "options": None} for r in (manifest, recipe))
    for key in ("records", "candidates"):  # a record set may have been moved
        before[key], now[key] = before[key]["digest"], now[key]["digest"]
    before["model"], now["model"] = before["model"]["fingerprint"], now["model"]["fingerprint"]
    differences = [
        f"{k} was {before.get(k)}, is now {now[k]}" for k in now if before.get(k) != now[k]
    ]
    if differences:
        raise UserError(
            f"{folder} contains other negatives ({'; '.join(differences)}): choose another folder, "
            "or `overwrite=True`"
        )
    return manifest


class _Parts:
    """The embeddings of a record set in files of `_RECORDS_PER_PART` records.

    Args:
        record_set: `RecordSet`.
        work: folder of the files.
        name: first part of the names of the files.
        parts: subset of {"images", "texts"}, what is embedded.
        embed, options: see `mine`.
    """

    def __init__(self, record_set, work, name, parts, embed, options):
        self.record_set, self._work, self._name = record_set, work, name
        self._parts, self._embed, self._options = sorted(parts), embed, options
        self._index, self._index_rows = None, None

    def __len__(self):
        return -(-len(self.record_set) // _RECORDS_PER_PART)

    def use_index(self, index):
        """Takes the rows of images from an index."""
        self._index = index
        self._index_rows = np.full(len(self.record_set), -1, np.int64)
        for row in range(len(index)):
            self._index_rows[index.item(row)["record"]] = row

    def numbers(self, part):
        """Returns the numbers of the records of a part, a range."""
        first = part * _RECORDS_PER_PART
        return range(first, min(first + _RECORDS_PER_PART, len(self.record_set)))

    def make(self, label, print_fn):
        """Computes the parts that are missing."""
        missing = [part for part in range(len(self)) if not os.path.exists(self._path(part))]
        if not missing:
            return
        total = len(self.record_set)
        done = total - sum(len(self.numbers(part)) for part in missing)
        with Progress(label, total, "records", start=done, print_fn=print_fn) as progress:
            for part in missing:
                _save(self._path(part), self._compute(self.numbers(part)))
                done += len(self.numbers(part))
                progress.update(done)

    def load(self, part, name):
        """Returns the `Rows` of a part; `name` is "images" or "texts"."""
        with np.load(self._path(part)) as arrays:
            keys = (name, f"{name}_owners", "ids", "id_owners")
            return Rows(*(arrays[key] for key in keys))

    def _path(self, part):
        return os.path.join(self._work, f"{self._name}-{part:05d}.npz")

    def _compute(self, numbers):
        texts, images, ids = ([], []), ([], []), ([], [])
        with_images = "images" in self._parts and self._index is None
        for number in numbers:
            record = self.record_set[number]
            for code, text in record.texts:
                if self._options.languages is None or code in self._options.languages:
                    _append(texts, text, number)
                _append(ids, _hash("texts", text.encode()), number)
            for image in record.images:
                if with_images:
                    _append(images, image, number)
                _append(ids, _hash("images", image), number)
        arrays = {"ids": np.array(ids[0], np.int64), "id_owners": np.array(ids[1], np.int64)}
        for name, (items, owners) in {"texts": texts, "images": images}.items():
            if name in self._parts:
                rows, owners = self._rows(name, items, np.array(owners, np.int64), numbers)
                arrays |= {name: rows, f"{name}_owners": owners}
        return arrays

    def _rows(self, name, items, owners, numbers):
        """Returns float32 rows (r, width) and their owners."""
        if name == "images" and self._index is not None:
            rows = self._index_rows[numbers.start : numbers.stop]
            owners = numbers.start + np.flatnonzero(rows >= 0)
            return self._index.vectors(rows[rows >= 0]), owners
        if not items:
            return np.zeros((0, 1), np.float32), owners
        if name == "texts":
            return np.asarray(self._embed["texts"](items), np.float32), owners
        # Importing the package of the conversions takes as long as all of `tf_mural.search`.
        from tf_mural.conversion.extraction import embed_valid

        rows, bad = embed_valid(self._embed["images"], items)
        kept = np.array([position not in bad for position in range(len(items))], bool)
        return np.asarray(rows, np.float32), owners[kept]


def _mine_parts(own, others, work, options, folder, print_fn):
    """Writes the negatives of each part of the records that is missing."""
    paths = [os.path.join(work, f"negatives-{part:05d}.npz") for part in range(len(own))]
    done = sum(len(own.numbers(i)) for i, path in enumerate(paths) if os.path.exists(path))
    total = len(own.record_set)
    if done and done < total:
        (print_fn or print)(f"{folder}: resuming after {done:,} of {total:,} records")
    with Progress(folder, total, "records", start=done, print_fn=print_fn) as progress:
        for part, path in enumerate(paths):
            if os.path.exists(path):
                continue
            numbers = own.numbers(part)
            anchors = own.load(part, options.anchors)
            first, count = numbers.start, len(numbers)
            nearest = HardNegatives(anchors, first, count, options)
            for other in range(len(others)):
                nearest.add(others.load(other, options.negatives))
            positives = np.full(count, np.nan, np.float32)
            if options.has_margin:
                same = options.anchors == options.negatives
                rows = own.load(part, options.negatives)
                positives = positive_scores(anchors, rows, first, count, same)
            negatives, scores = nearest.select(positives)
            _save(path, {"negatives": negatives, "scores": scores, "positives": positives})
            done += count
            progress.update(done)


def _write(folder, work, own, recipe, options):
    """Writes the files of the folder, the manifest last; returns the manifest."""
    parts = []
    for part in range(len(own)):
        with np.load(os.path.join(work, f"negatives-{part:05d}.npz")) as arrays:
            parts.append((arrays["negatives"], arrays["scores"], arrays["positives"]))
    negatives, scores, positives = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    if options.has_margin and np.isnan(positives).all():
        same = options.anchors == options.negatives
        parts = f"two {options.anchors}" if same else "both an image and a text"
        raise UserError(
            f"no record of {own.record_set.folder} has {parts} to compare: a margin needs "
            "positives, so omit absolute_margin and relative_margin, or set max_score"
        )
    counts = (negatives >= 0).sum(axis=1)
    finite = scores[np.isfinite(scores)]
    digest = hashlib.sha256(recipe["records"]["digest"].encode() + negatives.tobytes())
    manifest = {
        **recipe,
        "version": __version__,
        "digest": digest.hexdigest()[:16],
        "negatives": int(counts.sum()),
        "records_without_negatives": int((counts == 0).sum()),
        "records_with_fewer": int(((counts > 0) & (counts < negatives.shape[1])).sum()),
        "mean_score": float(finite.mean()) if len(finite) else None,
    }
    file_io.makedirs(folder)
    path = os.path.join(folder, MANIFEST)
    if os.path.exists(path):
        file_io.remove(path)  # without a manifest, the folder is not read while it is replaced
    for name, array in ((NEGATIVES, negatives), (SCORES, scores)):
        _save(os.path.join(folder, name), array)
    file_io.write_json(path, manifest)
    return manifest


def _save(path, arrays):
    with file_io.atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays) if isinstance(arrays, dict) else np.save(file, arrays)


def _append(lists, item, owner):
    lists[0].append(item)
    lists[1].append(owner)


def _hash(part, data):
    digest = hashlib.blake2b(data, digest_size=8, person=_HASH_PERSONS[part]).digest()
    return int.from_bytes(digest, "little", signed=True)
