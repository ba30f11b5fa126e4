"""TFRecords as img2dataset writes them: a tf.train.Example an image, not packed."""

import struct

from tf_mural.data.records import Dropped, tfrecord
from tf_mural.datasets.crawl import sample

_MOST_BYTES = 256 << 20  # of a record


def samples(path, images=True):
    """Yields each `Sample` of a file, and `Dropped` where it is damaged or ends too early.

    Args:
        path: of the file.
        images: whether images are wanted; their bytes are b"" if not.
    """
    from google.protobuf.message import DecodeError

    with open(path, "rb") as file:
        number = 0
        while header := file.read(tfrecord.HEADER):
            where = f"{path}, record {number}"
            if len(header) < tfrecord.HEADER or not tfrecord.intact(header[:8], header[8:]):
                yield Dropped("tfrecord is cut short or broken", where)
                return
            length = struct.unpack("<Q", header[:8])[0]
            payload = file.read(length) if length <= _MOST_BYTES else b""
            footer = file.read(tfrecord.FOOTER)
            if len(payload) != length or len(footer) != tfrecord.FOOTER:
                yield Dropped("tfrecord is cut short or broken", where)
                return
            number += 1
            try:
                if not tfrecord.intact(payload, footer):
                    raise DecodeError("checksum")
                yield _sample(tfrecord.example_class().FromString(payload), number - 1, images)
            except DecodeError:
                yield Dropped("record is damaged", where)


def _sample(example, number, images):
    feature = example.features.feature
    parts = {name: bytes(data) for name in feature if (data := _first(feature[name])) is not None}
    problem, said = None, {}
    for name in ("txt", "caption", "url", "key"):
        try:
            said[name] = parts[name].decode() if name in parts else None
        except UnicodeDecodeError:
            said[name], problem = None, f"{name} is not UTF-8"
    found = [parts[kind] for kind in sample.IMAGES if kind in parts]
    image = (found[0] if images else b"") if found else None
    caption = said["caption"] if said["txt"] is None else said["txt"]
    key = said["key"] or f"{number:09d}"
    return sample.Sample(key, image, caption, said["url"], problem=problem)


def _first(feature):
    return next(iter(feature.bytes_list.value), None)
