"""Floating-point operations of a TensorFlow function: products of matrices and convolutions."""

import collections
import math


def graph_flops(graph):
    """Operations of one call of a function, 2 a multiply-add; see `graph_flops_by_type`."""
    return sum(graph_flops_by_type(graph).values())


def graph_flops_by_type(graph):
    """{type of operation: operations of one call of a function}, 2 a multiply-add.

    Counted are matrix products, einsums and (depthwise) convolutions with their gradients, from
    the static shapes of what is executed. What else a step does is linear in the activations and
    left out, as is usual.

    Args:
        graph: `tf.Graph` of a `tf.function`, e.g. `f.get_concrete_function(...).graph`.

    Raises:
        ValueError: an operation that counts has a shape that is not known.
    """
    total = collections.Counter()
    for operation in _executed(graph):
        if operation.type in COUNTS:
            total[operation.type] += COUNTS[operation.type](operation)
        elif operation.type in ("PartitionedCall", "StatefulPartitionedCall"):
            called = operation.get_attr("f").name
            total += graph_flops_by_type(graph._get_function(called).graph)
    return total


def _executed(graph):
    """The operations that an output or a change of state depends on; others are never run."""
    waiting = [tensor.op for tensor in graph.outputs] + list(graph.control_outputs)
    seen = set()
    while waiting:
        operation = waiting.pop()
        if operation not in seen:
            seen.add(operation)
            waiting += [tensor.op for tensor in operation.inputs] + list(operation.control_inputs)
    return seen


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
    # One operand is summed or transposed, and multiplied by nothing.
    return 2 * math.prod(sizes.values()) if len(terms) > 1 else 0


def _convolution(kernel_of, output_of):
    """Each value of the output takes a multiply-add per kernel value that it sees.

    Both gradients are sums of the same products, and take as many.
    """

    def count(operation):
        height, width, channels, _ = kernel_of(operation)
        seen = height * width * (1 if operation.type.startswith("Depthwise") else channels)
        return 2 * _size(output_of(operation)) * seen

    return count


def _kernel(operation):
    _size(operation.inputs[1])
    return operation.inputs[1].shape.as_list()


def _kernel_sizes(operation):
    """Of a gradient by the kernel, whose second input holds the kernel's shape."""
    import tensorflow as tf

    sizes = operation.inputs[1]
    if sizes.op.type == "ShapeN":  # `get_static_value` does not look into this one.
        source = sizes.op.inputs[sizes.value_index]
        _size(source)
        return source.shape.as_list()
    value = tf.get_static_value(sizes)
    if value is None:
        raise ValueError(f"Expected a kernel of static shape. Received: {operation.name}.")
    return [int(size) for size in value]


_FORWARD = _convolution(_kernel, lambda operation: operation.outputs[0])
_BY_INPUT = _convolution(_kernel, lambda operation: operation.inputs[2])
_BY_KERNEL = _convolution(_kernel_sizes, lambda operation: operation.inputs[2])
COUNTS = {
    "MatMul": _matmul,
    "BatchMatMul": _matmul,
    "BatchMatMulV2": _matmul,
    "BatchMatMulV3": _matmul,
    "Einsum": _einsum,
    "Conv2D": _FORWARD,
    "Conv2DBackpropInput": _BY_INPUT,
    "Conv2DBackpropFilter": _BY_KERNEL,
    "DepthwiseConv2dNative": _FORWARD,
    "DepthwiseConv2dNativeBackpropInput": _BY_INPUT,
    "DepthwiseConv2dNativeBackpropFilter": _BY_KERNEL,
}
