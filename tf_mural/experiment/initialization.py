"""Initial weights of a run, the settings that belong to initial weights, and final weights.

A run may start from another run, or from public weights such as "hf:kakaobrain/align-base". Public
weights determine the sizes of the encoders, the vocabulary, and the preprocessing of texts and
images. A run also gets these settings if its initial weights are the weights of a run that started
from public weights.
"""

import os

import numpy as np
from keras import ops

from tf_mural import file_io, huggingface, models, public_models
from tf_mural.data import tokenizers
from tf_mural.errors import UserError
from tf_mural.experiment import public_encoders
from tf_mural.experiment.config_values import MISSING, get_value, is_default, set_values
from tf_mural.experiment.model_io import read_description
from tf_mural.training import checkpoints

_INHERITED = (
    "pretrained",
    "lower_case",
    "images.resize",
    "images.crop",
    "images.method",
    "images.antialias",
    "images.keep_aspect_ratio",
    "images.background",
    "model.embedding_dim",
    "model.image.backbone",
    "model.image.pooling",
    "model.image.image_size",
    "model.image.padding",
    "model.image.scale",
    "model.image.mean",
    "model.image.std",
    "model.text.backbone",
    "model.text.pooling",
    "model.text.sizes",
    "model.text.max_tokens",
    "model.text.activation",
)
# Settings that keep an explicit value when a run with public encoders is resumed.
_KEPT = ("model.embedding_dim", "model.image.image_size", "model.text.max_tokens", "images.resize")
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
        init: name of a public model, such as "hf:kakaobrain/align-base"; or the workdir of a run.

    Raises:
        UserError: the run or the checkpoint does not exist or is incomplete.
    """
    if not public_models.is_public(init):
        read_description(init)
    elif _is_converted(init):
        huggingface.open_checkpoint(_source(init))
    else:
        public_models.open_model(init)


def _source(init):
    return init.removeprefix(public_models.HUGGING_FACE)


def _is_converted(init):
    """Returns whether public weights are converted to the towers of the paper.

    These are the weights of ALIGN, and of a BERT with a WordPiece vocabulary.
    """
    return init.startswith(public_models.HUGGING_FACE) and huggingface.is_supported(_source(init))


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
    if not public_models.is_public(init):
        values = _inherited_settings(init, workdir)
    elif _is_converted(init):
        checkpoint = huggingface.open_checkpoint(_source(init))
        values = _settings_of(checkpoint, config) | {"pretrained": init}
        values["vocabulary"] = os.path.join(workdir, checkpoints.VOCABULARY)
        file_io.makedirs(workdir)
        tokenizers.save_vocabulary(values["vocabulary"], checkpoint.vocabulary)
    else:
        values = _backbones_of(config, public_models.open_model(init)) | {"pretrained": init}
    changed = set_values(config, values)
    return f"set by the initial weights: {', '.join(changed)}" if changed else ""


def _inherited_settings(init, workdir):
    """Returns the settings of a run that started from public weights; {}: it did not."""
    description = read_description(init)
    encoders = description.get("encoders")
    if description["pretrained"] is None and not encoders:
        return {}
    source = checkpoints.find_vocabulary(init)
    path = os.path.join(workdir, os.path.basename(source))
    file_io.makedirs(workdir)
    checkpoints.copy_vocabulary(source, path)
    if encoders:
        file_io.write_json(os.path.join(workdir, public_encoders.ENCODERS), encoders)
    values = {name: get_value(description, name) for name in _INHERITED} | {"vocabulary": path}
    return {name: value for name, value in values.items() if value is not MISSING}


def _backbones_of(config, model):
    """Returns the settings with which the towers of a run are those of a public model."""
    values = {f"model.{modality}.backbone": model.name for modality in model.modalities}
    for name, other in public_encoders.public_towers(config).items():
        if f"model.{name}.backbone" in values and other != model.name:
            raise UserError(
                f"model.{name}.backbone is {other!r}, but {model.name} also has an encoder of this "
                f"modality: omit `config.model.{name}.backbone`"
            )
    if len(model.modalities) > 1:
        for kind, value in model.scalars.items():
            names = [f"model.scalars.{kind}.{name}" for name in config.model.scalars.get(kind, ())]
            values |= {name: value for name in names if is_default(config, name)}
    return values


def loss_note(config, model):
    """Returns a note if a public model was trained with the sigmoid loss, and a term is not."""
    losses = {term.loss for term in config.terms.values()}
    if model.loss != "sigmoid" or losses == {"sigmoid"}:
        return ""
    return (
        f"{model.name} was trained with the sigmoid loss, and this stage has the loss "
        f"{', '.join(sorted(losses))}: configs/sweeps/sigmoid.py shows a config whose terms have "
        "the sigmoid loss, with a temperature and a bias"
    )


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
    if init and public_models.is_public(init) and pretrained != init:
        raise UserError(
            f"{workdir} has a run that did not start from {init} but from "
            f"{pretrained or 'other weights'}: choose another `workdir`, or remove that folder"
        )
    backbones = [f"model.{modality}.backbone" for modality in ("image", "text")]
    has_public = any(public_models.is_public(get_value(stored, name)) for name in backbones)
    names = [*_INHERITED, "vocabulary"]
    if has_public:
        is_same = all(get_value(stored, name) == get_value(config, name) for name in backbones)
        if not (pretrained or stored.get("init") or is_same):
            return
        scalars = config.model.scalars
        kept = [f"model.scalars.{kind}.{name}" for kind in scalars for name in scalars[kind]]
        kept += [*_KEPT, *(n for n in backbones if public_models.is_public(get_value(config, n)))]
        names += ["model.image.virtual_batch_size", *kept]
        names = [name for name in names if name not in kept or is_default(config, name)]
    if pretrained or has_public:
        values = {name: get_value(stored, name) for name in names}
        # The config of a run with an earlier version of `tf_mural` lacks some settings.
        set_values(config, {name: value for name, value in values.items() if value is not MISSING})


def _settings_of(checkpoint, config):
    """Returns {name in the config: value} of the settings that public weights determine."""
    names = [name for name in models.BERTS if models.bert_sizes(name) == checkpoint.text["sizes"]]
    values = {
        "lower_case": checkpoint.lower_case,
        "model.text.backbone": names[0] if names else config.model.text.backbone,
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
        backbone = config.model[modality].backbone
        if public_models.is_public(backbone):
            raise UserError(
                f"model.{modality}.backbone is {backbone!r}, but {checkpoint.name} also has "
                f"weights of the {modality} encoder: omit `config.model.{modality}.backbone`"
            )
    return values


def set_padding(config):
    """Sets the padding of image towers that have none to the default of `models.image_tower`."""
    image = config.model.image
    towers = [tower for tower in config.model.towers.values() if tower.modality == "image"]
    for tower in (image, *towers):
        backbone = tower.get("backbone")
        preset = models.preset_of(backbone)
        if public_encoders.is_efficientnet(backbone):
            padding = tower.get("padding") or public_encoders.stated_padding(backbone)
            tower.padding = models.resolve_padding(padding, preset)
        elif tower is image and not public_models.is_public(backbone):
            tower.padding = models.resolve_padding(tower.padding)


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
    if public_models.is_public(init):
        if _is_converted(init):
            return _load_public_weights(init, run)
        model = public_models.open_model(init)
        return f"{init}: weights of the encoders {' and '.join(model.modalities)}"
    description = read_description(init)
    vocabulary_hash = run.description["vocabulary_hash"]
    if description["vocabulary_hash"] != vocabulary_hash:
        raise UserError(
            f"{init} was trained with vocabulary {description['vocabulary_hash']}, this run has "
            f"{vocabulary_hash} ({run.vocabulary_path}): set `config.vocabulary="
            f"{checkpoints.find_vocabulary(init)}`"
        )
    for name in _WITHOUT_SHAPE:
        init_value, value = get_value(description, name), get_value(run.description, name)
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
    checkpoint, encoder = huggingface.open_checkpoint(_source(init)), run.trainer.encoder
    variables = encoder.variables
    if "encoder" in (run.description.get("encoders") or {}).get("image", {}):
        variables = encoder.towers["text"].variables  # The image tower is a public model.
    variables = {v.path: v for v in variables if "seed_generator" not in v.path}
    shapes = {path: tuple(v.shape) for path, v in variables.items()}
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
    if not init or public_models.is_public(init):
        raise UserError(
            f"wise_ft_alpha interpolates with the weights of `init`, which is "
            f"{init or 'not given'}: expected the workdir of a finished run"
        )
    checkpoints.read_model(init)
