"""Files of a checkpoint: a TensorFlow tensor bundle, and a manifest that is written last.

    step-1200.data-00000-of-00001   the tensors
    step-1200.index                 offset and CRC-32C of each tensor
    step-1200.json                  the manifest: step, hashes of vocabulary and records, tensor
                                    shapes, sizes of the other two files, SHA-256 of the index

A bundle without a manifest is incomplete. TensorFlow verifies the CRC-32C of each tensor that it
reads, so the data file has no second checksum, which would take seconds for 6.4 GB. In a test with
a small index, TensorFlow did not detect 398 of 10,544 flipped bits, so the manifest contains the
SHA-256 of the index. The manifest also contains its own checksum.
"""

import hashlib
import json
import math
import os
import re

import tensorflow as tf

from tf_mural import file_io
from tf_mural.errors import StorageError

_RESTORE_BYTES = 1 << 28  # approximate size in bytes of the tensors that are read together

# Errors that TensorFlow raises if the contents of a file differ from those that were written.
_READ_ERRORS = (
    tf.errors.DataLossError,
    tf.errors.OutOfRangeError,
    tf.errors.NotFoundError,
    tf.errors.InvalidArgumentError,
    tf.errors.FailedPreconditionError,
    tf.errors.UnknownError,  # raised when the disk cannot read (EIO)
)


class CorruptFileError(Exception):
    """The contents of a file differ from those that were written; the message says how."""


def write_checksummed_json(path, data):
    """Writes plain data and its SHA-256 to a JSON file atomically."""
    file_io.write_json(path, {"sha256": _json_digest(data), "content": data})


def read_checksummed_json(path):
    """Reads plain data written by `write_checksummed_json`.

    Raises:
        CorruptFileError: the file cannot be read, or its checksum does not match.
    """
    try:
        envelope = json.loads(file_io.read_bytes(path).decode("utf-8"))
        data, digest = envelope["content"], envelope["sha256"]
    except StorageError:  # The file may be intact.
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptFileError(f"{path} cannot be read ({error})") from None
    if _json_digest(data) != digest:
        raise CorruptFileError(f"{path} does not match its checksum")
    return data


def _json_digest(data):
    text = json.dumps(data, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def prefix(folder, step):
    """Returns the common prefix of the paths of the files of a checkpoint."""
    return os.path.join(folder, f"step-{step}")


def list_files(folder):
    """Returns a dict from step to file names, for complete and incomplete checkpoints.

    The steps are in ascending order.
    """
    names_by_step = {}
    for name in file_io.listdir(folder):
        if match := re.match(r"step-(\d+)\.", name):
            names_by_step.setdefault(int(match[1]), []).append(name)
    return dict(sorted(names_by_step.items()))


def complete_steps(folder):
    """Returns the steps of complete checkpoints in ascending order."""
    return [step for step, names in list_files(folder).items() if f"step-{step}.json" in names]


def write(folder, step, tensors, metadata):
    """Writes a checkpoint, which is complete once its manifest exists.

    Args:
        folder: destination.
        step: number of the step.
        tensors: {name: tensor or array}.
        metadata: plain dict that is added to the manifest.
    """
    path = prefix(folder, step)
    tensors = {name: _to_stored(tensor) for name, tensor in tensors.items()}
    file_io.makedirs(folder)
    for old in (f"{path}.json", *_parts(path)):
        file_io.remove(old)
    with file_io.local_folder(folder) as local_folder:
        local_path = prefix(local_folder, step)
        tf.raw_ops.SaveV2(
            prefix=local_path,
            tensor_names=list(tensors),
            shape_and_slices=[""] * len(tensors),
            tensors=list(tensors.values()),
        )
        parts = _parts(local_path)
        for part in parts:
            file_io.fsync(part)
        sizes = {os.path.basename(part): file_io.size(part) for part in parts}
        index_digest = _file_digest(parts[0])
    manifest = {
        "step": step,
        **metadata,
        "bytes": sizes,
        "index_sha256": index_digest,
        "tensors": {name: tensor.shape.as_list() for name, tensor in tensors.items()},
    }
    write_checksummed_json(f"{path}.json", manifest)


def _parts(path):
    """Returns the paths of the files with the tensors, for the result of `prefix`."""
    return f"{path}.index", f"{path}.data-00000-of-00001"


def read_manifest(folder, step):
    """Reads the manifest of a complete checkpoint and verifies the files that it describes.

    Raises:
        CorruptFileError: a size or checksum does not match. `restore` verifies the tensors.
    """
    path = prefix(folder, step)
    manifest = read_checksummed_json(f"{path}.json")
    for name, expected in manifest["bytes"].items():
        size = file_io.size(os.path.join(folder, name))
        if size != expected:
            state = "is missing" if size is None else f"has {size:,} bytes"
            raise CorruptFileError(f"{name} {state}; expected {expected:,} bytes")
    try:
        digest = _file_digest(f"{path}.index")
    except StorageError:
        raise
    except (OSError, *_READ_ERRORS) as error:
        raise CorruptFileError(f"step-{step}.index cannot be read: {error}") from None
    if digest != manifest["index_sha256"]:
        raise CorruptFileError(f"step-{step}.index does not match its checksum")
    return manifest


def restore(folder, step, variables):
    """Assigns the tensors of a checkpoint to variables.

    Args:
        folder: folder of the checkpoint.
        step: number of the step.
        variables: dict from name to Keras variable, with the names and shapes of the checkpoint.

    Raises:
        CorruptFileError: a tensor cannot be read; other variables may already be assigned.
    """
    with file_io.local_files(_parts(prefix(folder, step))) as parts:
        _assign(prefix(os.path.dirname(parts[0]), step), variables)


def _assign(path, variables):
    """Assigns the tensors of the local files with a prefix to variables; see `restore`."""
    remaining = list(variables.items())
    while remaining:
        part, size = [], 0
        while remaining and (not part or size < _RESTORE_BYTES):
            part.append(remaining.pop(0))
            size += math.prod(part[-1][1].shape) * tf.as_dtype(part[-1][1].dtype).size
        try:
            values = tf.raw_ops.RestoreV2(
                prefix=path,
                tensor_names=[name for name, _ in part],
                shape_and_slices=[""] * len(part),
                dtypes=[_stored_dtype(variable.dtype) for _, variable in part],
            )
        except _READ_ERRORS as error:
            reason = str(error).splitlines()[0]
            raise CorruptFileError(f"the tensors cannot be read: {reason}") from None
        for (_, variable), value in zip(part, values, strict=True):
            variable.assign(value.numpy())


def remove_files(folder, names):
    """Removes files of checkpoints, manifests first."""
    for name in sorted(names, key=lambda name: not name.endswith(".json")):
        file_io.remove(os.path.join(folder, name))


def _stored_dtype(dtype):
    # The backends of Keras use integer types of different width, so all integers are stored as
    # int64.
    dtype = tf.as_dtype(dtype)
    return tf.int64 if dtype.is_integer else dtype


def _to_stored(tensor):
    tensor = tf.convert_to_tensor(tensor)
    return tf.cast(tensor, _stored_dtype(tensor.dtype))


def _file_digest(path):
    return hashlib.sha256(file_io.read_bytes(path)).hexdigest()
