"""Making an index, part by part, so that one that was stopped goes on where it stood."""

import json
import os
import time

import numpy as np

from tf_mural import file_io
from tf_mural.errors import UserError
from tf_mural.search.index import FAISS, MANIFEST, SCHEMA, digest_of, read_manifest

ROWS = 2048  # of a part
_AT_ONCE = 512  # images that are embedded in one call
_EXAMPLES, _MOST_EXAMPLES = 5, 100  # of a reason, of all
FAISS_KINDS = ("none", "flat", "hnsw")


def make_index(folder, source, embed, model, model_path, width, kind="none", rows=ROWS, say=print):
    """Embeds the images of a source into an index, or goes on with one.

    Images that cannot be read, and what the source passes over, are left out, counted by reason,
    and the first of each reason named in the manifest.

    Args:
        folder: where to.
        source: see `sources`.
        embed: function of a list of encoded images to float32 (n, width), unit rows, that raises a
            UserError with a `position` and a `reason` for one that cannot be read.
        model: fingerprint of the model.
        model_path: where it was, for whoever asks later.
        width: of the embeddings.
        kind: "flat" or "hnsw" writes an index of FAISS too; "none" does not.
        rows: images of a part; after each the work is safe.
        say: function of a line.

    Returns:
        The manifest.

    Raises:
        UserError: the folder holds an index of another model or source; no image could be read.
    """
    about = {"schema": SCHEMA, "model": model, "width": width, "source": source.about}
    manifest = _begun(folder, about)
    if manifest is None:
        manifest = {**about, "model_path": model_path, "parts": [], "skipped": {}, "examples": []}
        manifest |= {"read": 0, "count": 0, "whole": False}
        _write(folder, manifest)
    elif manifest["read"]:
        say(f"{folder}: going on at image {manifest['read']:,} of {len(source):,}")
    began, start = time.monotonic(), manifest["read"]
    while manifest["read"] < len(source):
        numbers = range(manifest["read"], min(manifest["read"] + rows, len(source)))
        _add_part(folder, manifest, source, embed, numbers)
        rate = (manifest["read"] - start) / (time.monotonic() - began)
        left = (len(source) - manifest["read"]) / rate
        say(
            f"{manifest['read']:,} of {len(source):,} images, {rate:,.0f} a second, {left:,.0f} s "
            "left"
        )
    if not manifest["count"]:
        raise UserError(
            f"none of the {len(source):,} images could be read: {manifest['examples'][:3]}"
        )
    if not manifest["whole"]:
        for name, reason in source.passed_over:
            _skip(manifest, name, reason)
    if kind != "none":
        _write_faiss(folder, manifest, kind)
    manifest["whole"] = True
    _write(folder, manifest)
    return manifest


def _begun(folder, about):
    """The manifest of an index that is there; None where there is none."""
    path = os.path.join(folder, MANIFEST)
    if not os.path.exists(path):
        if os.path.isdir(folder) and os.listdir(folder):
            raise UserError(f"{folder} holds something else: choose another folder")
        return None
    manifest = read_manifest(folder)
    for key, value in about.items():
        if manifest.get(key) != value:
            why = " (another listing: images came, went or changed, or their times did)"
            why = why if key == "source" else ""
            raise UserError(
                f"{folder} holds an index with {key} {manifest.get(key)}, now it is {value}{why}: "
                "choose another folder, or remove this one"
            )
    return manifest


def _add_part(folder, manifest, source, embed, numbers):
    """Embeds some images and takes note of them; all of it, or nothing."""
    embedded, items = [], []
    for start in range(0, len(numbers), _AT_ONCE):
        chunk = []
        for number in numbers[start : start + _AT_ONCE]:
            item = source.item(number)
            try:
                chunk.append((item, source.read(item)))
            except OSError as error:
                _skip(manifest, source.name(item), error.strerror or str(error))
        rows, kept = _embedded(manifest, source, embed, chunk)
        embedded.append(rows)
        items += kept
    array = np.concatenate(embedded).astype(np.float32)
    if len(items):
        name = f"part-{len(manifest['parts']):05d}"
        lines = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
        lines = lines.encode("utf-8", "surrogateescape")
        path = os.path.join(folder, name)
        with file_io.replacing(f"{path}.npy") as temporary, open(temporary, "wb") as file:
            np.save(file, array)
        with file_io.replacing(f"{path}.jsonl") as temporary, open(temporary, "wb") as file:
            file.write(lines)
        sums = {"sha256": digest_of(array), "items_sha256": digest_of(lines)}
        manifest["parts"].append({"file": name, "rows": len(items), **sums})
    manifest["count"] += len(items)
    manifest["read"] = numbers[-1] + 1
    _write(folder, manifest)


def _embedded(manifest, source, embed, chunk):
    """(rows, items) of the images of a chunk that can be read."""
    before, rest = [], chunk
    while rest:
        try:
            rows = embed([data for _, data in rest])
        except UserError as error:
            position = getattr(error, "position", None)
            if position is None or not hasattr(error, "reason"):
                raise
            _skip(manifest, source.name(rest[position][0]), error.reason)
            # Those before it wait, to be embedded once however many more are bad.
            before += rest[:position]
            rest = rest[position + 1 :]
            continue
        if before:
            break
        return rows, [item for item, _ in rest]
    if before:
        return _embedded(manifest, source, embed, before + rest)
    return np.zeros((0, manifest["width"]), np.float32), []


def _skip(manifest, name, reason):
    manifest["skipped"][reason] = manifest["skipped"].get(reason, 0) + 1
    if manifest["skipped"][reason] <= _EXAMPLES and len(manifest["examples"]) < _MOST_EXAMPLES:
        manifest["examples"].append(f"{name}: {reason}")


def _write(folder, manifest):
    file_io.make_folder(folder)
    file_io.write_json(os.path.join(folder, MANIFEST), manifest)


def _write_faiss(folder, manifest, kind):
    try:
        import faiss
    except ImportError as error:
        raise UserError(
            "an index of FAISS needs faiss: pip install -r requirements-demo.txt, or --faiss=none"
        ) from error
    width = manifest["width"]
    if kind == "flat":
        index = faiss.IndexFlatIP(width)
    else:
        index = faiss.IndexHNSWFlat(width, 32, faiss.METRIC_INNER_PRODUCT)
    for part in manifest["parts"]:
        index.add(np.load(os.path.join(folder, f"{part['file']}.npy")))
    with file_io.replacing(os.path.join(folder, FAISS)) as temporary:
        faiss.write_index(index, temporary)
