"""Resume, the whole state of a run; and handover, the weights that the next stage starts from."""

import contextlib
import json
import os
import uuid

import numpy as np
import tensorflow as tf

from tf_mural.base import UserError

WEIGHTS, MODEL, VOCABULARY = "weights.npz", "model.json", "vocab.txt"
CONFIG = "config.json"


class Checkpoints:
    """The checkpoints of one run: all variables of model and optimizer, and the step.

    Nothing else is state: the order of data and the dropout are functions of the step.

    Args:
        workdir: folder of the run; they go to its `checkpoints/`.
        trainer: `training.Trainer`, compiled.
        keep: how many of the last ones stay.
        writes: whether this process does; of several, the first alone. All of them restore, so all
            must see the folder.
    """

    def __init__(self, workdir, trainer, keep=2, writes=True):
        optimizer, self._writes = trainer.optimizer, writes
        os.makedirs(workdir, exist_ok=True)
        self._description = os.path.join(workdir, MODEL)
        # Before a restore: slots made afterwards would start from zero, silently.
        optimizer.build(trainer.encoder.trainable_variables)
        state = tf.train.Checkpoint(
            model=[v.value for v in _weights(trainer.encoder)],
            optimizer=[v.value for v in optimizer.variables],
            step=trainer.step,
            **({"loss_scale": trainer.loss_scale.variables} if trainer.loss_scale else {}),
        )
        self._state = state
        self._manager = tf.train.CheckpointManager(
            state, os.path.join(workdir, "checkpoints"), max_to_keep=keep, checkpoint_name="step"
        )

    def restore(self, description):
        """Restores the last checkpoint, if there is one; returns whether there was.

        Args:
            description: that of this run; the checkpoint must be of the same vocabulary.

        Raises:
            UserError: another vocabulary, another model, or a damaged file.
        """
        path = self._manager.latest_checkpoint
        if path is None:
            if self._writes:
                write_json(self._description, description)
            return False
        theirs = read_json(self._description)["vocabulary_hash"]
        if theirs != description["vocabulary_hash"]:
            raise UserError(
                f"{path} is of vocabulary {theirs}, this run has {description['vocabulary_hash']}: "
                "put the file back that the run was started with, or choose another --workdir"
            )
        try:
            self._state.restore(path).assert_consumed()
        except (AssertionError, ValueError, tf.errors.OpError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{path} cannot be restored ({reason}); it is damaged or of another model: "
                "move it away to continue from the one before, or choose another --workdir"
            ) from error
        return True

    def save(self, step):
        """Writes a checkpoint named after the step."""
        # Each process holds all there is to save: variables are read without the others.
        if self._writes:
            self._manager.save(checkpoint_number=step)


def save_model(folder, encoder, description, vocabulary_path):
    """Writes weights.npz, model.json and vocab.txt: all that rebuilds the encoder.

    Args:
        folder: where to.
        encoder: `models.DualEncoder`.
        description: plain data of model.json.
        vocabulary_path: file that is copied.
    """
    arrays = {path: v.numpy() for path, v in _by_path(encoder).items()}
    with replacing(os.path.join(folder, WEIGHTS)) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)
    with open(vocabulary_path, "rb") as source, replacing(os.path.join(folder, VOCABULARY)) as path:
        with open(path, "wb") as target:
            target.write(source.read())
    write_json(os.path.join(folder, MODEL), description)


def read_model(folder):
    """The description that `save_model` wrote.

    Raises:
        UserError: the folder holds no finished model.
    """
    missing = [
        n for n in (MODEL, WEIGHTS, VOCABULARY) if not os.path.exists(os.path.join(folder, n))
    ]
    if missing:
        raise UserError(
            f"{folder} holds no trained model: {', '.join(missing)} missing; expected the workdir "
            "of a finished run (see --workdir of tools/train.py)"
        )
    return read_json(os.path.join(folder, MODEL))


def load_weights(folder, encoder):
    """Sets the encoder's weights by variable path to those that `save_model` wrote.

    Raises:
        UserError: names or shapes differ; the message names the first ones.
    """
    variables = _by_path(encoder)
    with np.load(os.path.join(folder, WEIGHTS)) as file:
        arrays = {path: file[path] for path in file.files}
    wrong = [f"{p} is missing" for p in variables if p not in arrays]
    wrong += [f"{p} is not of this model" for p in arrays if p not in variables]
    wrong += [
        f"{p} has shape {arrays[p].shape}, expected {tuple(v.shape)}"
        for p, v in variables.items()
        if p in arrays and arrays[p].shape != tuple(v.shape)
    ]
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise UserError(
            f"{os.path.join(folder, WEIGHTS)} does not fit this model: {'; '.join(wrong[:3])}"
            f"{more}; use a run of the same model, or the same --size"
        )
    for path, variable in variables.items():
        variable.assign(arrays[path])


# Settings that do not change what a run computes, and those that say what becomes of a step that
# would have stopped it.
_FREE = ("log_every", "checkpoint_every", "evaluate_every", "steps_per_loop", "report", "chain")
_FREE += ("rematerialise", "on_bad_step", "max_gradient_norm", "max_skipped_in_a_row")
# What runs that are too old to know a setting were done with, where that is a value of some kind.
_ALWAYS = {"precision": "float32"}


def same_config(workdir, config):
    """Whether the folder holds a run of this config already; False where it holds none.

    Args:
        workdir: folder of a run.
        config: plain data.

    Raises:
        UserError: it holds a run of another config; the message names what differs.
    """
    path = os.path.join(workdir, CONFIG)
    if not os.path.exists(path):
        return False
    theirs, ours = _flat(read_json(path)), _flat(json.loads(json.dumps(config)))
    names = [n for n in {**theirs, **ours} if n.split(".")[0] not in _FREE]
    # What an older run does not know was off in it: 0, "", () or False; or else always the same.
    unknown = {n: _ALWAYS.get(n, None if ours[n] else ours[n]) for n in ours if n not in theirs}
    theirs |= unknown
    differ = [n for n in names if theirs.get(n) != ours.get(n)]
    if differ:
        first = differ[0]
        more = f" (and {len(differ) - 1} more)" if len(differ) > 1 else ""
        raise UserError(
            f"{workdir} holds a run of another config: {first} is {theirs.get(first)!r} there and "
            f"{ours.get(first)!r} now{more}; choose another --workdir, or remove that folder"
        )
    return True


def _flat(data, prefix=""):
    if not isinstance(data, dict):
        return {prefix: data}
    return {
        name: value
        for key, part in data.items()
        for name, value in _flat(part, f"{prefix}.{key}" if prefix else key).items()
    }


def read_json(path):
    """Plain data of a file."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}); remove it and run again") from error


def write_json(path, data):
    """Writes plain data, whole or not at all."""
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump(data, file, indent=1, ensure_ascii=False)
        file.write("\n")


@contextlib.contextmanager
def replacing(path):
    """A temporary name beside `path`, moved to it when the block ends well."""
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def _weights(encoder):
    """All weights in a fixed order, without the states of random generators."""
    return [v for v in encoder.variables if "seed_generator" not in v.path]


def _by_path(encoder):
    found = {}
    for variable in _weights(encoder):
        if variable.path in found:
            raise ValueError(f"two variables are called {variable.path}")
        found[variable.path] = variable
    return found
