"""How long a step takes at least, of what it computes, moves and sends."""


def sent(collective):
    """Bytes that a device sends for one collective of `hlo.Program`, in the best of rings.

    Of an array of S bytes over n devices an all-gather and a reduce-scatter send S (n - 1) / n each
    and an all-reduce is both (Thakur et al. 2005, https://doi.org/10.1177/1094342005051521).
    """
    n, size = collective.group, collective.bytes
    share = (n - 1) / n
    times = {
        "all-gather": share,
        "all-reduce": 2 * share,
        "reduce-scatter": (n - 1),  # whose result is a part of the array
        "all-to-all": share,
    }
    return size * times.get(collective.kind, 1.0)


def seconds(chip, flops, moved, collectives):
    """{"compute" | "memory" | "interconnect": seconds of a step} at the chip's published rates.

    They overlap at best, so that a step takes the longest of them or more.

    Args:
        chip: `chips.Chip`.
        flops: of a chip and step.
        moved: bytes from and to its memory.
        collectives: `hlo.Collective`s.
    """
    return {
        "compute": flops / chip.flops,
        "memory": moved / chip.bandwidth,
        "interconnect": sum(c.count * sent(c) for c in collectives) / chip.interconnect,
    }
