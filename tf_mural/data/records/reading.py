"""Reads record sets, sequentially or with random access."""

import hashlib
import io
import operator
import os
import zipfile

import numpy as np

from tf_mural import file_io
from tf_mural.data.records import tfrecord
from tf_mural.data.records.record import deserialize
from tf_mural.data.records.remote_shards import RemoteShards
from tf_mural.data.records.shard_files import ShardFiles
from tf_mural.data.records.vectors import vectors_problem
from tf_mural.data.records.writing import index_path, read_manifest
from tf_mural.errors import StorageError, UserError


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

    Attributes:
        folder: folder of the record set.
        manifest: parsed manifest.json.
        languages: tuple of the language codes, sorted.
        language_counts: {language code: number of texts}.
        image_counts: int64 (n,), number of images of each record.
        has_language: bool (n, L), whether each record has a text in each of the `languages`.
        vectors: {name: description} of the vectors of the records, see `describe_vectors`.
        vector_counts: {name of vectors: int64 (n,), number of rows of each record}.
        digest: short hash of the contents, by which results identify their record sets.
    """

    def __init__(self, folder, manifest, strict=True):
        self.folder = str(folder)
        self.manifest = manifest
        self._strict = strict
        self.language_counts = dict(manifest["languages"])
        self.languages = tuple(self.language_counts)
        self.vectors = dict(manifest.get("vectors", {}))
        sums = "".join(shard["sha256"] for shard in manifest["shards"])
        self.digest = hashlib.sha256(sums.encode()).hexdigest()[:12]
        names = [shard["file"] for shard in manifest["shards"]]
        self._paths = [os.path.join(self.folder, name) for name in names]
        is_remote = file_io.is_remote(self.folder)
        self._remote = None
        if is_remote:
            self._remote = RemoteShards(self.folder, names, map(index_path, names))
        counts = [shard["records"] for shard in manifest["shards"]]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        empty = np.zeros(0, np.int64)
        no_languages = np.zeros((0, len(self.languages)), bool)
        indexes = [(empty, empty, empty, no_languages, *(empty for _ in self.vectors))]
        for number, data in enumerate(self._index_files()):
            indexes.append(self._parse_index(number, data))
        columns = [np.concatenate(column) for column in zip(*indexes, strict=True)]
        self._offset, self._length, self.image_counts, self.has_language = columns[:4]
        self.vector_counts = dict(zip(self.vectors, columns[4:], strict=True))
        self._files = None if self._remote else ShardFiles(self._paths, strict)

    @classmethod
    def open(cls, folder, strict=True):
        """Opens a record set.

        Args:
            folder: folder of the record set.
            strict: False also accepts truncated and missing shards, whose lost records then raise
                DamagedRecord when they are read.

        Raises:
            UserError: there is no record set, it is incomplete, or the size of a shard differs from
                the manifest.
        """
        return cls(folder, read_manifest(folder), strict)

    def __len__(self):
        return int(self._starts[-1])

    def __repr__(self):
        return f"RecordSet({self.folder!r}, {len(self)} records)"

    def __reduce__(self):
        return type(self), (self.folder, self.manifest, self._strict)

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
        data = self._read_all([int(self._shard_of(position))], [position], verify=True)[0]
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
        out[:] = self._read_all(self._shard_of(indices).tolist(), indices.tolist(), verify)
        return out

    def _shard_of(self, index):
        # side="right" skips empty shards, which have the same start as the next shard.
        return np.searchsorted(self._starts, index, side="right") - 1

    def _read_all(self, shards, indices, verify):
        """Returns a list with the payloads of records; see `read`."""
        ranges = [
            (shard, int(self._offset[index]), int(self._length[index]) + tfrecord.FOOTER)
            for shard, index in zip(shards, indices, strict=True)
        ]
        try:
            read_many = self._remote.read_many if self._remote else self._read_local
            frames = read_many(ranges)
        except StorageError:
            raise
        except FileNotFoundError as error:
            raise DamagedRecord(self.location(indices[0]), "the file is missing") from error
        except OSError as error:
            reason = f"the file cannot be read ({error})"
            raise DamagedRecord(self.location(indices[0]), reason) from error
        return [self._payload(*item, verify) for item in zip(indices, frames, strict=True)]

    def _read_local(self, ranges):
        return [self._files.read(*item) for item in ranges]

    def _payload(self, index, data, verify):
        length = int(self._length[index])
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
        shard = int(self._shard_of(index))
        number, byte = index - int(self._starts[shard]), int(self._offset[index])
        return f"{self._paths[shard]}: record {number} (byte {byte})"

    def _index_files(self):
        """Yields the content of the index of each shard."""
        paths = [index_path(path) for path in self._paths]
        if self._remote:
            infos = [self._remote.infos.get(os.path.basename(path)) for path in paths]
            sizes = [info.size if info else 0 for info in infos]
            ranges = [(path, 0, size) for path, size in zip(paths, sizes, strict=True)]
            yield from self._remote.fetcher.fetch(ranges)
            return
        for path, own_index in zip(self._paths, paths, strict=True):
            try:
                yield file_io.read_bytes(own_index)
            except OSError as error:
                raise self._unreadable(path, error) from error

    def _unreadable(self, path, error):
        return UserError(
            f"{path} or its index cannot be read ({error}); convert the data set again"
        )

    def _parse_index(self, number, data):
        """Parses the index of one shard, and compares it with the shard and the manifest."""
        path, shard = self._paths[number], self.manifest["shards"][number]
        size = shard["bytes"]
        try:
            if self._strict:
                size = self._remote.sizes[number] if self._remote else os.path.getsize(path)
            if size is None:
                raise FileNotFoundError("the shard is missing, but manifest.json lists it")
            with np.load(io.BytesIO(data)) as index:
                names = ("offset", "length", "images")
                offset, length, images = (index[k].astype(np.int64) for k in names)
                vectors = [index[f"vectors/{name}"].astype(np.int64) for name in self.vectors]
                bits = np.unpackbits(index["languages"], axis=1, count=len(self.languages))
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise self._unreadable(path, error) from error
        if size != shard["bytes"]:
            message = f"{path}: expected {shard['bytes']} bytes, got {size}"
            raise UserError(f"{message}; it is truncated or belongs to another set: convert again")
        end = int(offset[-1] + length[-1]) + tfrecord.FOOTER if len(offset) else 0
        if len(offset) != shard["records"] or end != size or len(bits) != len(offset):
            raise UserError(f"{index_path(path)} is not the index of its shard; convert again")
        return offset, length, images, bits.astype(bool), *vectors
