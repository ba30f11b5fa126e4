"""Block index: consecutive records of a shard, which training on a large record set reads together.

The file blocks.index lies beside the manifest. All numbers are little endian:

    1 header of the type `HEADER`      64 bytes
    a row of the type `BLOCK`          40 bytes per block, in the order of the shards and records
    a row of the type `LANGUAGE`       16 bytes per block and language of its texts

The rows have a fixed size, so that the file can be mapped into memory or read by ranges.
"""

import hashlib
import os
from collections.abc import Iterator

import numpy as np

from tf_mural import file_io
from tf_mural.data.records import tfrecord
from tf_mural.errors import UserError

BLOCKS = "blocks.index"
VERSION = 1
# Default maximum size of a block. A block contains at least one record, which may be larger.
BLOCK_RECORDS, BLOCK_BYTES = 8192, 16 << 20

HEADER = np.dtype(
    [
        ("magic", "S8"),  # _MAGIC
        ("version", "<u4"),  # VERSION
        ("block_records", "<u4"),  # maximum number of records of a block
        ("block_bytes", "<u8"),  # maximum number of bytes of a block
        ("blocks", "<u8"),  # number of rows of the type `BLOCK`
        ("languages", "<u8"),  # number of rows of the type `LANGUAGE`
        ("digest", "S24"),  # digest of the record set
    ]
)
BLOCK = np.dtype(
    [
        ("offset", "<u8"),  # first byte in the shard
        ("bytes", "<u8"),  # number of bytes, which are whole frames of the TFRecord format
        ("first_language", "<u8"),  # number of the first row of the block in the languages
        ("shard", "<u4"),  # number of the shard in the manifest
        ("records", "<u4"),
        ("images", "<u4"),
        ("languages", "<u4"),  # number of rows of the block in the languages
    ]
)
LANGUAGE = np.dtype(
    [
        ("block", "<u4"),
        ("language", "<u4"),  # position in the languages of the manifest
        ("records", "<u4"),  # number of records with a text in the language
        ("texts", "<u4"),  # number of texts in the language
    ]
)
_MAGIC = b"TFMBLOCK"


class BlockIndex:
    """The blocks of a record set.

    Attributes:
        rows: array (b,) of the type `BLOCK`.
        languages: array of the type `LANGUAGE`, in the order of the blocks.
        first_record: int64 (b + 1,), number of the first record of each block in the record set;
            the last entry is the number of all records.
        block_records, block_bytes: maximum size of a block.
        digest: short hash of the division of the records into blocks.
    """

    def __init__(self, rows, languages, block_records, block_bytes):
        self.rows, self.languages = rows, languages
        self.block_records, self.block_bytes = block_records, block_bytes
        self.first_record = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(rows["records"], dtype=np.int64, out=self.first_record[1:])

    def __len__(self):
        return len(self.rows)

    @property
    def digest(self):
        """Short hash of the division of the records into blocks."""
        counts = np.ascontiguousarray(self.rows["records"])
        return hashlib.sha256(counts.tobytes()).hexdigest()[:12]

    def block_of(self, record):
        """Returns the number of the block that contains a record; `record` may be an array."""
        return np.searchsorted(self.first_record, record, side="right") - 1

    def language_records(self, count):
        """Returns the number of records with a text in each of `count` languages, int64 (L,)."""
        return np.bincount(
            self.languages["language"], self.languages["records"], minlength=count
        ).astype(np.int64)

    @classmethod
    def build(cls, shards, block_records=BLOCK_RECORDS, block_bytes=BLOCK_BYTES):
        """Returns the index of shards.

        Args:
            shards: iterable of (`shard.ShardIndex`, extra texts), in order. Extra texts are
                `Shard.extra_texts` with the positions of the languages in the record set.
            block_records, block_bytes: maximum size of a block. A record with more than
                `block_bytes` is a block by itself.
        """
        rows, languages, blocks, num_rows = [], [], 0, 0
        for number, (index, extra_texts) in enumerate(shards):
            part, language_rows = _shard_rows(index, extra_texts, block_records, block_bytes)
            part["shard"] = number
            part["first_language"] += num_rows
            language_rows["block"] += blocks
            rows.append(part)
            languages.append(language_rows)
            blocks, num_rows = blocks + len(part), num_rows + len(language_rows)
        rows, languages = (
            np.concatenate([np.zeros(0, dtype), *parts])
            for dtype, parts in ((BLOCK, rows), (LANGUAGE, languages))
        )
        return cls(rows, languages, block_records, block_bytes)

    def save(self, folder, digest):
        """Writes the file of the index; `digest` is the digest of the record set."""
        header = np.zeros(1, HEADER)
        sizes = (self.block_records, self.block_bytes, len(self.rows), len(self.languages))
        header[0] = (_MAGIC, VERSION, *sizes, digest.encode())
        path = os.path.join(folder, BLOCKS)
        with file_io.atomic_write(path, sync=False) as temporary, open(temporary, "wb") as file:
            for part in (header, self.rows, self.languages):
                file.write(np.ascontiguousarray(part).tobytes())

    @classmethod
    def parse(cls, data, path, manifest, digest):
        """Returns the index that a file contains.

        Args:
            data: uint8 (n,), content of the file, which may be mapped into memory.
            path: path of the file, for messages.
            manifest: parsed manifest.json.
            digest: digest of the record set.

        Raises:
            UserError: the file has a newer version, is truncated, or is the index of other shards.
        """
        header = _parse_header(data, path, digest)
        blocks, languages = int(header["blocks"]), int(header["languages"])
        start = HEADER.itemsize + blocks * BLOCK.itemsize
        expected = start + languages * LANGUAGE.itemsize
        if len(data) != expected:
            raise UserError(f"{path}: expected {expected:,} bytes, got {len(data):,}; {_HINT}")
        index = cls(
            data[HEADER.itemsize : start].view(BLOCK),
            data[start:].view(LANGUAGE),
            int(header["block_records"]),
            int(header["block_bytes"]),
        )
        if not _fits(index, manifest):
            raise UserError(f"{path} does not fit the shards of the manifest; {_HINT}")
        return index


_HINT = "remove the file to derive the blocks from the indexes of the shards, or convert again"


def _parse_header(data, path, digest):
    if len(data) < HEADER.itemsize:
        raise UserError(f"{path} is truncated: it has {len(data)} bytes; {_HINT}")
    header = data[: HEADER.itemsize].view(HEADER)[0]
    if header["magic"] != _MAGIC:
        raise UserError(f"{path} is not a block index; {_HINT}")
    if header["version"] != VERSION:
        raise UserError(
            f"{path} has version {header['version']} of the format, and this version of tf_mural "
            f"reads version {VERSION}: update tf_mural; or {_HINT}"
        )
    if header["digest"] != digest.encode():
        raise UserError(
            f"{path} belongs to another record set: expected the digest {digest}, got "
            f"{header['digest'].decode(errors='replace')}; {_HINT}"
        )
    return header


def _fits(index, manifest):
    """Returns whether the blocks cover the shards of a manifest without gaps."""
    rows, shards = index.rows, manifest["shards"]
    shard, size = rows["shard"].astype(np.int64), rows["bytes"].astype(np.int64)
    if len(rows) and (shard.max() >= len(shards) or np.any(np.diff(shard) < 0)):
        return False
    ends = np.concatenate([[0], np.cumsum([s["bytes"] for s in shards], dtype=np.int64)])
    if not np.array_equal(np.cumsum(size) - size - ends[shard], rows["offset"].astype(np.int64)):
        return False
    for key, values in (("bytes", size), ("records", rows["records"])):
        starts = np.searchsorted(shard, np.arange(len(shards) + 1))
        sums = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])[starts]
        if not np.array_equal(np.diff(sums), [s[key] for s in shards]):
            return False
    return _languages_fit(index, manifest)


def _languages_fit(index, manifest):
    rows, languages = index.rows, index.languages
    counts = rows["languages"].astype(np.int64)
    return (
        np.array_equal(np.cumsum(counts) - counts, rows["first_language"].astype(np.int64))
        and counts.sum() == len(languages)
        and np.array_equal(np.repeat(np.arange(len(rows)), counts), languages["block"])
        and (not len(languages) or languages["language"].max() < len(manifest["languages"]))
    )


def _shard_rows(index, extra_texts, block_records, block_bytes):
    """Returns the rows of one shard, (rows of the type `BLOCK`, rows of the type `LANGUAGE`)."""
    ends = index.offset + index.length + tfrecord.FOOTER  # of the frames
    bounds = np.array([0, *_block_ends(ends, block_records, block_bytes)], np.int64)
    rows = np.zeros(len(bounds) - 1, BLOCK)
    byte_bounds = np.concatenate([[0], ends])[bounds]
    rows["offset"], rows["bytes"] = byte_bounds[:-1], np.diff(byte_bounds)
    rows["records"] = np.diff(bounds)
    rows["images"] = np.diff(np.concatenate([[0], np.cumsum(index.images)])[bounds])
    counts = np.zeros((len(rows), index.has_language.shape[1]), np.int64)
    for block, (start, end) in enumerate(zip(bounds, bounds[1:], strict=False)):
        counts[block] = index.has_language[start:end].sum(axis=0)
    texts = counts.copy()
    record, language, count = np.asarray(extra_texts, np.int64).reshape(-1, 3).T
    np.add.at(texts, (np.searchsorted(bounds, record, side="right") - 1, language), count)
    block, language = np.nonzero(counts)
    languages = np.zeros(len(block), LANGUAGE)
    languages["block"], languages["language"] = block, language
    languages["records"], languages["texts"] = counts[block, language], texts[block, language]
    rows["languages"] = (counts > 0).sum(axis=1)
    rows["first_language"] = np.cumsum(rows["languages"]) - rows["languages"]
    return rows, languages


def _block_ends(ends, block_records, block_bytes) -> Iterator[int]:
    """Yields the number of the record after each block; `ends` are the ends of the frames."""
    start, first_byte = 0, 0
    while start < len(ends):
        fitting = int(np.searchsorted(ends, first_byte + block_bytes, side="right"))
        start = max(min(fitting, start + block_records), start + 1)
        first_byte = int(ends[start - 1])
        yield start
