"""Lower bounds on the time of a step, from FLOPs, bytes, and the published rates of TPU chips."""

import dataclasses
import math

from tf_mural.errors import UserError, lookup

GIB = 1 << 30


# --- chips ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Chip:
    """A TPU chip.

    Attributes:
        flops: peak rate of bfloat16 matrix products, FLOPs per second.
        memory: bytes of HBM.
        bandwidth: bandwidth of HBM, bytes per second.
        interconnect: bytes per second that a chip sends to its neighbors over all links.
        source: URL of the page that publishes these numbers.
        topologies: names of the available slices.
        options: arguments of `jax.experimental.topologies.get_topology_desc` that make one device
            of each chip.
    """

    flops: float
    memory: int
    bandwidth: float
    interconnect: float
    source: str
    topologies: tuple
    options: dict = dataclasses.field(default_factory=dict)


_CLOUD = "https://docs.cloud.google.com/tpu/docs/"
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")
_MEGACORE = {"chip_config_name": "megacore"}
# The interconnect rates are in bytes per second in one direction. Cloud TPU publishes bytes per
# second for both directions together, or bits per second for one direction.
CHIPS = {
    "v4": Chip(275e12, 32 * GIB, 1.2e12, 300e9, _CLOUD + "v4", _CUBES, _MEGACORE),
    "v5e": Chip(197e12, 16 * GIB, 819e9, 200e9, _CLOUD + "v5e", _FLAT),
    "v5p": Chip(459e12, 95 * GIB, 2.765e12, 600e9, _CLOUD + "v5p", _CUBES),
    "v6e": Chip(918e12, 32 * GIB, 1.638e12, 400e9, _CLOUD + "v6e", _FLAT),
}


def find_chip(topology):
    """Returns the `Chip` of a topology such as "v5e:8x16".

    Raises:
        UserError: the chip or the slice is unknown. The message lists the known chips or slices.
    """
    name, _, chip_slice = topology.partition(":")
    chip = lookup(CHIPS, name, "TPU (as in --topology=v5e:8x16)")
    if chip_slice not in chip.topologies:
        raise UserError(
            f"--topology={topology}: {name} has no slice {chip_slice!r}; it has "
            f"{', '.join(chip.topologies)}"
        )
    return chip


# --- FLOPs ----------------------------------------------------------------------------------------

_SUB_JAXPRS = ("jaxpr", "call_jaxpr", "fun_jaxpr")


def count_flops(jaxpr):
    """Counts the FLOPs of the matrix products and convolutions of a traced function.

    A multiplication and an addition are two FLOPs. Under `shard_map`, the FLOPs of one device are
    counted. Recomputations in the backward pass count, and elementwise operations do not.

    Args:
        jaxpr: `jax.extend.core.Jaxpr` or `jax.extend.core.ClosedJaxpr`.
    """
    total = 0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name, parameters = equation.primitive.name, equation.params
        if name == "dot_general":
            total += _product_flops(equation)
        elif name == "conv_general_dilated":
            total += _convolution_flops(equation)
        elif name == "scan":
            total += parameters["length"] * count_flops(parameters["jaxpr"])
        elif name == "cond":
            total += max(count_flops(branch) for branch in parameters["branches"])
        elif name == "while":
            raise ValueError("Expected loops of a known length. Received: a while loop.")
        else:
            total += sum(count_flops(parameters[key]) for key in _SUB_JAXPRS if key in parameters)
    return total


def _product_flops(equation):
    left = equation.invars[0].aval.shape
    (contracted, _), _ = equation.params["dimension_numbers"]
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)


def _convolution_flops(equation):
    kernel = equation.invars[1].aval.shape
    _, spec, _ = equation.params["dimension_numbers"]
    # Each output value is a product with one filter, which has the channels of one group.
    taps = math.prod(kernel[i] for i in spec[1:])
    # The zeros between the rows of a dilated input need no FLOPs in a good implementation.
    dilation = math.prod(equation.params["lhs_dilation"])
    return 2 * math.prod(equation.outvars[0].aval.shape) * taps // dilation


# --- time -----------------------------------------------------------------------------------------


def ring_bytes(collective):
    """Returns the bytes that a device sends for a collective with ring algorithms.

    For an array of S bytes on n devices, an all-gather or a reduce-scatter sends S (n - 1) / n
    bytes. An all-reduce is a reduce-scatter and an all-gather, and sends twice as many bytes
    (Thakur et al. 2005, https://doi.org/10.1177/1094342005051521).

    Args:
        collective: `hlo.Collective`.
    """
    n, size = collective.group, collective.bytes
    fraction = (n - 1) / n
    factors = {
        "all-gather": fraction,
        "all-reduce": 2 * fraction,
        "reduce-scatter": (n - 1),  # `size` is the size of the result, S / n
        "all-to-all": fraction,
    }
    return size * factors.get(collective.kind, 1.0)


def roofline_seconds(chip, flops, hbm_bytes, collectives):
    """Returns lower bounds on the time of a step at the published rates of a chip.

    A step takes at least the largest of these times. If computation, memory traffic and
    communication overlap completely, the step takes exactly the largest time.

    Args:
        chip: `Chip`.
        flops: FLOPs per chip and step.
        hbm_bytes: bytes read from and written to HBM, per chip and step.
        collectives: list of `hlo.Collective`.

    Returns:
        {"compute", "memory", "interconnect": seconds}.
    """
    sent_bytes = sum(c.count * ring_bytes(c) for c in collectives)
    return {
        "compute": flops / chip.flops,
        "memory": hbm_bytes / chip.bandwidth,
        "interconnect": sent_bytes / chip.interconnect,
    }
