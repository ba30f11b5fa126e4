"""Adds vectors to a record set: a model computes a row for each image or text of the records.

The new record set is built in units of consecutive records, like that of a conversion. A stopped
extraction continues with the first unit that is not finished.
"""

import dataclasses
import os
from collections.abc import Callable

import numpy as np

from tf_mural import __version__
from tf_mural.conversion import publish
from tf_mural.conversion.ledger import Ledger
from tf_mural.conversion.provenance import existing_manifest, recipe_digest
from tf_mural.conversion.units import save_result
from tf_mural.data import records
from tf_mural.data.records import DTYPES, Skipped
from tf_mural.errors import UserError
from tf_mural.progress import Progress

_MIN_UNIT, _MAX_UNITS = 8192, 1024  # rows of a unit; maximum number of units of a large set
_CHUNK = 2048  # number of images that are in memory, and are embedded in one call


@dataclasses.dataclass(frozen=True)
class Extractor:
    """A model that computes vectors.

    Attributes:
        name: name of the vectors in the new record set.
        description: see `records.describe_vectors`; "of" is "images" or "texts".
        embed: callable from an iterable of image files (bytes) or texts (str) to float32 (n,
            width). For an image that cannot be decoded, `embed` raises a UserError with the
            attributes `position` and `reason`.
        options: further options of the extraction, which the manifest records, a plain dict.
    """

    name: str
    description: dict
    embed: Callable
    options: dict


def extract(source, out_dir, split, extractor, drop_images=False, overwrite=False, print_fn=None):
    """Writes a record set with the records of another set and with further vectors.

    Records with an image that cannot be decoded are left out; the ledger of the manifest counts
    and names them.

    Args:
        source: `RecordSet`.
        out_dir: folder of the new record set.
        split: name of the new record set in `out_dir`.
        extractor: `Extractor`.
        drop_images: whether the images are left out of the new record set.
        overwrite: whether to replace another record set in the same folder.
        print_fn: callable that receives each line. Default: the lines are printed, and a terminal
            shows a bar.

    Returns:
        The manifest as a dict.

    Raises:
        UserError: the set already has vectors of this name, has no images or texts to embed, a
            record is damaged, a row is not finite, or `out_dir` has another record set.
    """
    _check(source, extractor)
    recipe = _recipe(source, extractor, drop_images)
    units = _units(source, extractor)
    paths = publish.BuildPaths(str(out_dir), split, recipe_digest(recipe, units))
    report = print_fn or print
    try:
        os.makedirs(out_dir, exist_ok=True)
        if os.path.realpath(paths.record_set) == os.path.realpath(source.folder):
            raise UserError(
                f"{paths.record_set} is the record set that is read: choose another folder"
            )
        with publish.exclusive(paths):
            existing = existing_manifest(paths.record_set, recipe, overwrite)
            if existing is not None:
                report(f"{paths.record_set}: already there, {existing['records']:,} records")
                return existing
            os.makedirs(paths.work, exist_ok=True)
            try:
                return _build(source, paths, units, extractor, drop_images, recipe, print_fn)
            except BaseException:
                publish.cleanup_failed(paths, report)
                raise
    except OSError as error:
        raise UserError(f"writing {paths.record_set} failed: {error}") from error


def _check(source, extractor):
    name, of = extractor.name, extractor.description["of"]
    if name in source.vectors:
        raise UserError(
            f"{source.folder} already has vectors {name!r}: choose another name, or read the "
            "record set that has no such vectors"
        )
    if not source.manifest[of]:
        raise UserError(f"{source.folder} has no {of} to compute vectors of")
    for code in extractor.description.get("languages", ()):
        if code not in source.languages:
            known = ", ".join(source.languages)
            raise UserError(f"{source.folder} has no texts in {code!r}; it has texts in {known}")


def _recipe(source, extractor, drop_images):
    """Returns `made_by` of the source with an entry for this extraction."""
    made_by = {key: value for key, value in source.manifest["made_by"].items() if key != "version"}
    entry = {"records": source.digest, "name": extractor.name, **extractor.description}
    entry |= {**extractor.options, "drop_images": drop_images}
    return {**made_by, "extracted": [*made_by.get("extracted", ()), entry]}


def _units(source, extractor):
    """Returns ranges of record numbers, whose images or texts take minutes at most to embed."""
    languages = extractor.description.get("languages")
    if languages is None:
        rows = source.manifest[extractor.description["of"]]
    else:
        rows = sum(source.language_counts[code] for code in languages)
    per_record = max(1.0, rows / max(1, len(source)))
    size = max(1, round(_MIN_UNIT / per_record), -(-len(source) // _MAX_UNITS))
    return [range(i, min(i + size, len(source))) for i in range(0, len(source), size)]


def _descriptions(source, extractor):
    known = {
        name: {key: value for key, value in description.items() if key != "rows"}
        for name, description in source.vectors.items()
    }
    return {**known, extractor.name: extractor.description}


def _build(source, paths, units, extractor, drop_images, recipe, print_fn):
    """Writes the units that are missing, and publishes the record set."""
    done = {number for number in range(len(units)) if os.path.exists(paths.result(number))}
    start, count = sum(len(units[number]) for number in done), 0
    if done and len(done) < len(units):
        line = f"{paths.record_set}: resuming after {start:,} of {len(source):,} records"
        (print_fn or print)(line)
    of = extractor.description["of"]
    descriptions = _descriptions(source, extractor)
    with Progress(
        paths.record_set, len(source), "records", of, start=start, print_fn=print_fn
    ) as progress:
        finished = start
        for number in [number for number in range(len(units)) if number not in done]:
            ledger = Ledger()
            rows, bad = _embed_unit(source, units[number], extractor)
            made = _new_records(source, units[number], extractor, rows, bad, ledger, drop_images)
            shard = records.write_shard(paths.shard(number, 0), made, descriptions)
            ledger.close(shard.records)
            save_result(paths.result(number), [shard], ledger)
            finished, count = finished + len(units[number]), count + len(rows)
            progress.update(finished, count)

    def write_manifest(folder, shards, ledger):
        # The images of the source are normalized, unless an earlier version converted them.
        if "changed_images" not in (source.manifest.get("ledger") or {"changed_images": 0}):
            del ledger["changed_images"]
        manifest = source.manifest
        made_by = {**recipe, "version": __version__}
        classes = manifest.get("classes")
        parts = (manifest["dataset"], manifest["split"], manifest["augmentations"])
        records.write_manifest(folder, shards, *parts, made_by, ledger, classes, descriptions)

    return publish.finalize(paths, len(units), paths.record_set, write_manifest)


def _embed_unit(source, unit, extractor):
    """Embeds the images or texts of a unit.

    Returns:
        (rows (n, width) of the dtype of the description, in the order of the records; {record:
        reason} of the records with an image that cannot be decoded, whose images have no rows).
    """
    parts, bad = [], {}
    if extractor.description["of"] == "texts":
        parts.append(_convert(extractor, extractor.embed(_texts(source, unit, extractor))))
    else:
        for owners, images in _image_chunks(source, unit):
            rows, reasons = embed_valid(extractor.embed, images)
            for position, reason in reasons.items():
                bad.setdefault(owners[position], reason)
            owners = [o for i, o in enumerate(owners) if i not in reasons]
            kept = np.array([owner not in bad for owner in owners], bool)
            parts.append(_convert(extractor, rows)[kept])
    width = extractor.description["width"]
    empty = np.zeros((0, width), DTYPES[extractor.description["dtype"]])
    return np.concatenate([empty, *parts]), bad


def _texts(source, unit, extractor):
    codes = extractor.description.get("languages")
    for index in unit:
        for code, text in source[index].texts:
            if codes is None or code in codes:
                yield text


def _image_chunks(source, unit):
    """Yields (record numbers, image files) of about `_CHUNK` images; a record is never divided."""
    owners, images = [], []
    for index in unit:
        record = source[index]
        owners += [index] * len(record.images)
        images += record.images
        if len(images) >= _CHUNK:
            yield owners, images
            owners, images = [], []
    if images:
        yield owners, images


def embed_valid(embed, images):
    """Embeds the images that can be decoded.

    Args:
        embed: see `Extractor`.
        images: list of image files (bytes).

    Returns:
        (rows of these images in order, {position of another image: reason}).
    """
    bad, start = {}, 0
    while start < len(images):
        try:
            rows = embed(images[start:])
            break
        except UserError as error:
            if not hasattr(error, "reason"):
                raise
            bad[start + error.position] = error.reason
            start += error.position + 1
    else:
        rows = None
    before = [image for i, image in enumerate(images[:start]) if i not in bad]
    parts = [embed(before)] if before else []
    parts += [] if rows is None else [rows]
    return np.concatenate(parts) if parts else np.zeros((0, 1), np.float32), bad


def _convert(extractor, rows):
    """Converts rows to the dtype of the description."""
    dtype, width = DTYPES[extractor.description["dtype"]], extractor.description["width"]
    with np.errstate(over="ignore"):
        converted = np.asarray(rows).astype(dtype).reshape(-1, width) if len(rows) else rows
    if len(rows) and not np.isfinite(converted).all():
        largest = np.abs(rows).max()
        raise UserError(
            f"a value of the vectors {extractor.name!r} is not finite in {dtype.name} (the largest "
            f"one is {largest:.4g}): use float32"
        )
    return converted if len(rows) else np.zeros((0, width), dtype)


def _new_records(source, unit, extractor, rows, bad, ledger, drop_images):
    """Yields the records of a unit with their rows, and counts those that are left out."""
    codes, first = extractor.description.get("languages"), 0
    for index in unit:
        record = source[index]
        ledger.read += 1
        if index in bad:
            ledger.skip(Skipped("image does not decode", f"{record.id}: {bad[index]}"))
            continue
        if extractor.description["of"] == "images":
            count = len(record.images)
        else:
            count = sum(codes is None or code in codes for code, _ in record.texts)
        vectors = {**record.vectors, extractor.name: rows[first : first + count]}
        first += count
        images = () if drop_images else record.images
        yield dataclasses.replace(record, images=images, vectors=vectors)
