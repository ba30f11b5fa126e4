"""Initial and final weights of a run, and the settings that come with initial weights.

A run starts from another run, or from public weights ("hf:kakaobrain/align-base"). Public weights
determine the shape of the encoders that they fill, the vocabulary, and the preprocessing of texts
and images. The runs that follow such a run inherit these settings.
"""

import os

import numpy as np
from keras import ops

from tf_mural import file_io, huggingface, models
from tf_mural.data import tokenizers
from tf_mural.errors import UserError
from tf_mural.experiment.model_io import read_description
from tf_mural.training import checkpoints

PUBLIC_PREFIX = "hf:"

_INHERITED = (
    "pretrained",
    "lower_case",
    "images.resize",
    "images.crop",
    "model.embedding_dim",
    "model.image.name",
    "model.image.image_size",
    "model.image.padding",
    "model.text.name",
    "model.text.sizes",
    "model.text.max_tokens",
    "model.text.activation",
)
# Settings that the shapes of the weights do not show.
_WITHOUT_SHAPE = ("model.text.activation", "model.image.padding")


def check_init(init):
    """Checks that initial weights exist, without changing anything.

    Args:
        init: "hf:" and a folder or a name of huggingface.co, or the workdir of a run.

    Raises:
        UserError: there is no such run or checkpoint, or it is incomplete.
    """
    if init.startswith(PUBLIC_PREFIX):
        huggingface.open_checkpoint(init.removeprefix(PUBLIC_PREFIX))
    else:
        read_description(init)


# --- settings -------------------------------------------------------------------------------------


def apply_init_settings(config, init, workdir):
    """Sets the values of the config that public weights determine.

    Args:
        config: ConfigDict of a stage, changed in place.
        init: "hf:" and a folder or a name of huggingface.co, or the workdir of a run. A run that
            did not start from public weights determines nothing.
        workdir: folder of the new run; the vocabulary is written there.

    Returns:
        A message that lists the changes, or "".

    Raises:
        UserError: the checkpoint does not exist, or the encoders of the config cannot have its
            weights.
    """
    if init.startswith(PUBLIC_PREFIX):
        checkpoint = huggingface.open_checkpoint(init.removeprefix(PUBLIC_PREFIX))
        values, pieces = _settings_of(checkpoint, config), checkpoint.vocabulary
        values["pretrained"] = init
    else:
        description = read_description(init)
        if description["pretrained"] is None:
            return ""
        values = {name: _get(description, name) for name in _INHERITED}
        pieces = tokenizers.load_vocabulary(os.path.join(init, checkpoints.VOCABULARY))
    file_io.makedirs(workdir)
    values["vocabulary"] = os.path.join(workdir, checkpoints.VOCABULARY)
    tokenizers.save_vocabulary(values["vocabulary"], pieces)
    changed = _set(config, values)
    return f"set by the initial weights: {', '.join(changed)}" if changed else ""


def restore_init_settings(config, init, workdir):
    """Sets the values that public weights determined when the run in `workdir` was started.

    Args:
        config: ConfigDict of a stage, changed in place.
        init: initial weights that the user named now, or None.
        workdir: folder of the run; it need not exist.

    Raises:
        UserError: `init` names other public weights than those that the run started from.
    """
    path = os.path.join(workdir, checkpoints.CONFIG)
    if not file_io.exists(path):
        return
    stored = file_io.read_json(path)
    pretrained = stored.get("pretrained")
    if init and init.startswith(PUBLIC_PREFIX) and pretrained != init:
        raise UserError(
            f"{workdir} has a run that did not start from {init} but from "
            f"{pretrained or 'other weights'}: choose another --workdir, or remove that folder"
        )
    if pretrained:
        _set(config, {name: _get(stored, name) for name in (*_INHERITED, "vocabulary")})


def _settings_of(checkpoint, config):
    """Returns {name in the config: value} of public weights."""
    names = [name for name in models.BERTS if models.bert_sizes(name) == checkpoint.text["sizes"]]
    values = {
        "lower_case": checkpoint.lower_case,
        "model.text.name": names[0] if names else config.model.text.name,
        "model.text.sizes": None if names else checkpoint.text["sizes"],
        "model.text.activation": checkpoint.text["activation"],
        "model.text.max_tokens": min(config.model.text.max_tokens, checkpoint.positions),
    }
    if checkpoint.image:
        values |= {f"model.image.{name}": value for name, value in checkpoint.image.items()}
        values |= {f"images.{name}": value for name, value in checkpoint.image_sizes.items()}
        values["model.image.image_size"] = checkpoint.image_sizes["crop"]
        values["model.embedding_dim"] = checkpoint.embedding_dim
    for modality in ("text", "image") if checkpoint.image else ("text",):
        preset = config.model[modality].preset
        if preset is not None:
            raise UserError(
                f"model.{modality}.preset is {preset!r}, but {checkpoint.name} has weights for "
                f"that tower too: set --config.model.{modality}.preset=none"
            )
    return values


def _get(data, name):
    for key in name.split("."):
        data = data[key]
    return data


def _set(config, values):
    """Sets values by their names in the config; returns "name=value" of those that changed."""
    changed = []
    for name, value in values.items():
        *groups, key = name.split(".")
        group = config
        for part in groups:
            group = group[part]
        value = tuple(value) if isinstance(value, list) else value
        if group[key] != value:
            group[key] = value
            changed.append(f"{name}={value}")
    return changed


# --- weights --------------------------------------------------------------------------------------


def load_initial_weights(init, run):
    """Loads the initial weights of a run; the optimizer starts with fresh slots.

    Args:
        init: "hf:" and a folder or a name of huggingface.co, or the workdir of a run.
        run: `run.Run`.

    Returns:
        A message that counts the loaded variables and names unused tensors, or "".

    Raises:
        UserError: the vocabularies or the shapes of the two models differ.
    """
    if init.startswith(PUBLIC_PREFIX):
        return _load_public_weights(init, run)
    description = read_description(init)
    vocabulary_hash = run.description["vocabulary_hash"]
    if description["vocabulary_hash"] != vocabulary_hash:
        raise UserError(
            f"{init} was trained with vocabulary {description['vocabulary_hash']}, this run has "
            f"{vocabulary_hash} ({run.vocabulary_path}): set --config.vocabulary="
            f"{os.path.join(init, checkpoints.VOCABULARY)}"
        )
    for name in _WITHOUT_SHAPE:
        init_value, value = _get(description, name), _get(run.description, name)
        if init_value != value:
            raise UserError(
                f"{init} was trained with {name}={init_value}, this run has {value}: set "
                f"--config.{name}={init_value}"
            )
    arrays, copied = initial_arrays(init, run.trainer.encoder)
    checkpoints.load_weights(init, run.trainer.encoder, arrays)
    return "; ".join(
        f"the tower {tower!r}, which {init} does not have, starts with the weights of {source!r}"
        for tower, source in copied.items()
    )


def initial_arrays(init, encoder):
    """Reads the initial weights of an encoder from a run, whose model may have fewer towers.

    A further tower that the run does not have starts with the weights of the first tower of its
    modality: a frozen copy of it is the teacher of that tower.

    Args:
        init: workdir of the run.
        encoder: `models.DualEncoder`.

    Returns:
        ({variable path: array}, {tower: tower that its weights are copied from}).
    """
    arrays, copied = checkpoints.read_weights(init), {}
    for tower, modality in encoder.modalities.items():
        source = encoder.default_tower(modality)
        if tower == source or any(path.startswith(f"{tower}/") for path in arrays):
            continue
        copied[tower] = source
        for path in checkpoints.variables_by_path(encoder.towers[tower]):
            array = arrays.get(path.removeprefix(f"{tower}/"))
            if array is not None:
                arrays[path] = array
    return arrays, copied


def _load_public_weights(init, run):
    variables = {v.path: v for v in run.trainer.encoder.variables if "seed_generator" not in v.path}
    shapes = {path: tuple(v.shape) for path, v in variables.items()}
    checkpoint = huggingface.open_checkpoint(init.removeprefix(PUBLIC_PREFIX))
    arrays, unused = huggingface.read_weights(checkpoint, shapes)
    for path, array in arrays.items():
        variables[path].assign(array)
    note = f"{init}: {len(arrays)} of {len(variables)} variables loaded"
    if unused:
        more = f" and {len(unused) - 3} more" if len(unused) > 3 else ""
        note += f"; its tensors {', '.join(unused[:3])}{more} are not used"
    return note


def finalize_weights(trainer, ema_momentum=None, wise_ft_alpha=1.0, init=None):
    """Sets the final weights of a trained run. All processes call it.

    Args:
        trainer: `Trainer` of the backend.
        ema_momentum: that of the optimizer; unless it is None, the run ends with the moving
            average of the weights.
        wise_ft_alpha: a, the run ends with a w + (1 - a) w_0, where w_0 are the initial weights;
            the moving statistics of batch norm are interpolated too (WiSE-FT, Wortsman et al.
            2022, https://arxiv.org/abs/2109.01903).
        init: workdir of the run that this one started from.

    Raises:
        UserError: there are no initial weights to interpolate with.
    """
    variables = checkpoints.variables_by_path(trainer.encoder)
    if ema_momentum is not None:
        averages = trainer.optimizer.ema_variables
        pairs = zip(trainer.encoder.trainable_variables, averages, strict=True)
        averages = {variable.path: average for variable, average in pairs}
        for path, array in trainer.snapshot(averages).items():
            variables[path].assign(ops.convert_to_tensor(np.asarray(array)))
    if wise_ft_alpha < 1:
        check_wise_ft_alpha(wise_ft_alpha, init)
        initial, _ = initial_arrays(init, trainer.encoder)
        for path, array in trainer.snapshot(variables).items():
            mixed = wise_ft_alpha * np.asarray(array) + (1 - wise_ft_alpha) * initial[path]
            variables[path].assign(ops.convert_to_tensor(mixed.astype(initial[path].dtype)))


def check_wise_ft_alpha(wise_ft_alpha, init):
    """Raises UserError if a run that starts from `init` cannot interpolate with its weights."""
    if wise_ft_alpha == 1:
        return
    if not init or init.startswith(PUBLIC_PREFIX):
        raise UserError(
            f"wise_ft_alpha interpolates with the weights of --init, which is "
            f"{init or 'not given'}: expected the workdir of a finished run"
        )
    checkpoints.read_model(init)
