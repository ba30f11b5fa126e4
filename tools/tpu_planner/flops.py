"""Floating-point operations of a traced function: its matrix products and convolutions."""

import math

_BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr")


def flops(jaxpr):
    """How many of them a call of a traced function takes, a product and a sum being two.

    Those of a device where the function runs under `shard_map`. What is computed again on the way
    back counts again; element by element is left out, which is what "model FLOPs" leave out.

    Args:
        jaxpr: `jax.extend.core.Jaxpr` or a closed one.
    """
    total = 0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name, parameters = equation.primitive.name, equation.params
        if name == "dot_general":
            total += _of_product(equation)
        elif name == "conv_general_dilated":
            total += _of_convolution(equation)
        elif name == "scan":
            total += parameters["length"] * flops(parameters["jaxpr"])
        elif name == "cond":
            total += max(flops(branch) for branch in parameters["branches"])
        elif name == "while":
            raise ValueError("Expected loops of a known length. Received: a while loop.")
        else:
            total += sum(flops(parameters[key]) for key in _BODIES if key in parameters)
    return total


def _of_product(equation):
    left = equation.invars[0].aval.shape
    (contracted, _), _ = equation.params["dimension_numbers"]
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)


def _of_convolution(equation):
    kernel = equation.invars[1].aval.shape
    _, spec, _ = equation.params["dimension_numbers"]
    # Each output meets one filter, whose channels are those of its group alone.
    taps = math.prod(kernel[i] for i in spec[1:])
    # Between the rows of a dilated input are zeros, which cost nothing where one is clever.
    dilation = math.prod(equation.params["lhs_dilation"])
    return 2 * math.prod(equation.outvars[0].aval.shape) * taps // dilation
