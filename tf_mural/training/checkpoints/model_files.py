"""Handover: the weights, vocabulary and description that rebuild an encoder."""

import io
import os
import zipfile

import numpy as np

from tf_mural import file_io
from tf_mural.errors import UserError

WEIGHTS, MODEL, VOCABULARY = "weights.npz", "model.json", "vocab.txt"
_NEEDED = {"model", "images", "vocabulary_size", "vocabulary_hash", "max_tokens"}


def save_model(folder, arrays, description, vocabulary_path):
    """Writes weights.npz, model.json and vocab.txt: all that rebuilds the encoder.

    Args:
        folder: where to.
        arrays: {path: array} of the variables in `by_path` of the encoder.
        description: plain data of model.json.
        vocabulary_path: file that is copied.
    """
    arrays = {path: np.asarray(array) for path, array in arrays.items()}
    file_io.make_folder(folder)
    with file_io.replacing(os.path.join(folder, WEIGHTS)) as temporary:
        with file_io.open_file(temporary, "wb") as file:
            np.savez(_Forward(file), **arrays)
    file_io.copy(vocabulary_path, os.path.join(folder, VOCABULARY))
    file_io.write_json(os.path.join(folder, MODEL), description)


def read_model(folder):
    """The description that `save_model` wrote.

    Raises:
        UserError: the folder holds no finished model, or a description that rebuilds none.
    """
    wanted = (MODEL, WEIGHTS, VOCABULARY)
    missing = [name for name in wanted if not file_io.exists(os.path.join(folder, name))]
    if missing:
        raise UserError(
            f"{folder} holds no trained model: {', '.join(missing)} missing; expected the workdir "
            "of a finished run (see --workdir of tools/train.py)"
        )
    path = os.path.join(folder, MODEL)
    description = file_io.read_json(path)
    if not isinstance(description, dict) or not _NEEDED <= set(description):
        raise UserError(
            f"{path} is no description of a model: expected {', '.join(sorted(_NEEDED))}; take it "
            "from a copy, or train the run again"
        )
    return description


def read_weights(folder):
    """{path: array} that `save_model` wrote.

    Raises:
        UserError: it is damaged.
    """
    source = os.path.join(folder, WEIGHTS)
    try:
        with file_io.open_file(source, "rb") as opened, np.load(opened) as file:
            return {path: file[path] for path in file.files}
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise UserError(
            f"{source} is damaged ({error}): take it from a copy, or train the run again"
        ) from error


def load_weights(folder, encoder):
    """Sets the encoder's weights by variable path to those that `save_model` wrote.

    Raises:
        UserError: names or shapes differ, and the message names the first ones; or it is damaged.
    """
    variables, arrays = by_path(encoder), read_weights(folder)
    source = os.path.join(folder, WEIGHTS)
    wrong = [f"{p} is missing" for p in variables if p not in arrays]
    wrong += [f"{p} is not of this model" for p in arrays if p not in variables]
    wrong += [
        f"{p} has shape {arrays[p].shape}, expected {tuple(v.shape)}"
        for p, v in variables.items()
        if p in arrays and arrays[p].shape != tuple(v.shape)
    ]
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise UserError(
            f"{source} does not fit this model: {'; '.join(wrong[:3])}"
            f"{more}; use a run of the same model, or the same --size"
        )
    for path, variable in variables.items():
        variable.assign(arrays[path])


class _Forward(io.RawIOBase):
    """A file that is only ever written on: remote ones cannot go back, and zipfile need not."""

    def __init__(self, file):
        self._file = file

    def writable(self):
        return True

    def write(self, data):
        self._file.write(bytes(data))
        return len(data)


def by_path(encoder):
    """{path: variable} of all weights in a fixed order, without the states of random generators."""
    found = {}
    for variable in encoder.variables:
        if "seed_generator" in variable.path:
            continue
        if variable.path in found:
            raise ValueError(f"two variables are called {variable.path}")
        found[variable.path] = variable
    return found
