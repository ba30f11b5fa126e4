"""Makes the content of model.json, which describes a trained model, and loads trained models."""

import contextlib
import dataclasses
import functools
import hashlib
import os

import numpy as np
from keras import ops

from tf_mural import file_io, models, public_models
from tf_mural.backends import backend_module
from tf_mural.data import image_ops
from tf_mural.data.preprocessing import Preprocessing
from tf_mural.data.tokenizers import Tokenizer
from tf_mural.errors import UserError
from tf_mural.evaluation.batch_embedder import TEXT_LENGTHS, BatchEmbedder
from tf_mural.experiment import public_encoders
from tf_mural.experiment.fields import trained_dims
from tf_mural.modalities import MODALITIES
from tf_mural.training import checkpoints

# Defaults of settings that are missing in model.json if an earlier version of this package wrote
# the file.
_STORED_DEFAULTS = {
    "lower_case": False,
    "pretrained": None,
    "precision": "float32",
    "languages": None,
}
_IMAGE_DEFAULTS = {
    "method": "bilinear",
    "antialias": False,
    "keep_aspect_ratio": False,
    "background": "white",
}
_MODEL_DEFAULTS = {
    "image": {
        "pooling": "auto",
        "vectors": None,
        "batch_norm": "per_image",
        "padding": "symmetric",
        "scale": 1 / 127.5,
        "mean": [1.0],
        "std": [1.0],
        "adapt": "full",
    },
    "text": {
        "pooling": "auto",
        "activation": "gelu_approximate",
        "sizes": None,
        "adapt": "full",
        "vectors": None,
    },
}


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained model that embeds texts and images.

    Attributes:
        encoder: `models.DualEncoder`.
        tokenizer: `tokenizers.Tokenizer`.
        embed: `BatchEmbedder` that uses the encoder and the tokenizer.
        preprocessing: `preprocessing.Preprocessing`, the preprocessing of images.
        languages: codes of the training languages; None: unknown.
        dims: sizes of the embeddings in the terms of the training, see `objective.Term`; () if the
            terms name none, or are unknown.
    """

    encoder: models.DualEncoder
    tokenizer: Tokenizer
    embed: BatchEmbedder
    preprocessing: Preprocessing
    languages: tuple | None = None
    dims: tuple = ()


def describe(config, tokenizer, languages=None):
    """Returns the content of model.json, from which the model is rebuilt without its config.

    Args:
        config: ConfigDict of a stage.
        tokenizer: object with the attributes `size`, `hash` and `max_tokens`.
        languages: codes of the languages of the training texts; None: unknown.
    """
    model = config.model.to_dict()
    model["image"]["padding"] = model["image"]["padding"] or "symmetric"
    description = {
        "model": model,
        "images": config.images.to_dict(),
        "vocabulary_size": tokenizer.size,
        "vocabulary_hash": tokenizer.hash,
        "max_tokens": tokenizer.max_tokens,
        "lower_case": config.lower_case,
        "pretrained": config.pretrained,
        # Precision of computations in training and in evaluation; weights are always float32.
        "precision": config.precision,
        # `add_languages` adds the training languages of the initial weights.
        "languages": languages and sorted(languages),
    }
    # Sizes of the embeddings in the terms, see `objective.Term`.
    return description | ({"dims": list(dims)} if (dims := trained_dims(config)) else {})


def add_languages(description, init):
    """Adds the training languages of the initial weights to the description of a model.

    Args:
        description: result of `describe`, changed in place.
        init: description of the run that provides the initial weights. None: the training languages
            of the initial weights are unknown, for example those of public weights.
    """
    known = description["languages"], init and init["languages"]
    description["languages"] = sorted({*known[0], *known[1]}) if all(known) else None


def read_description(folder):
    """Returns the content of model.json of a run, in the form that `describe` returns.

    Raises:
        UserError: the folder has no finished model.
    """
    return upgrade_description(checkpoints.read_model(folder))


def upgrade_description(description):
    """Converts the content of model.json to the form that `describe` returns.

    An earlier version of `tf_mural` may have written the file.
    """
    model = models.upgrade_arguments(description["model"])
    for modality, defaults in _MODEL_DEFAULTS.items():
        model[modality] = {**defaults, **model[modality]}
    images = {**_IMAGE_DEFAULTS, **description["images"]}
    upgraded = {**_STORED_DEFAULTS, **description, "model": model, "images": images}
    return {**upgraded, "pretrained": upgraded["pretrained"] or None}


def model_arguments(description):
    """Returns the keyword arguments of `models.dual_encoder`.

    Args:
        description: see `describe`.
    """
    model, encoders = description["model"], description.get("encoders") or {}

    def arguments(name, tower, modality):
        stored = encoders.get(name, {})
        if "encoder" in stored:
            kept = {key: tower[key] for key in ("adapt", "modality") if key in tower}
            return {**kept, **stored}
        # The name of stored features matters only in training: the model has whole towers.
        omitted = () if modality == "vectors" else ("pooling", "vectors")
        tower = {key: value for key, value in tower.items() if key not in omitted} | stored
        if modality == "text":
            sizes = None if tower.get("sizes") is None else tuple(tower["sizes"])
            tower |= {"sizes": sizes, "vocabulary_size": description["vocabulary_size"]}
        return tower

    towers = {
        name: arguments(name, tower, tower["modality"])
        for name, tower in (model.get("towers") or {}).items()
    }
    return {
        **model,
        "image": arguments("image", model["image"], "image"),
        "text": arguments("text", model["text"], "text"),
        "towers": towers,
        "precision": description["precision"],
    }


def load(path, strategy=None, batch_size=128):
    """Loads a trained model.

    Args:
        path: workdir of a finished run, a preset (see `export.presets`) in a folder or on a hub, or
            the name of a public model (see `public_models`).
        strategy: result of `make_strategy` of the backend, whose replicas share the work; None
            means one device.
        batch_size: see `BatchEmbedder`; rounded up to a multiple of the number of replicas.

    Returns:
        `Model`.

    Raises:
        UserError: there is no model, or the vocabulary has changed since training.
    """
    with strategy.scope() if strategy else contextlib.nullcontext():
        encoder, tokenizer, preprocessing, languages, dims = _load_encoder(path)
    for name, value in (("tokenizer", tokenizer), ("preprocessing", preprocessing)):
        if value is not None:  # None: the model has no tower of this modality.
            setattr(encoder, name, value)
    encoder.languages = languages and tuple(languages)
    embed = batch_embedder(encoder, tokenizer, preprocessing, batch_size, strategy)
    return Model(encoder, tokenizer, embed, preprocessing, encoder.languages, tuple(dims))


def _load_encoder(path):
    if public_models.is_public(path):
        return (*public_encoders.load_public(path), ())
    # `presets` is imported only if it is needed, because importing it is slow.
    if file_io.is_on_hub(path) or not file_io.exists(os.path.join(path, checkpoints.MODEL)):
        from tf_mural.export import presets

        if presets.is_preset(path):
            return (*presets.load_preset(path), ())
    description = read_description(path)
    vocabulary_path = checkpoints.find_vocabulary(path)
    options = description["max_tokens"], description["lower_case"]
    tokenizer = public_encoders.open_tokenizer(vocabulary_path, *options)
    if tokenizer.hash != description["vocabulary_hash"]:
        raise UserError(
            f"{vocabulary_path} has hash {tokenizer.hash}, but the model was trained with "
            f"{description['vocabulary_hash']}: restore the vocabulary of the training"
        )
    arguments = models.merged_arguments(model_arguments(description))
    encoder = models.dual_encoder(**arguments)
    checkpoints.load_weights(path, encoder)
    preprocessing = Preprocessing.from_config(description["images"], description["model"]["image"])
    dims = description.get("dims", ())
    return encoder, tokenizer, preprocessing, description["languages"], dims


def batch_embedder(encoder, tokenizer, preprocessing, batch_size=128, strategy=None, towers=None):
    """Returns a `BatchEmbedder` that uses the towers of a dual encoder.

    Args:
        encoder: `models.DualEncoder`.
        tokenizer: `tokenizers.Tokenizer`.
        preprocessing: `preprocessing.Preprocessing`.
        batch_size, strategy: see `load`.
        towers: {modality: name of the tower that embeds this modality}. Defaults to the first tower
            of each modality.
    """
    backend = backend_module()
    modalities = [name for name in MODALITIES if name in encoder.modalities.values()]
    towers = {name: encoder.default_tower(name) for name in modalities} | (towers or {})
    functions = backend.encoder_functions(encoder, tuple(towers.values()), strategy)
    replicas = strategy.num_replicas_in_sync if strategy else 1
    preprocess = functools.partial(image_ops.preprocess_for_evaluation, preprocessing=preprocessing)
    return BatchEmbedder(
        functions.get(towers.get("image")),
        functions.get(towers.get("text")),
        tokenizer,
        preprocess,
        width=encoder.towers[next(iter(towers.values()))].output.shape[-1],
        batch_size=-(-batch_size // replicas) * replicas,
        text_lengths=_text_lengths(encoder.towers.get(towers.get("text"))),
    )


def _text_lengths(tower):
    """Returns the widths to which rows of tokens may be truncated; () if padding has an effect."""
    return TEXT_LENGTHS if getattr(tower, "ignores_padding", True) else ()


def fingerprint(encoder, tokenizer, preprocessing):
    """Returns a hash of the weights, the vocabulary, the preprocessing and the poolings.

    Args:
        encoder, tokenizer, preprocessing: see `batch_embedder`.

    Returns:
        32 hexadecimal digits, which do not depend on the folder of the model.
    """
    # With the default preprocessing, the hash is the same as in earlier versions of `tf_mural`.
    images = {}
    if preprocessing is not None:  # None: the model has no image tower.
        images = {"resize": preprocessing.resize, "crop": preprocessing.crop}
        images |= preprocessing.changes()
    texts = "" if tokenizer is None else f"{tokenizer.hash} {tokenizer.max_tokens}"
    # The towers of the paper have a fixed pooling, and no attribute `pooling`.
    poolings = {name: getattr(tower, "pooling", None) for name, tower in encoder.towers.items()}
    poolings = {name: pooling for name, pooling in poolings.items() if pooling}
    settings = f"{texts} {sorted(images.items())}"
    settings += f" {sorted(poolings.items())}" if poolings else ""
    digest = hashlib.sha256(settings.encode())
    for variable in checkpoints.variables_by_path(encoder).values():
        digest.update(np.ascontiguousarray(ops.convert_to_numpy(variable.value)))
    return digest.hexdigest()[:32]
