"""Where a variable of ours stands in a checkpoint of PyTorch, and in which layout."""

import dataclasses
import math

import numpy as np

from tf_mural.errors import UserError


@dataclasses.dataclass(frozen=True)
class Place:
    """A tensor of a checkpoint.

    Attributes:
        name: of the tensor.
        shape: that it must have.
        axes: order in which its axes are ours.
        first_rows: whether it may have more rows than ours, which takes the first.
    """

    name: str
    shape: tuple
    axes: tuple
    first_rows: bool = False


def vector(name, shape):
    """A bias or a scale, here perhaps folded by attention head; also a single number."""
    return Place(name, (math.prod(shape),) if shape else (), (0,) if shape else ())


def table(name, shape, first_rows=False):
    """Rows of an embedding."""
    return Place(name, tuple(shape), (0, 1), first_rows)


def dense(name, shape, inputs=1):
    """A linear layer, (out, in) there; `inputs` of our axes are its input."""
    return Place(name, (math.prod(shape[inputs:]), math.prod(shape[:inputs])), (1, 0))


def convolution(name, shape):
    """(out, in, height, width) there, (height, width, in, out) here."""
    height, width, into, out = shape
    return Place(name, (out, into, height, width), (2, 3, 1, 0))


def depthwise(name, shape):
    """(channels, 1, height, width) there, (height, width, channels, 1) here."""
    height, width, channels, _ = shape
    return Place(name, (channels, 1, height, width), (2, 3, 0, 1))


def fill(places, shapes, tensors, where):
    """Our arrays out of a checkpoint's.

    Args:
        places: {path of ours: Place}.
        shapes: {path of ours: shape}.
        tensors: {name: array} of the checkpoint.
        where: the checkpoint, for messages.

    Returns:
        {path: float32 array}.

    Raises:
        UserError: tensors are missing or have other shapes; the message names the first ones.
    """
    wrong = []
    for place in places.values():
        if place.name not in tensors:
            wrong.append(f"{place.name} is missing")
        elif not _fits(place, tensors[place.name].shape):
            wrong.append(
                f"{place.name} has shape {tuple(tensors[place.name].shape)}, expected {place.shape}"
            )
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise UserError(
            f"the weights of {where} are not those of its config.json: {'; '.join(wrong[:3])}"
            f"{more}; expected a whole checkpoint of one model"
        )
    return {path: _ours(place, tensors[place.name], shapes[path]) for path, place in places.items()}


def _ours(place, array, shape):
    if place.first_rows:
        array = array[: shape[0]]
    return np.asarray(array, np.float32).transpose(place.axes).reshape(shape)


def _fits(place, shape):
    if place.first_rows:
        return shape[0] >= place.shape[0] and shape[1:] == place.shape[1:]
    return tuple(shape) == place.shape
