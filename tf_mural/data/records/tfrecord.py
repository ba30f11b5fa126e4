"""TFRecord format without TensorFlow: framing, checksums, and the message tf.train.Example.

Converters start many processes, and importing TensorFlow takes seconds in each process. Reading and
writing TFRecords needs only the protobuf runtime and a checksum.

A file is a sequence of frames, each
    length (uint64, little endian) | masked crc of length (uint32) | payload | masked crc of payload
"""

import functools
import struct

from google_crc32c import value as crc32c

HEADER = 12  # bytes of a frame before the payload
FOOTER = 4  # bytes of a frame after the payload


def frame(payload):
    """Returns the frame of one payload, `HEADER + FOOTER` bytes longer than the payload."""
    return b"".join((_header(len(payload)), payload, _masked_crc(payload)))


def frames(payloads):
    """Returns the concatenated frames of a list of payloads."""
    parts = []
    for payload in payloads:
        parts += (_header(len(payload)), payload, _masked_crc(payload))
    return b"".join(parts)


def is_intact(payload, footer):
    """Returns whether `footer`, the 4 bytes after a payload, is the checksum of the payload."""
    return _masked_crc(payload) == footer


def spans(data, count):
    """Finds the payloads of consecutive frames.

    Args:
        data: bytes that start with a frame.
        count: number of frames.

    Returns:
        List of (start, length) of the payloads. The list ends before the first frame whose length
        has a wrong checksum; a payload may exceed `data`.
    """
    result, position = [], 0
    for _ in range(count):
        header = data[position : position + HEADER]
        if len(header) < HEADER or _masked_crc(header[:8]) != header[8:]:
            break
        length = int.from_bytes(header[:8], "little")
        result.append((position + HEADER, length))
        position += HEADER + length + FOOTER
    return result


@functools.lru_cache(maxsize=1 << 14)
def _header(number):
    """Returns the header of a frame whose payload has `number` bytes."""
    length = struct.pack("<Q", number)
    return length + _masked_crc(length)


def _masked_crc(data):
    crc = crc32c(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


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
