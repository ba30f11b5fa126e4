"""Maps variables of the towers to tensors of a PyTorch checkpoint, and converts their layout."""

import dataclasses
import functools
import math

import numpy as np

from tf_mural.errors import UserError


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """Describes the tensor of a checkpoint that contains the values of a variable.

    Attributes:
        name: name of the tensor.
        shape: expected shape of the tensor.
        axes: permutation that brings the axes of the tensor into the order of the variable.
        truncate: if True, the tensor may have more rows than the variable; the variable then gets
            the first rows.
    """

    name: str
    shape: tuple
    axes: tuple
    truncate: bool = False

    def accepts(self, shape):
        """Returns whether a tensor of this shape can be converted."""
        if self.truncate:
            return shape[0] >= self.shape[0] and shape[1:] == self.shape[1:]
        return tuple(shape) == self.shape

    def convert(self, array, shape):
        """Returns the tensor as a float32 array with the shape of the variable."""
        if self.truncate:
            array = array[: shape[0]]
        return np.asarray(array, np.float32).transpose(self.axes).reshape(shape)


def vector(name, shape):
    """Returns the `TensorSpec` of a bias, a scale or a scalar.

    The variable of a bias may have separate axes for the attention heads and their width.
    """
    return TensorSpec(name, (math.prod(shape),) if shape else (), (0,) if shape else ())


def embedding(name, shape, truncate=False):
    """Returns the `TensorSpec` of an embedding table, (rows, width) in PyTorch and in Keras."""
    return TensorSpec(name, tuple(shape), (0, 1), truncate)


def dense(name, shape, num_input_axes=1):
    """Returns the `TensorSpec` of the kernel of a linear layer.

    The tensor has the shape (out, in). The variable has `num_input_axes` input axes, followed by
    its output axes.
    """
    inputs, outputs = math.prod(shape[:num_input_axes]), math.prod(shape[num_input_axes:])
    return TensorSpec(name, (outputs, inputs), (1, 0))


def conv2d(name, shape):
    """Returns the `TensorSpec` of the kernel of a convolution.

    The tensor has the shape (out, in, height, width). The variable has the shape
    (height, width, in, out).
    """
    height, width, filters_in, filters_out = shape
    return TensorSpec(name, (filters_out, filters_in, height, width), (2, 3, 1, 0))


def depthwise_conv2d(name, shape):
    """Returns the `TensorSpec` of the kernel of a depthwise convolution.

    The tensor has the shape (channels, 1, height, width). The variable has the shape
    (height, width, channels, 1).
    """
    height, width, channels, _ = shape
    return TensorSpec(name, (channels, 1, height, width), (2, 3, 0, 1))


def check(specs, tensors, source):
    """Checks that a checkpoint has all tensors, with their expected shapes.

    Args:
        specs: {variable path: TensorSpec}.
        tensors: {name: array} of the checkpoint.
        source: name of the checkpoint, for messages.

    Raises:
        UserError: tensors are missing or have other shapes; the message names the first of these
            tensors.
    """
    errors = []
    for spec in specs.values():
        if spec.name not in tensors:
            errors.append(f"{spec.name} is missing")
        elif not spec.accepts(tensors[spec.name].shape):
            shape = tuple(tensors[spec.name].shape)
            errors.append(f"{spec.name} has shape {shape}, expected {spec.shape}")
    if errors:
        more = f" (and {len(errors) - 3} more)" if len(errors) > 3 else ""
        raise UserError(
            f"the weights of {source} do not match its config.json: {'; '.join(errors[:3])}"
            f"{more}; expected a complete checkpoint of a single model"
        )


def convert(specs, shapes, tensors, source):
    """Converts the tensors of a checkpoint to the arrays that are assigned to variables.

    Args:
        specs: {variable path: TensorSpec}.
        shapes: {variable path: shape}.
        tensors: {name: array} of the checkpoint.
        source: name of the checkpoint, for messages.

    Returns:
        {variable path: float32 array}.

    Raises:
        UserError: see `check`.
    """
    check(specs, tensors, source)
    return {path: spec.convert(tensors[spec.name], shapes[path]) for path, spec in specs.items()}


class LayerMap:
    """Maps the variables of layers to tensors, and assigns the tensors to the variables.

    Each method adds the variables of one layer; `name` is the name of the module in the checkpoint.
    """

    def __init__(self):
        self._specs, self._variables = {}, {}

    @property
    def names(self):
        """Names of all tensors that have been added."""
        return {spec.name for spec in self._specs.values()}

    def add(self, variable, spec, name):
        """Adds a variable; `spec` is a function of this module such as `vector`."""
        key = f"{len(self._specs)}:{variable.path}"
        self._specs[key], self._variables[key] = spec(name, tuple(variable.shape)), variable

    def norm(self, layer, name):
        """Adds a layer normalization."""
        self.add(layer.gamma, vector, f"{name}.weight")
        self.add(layer.beta, vector, f"{name}.bias")

    def dense(self, layer, name, num_input_axes=1):
        """Adds a linear layer, whose bias may be missing."""
        kernel = functools.partial(dense, num_input_axes=num_input_axes)
        self.add(layer.kernel, kernel, f"{name}.weight")
        if layer.bias is not None:
            self.add(layer.bias, vector, f"{name}.bias")

    def conv2d(self, layer, name):
        """Adds a convolution, whose bias may be missing."""
        self.add(layer.kernel, conv2d, f"{name}.weight")
        if layer.bias is not None:
            self.add(layer.bias, vector, f"{name}.bias")

    def attention(self, layer, name, output="out_proj"):
        """Adds a `keras.layers.MultiHeadAttention`."""
        self.dense(layer.query_dense, f"{name}.q_proj")
        self.dense(layer.key_dense, f"{name}.k_proj")
        self.dense(layer.value_dense, f"{name}.v_proj")
        self.dense(layer.output_dense, f"{name}.{output}", num_input_axes=2)

    def load(self, tensors, source):
        """Assigns the tensors {name: array} of a checkpoint to all variables, one at a time.

        Raises:
            UserError: see `check`.
        """
        check(self._specs, tensors, source)
        for key, spec in self._specs.items():
            variable = self._variables[key]
            variable.assign(spec.convert(tensors[spec.name], tuple(variable.shape)))


def split_attention(tensors, name):
    """Adds the three parts of `in_proj` of torch.nn.MultiheadAttention to the tensors, in place.

    Args:
        tensors: {name: array} of a checkpoint.
        name: name of the module.
    """
    for suffix in ("weight", "bias"):
        joined = tensors.pop(f"{name}.in_proj_{suffix}", None)
        if joined is not None:
            parts = np.split(joined, 3) if len(joined) % 3 == 0 else [joined] * 3
            for part, values in zip("qkv", parts, strict=True):
                tensors[f"{name}.{part}_proj.{suffix}"] = values
