"""Writing record sets: shards first, then their indexes, the manifest last."""

import collections
import contextlib
import hashlib
import json
import os
import uuid

import numpy as np

from tf_mural.data.records import tfrecord
from tf_mural.data.records.record import serialize
from tf_mural.data.records.shard import Noted
from tf_mural.errors import UserError

SCHEMA = 2
MANIFEST = "manifest.json"
AUGMENTATIONS = ("crop", "flip")
_BYTES_AT_ONCE = 1 << 18  # whose checksums are computed together


def shard_name(number, total):
    """The file name of shard `number` of `total`, from 0."""
    return f"records-{number:05d}-of-{total:05d}.tfrecord"


def index_path(shard_path):
    """Where the index of a shard lies."""
    return shard_path.removesuffix(".tfrecord") + ".index.npz"


def write_shard(path, records):
    """Writes records to one TFRecord file, which appears under its name when it is whole.

    Args:
        path: of the file to write.
        records: iterable of `Record`; it may be empty.

    Returns:
        A `Shard`, small enough to travel between processes.

    Raises:
        UserError: `serialize` refuses a record.
    """
    noted, sha256 = Noted(), hashlib.sha256()
    with appears_whole(path) as file:
        for payloads in _batches(records, noted):
            data = tfrecord.frames(payloads)
            file.write(data)
            sha256.update(data)
    return noted.shard(os.path.basename(path), sha256.hexdigest())


def _batches(records, noted):
    """Yields the bytes of records in lists, and notes what they hold."""
    payloads, waiting = [], 0
    for record in records:
        payload = serialize(record)
        noted.add(len(payload), record)
        payloads.append(payload)
        waiting += len(payload)
        if waiting >= _BYTES_AT_ONCE:
            yield payloads
            payloads, waiting = [], 0
    yield payloads


def write_manifest(
    folder, shards, dataset, split, augmentations=(), made_by=None, ledger=None, classes=None
):
    """Writes the index of each shard, then manifest.json, which makes the folder a record set.

    Args:
        folder: where the shards lie.
        shards: the `Shard` of each, in order.
        dataset, split: names.
        augmentations: what training may do to the images, some of `AUGMENTATIONS`.
        made_by: plain dict of how the set was made; free of dates, so that the same input gives the
            same bytes.
        ledger: plain dict of what was read, kept and dropped.
        classes: the names of the labels, in order, where there are labels with names.

    Returns:
        The manifest as a dict.

    Raises:
        UserError: an unknown augmentation.
    """
    if unknown := sorted(set(augmentations) - set(AUGMENTATIONS)):
        raise UserError(f"unknown augmentations {unknown}; known: {', '.join(AUGMENTATIONS)}")
    texts, summaries, images = collections.Counter(), [], 0
    for shard in shards:
        texts.update(shard.texts)
        images += shard.images
        summaries.append(
            {key: getattr(shard, key) for key in ("file", "records", "bytes", "sha256")}
        )
    columns = {code: column for column, code in enumerate(sorted(texts))}
    for shard in shards:
        bits = np.zeros((shard.records, len(columns)), bool)
        bits[:, [columns[code] for code in shard.texts]] = shard.has_language
        packed = np.packbits(bits, axis=1)
        with appears_whole(index_path(os.path.join(folder, shard.file))) as file:
            np.savez(
                file,
                offset=shard.offset,
                length=shard.length,
                images=shard.image_counts,
                languages=packed,
            )
    manifest = {
        "schema": SCHEMA,
        "dataset": dataset,
        "split": split,
        "records": sum(summary["records"] for summary in summaries),
        "images": images,
        "texts": sum(texts.values()),
        "languages": {code: texts[code] for code in columns},
        "augmentations": sorted(set(augmentations)),
        "shards": summaries,
        "made_by": made_by or {},
        "ledger": ledger or {},
    }
    if classes:
        manifest["classes"] = list(classes)
    with appears_whole(os.path.join(folder, MANIFEST)) as file:
        file.write((json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode())
    return manifest


def write(folder, records, dataset="records", split="train", shards=1, augmentations=()):
    """Writes a small record set in one call; converters write large ones shard by shard.

    The records are dealt to the shards in consecutive runs, so that they are read in the order
    given. `folder` is created; arguments and errors are those of `write_manifest` and
    `write_shard`.

    Returns:
        The manifest as a dict.
    """
    records = list(records)
    os.makedirs(folder, exist_ok=True)
    cuts = [len(records) * number // shards for number in range(shards + 1)]
    written = []
    for number in range(shards):
        path = os.path.join(folder, shard_name(number, shards))
        written.append(write_shard(path, records[cuts[number] : cuts[number + 1]]))
    return write_manifest(folder, written, dataset, split, augmentations)


def read_manifest(folder):
    """The manifest of the record set in a folder, as a dict. Raises UserError if there is none."""
    path = os.path.join(folder, MANIFEST)
    try:
        with open(path, encoding="utf-8") as file:
            manifest = json.load(file)
        schema = manifest["schema"]
    except (FileNotFoundError, NotADirectoryError):
        message = f"no record set in {folder}: {MANIFEST} is missing{_hint(folder)}"
        raise UserError(message) from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        message = f"{path} is no manifest of a record set ({error!r}); convert the data set again"
        raise UserError(message) from error
    if schema != SCHEMA:
        raise UserError(f"{path}: expected schema {SCHEMA}, found {schema!r}; convert again")
    return manifest


def _hint(folder):
    found = []
    if os.path.isdir(folder):
        entries = sorted(os.listdir(folder))
        found = [e for e in entries if os.path.exists(os.path.join(folder, e, MANIFEST))]
    if found:
        return f"; it holds the splits {', '.join(found)}: name one of them"
    return "; write one with tools/convert.py"


@contextlib.contextmanager
def appears_whole(path):
    """Opens a temporary file beside `path`, which takes its name at the end, or is removed.

    A context manager that gives the binary file. The temporary name ends in ".tmp".
    """
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, "wb") as file:
            yield file
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
