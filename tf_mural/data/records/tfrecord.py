"""TFRecord format without TensorFlow: framing, checksums, and the message tf.train.Example.

Converters start many processes, and importing TensorFlow takes seconds in each process. Reading and
writing TFRecords needs only the protobuf runtime and a checksum.

A file is a sequence of frames, each
    length (uint64, little endian) | masked crc of length (uint32) | payload | masked crc of payload
"""

import functools
import struct

import numpy as np

# google_crc32c is 10 to 50 times faster than the NumPy code in this file. The NumPy code is used on
# platforms without a wheel of google_crc32c.
try:
    from google_crc32c import value as _native_crc32c
except ImportError:
    _native_crc32c = None

HEADER = 12  # bytes of a frame before the payload
FOOTER = 4  # bytes of a frame after the payload
_BLOCK = 1024  # bytes per block of `_crc32c_by_blocks`
_BATCH_SIZE = 64  # number of payloads that are processed together, small enough for the cache
_POLYNOMIAL = 0x82F63B78  # CRC-32C (Castagnoli), bits reversed


def frame(payload):
    """Returns the frame of one payload, `HEADER + FOOTER` bytes longer than the payload."""
    return b"".join((_header(len(payload)), payload, _masked(payload)))


def frames(payloads):
    """Returns the concatenated frames of a list of payloads.

    In NumPy, computing many checksums together is much faster than computing them one by one.
    """
    parts = []
    crcs = map(_native_crc32c, payloads) if _native_crc32c else _crc32c_of_many(payloads)
    for payload, crc in zip(payloads, crcs, strict=True):
        parts += (_header(len(payload)), payload, _mask(crc))
    return b"".join(parts)


def is_intact(payload, footer):
    """Returns whether `footer`, the 4 bytes after a payload, is the checksum of the payload."""
    return _masked(payload) == footer


def _masked(data):
    return _mask(crc32c(data))


@functools.lru_cache(maxsize=1 << 14)
def _header(number):
    """Returns the header of a frame whose payload has `number` bytes."""
    length = struct.pack("<Q", number)
    return length + _masked(length)


def _mask(crc):
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def crc32c(data):
    """Returns the CRC-32C of bytes as an int."""
    return _native_crc32c(data) if _native_crc32c else _numpy_crc32c(data)


def _numpy_crc32c(data):
    if len(data) < 64:  # for short data, a loop is faster than NumPy
        table, crc = _byte_table(), 0xFFFFFFFF
        for byte in data:
            crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
        return crc ^ 0xFFFFFFFF
    return _crc32c_by_blocks(data)


def _crc32c_by_blocks(data):
    """Computes a CRC-32C block by block with tables.

    The CRC is linear: each byte contributes a value that depends only on the byte and its position,
    and the values are combined by XOR. The bytes are divided into blocks. The CRC of a block is the
    XOR of one table entry per byte. To append a block, the CRC of the previous blocks is shifted
    past the block and combined with the CRC of the block. The initial value of the CRC, all ones,
    is equivalent to inverting the first four bytes. Leading zeros do not change the CRC, so zeros
    fill the first block.
    """
    blocks = -(-len(data) // _BLOCK)
    padded = np.zeros(blocks * _BLOCK, np.uint8)
    padded[-len(data) :] = np.frombuffer(data, np.uint8)
    padded[-len(data) :][:4] ^= 0xFF
    position_table, shift_table = _position_table()
    if blocks == 1:  # the padding is skipped
        tail = padded[-len(data) :].astype(np.intp) + _row_starts()[-len(data) :]
        return int(np.bitwise_xor.reduce(position_table.take(tail))) ^ 0xFFFFFFFF
    entries = position_table.take(
        padded.reshape(blocks, _BLOCK) + _row_starts()
    )  # (blocks, _BLOCK)
    crc = 0
    for part in np.bitwise_xor.reduce(entries, axis=1).tolist():
        crc = part ^ (
            shift_table[0][crc & 0xFF]
            ^ shift_table[1][(crc >> 8) & 0xFF]
            ^ shift_table[2][(crc >> 16) & 0xFF]
            ^ shift_table[3][crc >> 24]
        )
    return crc ^ 0xFFFFFFFF


def _crc32c_of_many(payloads):
    """Returns the CRC of each of a list of payloads.

    Payloads of at least 4 bytes and at most one block are processed together: they become the rows
    of a table, padded with leading zeros, and each row is processed as in `_crc32c_by_blocks`. The
    payloads are sorted by length, which keeps the padding short.
    """
    out, small = [0] * len(payloads), []
    for number, payload in enumerate(payloads):
        if 4 <= len(payload) <= _BLOCK:
            small.append((len(payload), number))
        else:
            out[number] = _numpy_crc32c(payload)
    small.sort()
    position_table, _ = _position_table()
    for start in range(0, len(small), _BATCH_SIZE):
        batch = small[start : start + _BATCH_SIZE]
        width = batch[-1][0]
        padded = b"".join([payloads[number].rjust(width, b"\0") for _, number in batch])
        table = np.frombuffer(bytearray(padded), np.uint8).reshape(len(batch), width)
        for row, (length, _) in enumerate(batch):
            table[row, width - length : width - length + 4] ^= 0xFF
        entries = position_table.take(table + _row_starts()[-width:])
        crcs = np.bitwise_xor.reduce(entries, axis=1).tolist()
        for (_, number), crc in zip(batch, crcs, strict=True):
            out[number] = crc ^ 0xFFFFFFFF
    return out


@functools.cache
def _byte_table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table


@functools.cache
def _position_table():
    """Returns the tables of `_crc32c_by_blocks`.

    Returns:
        (uint32 (_BLOCK * 256,), the contribution of each byte value at each position of a block;
        four lists of 256 values, one list per byte of a CRC; the XOR of the values that the four
        bytes select is the CRC shifted past a block).
    """
    table = np.array(_byte_table(), np.uint32)
    by_position = np.empty((_BLOCK, 256), np.uint32)
    by_position[0] = table  # the last byte of the block
    for row in range(1, _BLOCK):
        previous = by_position[row - 1]
        by_position[row] = table[previous & 0xFF] ^ (previous >> 8)
    by_position = np.ascontiguousarray(by_position[::-1])
    # Continuing from the CRC of the previous blocks is equivalent to combining its four bytes with
    # the first four bytes of the block by XOR.
    return by_position.ravel(), by_position[:4].tolist()


@functools.cache
def _row_starts():
    return np.arange(_BLOCK, dtype=np.intp) * 256


@functools.cache
def example_class():
    """Returns a message class that is wire-compatible with tf.train.Example, without TensorFlow.

    The class has its own descriptor pool, so that it does not clash with TensorFlow's class.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    proto = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="records")
    file.syntax = "proto3"

    def message(name, parent=file.message_type):
        return parent.add(name=name)

    def field(owner, name, number, field_type, repeated=False, type_name=None):
        label = proto.LABEL_REPEATED if repeated else proto.LABEL_OPTIONAL
        owner.field.add(name=name, number=number, type=field_type, label=label, type_name=type_name)

    lists = [
        ("BytesList", "bytes_list", proto.TYPE_BYTES),
        ("FloatList", "float_list", proto.TYPE_FLOAT),
        ("Int64List", "int64_list", proto.TYPE_INT64),
    ]
    feature = message("Feature")
    feature.oneof_decl.add(name="kind")
    for number, (list_name, field_name, value_type) in enumerate(lists, start=1):
        field(message(list_name), "value", 1, value_type, repeated=True)
        field(feature, field_name, number, proto.TYPE_MESSAGE, type_name=f".records.{list_name}")
        feature.field[-1].oneof_index = 0
    features = message("Features")
    entry = message("FeatureEntry", features.nested_type)
    entry.options.map_entry = True
    field(entry, "key", 1, proto.TYPE_STRING)
    field(entry, "value", 2, proto.TYPE_MESSAGE, type_name=".records.Feature")
    entry_name = ".records.Features.FeatureEntry"
    field(features, "feature", 1, proto.TYPE_MESSAGE, repeated=True, type_name=entry_name)
    field(message("Example"), "features", 1, proto.TYPE_MESSAGE, type_name=".records.Features")

    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("records.Example"))
