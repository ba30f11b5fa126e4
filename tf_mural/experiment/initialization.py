"""Initial weights of a run, the settings that belong to initial weights, and final weights.

A run may start from another run, or from public weights such as "hf:kakaobrain/align-base". Public
weights determine the sizes of the encoders, the vocabulary, and the preprocessing of texts and
images. A run also gets these settings if its initial weights are the weights of a run that started
from public weights.
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
_MISSING = object()

_INHERITED = (
    "pretrained",
    "lower_case",
    "images.resize",
    "images.crop",
    "images.method",
    "images.antialias",
    "images.background",
    "model.embedding_dim",
    "model.image.name",
    "model.image.image_size",
    "model.image.padding",
    "model.image.scale",
    "model.image.mean",
    "model.image.std",
    "model.text.name",
    "model.text.sizes",
    "model.text.max_tokens",
    "model.text.activation",
)
# Settings that must equal the settings of the initial weights. The shapes of the weights do not
# depend on these settings; therefore a comparison of the shapes would not detect different values.
_WITHOUT_SHAPE = (
    "model.text.activation",
    "model.image.padding",
    "model.image.scale",
    "model.image.mean",
    "model.image.std",
)


def check_init(init):
    """Checks that initial weights exist and are complete.

    Args:
        init: "hf:" followed by a folder or by the name of a model on huggingface.co; or the workdir
            of a run.

    Raises:
        UserError: the run or the checkpoint does not exist or is incomplete.
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
        init: "hf:" followed by a folder or the name of a model on huggingface.co; or the workdir of
            a run. If the run in this workdir did not start from public weights, the config does not
            change.
        workdir: folder of the new run, to which the vocabulary is written.

    Returns:
        A message that lists the changed values, or "".

    Raises:
        UserError: the checkpoint does not exist, or its encoders do not fit the config.
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
        init: initial weights that the user named in this command, or None.
        workdir: folder of the run; it need not exist.

    Raises:
        UserError: `init` names public weights, but the run started from other weights.
    """
    path = os.path.join(workdir, checkpoints.CONFIG)
    if not file_io.exists(path):
        return
    stored = file_io.read_json(path)
    pretrained = stored.get("pretrained")
    if init and init.startswith(PUBLIC_PREFIX) and pretrained != init:
        raise UserError(
            f"{workdir} has a run that did not start from {init} but from "
            f"{pretrained or 'other weights'}: choose another `workdir`, or remove that folder"
        )
    if pretrained:
        values = {name: _get(stored, name) for name in (*_INHERITED, "vocabulary")}
        # The config of a run with an earlier version of `tf_mural` lacks some settings.
        _set(config, {name: value for name, value in values.items() if value is not _MISSING})


def _settings_of(checkpoint, config):
    """Returns {name in the config: value} of the settings that public weights determine."""
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
                f"model.{modality}.preset is {preset!r}, but {checkpoint.name} also has weights "
                f"of the {modality} encoder: set `config.model.{modality}.preset=none`"
            )
    return values


def _get(data, name):
    """Returns the value with a dotted name from nested dicts; a tuple is returned as a list."""
    for key in name.split("."):
        if key not in data:
            return _MISSING
        data = data[key]
    return list(data) if isinstance(data, tuple) else data


def _set(config, values):
    """Sets values of the config by dotted name; returns "name=value" for each changed value."""
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
    """Loads the initial weights of a run. The state of the optimizer does not change.

    Args:
        init: "hf:" followed by a folder or the name of a model on huggingface.co; or the workdir of
            a run.
        run: `run.Run`.

    Returns:
        For public weights, a message with the number of loaded variables and the names of unused
        tensors; otherwise "".

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
            f"{vocabulary_hash} ({run.vocabulary_path}): set `config.vocabulary="
            f"{os.path.join(init, checkpoints.VOCABULARY)}`"
        )
    for name in _WITHOUT_SHAPE:
        init_value, value = _get(description, name), _get(run.description, name)
        if init_value != value:
            raise UserError(
                f"{init} was trained with {name}={init_value}, this run has {value}: set "
                f"`config.{name}={init_value}`"
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
        note += f"; the tensors {', '.join(unused[:3])}{more} are not used"
    return note


def finalize_weights(trainer, ema_momentum=None, wise_ft_alpha=1.0, init=None):
    """Sets the final weights of a trained run. All processes must call this function.

    Args:
        trainer: `Trainer` of the backend.
        ema_momentum: momentum of the optimizer's moving average of the weights. The moving average
            replaces the trained weights; None: there is no moving average.
        wise_ft_alpha: the factor a of the final weights a w + (1 - a) w_0, with the trained weights
            w and the initial weights w_0 (WiSE-FT, Wortsman et al. 2022,
            https://arxiv.org/abs/2109.01903). The moving statistics of batch norm are interpolated
            in the same way.
        init: workdir of the run with the initial weights; only needed if `wise_ft_alpha` < 1.

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
        models.interpolate_adapters(trainer.encoder, wise_ft_alpha)
        for adapter in models.adapter_variables(trainer.encoder):
            del variables[adapter.path]
        for path, array in trainer.snapshot(variables).items():
            if np.issubdtype(initial[path].dtype, np.integer):
                continue  # Numbers of positions are constant, and rounding could change them.
            mixed = wise_ft_alpha * np.asarray(array) + (1 - wise_ft_alpha) * initial[path]
            variables[path].assign(ops.convert_to_tensor(mixed.astype(initial[path].dtype)))


def check_wise_ft_alpha(wise_ft_alpha, init):
    """Raises a UserError if WiSE-FT is used, but `init` is not the workdir of a finished run."""
    if wise_ft_alpha == 1:
        return
    if not init or init.startswith(PUBLIC_PREFIX):
        raise UserError(
            f"wise_ft_alpha interpolates with the weights of `init`, which is "
            f"{init or 'not given'}: expected the workdir of a finished run"
        )
    checkpoints.read_model(init)
