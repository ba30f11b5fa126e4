"""Reads a state dict of PyTorch without PyTorch, and without running code from the file."""

import collections
import pickle

import numpy as np

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_STORAGES = {"FloatStorage": "<f4", "LongStorage": "<i8"}


class _Storage:
    """A part of a file that tensors share; `array` is set when the data is read."""

    def __init__(self, dtype):
        self.dtype, self.array = dtype, None


class _Tensor:
    """A view of a storage."""

    def __init__(self, storage, offset, size, stride, *_):
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    def numpy(self):
        """Returns a copy of the values."""
        array = self.storage.array
        strides = [array.itemsize * step for step in self.stride]
        view = np.lib.stride_tricks.as_strided(array[self.offset :], self.size, strides)
        return np.array(view)


class _Unpickler(pickle.Unpickler):
    """Reads a pickled dict of tensors. A pickle that contains anything else is refused."""

    def __init__(self, file, storages):
        super().__init__(file)
        self._storages = storages

    def find_class(self, module, name):
        """Returns the replacement of a class or a function that the pickle names."""
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Tensor
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")

    def persistent_load(self, description):
        """Returns the storage that a description names."""
        kind, dtype, key = description[:3]
        if kind != "storage":
            raise pickle.UnpicklingError(f"{kind!r} is not a storage")
        return self._storages.setdefault(key, _Storage(dtype))


def read_state_dict(path):
    """Reads a state dict that `torch.save` wrote in the format before PyTorch 1.6.

    Args:
        path: file *.pth.

    Returns:
        {name: array}.

    Raises:
        ValueError: the file has another format.
        pickle.UnpicklingError: the pickle contains other objects than tensors.
    """
    storages = {}
    with open(path, "rb") as file:
        header = [_Unpickler(file, {}).load() for _ in range(3)]
        if header[:2] != [_MAGIC, _PROTOCOL] or not header[2]["little_endian"]:
            raise ValueError(f"{path} is not a file of torch.save before PyTorch 1.6")
        tensors = _Unpickler(file, storages).load()
        for key in _Unpickler(file, {}).load():
            count = int.from_bytes(file.read(8), "little")
            dtype = np.dtype(storages[key].dtype)
            storages[key].array = np.frombuffer(file.read(count * dtype.itemsize), dtype)
    return {name: tensor.numpy() for name, tensor in tensors.items()}
