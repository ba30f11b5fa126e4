"""Files of a trained model: weights, vocabulary and the description that rebuilds the encoder."""

import io
import os
import zipfile

import numpy as np

from tf_mural import file_io
from tf_mural.errors import UserError
from tf_mural.models import adapter_variables

WEIGHTS, MODEL = "weights.npz", "model.json"
# A tokenizer is stored as the file `VOCABULARY` (WordPiece), or in the folder `TOKENIZER`.
VOCABULARY, TOKENIZER = "vocab.txt", "tokenizer"
_REQUIRED_KEYS = {"model", "images", "vocabulary_size", "vocabulary_hash", "max_tokens"}


def save_model(folder, arrays, description, vocabulary_path):
    """Writes weights.npz, model.json and the tokenizer, from which the encoder can be rebuilt.

    Args:
        folder: destination.
        arrays: {variable path: array}, for the variables of `variables_by_path`.
        description: plain data for model.json.
        vocabulary_path: vocabulary file or folder of a tokenizer to copy.
    """
    arrays = {path: np.asarray(array) for path, array in arrays.items()}
    file_io.makedirs(folder)
    with file_io.atomic_write(os.path.join(folder, WEIGHTS)) as temporary:
        with file_io.open_file(temporary, "wb") as file:
            np.savez(_WriteOnlyFile(file), **arrays)
    name = TOKENIZER if file_io.isdir(vocabulary_path) else VOCABULARY
    copy_vocabulary(vocabulary_path, os.path.join(folder, name))
    file_io.write_json(os.path.join(folder, MODEL), description)


def copy_vocabulary(source, target):
    """Copies a vocabulary file, or the files of a folder with a tokenizer.

    Args:
        source: file or folder.
        target: new file or folder, which may exist.
    """
    if not file_io.isdir(source):
        file_io.copy(source, target)
        return
    file_io.makedirs(target)
    for name in file_io.listdir(source):
        file_io.copy(os.path.join(source, name), os.path.join(target, name))


def find_vocabulary(folder):
    """Returns the path of the vocabulary file or of the tokenizer of a trained model."""
    path = os.path.join(folder, TOKENIZER)
    return path if file_io.isdir(path) else os.path.join(folder, VOCABULARY)


def read_model(folder):
    """Reads the description written by `save_model`.

    Raises:
        UserError: the folder contains no complete model, or the description is incomplete.
    """
    paths = [os.path.join(folder, name) for name in (MODEL, WEIGHTS)] + [find_vocabulary(folder)]
    missing = [os.path.basename(path) for path in paths if not file_io.exists(path)]
    if missing:
        raise UserError(
            f"{folder} holds no trained model: {', '.join(missing)} missing; expected the workdir "
            "of a finished run"
        )
    path = os.path.join(folder, MODEL)
    description = file_io.read_json(path)
    if not isinstance(description, dict) or not _REQUIRED_KEYS <= set(description):
        raise UserError(
            f"{path} is not a description of a model: expected {', '.join(sorted(_REQUIRED_KEYS))};"
            " restore it from a copy, or train the run again"
        )
    return description


def read_weights(folder):
    """Reads {variable path: array} written by `save_model`.

    Raises:
        UserError: the file is damaged.
    """
    source = os.path.join(folder, WEIGHTS)
    try:
        with file_io.open_file(source, "rb") as opened, np.load(opened) as file:
            return {path: file[path] for path in file.files}
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise UserError(
            f"{source} is damaged ({error}): restore it from a copy, or train the run again"
        ) from error


def load_weights(folder, encoder, arrays=None):
    """Assigns the weights written by `save_model` to an encoder, by variable path.

    The variables of LoRA adapters do not change.

    Args:
        folder: folder of the weights.
        encoder: `models.DualEncoder`.
        arrays: {variable path: array} in the place of the weights in `folder`.

    Raises:
        UserError: the file is damaged, or the names or shapes of variables differ; the message
            lists the first differences.
    """
    variables, arrays = variables_by_path(encoder), arrays or read_weights(folder)
    # The stored weights are plain weights, to which new adapters are added.
    for adapter in adapter_variables(encoder):
        del variables[adapter.path]
    source = os.path.join(folder, WEIGHTS)
    problems = [f"{p} is missing" for p in variables if p not in arrays]
    problems += [f"{p} does not belong to this model" for p in arrays if p not in variables]
    problems += [
        f"{p} has shape {arrays[p].shape}, expected {tuple(v.shape)}"
        for p, v in variables.items()
        if p in arrays and arrays[p].shape != tuple(v.shape)
    ]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise UserError(
            f"{source} does not fit this model: {'; '.join(problems[:3])}"
            f"{more}; use a run of the same model, or the same `size`"
        )
    for path, variable in variables.items():
        variable.assign(arrays[path])


class _WriteOnlyFile(io.RawIOBase):
    """A file without `seek`, which remote files do not support and zipfile does not need."""

    def __init__(self, file):
        self._file = file

    def writable(self):
        return True

    def write(self, data):
        self._file.write(bytes(data))
        return len(data)


def variables_by_path(encoder):
    """Returns {path: variable} of all variables except the states of random generators."""
    variables = {}
    for variable in encoder.variables:
        if "seed_generator" in variable.path:
            continue
        if variable.path in variables:
            raise ValueError(f"two variables have the path {variable.path}")
        variables[variable.path] = variable
    return variables
