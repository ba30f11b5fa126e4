"""Builds an index part by part, so that an interrupted build can be resumed."""

import json
import os

import numpy as np

from tf_mural import file_io
from tf_mural.errors import StorageError, UserError
from tf_mural.progress import Progress
from tf_mural.search.index import EF_SEARCH, FAISS, MANIFEST, SCHEMA, read_manifest, sha256_hex
from tf_mural.search.neighbors import MIN_EF_SEARCH
from tf_mural.search.recall import RECALL

IMAGES_PER_PART = 2048
_BATCH = 512  # number of images that are embedded in one call
_EXAMPLES_PER_REASON, _MAX_EXAMPLES = 5, 100
FAISS_KINDS = ("none", "flat", "hnsw")


def make_index(
    folder,
    source,
    embed,
    model,
    model_path,
    width,
    faiss_kind="none",
    images_per_part=IMAGES_PER_PART,
    print_fn=None,
    ef_search=MIN_EF_SEARCH,
):
    """Embeds the images of a source into an index, or resumes a build that was interrupted.

    Images that cannot be read, and files that the source skips, are left out. The manifest counts
    the omitted images and files per reason, and names a few of them per reason.

    Args:
        folder: folder to write to.
        source: `FolderSource` or `RecordsSource`.
        embed: callable from a list of n image files (JPEG or PNG bytes, for example) to float32 (n,
            width), unit-norm rows. For an image that cannot be read, `embed` raises a UserError
            with the attributes `position` and `reason`.
        model: fingerprint of the model, `Embedder.fingerprint`.
        model_path: path of the model; stored in the manifest.
        width: width of the embeddings.
        faiss_kind: kind of the FAISS index to write: "flat" or "hnsw"; "none" for no FAISS index.
            A FAISS index of the same kind that an earlier call wrote is kept.
        images_per_part: number of images per part. Each finished part is kept if the build is
            interrupted.
        print_fn: callable that receives each line of progress. Default: the lines are printed, and
            a terminal shows a bar.
        ef_search: number of candidates of a search in an index of the kind "hnsw", at least 256.
            With a larger number, a search finds more of the nearest images and takes longer.

    Returns:
        The manifest, a dict.

    Raises:
        UserError: the folder contains an index of another model or source, no image could be read,
            or `ef_search` is less than 256.
    """
    if ef_search < MIN_EF_SEARCH:
        raise UserError(f"ef_search is {ef_search}, expected at least {MIN_EF_SEARCH}")
    identity = {"schema": SCHEMA, "model": model, "width": width, "source": source.spec}
    manifest = _resume(folder, identity)
    if manifest is None:
        manifest = {**identity, "model_path": model_path, "parts": []}
        manifest |= {"skipped": {}, "examples": [], "read": 0, "count": 0, "whole": False}
        _write_manifest(folder, manifest)
    elif manifest["read"]:
        line = f"{folder}: resuming at image {manifest['read']:,} of {len(source):,}"
        (print_fn or print)(line)
    total, start = len(source), manifest["read"]
    with Progress(folder, total, "images", start=start, print_fn=print_fn) as progress:
        while manifest["read"] < total:
            indices = range(manifest["read"], min(manifest["read"] + images_per_part, total))
            _add_part(folder, manifest, source, embed, indices)
            progress.update(manifest["read"])
    if not manifest["count"]:
        raise UserError(
            f"none of the {len(source):,} images could be read: {manifest['examples'][:3]}"
        )
    if not manifest["whole"]:
        for name, reason in source.skipped:
            _count_skipped(manifest, name, reason)
    if faiss_kind != "none":
        _write_faiss(folder, manifest, faiss_kind, ef_search)
    manifest["whole"] = True
    _write_manifest(folder, manifest)
    return manifest


def _resume(folder, identity):
    """Returns the manifest of the index in a folder, or None if the folder is empty or missing.

    Raises:
        UserError: the folder contains an index of another model or source, or other files.
    """
    path = os.path.join(folder, MANIFEST)
    if not file_io.exists(path):
        if file_io.listdir(folder):
            raise UserError(f"{folder} contains other files: choose another folder")
        return None
    manifest = read_manifest(folder)
    for key, value in identity.items():
        if manifest.get(key) != value:
            hint = ""
            if key == "source":
                hint = " (another listing: images were added, removed or changed)"
            raise UserError(
                f"{folder} contains an index with {key} {manifest.get(key)}, but this command has "
                f"{key} {value}{hint}: choose another folder, or remove this one"
            )
    return manifest


def _add_part(folder, manifest, source, embed, indices):
    """Embeds images and writes their embeddings as one part; the manifest is updated last."""
    embeddings, items = [], []
    for start in range(0, len(indices), _BATCH):
        batch = []
        for index in indices[start : start + _BATCH]:
            item = source.item(index)
            try:
                batch.append((item, source.read(item)))
            except StorageError:
                raise
            except OSError as error:
                _count_skipped(manifest, source.display_name(item), error.strerror or str(error))
        rows, readable = _embed_readable(manifest, source, embed, batch)
        embeddings.append(rows)
        items += readable
    array = np.concatenate(embeddings).astype(np.float32)
    if len(items):
        name = f"part-{len(manifest['parts']):05d}"
        lines = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
        lines = lines.encode("utf-8", "surrogateescape")
        path = os.path.join(folder, name)
        with file_io.atomic_write(f"{path}.npy") as temporary, open(temporary, "wb") as file:
            np.save(file, array)
        with file_io.atomic_write(f"{path}.jsonl") as temporary, open(temporary, "wb") as file:
            file.write(lines)
        checksums = {"sha256": sha256_hex(array), "items_sha256": sha256_hex(lines)}
        manifest["parts"].append({"file": name, "rows": len(items), **checksums})
    manifest["count"] += len(items)
    manifest["read"] = indices[-1] + 1
    _write_manifest(folder, manifest)


def _embed_readable(manifest, source, embed, batch):
    """Returns (embeddings, items) of the images of a batch that can be read."""
    postponed, remaining = [], batch
    while remaining:
        try:
            rows = embed([data for _, data in remaining])
        except UserError as error:
            position = getattr(error, "position", None)
            if position is None or not hasattr(error, "reason"):
                raise
            name = source.display_name(remaining[position][0])
            _count_skipped(manifest, name, error.reason)
            # The images before the unreadable image are postponed, and are therefore embedded only
            # once, even if more images are unreadable.
            postponed += remaining[:position]
            remaining = remaining[position + 1 :]
            continue
        if postponed:
            break
        return rows, [item for item, _ in remaining]
    if postponed:
        return _embed_readable(manifest, source, embed, postponed + remaining)
    return np.zeros((0, manifest["width"]), np.float32), []


def _count_skipped(manifest, name, reason):
    count = manifest["skipped"].get(reason, 0) + 1
    manifest["skipped"][reason] = count
    if count <= _EXAMPLES_PER_REASON and len(manifest["examples"]) < _MAX_EXAMPLES:
        manifest["examples"].append(f"{name}: {reason}")


def _write_manifest(folder, manifest):
    file_io.makedirs(folder)
    file_io.write_json(os.path.join(folder, MANIFEST), manifest)


def _write_faiss(folder, manifest, kind, ef_search):
    """Writes the FAISS index, unless it exists, and its entries of the manifest."""
    path = os.path.join(folder, FAISS)
    is_kept = manifest["whole"] and manifest.get("faiss") == kind and file_io.exists(path)
    settings = {"faiss": kind, EF_SEARCH: ef_search if kind == "hnsw" else None}
    if not is_kept or manifest.get(EF_SEARCH) != settings[EF_SEARCH]:
        manifest.pop(RECALL, None)  # Measured with another index or `ef_search`.
    if not is_kept:
        _build_faiss(folder, manifest, kind)
    for key, value in settings.items():
        manifest.pop(key, None)
        if value is not None:
            manifest[key] = value


def _build_faiss(folder, manifest, kind):
    try:
        import faiss
    except ImportError as error:
        raise UserError(
            "a FAISS index needs faiss: pip install -r requirements-demo.txt, or `faiss=none`"
        ) from error
    width = manifest["width"]
    if kind == "flat":
        index = faiss.IndexFlatIP(width)
    else:
        index = faiss.IndexHNSWFlat(width, 32, faiss.METRIC_INNER_PRODUCT)
    for part in manifest["parts"]:
        with file_io.local_files([os.path.join(folder, f"{part['file']}.npy")]) as (path,):
            index.add(np.load(path))
    with file_io.atomic_write(os.path.join(folder, FAISS)) as temporary:
        faiss.write_index(index, temporary)
