"""Encoders of public models in a run: settings, tokenizers and weights that belong to them.

The values `model.image.backbone` and `model.text.backbone` of a config may name public models, see
`public_models`. The description of a model (model.json) stores such an encoder in "encoders", as
{tower: {"encoder": class and config of the encoder}}, or {tower: {"backbone": architecture}} for an
EfficientNet of KerasHub, so that the model is loaded without the public model.
"""

import functools
import json
import os
import re
import tempfile

import keras

from tf_mural import file_io, models, public_models
from tf_mural.data import encoder_inputs, tokenizer_files, tokenizers
from tf_mural.data.preprocessing import Preprocessing
from tf_mural.errors import UserError
from tf_mural.experiment.config_values import is_default, set_values
from tf_mural.training import checkpoints

ENCODERS = "encoders.json"
# Values of the config that keep an explicit value of the user.
_SIZES = ("model.image.image_size", "images.resize", "model.text.max_tokens", "model.embedding_dim")


def public_towers(config):
    """Returns {tower: name of the public model} of the towers that are public models."""
    towers = {"image": config.model.image, "text": config.model.text, **config.model.towers}
    names = {tower: values.get("backbone") for tower, values in towers.items()}
    return {tower: name for tower, name in names.items() if public_models.is_public(name)}


def check_backbones(config):
    """Reads the descriptions of all public models of a config.

    Raises:
        UserError: a public model is not available, or has no encoder of the modality of its tower.
    """
    for tower, name in public_towers(config).items():
        _open(config, tower, name)


def _open(config, tower, name):
    modality = _modality(config, tower)
    model = public_models.open_model(name)
    path = f"model.{tower}" if tower == modality else f"model.towers.{tower}"
    if modality not in model.modalities:
        raise UserError(
            f"{path}.backbone is {name}, which has no encoder of modality {modality!r}; it has: "
            f"{', '.join(model.modalities)}"
        )
    if modality == "text" and model.tokenizer is None:
        raise UserError(f"{path}.backbone is {name}, which has no tokenizer: choose another model")
    pooling = _values(config, tower).get("pooling", "auto")
    if modality == "image" and pooling not in ("auto", "average") and is_efficientnet(name):
        raise UserError(
            f"{path}.pooling is {pooling!r}, but the EfficientNet {name} always has the pooling "
            f"'average': set `config.{path}.pooling=auto`"
        )
    return model


def _values(config, tower):
    return config.model[tower] if tower in ("image", "text") else config.model.towers[tower]


def _modality(config, tower):
    return tower if tower in ("image", "text") else config.model.towers[tower].modality


# --- settings -------------------------------------------------------------------------------------


def apply_backbone_settings(config, workdir=None):
    """Sets the values of the config that belong to its public models.

    An image model determines the preprocessing of images, and a text model determines the
    tokenizer. Image size, number of tokens and width of the embeddings are those of the models,
    unless the config has another value than configs/base.py for them.

    Args:
        config: ConfigDict of a stage, changed in place.
        workdir: folder of the run, to which the tokenizer is written. None: nothing is written, and
            `vocabulary` does not change.

    Returns:
        A message that lists the changed values, or "".

    Raises:
        UserError: a public model is not available, or does not fit the config.
    """
    towers = public_towers(config)
    opened = {tower: _open(config, tower, name) for tower, name in towers.items()}
    values = {}
    if "image" in opened:
        values |= _image_settings(config, opened["image"])
    if "text" in opened:
        values |= _text_settings(config, opened["text"])
        if workdir is not None:
            values["vocabulary"] = store_tokenizer(opened["text"].tokenizer, workdir)
    if len({towers.get("image"), towers.get("text")}) == 1 and opened:
        values["model.embedding_dim"] = opened["text"].embedding_dim
    values = {
        name: value
        for name, value in values.items()
        if name not in _SIZES or (value is not None and is_default(config, name))
    }
    changed = set_values(config, values)
    _check_further_towers(config, opened)
    names = ", ".join(dict.fromkeys(towers.values()))
    return f"set by {names}: {', '.join(changed)}" if changed else ""


def _image_settings(config, model):
    values, preprocessing = {}, model.preprocessing
    is_own_tower = is_efficientnet(model.name)  # It is built by `models.image_tower`.
    if preprocessing is None:
        size = config.model.image.image_size
        preprocessing = Preprocessing.from_config({"resize": size, "crop": size})
    elif not is_default(config, "model.image.image_size"):
        preprocessing = preprocessing.with_size(config.model.image.image_size)
    for name in ("resize", "crop", "method", "antialias", "keep_aspect_ratio"):
        values[f"images.{name}"] = getattr(preprocessing, name)
    for name in ("scale", "mean", "std"):
        values[f"model.image.{name}"] = getattr(preprocessing, name)
    values["model.image.image_size"] = preprocessing.crop
    if not is_own_tower:
        values |= {"model.image.padding": preprocessing.padding}
        values |= {"model.image.virtual_batch_size": None}
    return values


def _text_settings(config, model):
    return {
        "model.text.max_tokens": model.tokenizer.max_tokens,
        "lower_case": model.tokenizer.lower_case,
    }


def _check_further_towers(config, opened):
    """Checks that further towers take the same inputs as the first tower of their modality."""
    for tower, model in opened.items():
        modality = _modality(config, tower)
        if tower == modality:
            continue
        first = opened.get(modality)
        same = first is not None and (
            first.preprocessing == model.preprocessing
            if modality == "image"
            else first.tokenizer.hash == model.tokenizer.hash
        )
        if not same:
            inputs = {"image": "preprocessing", "text": "tokenizer"}[modality]
            raise UserError(
                f"model.towers.{tower}.backbone is {model.name}, whose {inputs} is not that of "
                f"model.{modality}: towers of one modality get the same inputs"
            )


# --- tokenizers -----------------------------------------------------------------------------------


def open_tokenizer(path, max_tokens, lower_case=False):
    """Opens the tokenizer of a run.

    Args:
        path: vocabulary file of a WordPiece tokenizer, SentencePiece model (*.model),
            tokenizer.json of Hugging Face, or a folder with a tokenizer.
        max_tokens: number of tokens per text.
        lower_case: whether texts are converted to lower case; False: as the files say, if the path
            is not that of a vocabulary file.

    Raises:
        UserError: the file is missing or damaged, or is of an unknown type.
    """
    if not file_io.isdir(path) and not path.endswith((".model", ".json")):
        return tokenizers.Tokenizer(path, max_tokens, lower_case)
    stored = encoder_inputs.load_tokenizer(path) if file_io.isdir(path) else None
    if isinstance(stored, encoder_inputs.KerasHubTokenizer):
        return encoder_inputs.KerasHubTokenizer(stored.tokenizer, max_tokens, stored.pad_id)
    if stored is not None and stored.max_tokens == max_tokens:
        return stored
    prefix = {"prefix": stored.prefix} if stored is not None else {}
    return tokenizer_files.open_tokenizer(path, max_tokens, lower_case=lower_case or None, **prefix)


def is_word_piece(tokenizer):
    """Returns whether a vocabulary file describes a tokenizer, apart from its lower-casing."""
    return type(tokenizer) is tokenizers.Tokenizer and not tokenizer.prefix


def store_tokenizer(tokenizer, workdir):
    """Writes a tokenizer to vocab.txt or to the folder "tokenizer" of a workdir.

    Returns:
        The path of the file or folder, which `open_tokenizer` opens.
    """
    file_io.makedirs(workdir)
    if is_word_piece(tokenizer):
        path = os.path.join(workdir, checkpoints.VOCABULARY)
        tokenizers.save_vocabulary(path, tokenizer.vocabulary)
        return path
    path = os.path.join(workdir, checkpoints.TOKENIZER)
    with tempfile.TemporaryDirectory() as folder:  # The workdir may be on a remote file system.
        encoder_inputs.save_tokenizer(tokenizer, folder)
        checkpoints.copy_vocabulary(folder, path)
    return path


# --- encoders -------------------------------------------------------------------------------------


@functools.cache
def _efficientnet_architecture(name):
    """Returns the arguments of the EfficientNet of a KerasHub preset; None: another class."""
    import keras_hub

    backbone_class = keras_hub.models.EfficientNetBackbone
    try:
        backbone = backbone_class.from_preset(models.preset_of(name), load_weights=False)
    except (ValueError, OSError, ImportError):
        return None
    return dict(models.efficientnet_config(backbone.get_config()))


def is_efficientnet(name):
    """Returns whether a public model is an EfficientNet of KerasHub, see `models.image_tower`."""
    return models.preset_of(name) is not None and _efficientnet_architecture(name) is not None


def stated_padding(name):
    """Returns the padding of an EfficientNet that its preset states, or None.

    KerasHub pads symmetrically, and a preset of KerasHub does not state another padding.
    """
    preprocessing = public_models.open_model(name).preprocessing
    return None if preprocessing.padding == "symmetric" else preprocessing.padding


def encoder_specs(config, weights=True):
    """Returns the content of "encoders" of a description before the encoders are built.

    Args:
        config: ConfigDict of a stage, after `apply_backbone_settings`.
        weights: whether the encoders get the weights of the public models.

    Returns:
        {tower: arguments of `build_encoders`}.
    """
    specs = {}
    for tower, name in public_towers(config).items():
        modality = _modality(config, tower)
        # tools/extract.py stores the features of the public model, which contains the top layer
        # that the EfficientNet of the paper leaves out.
        stored = _values(config, tower).get("vectors")
        if modality == "image" and is_efficientnet(name) and not stored:
            specs[tower] = {"public": name, "backbone": _efficientnet_architecture(name)}
        else:
            pooling = _values(config, tower).get("pooling", "auto")
            specs[tower] = {
                "public": name,
                "modality": modality,
                "dim": config.model.embedding_dim,
                "pooling": None if pooling == "auto" else pooling,
                **_size(config, modality),
            }
        specs[tower]["weights"] = weights
    return specs


def _size(config, modality):
    if modality == "image":
        return {"image_size": config.model.image.image_size}
    return {"max_tokens": config.model.text.max_tokens}


def build_encoders(description):
    """Builds the encoders of public models that a description names.

    Args:
        description: description of the model, see `model_io.describe`. Its entry "encoders" is
            changed to the form that model.json stores.

    Returns:
        {tower: arguments of `models.dual_encoder` that replace those of the description}.
    """
    encoders, built = description.get("encoders") or {}, {}
    for tower, spec in encoders.items():
        if "public" not in spec:
            continue
        spec = dict(spec)
        name, weights = spec.pop("public"), spec.pop("weights")
        if "backbone" in spec:
            encoders[tower] = spec
            built[tower] = {"backbone": name} if weights else {}
            continue
        with models.dtype_policy_scope(description["precision"]):
            encoder = public_models.open_model(name).encoder(
                spec.pop("modality"), weights=weights, **spec
            )
        encoders[tower] = {"encoder": _serialize(encoder)}
        built[tower] = {"encoder": _rebuild(encoder, encoders[tower]["encoder"], weights)}
    return built


def _serialize(encoder):
    """Returns the serialized form of an encoder as plain data."""
    stored = json.loads(json.dumps(keras.saving.serialize_keras_object(encoder)))
    backbone = stored["config"].get("backbone")
    if backbone is not None:
        # Keras numbers models of one class; the names of the layers may contain this name.
        backbone["config"]["name"] = re.sub(r"_\d+$", "", backbone["config"]["name"])
    return stored


def _rebuild(encoder, stored, weights):
    """Builds an encoder from its serialized form.

    The layers of some backbones of KerasHub have other names if the backbone has a name. A new
    encoder therefore has the paths of variables that it also has when it is loaded.
    """
    rebuilt = keras.saving.deserialize_keras_object(stored)
    if weights:
        rebuilt.set_weights(encoder.get_weights())
    return rebuilt


def load_public(name):
    """Returns a public model as it is.

    Args:
        name: name of the public model.

    Returns:
        (`models.DualEncoder`, tokenizer or None, `Preprocessing` or None, None), where the last
        element stands for the unknown training languages.

    Raises:
        UserError: the public model is not available.
    """
    model = public_models.open_model(name)
    towers = {modality: model.encoder(modality) for modality in model.modalities}
    for tower in towers.values():
        models.renumber_paths(tower.variables)
    scalars = {kind: {"shared": value} for kind, value in model.scalars.items()}
    encoder = models.DualEncoder(towers=towers, scalars=scalars or None)
    return encoder, encoder.tokenizer, encoder.preprocessing, None
