"""A small version of the raw files of CIFAR-100: three classes, with the official layouts."""

import functools
import struct

import numpy as np

from helpers.archives import tar_bytes

CLASSES = ["apple", "aquarium_fish", "baby"]
LABELS = {"train": [2, 0, 1, 2], "test": [1, 0]}
COARSE_LABELS = [14, 4, 1, 14]  # The coarse and the fine label of a row differ.


@functools.cache
def pixels(split):
    """Returns noise, uint8 (n, 3, 32, 32), which reveals swapped channels or axes."""
    shape = (len(LABELS[split]), 3, 32, 32)
    return np.random.default_rng(len(split)).integers(0, 256, shape, np.uint8)


def binary_batch(split):
    """Returns the bytes of train.bin or test.bin."""
    rows = zip(COARSE_LABELS, LABELS[split], pixels(split), strict=False)
    return b"".join(bytes([coarse, fine]) + image.tobytes() for coarse, fine, image in rows)


def _python2_opcodes(value):
    """Returns the pickle opcodes (protocol 2) that Python 2 writes for a value."""
    if isinstance(value, dict):
        items = (_python2_opcodes(key) + _python2_opcodes(item) for key, item in value.items())
        return b"}(" + b"".join(items) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(_python2_opcodes, value)) + b"e"
    if isinstance(value, str):
        return b"U" + bytes([len(value)]) + value.encode()
    if isinstance(value, int):
        return b"K" + bytes([value])
    data = value.tobytes()
    shape = b"".join(b"M" + struct.pack("<H", side) for side in value.shape)
    dtype = (
        b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
    )
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        + (b"(K\x01" + shape + b"\x86" + dtype + b"K\x00tb")
        + (b"\x89T" + struct.pack("<i", len(data)) + data + b"tb")
    )


def python2_pickle(value):
    """Returns the pickle of a value as Python 2 writes it."""
    return b"\x80\x02" + _python2_opcodes(value) + b"."


def python_batch(split):
    """Returns the dict that the pickle file of a split ("train" or "test") contains."""
    rows = pixels(split).reshape(-1, 3072)
    names = [f"picture_s_{number}.png" for number in range(len(rows))]
    labels = {"coarse_labels": COARSE_LABELS[: len(rows)], "fine_labels": LABELS[split]}
    return {"filenames": names, "batch_label": "batch", **labels, "data": rows}


def official_files(version):
    """Returns {name: bytes} of the archive of a version, "binary" or "python"."""
    if version == "binary":
        names = "".join(f"{name}\n" for name in CLASSES).encode()
        files = {"train.bin": binary_batch("train"), "test.bin": binary_batch("test")}
        files |= {"coarse_label_names.txt": b"fish\n", "fine_label_names.txt": names}
    else:
        files = {split: python2_pickle(python_batch(split)) for split in ("train", "test")}
        meta = {"fine_label_names": CLASSES, "coarse_label_names": ["fish"]}
        files["meta"] = python2_pickle(meta)
        files["file.txt~"] = b""
    return files


def write_archive(path, files):
    """Writes files to an archive such as cifar-100-binary.tar.gz and returns its path."""
    folder = path.name.removesuffix(".tar.gz")
    members = {f"{folder}/": b""} | {f"{folder}/{name}": data for name, data in files.items()}
    path.write_bytes(tar_bytes(members))
    return path
