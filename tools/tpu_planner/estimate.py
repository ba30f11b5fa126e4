"""Estimates memory and time of a compiled step on a chip, and proposes settings."""

from tpu_planner.hlo import Collective
from tpu_planner.roofline import GIB, roofline_seconds


def estimate(counts, chip, num_chips, batch_size, steps):
    """Returns the counts of a compiled step with estimates that are derived from the counts.

    Args:
        counts: result of `compile_and_count`.
        chip: `roofline.Chip`.
        num_chips: number of chips.
        batch_size: number of rows of the global batch (pairs or triples).
        steps: number of steps of the stage.

    Returns:
        A dict for JSON with the entries of `counts`, the arguments, and these values:
          capacity: bytes of HBM per chip.
          flops_per_row: FLOPs per row of the global batch.
        Only if the step fits:
          used: bytes of HBM that the step uses per chip.
          roofline: see `roofline_seconds`.
          bound: key of the largest time in `roofline`.
          step_seconds, rows_per_second: time of a step, and rows of all chips per second.
          hours, chip_hours: time of the stage, and this time multiplied by `num_chips`.
        The times are lower bounds, which assume that the chip works at its published rates, and
        that computation, memory traffic and communication overlap completely.
    """
    plan = {
        "chips": num_chips,
        "batch": batch_size,
        "steps": steps,
        "source": chip.source,
        "capacity": counts["memory"].get("capacity", chip.memory),
        "flops_per_row": counts["flops"] * num_chips / batch_size,
        **counts,
    }
    if not counts["fits"]:
        return plan
    collectives = [Collective(**collective) for collective in counts["collectives"]]
    roofline = roofline_seconds(chip, counts["flops"], counts["hbm_bytes"], collectives)
    bound = max(roofline, key=roofline.get)
    hours = roofline[bound] * steps / 3600
    return plan | {
        "used": sum(counts["memory"].values()),
        "roofline": roofline,
        "bound": bound,
        "step_seconds": roofline[bound],
        "rows_per_second": batch_size / roofline[bound],
        "hours": hours,
        "chip_hours": hours * num_chips,
    }


def advice(plan, config):
    """Returns a line for each setting that would reduce the memory of a step and is not in use.

    Args:
        plan: result of `estimate`.
        config: ConfigDict of the stage.
    """
    share = plan["batch"] // plan["chips"]
    rows, group = config.microbatch or share, max(config.model.image.virtual_batch_size or 1, 1)
    smaller = [r for r in range(group, rows, group) if share % r == 0]
    lines = []
    if smaller:
        lines.append(
            f"--config.microbatch={smaller[-1]}: activations of {smaller[-1]} rows instead of "
            f"{rows} at a time; the encoders need two forward passes"
        )
    if not config.remat:
        lines.append(
            "--config.remat=true: activations of one block at a time; the encoders need two "
            "forward passes"
        )
    if not config.shard_optimizer and plan["chips"] > 1:
        saved = plan["slots"] * (1 - 1 / plan["chips"]) / GIB
        lines.append(
            f"--config.shard_optimizer=true: distributes the optimizer slots over all chips, "
            f"{saved:.1f} GiB less on each; the weights need one more all-gather"
        )
    chunks = [r for r in range(1, share) if share % r == 0]
    if not config.loss_chunk and chunks:
        logits = 4 * share * plan["batch"] / GIB
        lines.append(
            f"--config.loss_chunk={chunks[-1]}: logits of {chunks[-1]} rows at a time (all of "
            f"them take {logits:.2f} GiB per term)"
        )
    return lines or ["more chips, or a smaller batch"]
