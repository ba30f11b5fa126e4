"""Reading record sets, in order or at random."""

import hashlib
import os
import resource
import weakref
import zipfile

import numpy as np

from tf_mural.data.records import tfrecord
from tf_mural.data.records.record import deserialize
from tf_mural.data.records.writing import index_path, read_manifest
from tf_mural.errors import UserError

_OTHER_FILES = 256  # of TensorFlow, logs and checkpoints
_MISSING = -1  # instead of an open file


class DamagedRecord(UserError):
    """A record that cannot be read. `reason` says why, in a few words."""

    def __init__(self, place, reason):
        super().__init__(f"{place} is damaged: {reason}; convert the data set again")
        self.reason = reason


class RecordSet:
    """A record set opened for reading, in order or at random. Safe to read from several threads.

    Attributes:
        folder: where it is.
        manifest: the parsed manifest.json.
        languages: tuple of the language codes, sorted.
        language_counts: dict from code to the number of its texts.
        image_counts: (n,) int64, images of each record.
        has_language: (n, L) bool, whether a record has a text in `languages[l]`.
        digest: short hash of the contents, to name the data that a result came from.
    """

    def __init__(self, folder, manifest, whole=True):
        self.folder = str(folder)
        self.manifest = manifest
        self.language_counts = dict(manifest["languages"])
        self.languages = tuple(self.language_counts)
        sums = "".join(shard["sha256"] for shard in manifest["shards"])
        self.digest = hashlib.sha256(sums.encode()).hexdigest()[:12]
        self._paths = [os.path.join(self.folder, shard["file"]) for shard in manifest["shards"]]
        counts = [shard["records"] for shard in manifest["shards"]]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        nothing = np.zeros(0, np.int64)
        indexes = [(nothing, nothing, nothing, np.zeros((0, len(self.languages)), bool))]
        for path, shard in zip(self._paths, manifest["shards"], strict=True):
            indexes.append(self._read_index(path, shard, whole))
        columns = [np.concatenate(column) for column in zip(*indexes, strict=True)]
        self._offset, self._length, self.image_counts, self.has_language = columns
        self._files = []
        self._close = weakref.finalize(self, _close, self._files)
        _allow_open_files(len(self._paths))
        for path in self._paths:
            missing = not whole and not os.path.exists(path)
            self._files.append(_MISSING if missing else os.open(path, os.O_RDONLY))

    @classmethod
    def open(cls, folder, whole=True):
        """Opens the set in a folder.

        Args:
            folder: of the set.
            whole: False takes shards that are cut short or missing too; their records are damaged.

        Raises:
            UserError: there is none, it is not whole, or a shard's size is not the manifest's.
        """
        return cls(folder, read_manifest(folder), whole)

    def __len__(self):
        return int(self._starts[-1])

    def __repr__(self):
        return f"RecordSet({self.folder!r}, {len(self)} records)"

    def __iter__(self):
        """Yields each `Record` in order. Raises DamagedRecord at one whose bytes are damaged."""
        for index in range(len(self)):
            shard = int(self._shard_of(index))
            data = self._read_one(shard, index, verify=True)
            try:
                record = deserialize(data)
            except ValueError as error:
                raise DamagedRecord(self.place(index), str(error)) from error
            yield record

    def read(self, indices, verify=False):
        """The serialized records at some positions, for `parse` or `deserialize`.

        Args:
            indices: (n,) integers in [0, len(self)), in any order, repeats allowed.
            verify: whether to compare each record with its checksum (1 us for 20 kB).

        Returns:
            (n,) object array of bytes.

        Raises:
            IndexError: a position is out of range.
            DamagedRecord: a shard has become shorter since it was opened, cannot be read, or a
                record fails its checksum.
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
        # "right" passes over empty shards, which start where the next one does.
        return np.searchsorted(self._starts, index, side="right") - 1

    def _read_one(self, shard, index, verify):
        length = int(self._length[index])
        if self._files[shard] == _MISSING:
            raise DamagedRecord(self.place(index), "the file is missing")
        try:
            data = os.pread(self._files[shard], length + tfrecord.FOOTER, int(self._offset[index]))
        except OSError as error:
            raise DamagedRecord(self.place(index), f"the file cannot be read ({error})") from error
        if len(data) != length + tfrecord.FOOTER:
            raise DamagedRecord(self.place(index), "the file ends inside it")
        payload = data[:length]
        if verify and not tfrecord.intact(payload, data[length:]):
            raise DamagedRecord(self.place(index), "its checksum does not fit")
        return payload

    def shard(self, index):
        """Path of the shard that the record at a position is in."""
        return self._paths[int(self._shard_of(index))]

    def place(self, index):
        """Where the record at a position is, for messages: its shard, number and first byte."""
        shard = int(self._shard_of(index))
        number, byte = index - int(self._starts[shard]), int(self._offset[index])
        return f"{self._paths[shard]}: record {number} (byte {byte})"

    def _read_index(self, path, shard, whole):
        """The arrays of one shard's index, once shard, index and manifest agree."""
        size = shard["bytes"]
        try:
            if whole:
                size = os.stat(path).st_size
            with np.load(index_path(path)) as index:
                names = ("offset", "length", "images")
                offset, length, images = (index[k].astype(np.int64) for k in names)
                bits = np.unpackbits(index["languages"], axis=1, count=len(self.languages))
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            message = f"{path} or its index cannot be read ({error}); convert the data set again"
            raise UserError(message) from error
        if size != shard["bytes"]:
            message = f"{path}: expected {shard['bytes']} bytes, found {size}"
            raise UserError(f"{message}; it is cut short or of another set: convert again")
        end = int(offset[-1] + length[-1]) + tfrecord.FOOTER if len(offset) else 0
        if len(offset) != shard["records"] or end != size or len(bits) != len(offset):
            raise UserError(f"{index_path(path)} is not the index of its shard; convert again")
        return offset, length, images, bits.astype(bool)


def _allow_open_files(more):
    """Raises this process's own limit, often 1,024, where so many more files come near it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = len(os.listdir("/dev/fd")) + more + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and needed > soft:
        if hard != resource.RLIM_INFINITY and needed > hard:
            raise UserError(
                f"reading this set takes {needed:,} open files, and the system allows {hard:,}: "
                "raise it (ulimit -Hn), or convert to fewer shards"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _close(files):
    while files:
        file = files.pop()
        if file != _MISSING:
            os.close(file)
