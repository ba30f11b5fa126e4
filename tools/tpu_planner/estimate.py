"""What counts of a compiled step come to on a chip: fit, time at least, and what would help."""

from tpu_planner.hlo import Collective
from tpu_planner.roofline import seconds

GIB = 1 << 30


def plan(counts, chip, chips, batch, steps):
    """Adds to counts what follows of them.

    Args:
        counts: see `compiling.counts`.
        chip: `chips.Chip`.
        chips: how many.
        batch: rows of the global batch (pairs or triples).
        steps: of the stage.

    Returns:
        A dict for JSON: `counts` and `capacity`, bytes of a chip; `flops_per_row`; and where it
        fits `used`, `roofline` (seconds of a step by what takes them), `bound` (the longest),
        `step_seconds`, `rows_per_second`, `hours` and `chip_hours` of the stage. All of these are
        at least: the chip at its published rates, everything at the same time.
    """
    found = {
        "chips": chips,
        "batch": batch,
        "steps": steps,
        "source": chip.source,
        "capacity": counts["memory"].get("capacity", chip.memory),
        "flops_per_row": counts["flops"] * chips / batch,
        **counts,
    }
    if not counts["fits"]:
        return found
    roofline = seconds(
        chip, counts["flops"], counts["moved"], [Collective(**c) for c in counts["collectives"]]
    )
    bound = max(roofline, key=roofline.get)
    hours = roofline[bound] * steps / 3600
    return found | {
        "used": sum(counts["memory"].values()),
        "roofline": roofline,
        "bound": bound,
        "step_seconds": roofline[bound],
        "rows_per_second": batch / roofline[bound],
        "hours": hours,
        "chip_hours": hours * chips,
    }


def advice(found, config):
    """What to change where a plan does not fit: lines, of options that are not taken yet.

    Args:
        found: what `plan` returns.
        config: of the stage.
    """
    share = found["batch"] // found["chips"]
    rows, group = config.microbatch or share, max(config.model.image.batch_norm_group, 1)
    smaller = [r for r in range(group, rows, group) if share % r == 0]
    lines = []
    if smaller:
        lines.append(
            f"--config.microbatch={smaller[-1]}: activations of {smaller[-1]} rows at a time "
            f"instead of {rows}; the towers run forward twice"
        )
    if not config.rematerialise:
        lines.append(
            "--config.rematerialise=true: activations of one block at a time; the towers run "
            "forward twice"
        )
    if not config.shard_optimizer and found["chips"] > 1:
        saved = found["slots"] * (1 - 1 / found["chips"]) / GIB
        lines.append(
            f"--config.shard_optimizer=true: the optimizer's slots over all chips, {saved:.1f} GiB "
            "less on each; an all-gather of the weights more"
        )
    chunks = [r for r in range(1, share) if share % r == 0]
    if not config.loss_chunk and chunks:
        logits = 4 * share * found["batch"] / GIB
        lines.append(
            f"--config.loss_chunk={chunks[-1]}: logits of {chunks[-1]} rows at a time (all of "
            f"them take {logits:.2f} GiB a term)"
        )
    return lines or ["more chips, or a smaller batch"]
