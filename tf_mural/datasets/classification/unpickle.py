"""Reads pickles of plain containers and byte arrays, without calling anything that they name.

A pickle is a program: unpickling looks up and calls the functions that it names. This reader
refuses all names except the four that pickles of NumPy arrays use, and replaces these four by
placeholders that only store their arguments.
"""

import pickle

import numpy as np

from tf_mural.errors import UserError


class _Array:
    """Placeholder of a NumPy array; stores the pickled state."""

    __slots__ = ("state",)

    def __init__(self, *_):
        self.state = None

    def __setstate__(self, state):
        self.state = state


class _Dtype:
    """Placeholder of a NumPy dtype; stores its name, such as b"u1"."""

    __slots__ = ("name",)

    def __init__(self, name=None, *_):
        self.name = name

    def __setstate__(self, state):
        pass  # The state is the byte order, which is irrelevant for single bytes.


_PLACEHOLDERS = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        try:
            return _PLACEHOLDERS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}") from None


def load_plain(file, path):
    """Returns the object in a pickle of dicts, lists, bytes, strings, numbers and arrays.

    Args:
        file: binary file. Strings of Python 2 are returned as bytes.
        path: path of the file, for messages.

    Raises:
        UserError: the pickle is corrupt, or refers to another class or function, which is not
            called.
    """
    try:
        return _Unpickler(file, encoding="bytes").load()
    except EOFError:
        raise UserError(f"{path} is truncated; download it again") from None
    except Exception as error:  # Bytes that are not a pickle raise almost any exception.
        raise UserError(
            f"{path} is not a pickle of plain data ({error}) and was not read; "
            "download it again from its home page"
        ) from error


def to_matrix(value, path):
    """Converts an array of `load_plain` to uint8 (n, m).

    Args:
        value: a value of the object that `load_plain` returned.
        path: path of the file, for messages.

    Raises:
        UserError: the value is not a matrix of bytes.
    """
    if isinstance(value, _Array) and isinstance(value.state, tuple) and len(value.state) == 5:
        _, shape, dtype, is_fortran, data = value.state
        dtype_name = dtype.name if isinstance(dtype, _Dtype) else None
        if (
            dtype_name in (b"u1", "u1")
            and isinstance(data, bytes)
            and isinstance(shape, tuple)
            and len(shape) == 2
            and all(isinstance(side, int) and side >= 0 for side in shape)
            and shape[0] * shape[1] == len(data)
        ):
            return np.frombuffer(data, np.uint8).reshape(shape, order="F" if is_fortran else "C")
    raise UserError(f"{path}: expected a matrix of bytes; download it again")
