"""TPU chips: their published rates, and the topologies that their compiler knows."""

import dataclasses

from tf_mural.errors import UserError, lookup

_GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
    """A TPU chip.

    Attributes:
        flops: peak of bfloat16 matrix products, a second.
        memory: bytes of HBM.
        bandwidth: bytes a second of HBM.
        interconnect: bytes a second that a chip sends to its neighbours, over all links together.
        source: where these are published.
        options: of `jax.experimental.topologies.get_topology_desc`, so that a device is a chip.
        topologies: slices that can be had.
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
# Cloud TPU states the interconnect of both directions together, or in bits of one.
CHIPS = {
    "v4": Chip(275e12, 32 * _GIB, 1.2e12, 300e9, _CLOUD + "v4", _CUBES, _MEGACORE),
    "v5e": Chip(197e12, 16 * _GIB, 819e9, 200e9, _CLOUD + "v5e", _FLAT),
    "v5p": Chip(459e12, 95 * _GIB, 2.765e12, 600e9, _CLOUD + "v5p", _CUBES),
    "v6e": Chip(918e12, 32 * _GIB, 1.638e12, 400e9, _CLOUD + "v6e", _FLAT),
}


def find_chip(topology):
    """The `Chip` of a topology such as "v5e:8x16".

    Raises:
        UserError: there is no such chip or slice; lists those that there are.
    """
    name, _, slice_ = topology.partition(":")
    chip = lookup(CHIPS, name, "TPU (as in --topology=v5e:8x16)")
    if slice_ not in chip.topologies:
        raise UserError(
            f"--topology={topology}: {name} has no slice {slice_!r}; it has "
            f"{', '.join(chip.topologies)}"
        )
    return chip
