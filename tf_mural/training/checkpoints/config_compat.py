"""Compares the config of a run with the config that its workdir was started with."""

import json
import os

from tf_mural import file_io
from tf_mural.errors import UserError

CONFIG = "config.json"

# Settings that may change between restarts. Some of these settings do not change the results, or
# change them only by rounding errors. The other settings determine when the run ends, or what
# happens at a step that would otherwise stop the run.
_MAY_CHANGE = {
    "log_every",
    "evaluate_every",
    "steps_per_loop",
    "report",
    "train_dependencies",
    "keep_best",
    "checkpoint_every",
    "checkpoint_minutes",
    "keep_checkpoints",
    "checkpoint_in_background",
    "remat",
    "on_bad_step",
    "max_gradient_norm",
    "max_consecutive_skips",
    "shard_optimizer",
    "shard_embeddings",
    "profile_steps",
    "evaluate_before_training",
    "stop_early",
    "loss_chunk",
    "init",  # see `resolve_init`
    "max_bad_records",
    "model.image.batch_norm",
}
# {setting: the value that earlier versions of `tf_mural`, without this setting, always used}.
_FORMERLY_FIXED = {
    "precision": "float32",
    "wise_ft_alpha": 1.0,
    "optimizer.layer_decay": 1.0,
    "optimizer.scalar_lr_multiplier": 1.0,
    "images.method": "bilinear",
    "images.background": "white",
    "model.image.padding": "symmetric",
    "model.image.scale": 1 / 127.5,
    "model.image.mean": [1.0],
    "model.image.std": [1.0],
    "model.text.activation": "gelu_approximate",
    "sources.*.languages_of": "draw",
    "sources.*.alpha": 0.5,
    "sources.*.shuffle_limit": 5_000_000,
    "sources.*.window_blocks": 32,
}


def check_same_config(workdir, config, on_change=None):
    """Compares a config with the saved config of the run in a folder.

    Args:
        workdir: folder of a run.
        config: config as plain data.
        on_change: callable that takes a message about a changed setting; the run then continues
            with the new value. If `on_change` is None, changed settings are refused.

    Returns:
        Whether the folder contains a run.

    Raises:
        UserError: the folder contains a run with other settings, and `on_change` is None; the
            message names the difference.
    """
    path = os.path.join(workdir, CONFIG)
    if not file_io.exists(path):
        return False
    saved = flatten_config(file_io.read_json(path))
    current = flatten_config(json.loads(json.dumps(config)))
    names = [n for n in {**saved, **current} if not {n, n.split(".")[0]} & _MAY_CHANGE]
    # A setting that the config of an older run lacks was either off (0, "", () or False) or fixed
    # (see `_FORMERLY_FIXED`).
    saved |= {
        name: _FORMERLY_FIXED.get(_any_source(name), None if value else value)
        for name, value in current.items()
        if name not in saved
    }
    changed = [n for n in names if saved.get(n) != current.get(n)]
    if on_change:
        for name in changed:
            on_change(f"{name} changes from {saved.get(name)!r} to {current.get(name)!r}")
    elif changed:
        first = changed[0]
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise UserError(
            f"{workdir} holds a run of another config: {first} is {saved.get(first)!r} there and "
            f"{current.get(first)!r} now{more}; choose another `workdir`, or remove that folder "
            "(`allow_config_changes=True` continues with the new settings)"
        )
    return True


def _any_source(name):
    """Returns "sources.*.alpha" for "sources.bitext.alpha", and other names unchanged."""
    group, _, rest = name.partition(".")
    return ".".join(("sources", "*", *rest.split(".")[1:])) if group == "sources" else name


def resolve_init(workdir, init, on_change=None):
    """Returns the initial weights of the run in a folder, or `init` if the folder has no run.

    Args:
        workdir: folder of a run.
        init: requested initial weights, or None.
        on_change: see `check_same_config`.

    Raises:
        UserError: the run was started from other weights, and `on_change` is None.
    """
    path = os.path.join(workdir, CONFIG)
    saved = file_io.read_json(path).get("init", init) if file_io.exists(path) else init
    if init is None or _normalized(init) == _normalized(saved):
        return saved
    if not on_change:
        raise UserError(
            f"{workdir} holds a run that was started from {saved or 'nothing'}, not from {init}; "
            "choose another `workdir`, or remove that folder"
        )
    on_change(f"init changes from {saved!r} to {init!r}")
    return init


def _normalized(init):
    return init if not init or ":" in init else os.path.realpath(init)


def flatten_config(data, prefix=""):
    """Returns {dotted name: value} of nested dicts."""
    if not isinstance(data, dict):
        return {prefix: data}
    return {
        name: value
        for key, part in data.items()
        for name, value in flatten_config(part, f"{prefix}.{key}" if prefix else key).items()
    }
