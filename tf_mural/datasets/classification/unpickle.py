"""Reads pickles of plain containers and arrays of bytes, and runs nothing that they name.

A pickle is a program; the names in it are looked up and called. Here every name but the four that
a NumPy array is made of is refused, and those four lead to stand-ins, which note what they get.
"""

import pickle

import numpy as np

from tf_mural.errors import UserError


class _Array:
    """Stands in for an array of NumPy until its state is known."""

    __slots__ = ("state",)

    def __init__(self, *_):
        self.state = None

    def __setstate__(self, state):
        self.state = state


class _Kind:
    """Stands in for a dtype; `name` is such as b"u1"."""

    __slots__ = ("name",)

    def __init__(self, name=None, *_):
        self.name = name

    def __setstate__(self, state):
        pass  # Byte order and the like, of which single bytes have none.


_STAND_INS = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Kind,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


def load(file, where):
    """The object in a pickle of dicts, lists, bytes, strings, numbers and arrays.

    Args:
        file: binary file. Strings of Python 2 come as bytes.
        where: names it in messages.

    Raises:
        UserError: it is broken, or asks for any other class or function; none was called.
    """
    try:
        return _Unpickler(file, encoding="bytes").load()
    except EOFError:
        raise UserError(f"{where} is cut short; download it again") from None
    except Exception as error:  # Bytes that are no pickle raise almost anything.
        raise UserError(
            f"{where} is no pickle of plain data ({error}), so it was not read; "
            "download it again from its home page"
        ) from error


def matrix(value, where):
    """The rows of an array that `load` gave: uint8 (n, m). Raises UserError if it is another."""
    if isinstance(value, _Array) and isinstance(value.state, tuple) and len(value.state) == 5:
        _, shape, kind, by_columns, data = value.state
        name = kind.name if isinstance(kind, _Kind) else None
        if (
            name in (b"u1", "u1")
            and isinstance(data, bytes)
            and isinstance(shape, tuple)
            and len(shape) == 2
            and all(isinstance(side, int) and side >= 0 for side in shape)
            and shape[0] * shape[1] == len(data)
        ):
            return np.frombuffer(data, np.uint8).reshape(shape, order="F" if by_columns else "C")
    raise UserError(f"{where}: expected a matrix of bytes; download it again")
