"""Reads record sets, sequentially or with random access."""

import hashlib
import operator
import os
import resource
import weakref
import zipfile

import numpy as np

from tf_mural.data.records import tfrecord
from tf_mural.data.records.record import deserialize
from tf_mural.data.records.vectors import vectors_problem
from tf_mural.data.records.writing import index_path, read_manifest
from tf_mural.errors import UserError

_OTHER_FILES = 256  # number of file descriptors reserved for TensorFlow, logs and checkpoints
_MISSING = -1  # used in place of the file descriptor of a missing shard


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
        self._paths = [os.path.join(self.folder, shard["file"]) for shard in manifest["shards"]]
        counts = [shard["records"] for shard in manifest["shards"]]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        empty = np.zeros(0, np.int64)
        no_languages = np.zeros((0, len(self.languages)), bool)
        indexes = [(empty, empty, empty, no_languages, *(empty for _ in self.vectors))]
        for path, shard in zip(self._paths, manifest["shards"], strict=True):
            indexes.append(self._read_index(path, shard, strict))
        columns = [np.concatenate(column) for column in zip(*indexes, strict=True)]
        self._offset, self._length, self.image_counts, self.has_language = columns[:4]
        self.vector_counts = dict(zip(self.vectors, columns[4:], strict=True))
        self._files = []
        self._close = weakref.finalize(self, _close, self._files)
        _raise_open_files_limit(len(self._paths))
        for path in self._paths:
            missing = not strict and not os.path.exists(path)
            self._files.append(_MISSING if missing else os.open(path, os.O_RDONLY))

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
        data = self._read_one(int(self._shard_of(position)), position, verify=True)
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
        shards = self._shard_of(indices)
        for row, (shard, index) in enumerate(zip(shards.tolist(), indices.tolist(), strict=True)):
            out[row] = self._read_one(shard, index, verify)
        return out

    def _shard_of(self, index):
        # side="right" skips empty shards, which have the same start as the next shard.
        return np.searchsorted(self._starts, index, side="right") - 1

    def _read_one(self, shard, index, verify):
        length = int(self._length[index])
        if self._files[shard] == _MISSING:
            raise DamagedRecord(self.location(index), "the file is missing")
        try:
            data = os.pread(self._files[shard], length + tfrecord.FOOTER, int(self._offset[index]))
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
        shard = int(self._shard_of(index))
        number, byte = index - int(self._starts[shard]), int(self._offset[index])
        return f"{self._paths[shard]}: record {number} (byte {byte})"

    def _read_index(self, path, shard, strict):
        """Reads the index of one shard, and compares it with the shard and the manifest."""
        size = shard["bytes"]
        try:
            if strict:
                size = os.stat(path).st_size
            with np.load(index_path(path)) as index:
                names = ("offset", "length", "images")
                offset, length, images = (index[k].astype(np.int64) for k in names)
                vectors = [index[f"vectors/{name}"].astype(np.int64) for name in self.vectors]
                bits = np.unpackbits(index["languages"], axis=1, count=len(self.languages))
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            message = f"{path} or its index cannot be read ({error}); convert the data set again"
            raise UserError(message) from error
        if size != shard["bytes"]:
            message = f"{path}: expected {shard['bytes']} bytes, got {size}"
            raise UserError(f"{message}; it is truncated or belongs to another set: convert again")
        end = int(offset[-1] + length[-1]) + tfrecord.FOOTER if len(offset) else 0
        if len(offset) != shard["records"] or end != size or len(bits) != len(offset):
            raise UserError(f"{index_path(path)} is not the index of its shard; convert again")
        return offset, length, images, bits.astype(bool), *vectors


def _raise_open_files_limit(num_files):
    """Raises the limit of open files, often 1,024, if `num_files` more files would exceed it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = len(os.listdir("/dev/fd")) + num_files + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and needed > soft:
        if hard != resource.RLIM_INFINITY and needed > hard:
            raise UserError(
                f"reading this set needs {needed:,} open files, and the system allows {hard:,}: "
                "raise the limit (ulimit -Hn), or convert to fewer shards"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _close(files):
    while files:
        file = files.pop()
        if file != _MISSING:
            os.close(file)
