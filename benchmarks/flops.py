"""Counts the floating-point operations of a TensorFlow function in matmuls and convolutions."""

import collections
import functools
import math


def multiply_matrices(size):
    """Multiplies two float32 matrices of `size` x `size` on TensorFlow, see `common.peak_flops`."""
    import tensorflow as tf

    matrix = _random_matrix(size)
    tf.matmul(matrix, matrix).numpy()


@functools.cache
def _random_matrix(size):
    import tensorflow as tf

    return tf.random.normal([size, size])


def graph_flops(graph):
    """Returns the floating-point operations of a call of a function, see `graph_flops_by_type`."""
    return sum(graph_flops_by_type(graph).values())


def graph_flops_by_type(graph):
    """Counts the floating-point operations of a call of a function by type of operation.

    A multiply-add counts as 2. Matrix products, einsums, convolutions, depthwise convolutions and
    their gradients are counted, from the static shapes of the operations that are executed. All
    other operations are ignored, as is usual, because they need only a few FLOPs per activation.

    Args:
        graph: `tf.Graph` of a `tf.function`, e.g. `f.get_concrete_function(...).graph`.

    Returns:
        {type of operation: floating-point operations}.

    Raises:
        ValueError: the shape of a counted operation is not static.
    """
    total = collections.Counter()
    for operation in _executed_operations(graph):
        if operation.type in COUNTS:
            total[operation.type] += COUNTS[operation.type](operation)
        elif operation.type in ("PartitionedCall", "StatefulPartitionedCall"):
            called = operation.get_attr("f").name
            total += graph_flops_by_type(graph._get_function(called).graph)
    return total


def _executed_operations(graph):
    """Returns the operations that an output or a side effect needs; other operations never run."""
    pending = [tensor.op for tensor in graph.outputs] + list(graph.control_outputs)
    operations = set()
    while pending:
        operation = pending.pop()
        if operation not in operations:
            operations.add(operation)
            pending += [tensor.op for tensor in operation.inputs] + list(operation.control_inputs)
    return operations


def _size(tensor):
    if not tensor.shape.is_fully_defined():
        raise ValueError(f"Expected a static shape. Received: {tensor.name} of {tensor.shape}.")
    return math.prod(tensor.shape.as_list())


def _matmul(operation):
    a = operation.inputs[0]
    transposed = "transpose_a" if operation.type == "MatMul" else "adj_x"
    inner = a.shape[-2] if operation.get_attr(transposed) else a.shape[-1]
    return 2 * _size(operation.outputs[0]) * inner


def _einsum(operation):
    terms = operation.get_attr("equation").decode().split("->")[0].split(",")
    sizes = {}
    for term, tensor in zip(terms, operation.inputs, strict=True):
        _size(tensor)
        sizes.update(zip(term, tensor.shape.as_list(), strict=True))
    # An einsum of a single operand only sums or transposes it, without multiplications.
    return 2 * math.prod(sizes.values()) if len(terms) > 1 else 0


def _convolution(kernel_of, output_of):
    """Returns a callable that counts a convolution.

    An output value needs a multiply-add for each kernel value of its output channel. The gradients
    of the input and of the kernel each need as many multiply-adds as the convolution.

    Args:
        kernel_of: callable from the operation to the shape of the kernel.
        output_of: callable from the operation to the output tensor of the convolution.
    """

    def count(operation):
        height, width, channels, _ = kernel_of(operation)
        products = height * width * (1 if operation.type.startswith("Depthwise") else channels)
        return 2 * _size(output_of(operation)) * products

    return count


def _kernel_shape(operation):
    _size(operation.inputs[1])
    return operation.inputs[1].shape.as_list()


def _kernel_shape_of_gradient(operation):
    """Returns the kernel shape of a kernel gradient, whose second input contains it."""
    import tensorflow as tf

    sizes = operation.inputs[1]
    if sizes.op.type == "ShapeN":  # `get_static_value` does not support ShapeN
        source = sizes.op.inputs[sizes.value_index]
        _size(source)
        return source.shape.as_list()
    value = tf.get_static_value(sizes)
    if value is None:
        raise ValueError(f"Expected a kernel of static shape. Received: {operation.name}.")
    return [int(size) for size in value]


_FORWARD = _convolution(_kernel_shape, lambda operation: operation.outputs[0])
_INPUT_GRADIENT = _convolution(_kernel_shape, lambda operation: operation.inputs[2])
_KERNEL_GRADIENT = _convolution(_kernel_shape_of_gradient, lambda operation: operation.inputs[2])
COUNTS = {
    "MatMul": _matmul,
    "BatchMatMul": _matmul,
    "BatchMatMulV2": _matmul,
    "BatchMatMulV3": _matmul,
    "Einsum": _einsum,
    "Conv2D": _FORWARD,
    "Conv2DBackpropInput": _INPUT_GRADIENT,
    "Conv2DBackpropFilter": _KERNEL_GRADIENT,
    "DepthwiseConv2dNative": _FORWARD,
    "DepthwiseConv2dNativeBackpropInput": _INPUT_GRADIENT,
    "DepthwiseConv2dNativeBackpropFilter": _KERNEL_GRADIENT,
}
