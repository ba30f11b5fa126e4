"""Whether a folder holds the run that a config asks for."""

import json
import os

from tf_mural import file_io
from tf_mural.errors import UserError

CONFIG = "config.json"

# Settings that do not change what a run computes, or by its rounding alone; and those that say when
# it ends, and what becomes of a step that would have stopped it.
_FREE = ("log_every", "evaluate_every", "steps_per_loop", "report", "chain", "keep_best")
_FREE += ("checkpoint_every", "checkpoint_minutes", "keep_checkpoints", "checkpoint_in_background")
_FREE += ("rematerialise", "on_bad_step", "max_gradient_norm", "max_skipped_in_a_row")
_FREE += ("shard_optimizer", "shard_embeddings")
_FREE += ("profile_steps", "evaluate_first", "stop_early", "loss_chunk")
_FREE += ("init",)  # see `started_from`
_FREE += ("max_bad_records", "skip_limit")  # the second is what older runs call the first
# What runs that are too old to know a setting were done with, where that is a value of some kind.
_ALWAYS = {
    "precision": "float32",
    "interpolate": 1.0,
    "optimizer.layer_decay": 1.0,
    "model.image.padding": "symmetric",
    "model.text.activation": "gelu_approximate",
}


def same_config(workdir, config, accept=None):
    """Whether the folder holds a run of this config already; False where it holds none.

    Args:
        workdir: folder of a run.
        config: plain data.
        accept: function of a line about a setting that differs, which the run then goes on with.

    Raises:
        UserError: it holds a run of another config, and that is not accepted; the message names
            what differs.
    """
    path = os.path.join(workdir, CONFIG)
    if not file_io.exists(path):
        return False
    theirs, ours = flat(file_io.read_json(path)), flat(json.loads(json.dumps(config)))
    names = [n for n in {**theirs, **ours} if n.split(".")[0] not in _FREE]
    # What an older run does not know was off in it: 0, "", () or False; or else always the same.
    theirs |= {n: _ALWAYS.get(n, None if ours[n] else ours[n]) for n in ours if n not in theirs}
    differ = [n for n in names if theirs.get(n) != ours.get(n)]
    if accept:
        for name in differ:
            accept(f"{name} is {ours.get(name)!r} from here on, it was {theirs.get(name)!r}")
    elif differ:
        first = differ[0]
        more = f" (and {len(differ) - 1} more)" if len(differ) > 1 else ""
        raise UserError(
            f"{workdir} holds a run of another config: {first} is {theirs.get(first)!r} there and "
            f"{ours.get(first)!r} now{more}; choose another --workdir, or remove that folder "
            "(train.py --accept_changes goes on with what is asked for now)"
        )
    return True


def started_from(workdir, init, accept=None):
    """What the run in a folder has started from, or `init` where it holds none or does not say.

    Args:
        workdir: folder of a run.
        init: what the run is asked to start from now, or None.
        accept: as of `same_config`.

    Raises:
        UserError: it has started from something else, and that is not accepted.
    """
    path = os.path.join(workdir, CONFIG)
    theirs = file_io.read_json(path).get("init", init) if file_io.exists(path) else init
    if init is None or _place(init) == _place(theirs):
        return theirs
    if not accept:
        raise UserError(
            f"{workdir} holds a run that has started from {theirs or 'nothing'}, not from {init}; "
            "choose another --workdir, or remove that folder"
        )
    accept(f"--init is {init!r} from here on, it was {theirs!r}")
    return init


def _place(init):
    return init if not init or ":" in init else os.path.realpath(init)


def flat(data, prefix=""):
    """{dotted name: value} of nested dicts."""
    if not isinstance(data, dict):
        return {prefix: data}
    return {
        name: value
        for key, part in data.items()
        for name, value in flat(part, f"{prefix}.{key}" if prefix else key).items()
    }
