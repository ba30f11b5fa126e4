"""Writes record sets: shards first, then their indexes, and the manifest last."""

import collections
import hashlib
import json
import os

import numpy as np

from tf_mural import file_io
from tf_mural.data.records import tfrecord
from tf_mural.data.records.blocks import BLOCK_BYTES, BLOCK_RECORDS, BlockIndex
from tf_mural.data.records.record import serialize
from tf_mural.data.records.shard import ShardIndex, ShardIndexBuilder, index_path
from tf_mural.data.records.vectors import check_name, vectors_problem
from tf_mural.errors import StorageError, UserError

SCHEMA = 2
MANIFEST = "manifest.json"
AUGMENTATIONS = ("crop", "flip")
_BATCH_BYTES = 1 << 18  # number of bytes of records that are written at a time


def shard_name(number, total):
    """Returns the file name of shard `number` of `total`, counted from 0."""
    return f"records-{number:05d}-of-{total:05d}.tfrecord"


def set_digest(shards):
    """Returns the short hash of the contents of a record set; `shards` are those of a manifest."""
    sums = "".join(shard["sha256"] for shard in shards)
    return hashlib.sha256(sums.encode()).hexdigest()[:12]


def write_shard(path, records, vectors=None):
    """Writes records to one TFRecord file, atomically.

    Args:
        path: destination.
        records: iterable of `Record`; it may be empty.
        vectors: {name: description} of the vectors of the records, see `describe_vectors`.

    Returns:
        A `Shard`, which is small enough to be sent to another process.

    Raises:
        UserError: `serialize` rejects a record, or its vectors differ from their description.
    """
    vectors = vectors or {}
    index, sha256 = ShardIndexBuilder(vectors), hashlib.sha256()
    records = _check_vectors(path, records, vectors)
    with file_io.atomic_write(path, sync=False) as temporary, open(temporary, "wb") as file:
        for payloads in _batches(records, index):
            data = tfrecord.frames(payloads)
            file.write(data)
            sha256.update(data)
    return index.build(os.path.basename(path), sha256.hexdigest())


def _check_vectors(path, records, descriptions):
    """Yields records whose vectors agree with their descriptions; otherwise raises UserError."""
    for record in records:
        if record.vectors or descriptions:
            if problem := vectors_problem(record, descriptions):
                raise UserError(f"{path}: record {record.id!r}: {problem}")
        yield record


def _batches(records, index):
    """Yields lists of serialized records, and adds the records to the index."""
    payloads, size = [], 0
    for record in records:
        payload = serialize(record)
        index.add(len(payload), record)
        payloads.append(payload)
        size += len(payload)
        if size >= _BATCH_BYTES:
            yield payloads
            payloads, size = [], 0
    yield payloads


def write_manifest(
    folder,
    shards,
    dataset,
    split,
    augmentations=(),
    made_by=None,
    ledger=None,
    classes=None,
    vectors=None,
    block_records=BLOCK_RECORDS,
    block_bytes=BLOCK_BYTES,
):
    """Writes the indexes of the shards and blocks, then manifest.json, which completes the set.

    Args:
        folder: folder of the shards.
        shards: list of `Shard`, in order.
        dataset, split: names of the dataset and of the split.
        augmentations: augmentations allowed in training, a subset of `AUGMENTATIONS`.
        made_by: plain dict that describes how the set was made. The dict must not contain dates, so
            that the same input gives the same bytes.
        ledger: plain dict with counts of read, kept and skipped records.
        classes: names of the labels in order, if they have names.
        vectors: {name: description} of the vectors, see `describe_vectors`.
        block_records, block_bytes: maximum size of a block, see `blocks`.

    Returns:
        The manifest as a dict.

    Raises:
        UserError: an augmentation is unknown, or a name of vectors is invalid.
    """
    for name in vectors or ():
        check_name(name)
    if unknown := sorted(set(augmentations) - set(AUGMENTATIONS)):
        raise UserError(f"unknown augmentations {unknown}; known: {', '.join(AUGMENTATIONS)}")
    texts, summaries, images = collections.Counter(), [], 0
    for shard in shards:
        texts.update(shard.texts)
        images += shard.images
        summaries.append(
            {key: getattr(shard, key) for key in ("file", "records", "bytes", "sha256")}
        )
    codes = sorted(texts)
    indexed = _write_shard_indexes(folder, shards, codes, vectors or ())
    blocks = BlockIndex.build(indexed, block_records, block_bytes)
    blocks.save(folder, set_digest(summaries))
    manifest = {
        "schema": SCHEMA,
        "dataset": dataset,
        "split": split,
        "records": sum(summary["records"] for summary in summaries),
        "images": images,
        "texts": sum(texts.values()),
        "languages": {code: texts[code] for code in codes},
        "augmentations": sorted(set(augmentations)),
        "shards": summaries,
        "made_by": made_by or {},
        "ledger": ledger or {},
    }
    if classes:
        manifest["classes"] = list(classes)
    if vectors:
        manifest["vectors"] = {
            name: {**description, "rows": sum(int(s.vector_counts[name].sum()) for s in shards)}
            for name, description in vectors.items()
        }
    path = os.path.join(folder, MANIFEST)
    with file_io.atomic_write(path, sync=False) as temporary, open(temporary, "wb") as file:
        file.write((json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode())
    return manifest


def _write_shard_indexes(folder, shards, codes, vectors):
    """Writes the index of each shard; yields (`ShardIndex`, extra texts) of each shard.

    Args:
        folder, shards: see `write_manifest`.
        codes: sorted language codes of the set.
        vectors: names of the vectors.
    """
    columns = {code: column for column, code in enumerate(codes)}
    for shard in shards:
        columns_of_shard = np.array([columns[code] for code in shard.texts], np.int64)
        has_language = np.zeros((shard.records, len(columns)), bool)
        has_language[:, columns_of_shard] = shard.has_language
        path = index_path(os.path.join(folder, shard.file))
        with file_io.atomic_write(path, sync=False) as temporary, open(temporary, "wb") as file:
            np.savez(
                file,
                offset=shard.offset,
                length=shard.length,
                images=shard.image_counts,
                languages=np.packbits(has_language, axis=1),
                **{f"vectors/{name}": shard.vector_counts[name] for name in vectors},
            )
        extra_texts = shard.extra_texts.copy()
        extra_texts[:, 1] = columns_of_shard[extra_texts[:, 1]]
        arrays = (shard.offset, shard.length, shard.image_counts)
        yield ShardIndex(*(a.astype(np.int64) for a in arrays), has_language, []), extra_texts


def write(
    folder,
    records,
    dataset="records",
    split="train",
    shards=1,
    augmentations=(),
    vectors=None,
    **options,
):
    """Writes a small record set in one call; converters write large sets shard by shard.

    The records are divided into consecutive shards, so that they are read in the given order.
    `folder` is created. For the other arguments (`options` are further arguments of
    `write_manifest`) and the errors, see `write_manifest` and `write_shard`.

    Returns:
        The manifest as a dict.
    """
    records = list(records)
    file_io.makedirs(folder)
    bounds = [len(records) * number // shards for number in range(shards + 1)]
    written = []
    for number in range(shards):
        path = os.path.join(folder, shard_name(number, shards))
        part = records[bounds[number] : bounds[number + 1]]
        written.append(write_shard(path, part, vectors))
    return write_manifest(
        folder, written, dataset, split, augmentations, vectors=vectors, **options
    )


def read_manifest(folder):
    """Reads the manifest of the record set in a folder.

    Raises:
        UserError: the folder has no manifest, or the manifest is not valid.
    """
    path = os.path.join(folder, MANIFEST)
    try:
        manifest = json.loads(file_io.read_bytes(path).decode("utf-8"))
        schema = manifest["schema"]
    except StorageError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        message = f"no record set in {folder}: {MANIFEST} is missing{_hint(folder)}"
        raise UserError(message) from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        message = (
            f"{path} is not a manifest of a record set ({error!r}); convert the data set again"
        )
        raise UserError(message) from error
    if isinstance(schema, int) and schema > SCHEMA:
        raise UserError(
            f"{path} has schema {schema}, and this version of tf_mural reads schema {SCHEMA}: "
            "update tf_mural, or convert the data set again"
        )
    if schema != SCHEMA:
        raise UserError(f"{path}: expected schema {SCHEMA}, got {schema!r}; convert again")
    return manifest


def _hint(folder):
    splits = []
    if file_io.isdir(folder):
        entries = file_io.listdir(folder)
        splits = [e for e in entries if file_io.exists(os.path.join(folder, e, MANIFEST))]
    if splits:
        return f"; it holds the splits {', '.join(splits)}: name one of them"
    return "; write one with tools/convert.py"
