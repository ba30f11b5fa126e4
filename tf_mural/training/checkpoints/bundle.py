"""One checkpoint on disk: TensorFlow's bundle of tensors, and a manifest that is written last.

    step-1200.data-00000-of-00001   the tensors
    step-1200.index                 their places in it and a CRC-32C of each
    step-1200.json                  step, vocabulary, records, sizes of both, SHA-256 of the index

A bundle without a manifest was cut short. TensorFlow compares the checksum of each tensor that it
reads, so that the data need no second one, which at 6.4 GB would cost seconds. Of the index it
passes over some bits (398 of 10,544 in a small one), hence the SHA-256.
"""

import hashlib
import math
import os
import re

import tensorflow as tf

from tf_mural import file_io
from tf_mural.training.checkpoints import checksummed_json

_AT_ONCE = 1 << 28  # bytes that are read before they are assigned

# What TensorFlow raises on files that are not what was written.
_WRONG = (tf.errors.DataLossError, tf.errors.OutOfRangeError, tf.errors.NotFoundError)
_WRONG += (tf.errors.InvalidArgumentError, tf.errors.FailedPreconditionError)
_WRONG += (tf.errors.UnknownError,)  # what a disk that cannot read (EIO) comes to


def prefix(folder, step):
    """Path of a checkpoint without its endings."""
    return os.path.join(folder, f"step-{step}")


def steps(folder):
    """{step: [names of its files]}, ascending, whole or not."""
    found = {}
    for name in file_io.names(folder):
        if match := re.match(r"step-(\d+)\.", name):
            found.setdefault(int(match[1]), []).append(name)
    return dict(sorted(found.items()))


def finished(folder):
    """Steps whose checkpoint was written to its end, ascending."""
    return [step for step, names in steps(folder).items() if f"step-{step}.json" in names]


def write(folder, step, tensors, about):
    """Writes a checkpoint; the manifest makes it one.

    Args:
        folder: where to.
        step: that it is of.
        tensors: {name: tensor or array}.
        about: plain data for the manifest.
    """
    path = prefix(folder, step)
    tensors = {name: _stored(tensor) for name, tensor in tensors.items()}
    file_io.make_folder(folder)
    parts = (f"{path}.index", f"{path}.data-00000-of-00001")
    for old in (f"{path}.json", *parts):
        file_io.remove(old)
    tf.raw_ops.SaveV2(
        prefix=path,
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=list(tensors.values()),
    )
    for part in parts:
        file_io.flush(part)
    manifest = {
        "step": step,
        **about,
        "bytes": {os.path.basename(part): file_io.size(part) for part in parts},
        "index_sha256": _digest(parts[0]),
        "tensors": {name: tensor.shape.as_list() for name, tensor in tensors.items()},
    }
    checksummed_json.write(f"{path}.json", manifest)


def manifest(folder, step):
    """The manifest of a finished checkpoint, once its files are what it says.

    Raises:
        Damaged: they are not; only the tensors themselves are not looked at.
    """
    path = prefix(folder, step)
    found = checksummed_json.read(f"{path}.json")
    for name, expected in found["bytes"].items():
        size = file_io.size(os.path.join(folder, name))
        if size != expected:
            has = "is missing" if size is None else f"has {size:,} bytes"
            raise checksummed_json.Damaged(f"{name} {has}, {expected:,} were written")
    try:
        digest = _digest(f"{path}.index")
    except (OSError, *_WRONG) as error:
        raise checksummed_json.Damaged(f"step-{step}.index cannot be read: {error}") from None
    if digest != found["index_sha256"]:
        raise checksummed_json.Damaged(
            f"step-{step}.index does not have the checksum of what was written"
        )
    return found


def restore(folder, step, variables):
    """Assigns the tensors of a checkpoint.

    Args:
        folder: where it is.
        step: that it is of.
        variables: {name: Keras variable}, of the same names and shapes.

    Raises:
        Damaged: a tensor is not what was written; some variables may be assigned by then.
    """
    rest = list(variables.items())
    while rest:
        part, size = [], 0
        while rest and (not part or size < _AT_ONCE):
            part.append(rest.pop(0))
            size += math.prod(part[-1][1].shape) * tf.as_dtype(part[-1][1].dtype).size
        try:
            values = tf.raw_ops.RestoreV2(
                prefix=prefix(folder, step),
                tensor_names=[name for name, _ in part],
                shape_and_slices=[""] * len(part),
                dtypes=[_stored_as(variable.dtype) for _, variable in part],
            )
        except _WRONG as error:
            reason = str(error).splitlines()[0]
            raise checksummed_json.Damaged(f"its tensors cannot be read: {reason}") from None
        for (_, variable), value in zip(part, values, strict=True):
            variable.assign(value.numpy())


def remove(folder, names):
    """Removes files of checkpoints, manifests first."""
    for name in sorted(names, key=lambda name: not name.endswith(".json")):
        file_io.remove(os.path.join(folder, name))


def _stored_as(dtype):
    # Backends of Keras do not agree on what an integer is.
    dtype = tf.as_dtype(dtype)
    return tf.int64 if dtype.is_integer else dtype


def _stored(tensor):
    tensor = tf.convert_to_tensor(tensor)
    return tf.cast(tensor, _stored_as(tensor.dtype))


def _digest(path):
    return hashlib.sha256(file_io.read_bytes(path)).hexdigest()
