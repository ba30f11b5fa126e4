"""Reads blocks of records: each block with one read of consecutive bytes."""

import contextlib
import threading
import weakref

import numpy as np

from tf_mural.data.records import tfrecord
from tf_mural.errors import UserError


class Block:
    """The serialized records of a block.

    Attributes:
        payloads: object array (n,) of bytes; b"" for damaged records.
        damaged: {number of a damaged record in the block: what is wrong with it}.
    """

    def __init__(self, payloads, damaged):
        self.payloads, self.damaged = payloads, damaged


class BlockReader:
    """Reads the blocks of a record set, and verifies the checksum of each record.

    A block stays in memory as long as the caller uses it; it is not read again in this time.

    Args:
        blocks: `BlockIndex`.
        files: `ShardFiles` or `RemoteShards`.
    """

    def __init__(self, blocks, files):
        self._blocks, self._files = blocks, files
        self._lock, self._loaded = threading.Lock(), weakref.WeakValueDictionary()

    def load(self, numbers, record_spans):
        """Returns a list with a `Block` for each number. Records that cannot be read are damaged.

        Args:
            numbers: sequence of the numbers of blocks.
            record_spans: callable that takes the number of a block and returns int64 (n, 2): start
                and length of the payload of each record in the block. Only a block with a damaged
                frame needs it.

        Raises:
            StorageError: a remote storage does not answer or refuses a request, or a shard was
                changed.
        """
        numbers = [int(number) for number in numbers]
        loaded = {number: self.loaded(number) for number in numbers}
        missing = [number for number, block in loaded.items() if block is None]
        rows = self._blocks.rows[np.asarray(missing, np.int64)]
        ranges = [(int(row["shard"]), int(row["offset"]), int(row["bytes"])) for row in rows]
        parts = self._files.read_ahead(ranges)
        for number, (data, reason) in zip(missing, parts, strict=True):
            loaded[number] = self._decode(number, data, reason, record_spans)
        with self._lock:
            self._loaded.update({number: loaded[number] for number in missing})
        return [loaded[number] for number in numbers]

    def loaded(self, number):
        """Returns a `Block` that is in memory, or None."""
        with self._lock:
            return self._loaded.get(number)

    def _decode(self, number, data, reason, record_spans):
        """Divides the bytes of a block into records."""
        count = int(self._blocks.rows["records"][number])
        payloads = np.empty(count, object)
        payloads.fill(b"")
        if reason:
            return Block(payloads, dict.fromkeys(range(count), reason))
        spans = tfrecord.spans(data, count)
        if len(spans) < count:  # The length of a frame is damaged; the index has it as well.
            with contextlib.suppress(UserError):
                spans = record_spans(number).tolist()
        damaged = dict.fromkeys(range(len(spans), count), "the length of a record is damaged")
        for row, (start, length) in enumerate(spans):
            end = start + length
            payload, footer = data[start:end], data[end : end + tfrecord.FOOTER]
            if len(footer) < tfrecord.FOOTER:
                damaged[row] = "the file ends inside the record"
            elif not tfrecord.is_intact(payload, footer):
                damaged[row] = "the checksum does not match"
            else:
                payloads[row] = payload
        return Block(payloads, damaged)
