"""Writing record sets: shards first, then their indexes, the manifest last."""

import array
import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import uuid

import numpy as np

from tf_mural.base import UserError
from tf_mural.records import tfrecord
from tf_mural.records.record import serialize

SCHEMA = 2
MANIFEST = "manifest.json"
AUGMENTATIONS = ("crop", "flip")


@dataclasses.dataclass
class Shard:
    """What writing one shard found out about it.

    Attributes:
        file: its name in the folder.
        records, images, bytes: how many of each.
        sha256: of the file, in hex.
        texts: dict from language code to the number of its texts, sorted.
        offset, length: (n,) uint64, where each record's payload starts and how long it is.
        image_counts: (n,) uint32, images of each record.
        has_language: (n, len(texts)) bool, in the order of `texts`.
    """

    file: str
    records: int
    images: int
    bytes: int
    sha256: str
    texts: dict
    offset: np.ndarray
    length: np.ndarray
    image_counts: np.ndarray
    has_language: np.ndarray


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
    lengths, images = array.array("Q"), array.array("I")
    kinds, kind_of = {}, array.array("I")  # each set of languages, and which one a record has
    texts, sha256 = collections.Counter(), hashlib.sha256()
    with _appears_whole(path) as file:
        for record in records:
            payload = serialize(record)
            data = tfrecord.frame(payload)
            file.write(data)
            sha256.update(data)
            lengths.append(len(payload))
            languages = [code for code, _ in record.texts]
            texts.update(languages)
            kind_of.append(kinds.setdefault(frozenset(languages), len(kinds)))
            images.append(len(record.images))
    length = np.array(lengths, np.uint64)
    ends = np.cumsum(length + np.uint64(tfrecord.HEADER + tfrecord.FOOTER), dtype=np.uint64)
    order = sorted(texts)
    has_language = np.array([[code in kind for code in order] for kind in kinds], bool)
    has_language = has_language.reshape(len(kinds), len(order))[np.array(kind_of, np.intp)]
    return Shard(
        file=os.path.basename(path),
        records=len(lengths),
        images=sum(images),
        bytes=int(ends[-1]) if lengths else 0,
        sha256=sha256.hexdigest(),
        texts={code: texts[code] for code in order},
        offset=ends - length - np.uint64(tfrecord.FOOTER),
        length=length,
        image_counts=np.array(images, np.uint32),
        has_language=has_language,
    )


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
    texts = collections.Counter()
    for shard in shards:
        texts.update(shard.texts)
    summaries = [
        {"file": s.file, "records": s.records, "bytes": s.bytes, "sha256": s.sha256} for s in shards
    ]
    columns = {code: column for column, code in enumerate(sorted(texts))}
    for shard in shards:
        bits = np.zeros((shard.records, len(columns)), bool)
        bits[:, [columns[code] for code in shard.texts]] = shard.has_language
        packed = np.packbits(bits, axis=1)
        with _appears_whole(index_path(os.path.join(folder, shard.file))) as file:
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
        "records": sum(shard.records for shard in shards),
        "images": sum(shard.images for shard in shards),
        "texts": sum(texts.values()),
        "languages": {code: texts[code] for code in columns},
        "augmentations": sorted(set(augmentations)),
        "shards": summaries,
        "made_by": made_by or {},
        "ledger": ledger or {},
    }
    if classes:
        manifest["classes"] = list(classes)
    with _appears_whole(os.path.join(folder, MANIFEST)) as file:
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
def _appears_whole(path):
    """Opens a temporary file beside `path`, which takes its name at the end, or is removed."""
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, "wb") as file:
            yield file
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
