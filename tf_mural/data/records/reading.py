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
from tf_mural.data.records.remote_shards import RemoteShards
from tf_mural.data.records.shard import check_size, index_path, parse_index, unreadable
from tf_mural.data.records.shard_files import ShardFiles
from tf_mural.data.records.vectors import vectors_problem
from tf_mural.data.records.writing import read_manifest, set_digest
from tf_mural.errors import StorageError, UserError

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
        names = [shard["file"] for shard in manifest["shards"]]
        self._paths = [os.path.join(self.folder, name) for name in names]
        self._remote = None
        if file_io.is_remote(self.folder):
            self._remote = RemoteShards(self.folder, names, map(index_path, names))
        counts = [shard["records"] for shard in manifest["shards"]]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._lock, self._indexes = threading.RLock(), {}
        if len(self) <= max_indexed:
            self._columns  # noqa: B018 - reads and verifies the indexes
        elif strict:
            self._check_sizes()
        if len(self) > max_indexed:
            self.blocks  # noqa: B018 - reads and verifies the index of the blocks
        self._files = None if self._remote else ShardFiles(self._paths, strict)

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
            StorageError: a remote storage did not answer, or a shard was changed or removed.
        """
        indices = np.asarray(indices, np.int64)
        if indices.size and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"expected positions in [0, {len(self)}), got {indices}")
        out = np.empty(len(indices), object)
        blocks = self._loaded_blocks(indices)
        others = [row for row, block in enumerate(blocks) if block is None]
        for row, payload in zip(others, self._read_all(indices[others], verify), strict=True):
            out[row] = payload
        for row, block in enumerate(blocks):
            if block is not None:
                out[row] = self._take(int(indices[row]), *block)
        return out

    def load_blocks(self, numbers):
        """Reads blocks into memory; see `BlockReader.load`.

        While a block is in memory, its records are read from memory.
        """
        return self._block_reader.load(numbers, self._read_ranges, self._record_spans)

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

    def _read_ranges(self, ranges):
        """Yields (bytes, reason) of ranges, see `BlockReader.load`."""
        if self._remote:
            present = [item for item in ranges if self._remote.sizes[item[0]] is not None]
            data = iter(self._remote.read_many(present))
            for shard, *_ in ranges:
                is_missing = self._remote.sizes[shard] is None
                yield (b"", "the file is missing") if is_missing else (next(data), "")
            return
        for item in ranges:
            try:
                yield self._files.read(*item), ""
            except OSError as error:
                yield b"", _reason(error)

    def _read_all(self, indices, verify):
        """Returns a list with the payloads of records; see `read`."""
        located = self._locate_all(indices)
        ranges = [(shard, start, length + tfrecord.FOOTER) for shard, start, length in located]
        try:
            read_many = self._remote.read_many if self._remote else self._read_local
            frames = read_many(ranges)
        except StorageError:
            raise
        except OSError as error:
            raise DamagedRecord(self.location(int(indices[0])), _reason(error)) from error
        rows = zip(indices.tolist(), located, frames, strict=True)
        return [self._payload(index, length, data, verify) for index, (_, _, length), data in rows]

    def _read_local(self, ranges):
        return [self._files.read(*item) for item in ranges]

    def _payload(self, index, length, data, verify):
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
        return self._locate_all(np.array([index], np.int64))[0]

    def _locate_all(self, indices):
        """Returns a list with `_locate` of each of several records, int64 (n,)."""
        shards = self._shard_of(indices)
        if "_columns" in vars(self):
            columns = (shards, self._columns[0][indices], self._columns[1][indices])
            return list(zip(*(column.tolist() for column in columns), strict=True))
        located = []
        numbers = (indices - self._starts[shards]).tolist()
        for shard, number in zip(shards.tolist(), numbers, strict=True):
            index = self._shard_index(shard)
            located.append((shard, int(index.offset[number]), int(index.length[number])))
        return located

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
        shards = ((index, ()) for index in self._read_indexes())
        return BlockIndex.build(shards, block_records, block_bytes)

    @functools.cached_property
    def _block_reader(self):
        return BlockReader(self.blocks)

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
        indexes += [(*columns, *vectors) for *columns, vectors in self._read_indexes()]
        return [np.concatenate(column) for column in zip(*indexes, strict=True)]

    def _shard_index(self, shard):
        """Returns the `ShardIndex` of a shard; the last used ones stay in memory."""
        with self._lock:
            index = self._indexes.pop(shard, None)
            if index is None:
                (data,) = self._index_files([shard])
                index = self._parse_index(shard, data, None)  # the size was compared before
            self._indexes[shard] = index
            if len(self._indexes) > _MAX_INDEXES:
                del self._indexes[next(iter(self._indexes))]
            return self._indexes[shard]

    def _read_indexes(self):
        """Yields the `ShardIndex` of each shard, after the comparison of their sizes."""
        for shard, data in enumerate(self._index_files(range(len(self._paths)))):
            yield self._parse_index(shard, data, self._size(shard) if self._strict else None)

    def _index_files(self, shards):
        """Yields the content of the indexes of shards."""
        paths = [index_path(self._paths[shard]) for shard in shards]
        if self._remote:
            infos = [self._remote.infos.get(os.path.basename(path)) for path in paths]
            sizes = [info.size if info else 0 for info in infos]
            ranges = [(path, 0, size) for path, size in zip(paths, sizes, strict=True)]
            yield from self._remote.fetcher.fetch(ranges)
            return
        for shard, path in zip(shards, paths, strict=True):
            try:
                yield file_io.read_bytes(path)
            except OSError as error:
                raise unreadable(self._paths[shard], error) from error

    def _parse_index(self, shard, data, size):
        path, summary = self._paths[shard], self.manifest["shards"][shard]
        return parse_index(path, data, summary, self.languages, self.vectors, size)

    def _size(self, shard):
        """Returns the size of a shard in bytes."""
        try:
            size = (
                self._remote.sizes[shard] if self._remote else os.path.getsize(self._paths[shard])
            )
        except OSError as error:
            raise unreadable(self._paths[shard], error) from error
        if size is None:
            reason = "the shard is missing, but manifest.json lists it"
            raise unreadable(self._paths[shard], reason)
        return size

    def _check_sizes(self):
        """Compares the sizes of the shards with the manifest."""
        for shard, summary in enumerate(self.manifest["shards"]):
            check_size(self._paths[shard], summary, self._size(shard))


def _reason(error):
    """Returns what an OSError says about a shard, in a few words."""
    if isinstance(error, FileNotFoundError):
        return "the file is missing"
    return f"the file cannot be read ({error})"
