"""Reads record sets, sequentially or with random access."""

import functools
import operator
import os

import numpy as np

from tf_mural import file_io
from tf_mural.data.records import tfrecord
from tf_mural.data.records.block_reader import BlockReader
from tf_mural.data.records.blocks import BLOCK_BYTES, BLOCK_RECORDS, BLOCKS, BlockIndex
from tf_mural.data.records.record import deserialize
from tf_mural.data.records.remote_shards import RemoteShards
from tf_mural.data.records.shard_files import ShardFiles
from tf_mural.data.records.shard_indexes import ShardIndexes
from tf_mural.data.records.vectors import vectors_problem
from tf_mural.data.records.writing import read_manifest, set_digest
from tf_mural.errors import UserError

# Default maximum number of records of a set whose records are shuffled all together, and whose
# indexes are read when the set is opened.
SHUFFLE_LIMIT = 5_000_000


class DamagedRecord(UserError):
    """A record that cannot be read. `reason` gives the cause in a few words."""

    def __init__(self, location, reason):
        super().__init__(f"{location} is damaged: {reason}; convert the data set again")
        self.reason = reason


class RecordSet:
    """A record set opened for reading: a sequence of `Record`.

    Several threads may read from the same `RecordSet`. A `RecordSet` can be pickled; the copy opens
    the same files. A `RecordSet` can therefore be used as a data source of Grain, as a
    `grain.sources.RandomAccessDataSource`.

    A set with more than `max_indexed` records is opened without the indexes of its shards. It then
    needs about 100 bytes of memory per block and 600 bytes per shard, or 1,400 bytes per shard on a
    remote storage. The attributes `image_counts`, `has_language` and `vector_counts` of such a set
    read all indexes when they are used first, and need 200 to 600 bytes of memory per record.

    Attributes:
        folder: folder of the record set.
        manifest: parsed manifest.json.
        languages: tuple of the language codes, sorted.
        language_counts: {language code: number of texts}.
        image_counts: int64 (n,), number of images of each record.
        has_language: bool (n, L), whether each record has a text in each of the `languages`.
        vectors: {name: description} of the vectors of the records, see `describe_vectors`.
        vector_counts: {name of vectors: int64 (n,), number of rows of each record}.
        blocks: `BlockIndex`. The blocks of a set without the file of this index are derived from
            the indexes of the shards.
        digest: short hash of the contents, by which results identify their record sets.
    """

    def __init__(self, folder, manifest, strict=True, max_indexed=SHUFFLE_LIMIT):
        self.folder = str(folder)
        self.manifest = manifest
        self._strict, self._max_indexed = strict, max_indexed
        self.language_counts = dict(manifest["languages"])
        self.languages = tuple(self.language_counts)
        self.vectors = dict(manifest.get("vectors", {}))
        shards = manifest["shards"]
        self.digest = set_digest(shards)
        open_files = RemoteShards if file_io.is_remote(self.folder) else ShardFiles
        self._files = open_files(self.folder, [shard["file"] for shard in shards])
        self._indexes = ShardIndexes(self._files, shards, self.languages, self.vectors, strict)
        if len(self) <= max_indexed:
            self._indexes.columns  # noqa: B018 - reads and verifies the indexes
        else:
            if strict:
                self._indexes.check_sizes()
            self.blocks  # noqa: B018 - reads and verifies the index of the blocks
        self._files.keep_open(strict)

    @classmethod
    def open(cls, folder, strict=True, max_indexed=SHUFFLE_LIMIT):
        """Opens a record set.

        Args:
            folder: folder of the record set.
            strict: False also accepts truncated and missing shards, whose lost records then raise
                DamagedRecord when they are read.
            max_indexed: maximum number of records of a set whose indexes are read here.

        Raises:
            UserError: there is no record set, it is incomplete, the size of a shard differs from
                the manifest, or the index of the blocks is invalid.
        """
        return cls(folder, read_manifest(folder), strict, max_indexed)

    def __len__(self):
        return int(self._indexes.starts[-1])

    def __repr__(self):
        return f"RecordSet({self.folder!r}, {len(self)} records)"

    def __reduce__(self):
        return type(self), (self.folder, self.manifest, self._strict, self._max_indexed)

    def __iter__(self):
        """Yields the records in order. Raises DamagedRecord at a damaged record."""
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, index):
        """Reads one record and verifies its checksum.

        Args:
            index: integer in [-len(self), len(self)); -1 is the last record.

        Returns:
            `Record`.

        Raises:
            TypeError: the index is not an integer, for example a slice.
            IndexError: the index is out of range.
            DamagedRecord: the record cannot be read, or its checksum does not match.
        """
        try:
            position = operator.index(index)
        except TypeError:
            message = f"expected an integer as index of a record, got {index!r}"
            hint = "; `read` reads several records" if isinstance(index, slice) else ""
            raise TypeError(message + hint) from None
        if not -len(self) <= position < len(self):
            raise IndexError(f"{self.folder} has {len(self):,} records, got the index {position}")
        position %= len(self)
        data = self._read_all(np.array([position]), verify=True)[0]
        try:
            record = deserialize(data)
        except ValueError as error:
            raise DamagedRecord(self.location(position), str(error)) from error
        if problem := vectors_problem(record, self.vectors):
            raise DamagedRecord(self.location(position), problem)
        return record

    def read(self, indices, verify=False):
        """Reads serialized records for `parse` or `deserialize`.

        Args:
            indices: integers (n,) in [0, len(self)), in any order, with repetitions allowed.
            verify: whether to verify the checksum of each record, which takes 1 us for 20 kB.

        Returns:
            Object array (n,) of bytes.

        Raises:
            IndexError: an index is out of range.
            DamagedRecord: a shard is missing, was truncated or cannot be read, or the checksum of a
                record does not match.
            StorageError: a remote storage did not answer, or a shard was changed or removed.
        """
        indices = np.asarray(indices, np.int64)
        if indices.size and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"expected positions in [0, {len(self)}), got {indices}")
        out = np.empty(len(indices), object)
        out[:] = self._read_all(indices, verify)
        return out

    def _read_all(self, indices, verify):
        """Returns a list with the payloads of records; see `read`."""
        payloads = self._payloads_in_memory(indices)
        rows = [row for row, payload in enumerate(payloads) if payload is None]
        if not rows:
            return payloads
        shard, offset, length = (x.tolist() for x in self._indexes.locate(indices[rows]))
        sizes = [n + tfrecord.FOOTER for n in length]
        frames = self._files.read_many(list(zip(shard, offset, sizes, strict=True)))
        for row, size, (data, reason) in zip(rows, length, frames, strict=True):
            payload, footer = data[:size], data[size:]
            if not reason and len(footer) < tfrecord.FOOTER:
                reason = "the file ends inside the record"
            elif not reason and verify and not tfrecord.is_intact(payload, footer):
                reason = "the checksum does not match"
            if reason:
                raise DamagedRecord(self.location(int(indices[row])), reason)
            payloads[row] = payload
        return payloads

    def _payloads_in_memory(self, indices):
        """Returns a list with the payload of each record; None if its block is not in memory."""
        payloads = [None] * len(indices)
        if "_block_reader" not in vars(self):
            return payloads
        numbers = self.blocks.block_of(indices)
        positions = indices - self.blocks.first_record[numbers]
        loaded = {n: self._block_reader.loaded(n) for n in np.unique(numbers).tolist()}
        places = zip(numbers.tolist(), positions.tolist(), strict=True)
        for row, (number, position) in enumerate(places):
            if block := loaded[number]:
                if position in block.damaged:
                    location = self.location(int(indices[row]))
                    raise DamagedRecord(location, block.damaged[position])
                payloads[row] = block.payloads[position]
        return payloads

    def shard_path(self, index):
        """Returns the path of the shard that contains a record."""
        return self._files.paths[int(self._indexes.shard_of(index))]

    def location(self, index):
        """Returns the shard, number and first byte of a record as a text for messages."""
        shard, byte, _ = self._locate(index)
        number = index - int(self._indexes.starts[shard])
        return f"{self._files.paths[shard]}: record {number} (byte {byte})"

    def _locate(self, index):
        """Returns (shard, first byte of the payload, bytes of the payload) of a record."""
        return [int(values[0]) for values in self._indexes.locate(np.array([index]))]

    @functools.cached_property
    def image_counts(self):
        """int64 (n,), number of images of each record."""
        return self._indexes.columns.images

    @functools.cached_property
    def has_language(self):
        """bool (n, L), whether each record has a text in each of the `languages`."""
        return self._indexes.columns.has_language

    @functools.cached_property
    def vector_counts(self):
        """{name of vectors: int64 (n,), number of rows of each record}."""
        return dict(zip(self.vectors, self._indexes.columns.vectors, strict=True))

    # --- blocks -----------------------------------------------------------------------------------

    def load_blocks(self, numbers):
        """Reads blocks into memory; see `BlockReader.load`.

        While a block is in memory, its records are read from memory.
        """
        return self._block_reader.load(numbers, self._record_spans)

    @functools.cached_property
    def blocks(self):
        """`BlockIndex`."""
        data = self._files.read_block_index()
        if data is None:
            return self.derive_blocks()
        path = os.path.join(self.folder, BLOCKS)
        return BlockIndex.parse(data, path, self.manifest, self.digest)

    def derive_blocks(self, block_records=BLOCK_RECORDS, block_bytes=BLOCK_BYTES):
        """Returns the `BlockIndex` that follows from the indexes of the shards.

        The number of texts of a record in a language counts as 1. `save` of the result writes the
        file of the index.

        Args:
            block_records, block_bytes: maximum size of a block, see `BlockIndex.build`.
        """
        shards = ((index, ()) for index in self._indexes.read())
        return BlockIndex.build(shards, block_records, block_bytes)

    @functools.cached_property
    def _block_reader(self):
        return BlockReader(self.blocks, self._files)

    def _record_spans(self, number):
        """Returns start and length of the payloads of a block in its bytes, int64 (n, 2)."""
        row, first = self.blocks.rows[number], int(self.blocks.first_record[number])
        records = np.arange(first, first + int(row["records"]))
        _, offset, length = self._indexes.locate(records)
        return np.stack([offset - int(row["offset"]), length], axis=1)
