"""The bytes of a TFRecord file, without TensorFlow: framing, its checksum, and tf.train.Example.

Converters run in many fresh processes, and importing TensorFlow costs each one seconds. Reading and
writing these bytes needs the protobuf runtime and a checksum only.

A file is a row of frames, each
    length (uint64, little endian) | masked crc of length (uint32) | payload | masked crc of payload
"""

import functools
import struct

import numpy as np

try:  # 10 to 50 times as quick as the numpy below, which stands in where there is no wheel of it
    from google_crc32c import value as _native_crc32c
except ImportError:
    _native_crc32c = None

HEADER = 12  # bytes of a frame before the payload
FOOTER = 4  # bytes after it
_BLOCK = 1024
_SIDE_BY_SIDE = 64  # payloads whose checksums are computed together: what caches hold
_POLYNOMIAL = 0x82F63B78  # CRC-32C (Castagnoli), bits reversed


def frame(payload):
    """The frame of one payload: bytes in, bytes out, `HEADER + FOOTER` longer."""
    return b"".join((_length(len(payload)), payload, _masked(payload)))


def frames(payloads):
    """The frames of a list of payloads, one after another, as bytes.

    In numpy the checksums of many are computed at once, which is quicker by far than one by one.
    """
    parts = []
    crcs = map(_native_crc32c, payloads) if _native_crc32c else _crc32c_of_many(payloads)
    for payload, crc in zip(payloads, crcs, strict=True):
        parts += (_length(len(payload)), payload, _mask(crc))
    return b"".join(parts)


def intact(payload, footer):
    """Whether the 4 bytes after a payload are its checksum."""
    return _masked(payload) == footer


def _masked(data):
    return _mask(crc32c(data))


@functools.lru_cache(maxsize=1 << 14)
def _length(number):
    """The header of a frame."""
    length = struct.pack("<Q", number)
    return length + _masked(length)


def _mask(crc):
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def crc32c(data):
    """CRC-32C of bytes, as an int."""
    return _native_crc32c(data) if _native_crc32c else _numpy_crc32c(data)


def _numpy_crc32c(data):
    if len(data) < 64:  # Below this, one look-up a byte is quicker than numpy's start-up.
        table, crc = _byte_table(), 0xFFFFFFFF
        for byte in data:
            crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
        return crc ^ 0xFFFFFFFF
    return _crc32c_by_blocks(data)


def _crc32c_by_blocks(data):
    """The same by linearity: each byte adds (by xor) a value that depends on its place alone.

    The bytes are cut into blocks; the crc of a block is the xor of one table entry a byte, and the
    blocks are joined by moving the sum so far past the next block. Starting from all ones is the
    same as inverting the first four bytes, and zeros in front of them change nothing.
    """
    blocks = -(-len(data) // _BLOCK)
    padded = np.zeros(blocks * _BLOCK, np.uint8)
    padded[-len(data) :] = np.frombuffer(data, np.uint8)
    padded[-len(data) :][:4] ^= 0xFF
    place, move = _place_table()
    if blocks == 1:  # Skip the places of the padding.
        tail = padded[-len(data) :].astype(np.intp) + _row_starts()[-len(data) :]
        return int(np.bitwise_xor.reduce(place.take(tail))) ^ 0xFFFFFFFF
    entries = place.take(padded.reshape(blocks, _BLOCK) + _row_starts())  # (blocks, _BLOCK)
    crc = 0
    for part in np.bitwise_xor.reduce(entries, axis=1).tolist():
        crc = part ^ (
            move[0][crc & 0xFF]
            ^ move[1][(crc >> 8) & 0xFF]
            ^ move[2][(crc >> 16) & 0xFF]
            ^ move[3][crc >> 24]
        )
    return crc ^ 0xFFFFFFFF


def _crc32c_of_many(payloads):
    """The crc of each of a list of payloads, as a list.

    Those of one block are put side by side, filled up with zeros in front: the same sum as in
    `_crc32c_by_blocks` over all of them. Sorted by length, few zeros are needed.
    """
    out, small = [0] * len(payloads), []
    for number, payload in enumerate(payloads):
        if 4 <= len(payload) <= _BLOCK:
            small.append((len(payload), number))
        else:
            out[number] = _numpy_crc32c(payload)
    small.sort()
    place, _ = _place_table()
    for start in range(0, len(small), _SIDE_BY_SIDE):
        some = small[start : start + _SIDE_BY_SIDE]
        width = some[-1][0]
        filled = b"".join([payloads[number].rjust(width, b"\0") for _, number in some])
        table = np.frombuffer(bytearray(filled), np.uint8).reshape(len(some), width)
        for row, (length, _) in enumerate(some):
            table[row, width - length : width - length + 4] ^= 0xFF
        entries = place.take(table + _row_starts()[-width:])
        for (_, number), crc in zip(
            some, np.bitwise_xor.reduce(entries, axis=1).tolist(), strict=True
        ):
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
def _place_table():
    """What a byte adds by its place in a block (flat, _BLOCK * 256), and the moves past a block."""
    table = np.array(_byte_table(), np.uint32)
    place = np.empty((_BLOCK, 256), np.uint32)
    place[0] = table  # the last byte of the block
    for row in range(1, _BLOCK):
        place[row] = table[place[row - 1] & 0xFF] ^ (place[row - 1] >> 8)
    place = np.ascontiguousarray(place[::-1])
    # A crc so far is the same as its four bytes laid (by xor) over the first four of the block.
    return place.ravel(), place[:4].tolist()


@functools.cache
def _row_starts():
    return np.arange(_BLOCK, dtype=np.intp) * 256


@functools.cache
def example_class():
    """The message class of tf.train.Example, wire-compatible, built without TensorFlow.

    It lives in a pool of its own, so that it does not clash with TensorFlow's.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="records")
    file.syntax = "proto3"

    def message(name, parent=file.message_type):
        return parent.add(name=name)

    def field(owner, name, number, kind, repeated=False, type_name=None):
        label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
        owner.field.add(name=name, number=number, type=kind, label=label, type_name=type_name)

    lists = [
        ("BytesList", "bytes_list", kinds.TYPE_BYTES),
        ("FloatList", "float_list", kinds.TYPE_FLOAT),
        ("Int64List", "int64_list", kinds.TYPE_INT64),
    ]
    feature = message("Feature")
    feature.oneof_decl.add(name="kind")
    for number, (list_name, field_name, kind) in enumerate(lists, start=1):
        field(message(list_name), "value", 1, kind, repeated=True)
        field(feature, field_name, number, kinds.TYPE_MESSAGE, type_name=f".records.{list_name}")
        feature.field[-1].oneof_index = 0
    features = message("Features")
    entry = message("FeatureEntry", features.nested_type)
    entry.options.map_entry = True
    field(entry, "key", 1, kinds.TYPE_STRING)
    field(entry, "value", 2, kinds.TYPE_MESSAGE, type_name=".records.Feature")
    entry_name = ".records.Features.FeatureEntry"
    field(features, "feature", 1, kinds.TYPE_MESSAGE, repeated=True, type_name=entry_name)
    field(message("Example"), "features", 1, kinds.TYPE_MESSAGE, type_name=".records.Features")

    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("records.Example"))
