"""Reads record sets, sequentially or with random access."""

import functools
import operator
import os
import threading

import numpy as np

from tf_mural import file_io
from tf_mural.data.records import tfrecord
from tf_mural.data.records.block_reader import BlockReader
from tf_mural.data.records.blocks import BLOCK_BYTES, BLOCK_RECORDS, BlockIndex
from tf_mural.data.records.record import deserialize
from tf_mural.data.records.shard import check_size, read_index
from tf_mural.data.records.shard_files import ShardFiles
from tf_mural.data.records.vectors import vectors_problem
from tf_mural.data.records.writing import read_manifest, set_digest
from tf_mural.errors import UserError

# Default maximum number of records of a set whose records are shuffled all together, and whose
# indexes are read when the set is opened.
SHUFFLE_LIMIT = 5_000_000
_MAX_INDEXES = 8  # number of indexes of shards that a large set keeps in memory


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
    needs about 100 bytes of memory per block and 600 bytes per shard. The attributes
    `image_counts`, `has_language` and `vector_counts` of such a set read all indexes when they are
    used first, and need 200 to 600 bytes of memory per record.

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
        self.digest = set_digest(manifest["shards"])
        self._paths = [os.path.join(self.folder, shard["file"]) for shard in manifest["shards"]]
        counts = [shard["records"] for shard in manifest["shards"]]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._lock, self._indexes = threading.RLock(), {}
        if len(self) <= max_indexed:
            self._columns  # noqa: B018 - reads and verifies the indexes
        elif strict:
            self._check_sizes()
        if len(self) > max_indexed:
            self.blocks  # noqa: B018 - reads and verifies the index of the blocks
        self._files = ShardFiles(self._paths, strict)

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
        return int(self._starts[-1])

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
        (data,) = self.read([position], verify=True)
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
        """
        indices = np.asarray(indices, np.int64)
        if indices.size and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"expected positions in [0, {len(self)}), got {indices}")
        out = np.empty(len(indices), object)
        blocks = self._loaded_blocks(indices)
        for row, (index, block) in enumerate(zip(indices.tolist(), blocks, strict=True)):
            out[row] = self._read_one(index, verify) if block is None else self._take(index, *block)
        return out

    def load_blocks(self, numbers):
        """Reads blocks into memory; see `BlockReader.load`.

        While a block is in memory, its records are read from memory.
        """
        return self._block_reader.load(numbers, self._record_spans)

    def _shard_of(self, index):
        # side="right" skips empty shards, which have the same start as the next shard.
        return np.searchsorted(self._starts, index, side="right") - 1

    def _loaded_blocks(self, indices):
        """Returns a list with (number of the block, `Block`) of each record, or None."""
        if "_block_reader" not in vars(self):
            return [None] * len(indices)
        numbers = self.blocks.block_of(indices).tolist()
        loaded = {number: self._block_reader.loaded(number) for number in set(numbers)}
        return [loaded[number] and (number, loaded[number]) for number in numbers]

    def _take(self, index, number, block):
        """Returns the payload of a record of a block in memory."""
        row = index - int(self.blocks.first_record[number])
        if row in block.damaged:
            raise DamagedRecord(self.location(index), block.damaged[row])
        return block.payloads[row]

    def _read_one(self, index, verify):
        shard, offset, length = self._locate(index)
        try:
            data = self._files.read(shard, offset, length + tfrecord.FOOTER)
        except FileNotFoundError as error:
            raise DamagedRecord(self.location(index), "the file is missing") from error
        except OSError as error:
            reason = f"the file cannot be read ({error})"
            raise DamagedRecord(self.location(index), reason) from error
        if len(data) != length + tfrecord.FOOTER:
            raise DamagedRecord(self.location(index), "the file ends inside the record")
        payload = data[:length]
        if verify and not tfrecord.is_intact(payload, data[length:]):
            raise DamagedRecord(self.location(index), "the checksum does not match")
        return payload

    def shard_path(self, index):
        """Returns the path of the shard that contains a record."""
        return self._paths[int(self._shard_of(index))]

    def location(self, index):
        """Returns the shard, number and first byte of a record as a text for messages."""
        shard, byte, _ = self._locate(index)
        number = index - int(self._starts[shard])
        return f"{self._paths[shard]}: record {number} (byte {byte})"

    def _locate(self, index):
        """Returns (shard, first byte and length of the payload) of a record."""
        shard = int(self._shard_of(index))
        if "_columns" in vars(self):
            return shard, int(self._columns[0][index]), int(self._columns[1][index])
        number, shard_index = index - int(self._starts[shard]), self._shard_index(shard)
        return shard, int(shard_index.offset[number]), int(shard_index.length[number])

    # --- indexes ----------------------------------------------------------------------------------

    @functools.cached_property
    def image_counts(self):
        """int64 (n,), number of images of each record."""
        return self._columns[2]

    @functools.cached_property
    def has_language(self):
        """bool (n, L), whether each record has a text in each of the `languages`."""
        return self._columns[3]

    @functools.cached_property
    def vector_counts(self):
        """{name of vectors: int64 (n,), number of rows of each record}."""
        return dict(zip(self.vectors, self._columns[4:], strict=True))

    @functools.cached_property
    def blocks(self):
        """`BlockIndex`."""
        blocks = BlockIndex.open(self.folder, self.manifest, self.digest)
        return self.derive_blocks() if blocks is None else blocks

    def derive_blocks(self, block_records=BLOCK_RECORDS, block_bytes=BLOCK_BYTES):
        """Returns the `BlockIndex` that follows from the indexes of the shards.

        The number of texts of a record in a language counts as 1. `save` of the result writes the
        file of the index.

        Args:
            block_records, block_bytes: maximum size of a block, see `BlockIndex.build`.
        """
        shards = range(len(self._paths))
        shards = ((self._read_index(shard, self._strict), ()) for shard in shards)
        return BlockIndex.build(shards, block_records, block_bytes)

    @functools.cached_property
    def _block_reader(self):
        return BlockReader(self.blocks, self._paths)

    def _record_spans(self, number):
        """Returns start and length of the payloads of a block in its bytes, int64 (n, 2)."""
        row, first = self.blocks.rows[number], int(self.blocks.first_record[number])
        index, start = self._shard_index(int(row["shard"])), int(self._starts[row["shard"]])
        part = slice(first - start, first - start + int(row["records"]))
        return np.stack([index.offset[part] - int(row["offset"]), index.length[part]], axis=1)

    @functools.cached_property
    def _columns(self):
        """(offset, length, images, languages, rows of vectors...) of all records."""
        empty = np.zeros(0, np.int64)
        no_languages = np.zeros((0, len(self.languages)), bool)
        indexes = [(empty, empty, empty, no_languages, *(empty for _ in self.vectors))]
        for shard in range(len(self._paths)):
            *columns, vectors = self._read_index(shard, self._strict)
            indexes.append((*columns, *vectors))
        return [np.concatenate(column) for column in zip(*indexes, strict=True)]

    def _shard_index(self, shard):
        """Returns the `ShardIndex` of a shard; the last used ones stay in memory."""
        with self._lock:
            index = self._indexes.pop(shard, None)
            if index is None:
                index = self._read_index(shard, strict=False)  # the size was compared before
            self._indexes[shard] = index
            if len(self._indexes) > _MAX_INDEXES:
                del self._indexes[next(iter(self._indexes))]
            return self._indexes[shard]

    def _read_index(self, shard, strict):
        path, summary = self._paths[shard], self.manifest["shards"][shard]
        size = functools.partial(os.path.getsize, path) if strict else None
        return read_index(path, summary, self.languages, self.vectors, size)

    def _check_sizes(self):
        """Compares the sizes of local shards with the manifest."""
        if file_io.is_remote(self.folder):
            return
        for path, shard in zip(self._paths, self.manifest["shards"], strict=True):
            try:
                size = os.path.getsize(path)
            except OSError as error:
                raise UserError(f"{path} cannot be read ({error}); convert again") from error
            check_size(path, shard, size)
