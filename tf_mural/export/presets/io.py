"""Saves and loads presets, and recognizes their paths."""

import json
import os

from tf_mural import file_io
from tf_mural.data.encoder_inputs import KerasHubTokenizer, as_tokenizer
from tf_mural.data.preprocessing import Preprocessing
from tf_mural.data.tokenizers import Tokenizer
from tf_mural.errors import UserError
from tf_mural.export.presets.backbone import MuralBackbone
from tf_mural.export.presets.preprocessing import (
    MuralImageConverter,
    MuralPreprocessor,
    MuralTokenizer,
)
from tf_mural.models import adapter_variables, merge_adapters, merge_arrays, merged_arguments


def is_preset(path):
    """Returns whether a path is a handle of a hub, or a folder that `save_preset` wrote."""
    if file_io.is_on_hub(path):
        return True
    try:
        with open(os.path.join(path, "config.json"), encoding="utf-8") as file:
            return json.load(file).get("registered_name", "").startswith("tf_mural>")
    except (OSError, ValueError, AttributeError):
        return False


def save_preset(folder, arguments, encoder, tokenizer, preprocessing, card="", languages=None):
    """Writes a model as a preset.

    Args:
        folder: output folder; if it already exists, it must be empty.
        arguments: arguments of `models.dual_encoder` from which `encoder` was built, a dict.
        encoder: `models.DualEncoder`, whose weights are saved.
        tokenizer: `tokenizers.Tokenizer`.
        preprocessing: `preprocessing.Preprocessing`, the preprocessing of images.
        card: content of README.md. "": no README.md is written.
        languages: codes of the training languages. None: unknown.

    Raises:
        UserError: the folder is not empty.
    """
    _check_empty(folder)
    backbone = MuralBackbone(**merged_arguments(arguments))
    for target, source in zip(_weights(backbone.encoder), _weights(encoder), strict=True):
        target.assign(source)
    lower_case = tokenizer.lower_case
    tokenizer = MuralTokenizer(tokenizer.vocabulary, tokenizer.max_tokens, lower_case, languages)
    _write(folder, backbone, tokenizer, preprocessing, card)


def _write(folder, backbone, tokenizer, preprocessing, card, **options):
    """Writes the files of a preset.

    Args:
        folder: output folder.
        backbone: `MuralBackbone`.
        tokenizer: `keras_hub.tokenizers.Tokenizer`.
        preprocessing: `preprocessing.Preprocessing`.
        card: content of README.md, or "".
        **options: further arguments of `MuralPreprocessor`.
    """
    preprocessor = MuralPreprocessor(
        tokenizer,
        MuralImageConverter(
            preprocessing.resize,
            preprocessing.crop,
            preprocessing.background,
            interpolation=preprocessing.method,
            antialias=preprocessing.antialias,
            keep_aspect_ratio=preprocessing.keep_aspect_ratio,
        ),
        **options,
    )
    os.makedirs(folder, exist_ok=True)
    backbone.save_to_preset(folder)
    preprocessor.save_to_preset(folder)
    if card:
        with open(os.path.join(folder, "README.md"), "w", encoding="utf-8") as file:
            file.write(card)


def save_model(folder, model, card=""):
    """Writes a dual encoder with its tokenizer and preprocessing as a preset.

    Args:
        folder: output folder; if it already exists, it must be empty.
        model: `models.DualEncoder` with any towers that can be serialized.
        card: content of README.md. "": no README.md is written.

    Raises:
        UserError: the folder is not empty, or the first text tower has no tokenizer, or the first
            image tower has no preprocessing.
    """
    for modality, name in (("text", "tokenizer"), ("image", "preprocessing")):
        if getattr(model, name) is None:
            raise UserError(
                f"the first {modality} tower has no {name}, which a preset contains: set "
                f"model.{name}"
            )
    _check_empty(folder)
    tokenizer, options = model.tokenizer, {}
    if isinstance(tokenizer, KerasHubTokenizer):
        layer = tokenizer.tokenizer
        options = {"max_tokens": tokenizer.max_tokens, "pad_id": tokenizer.pad_id}
    elif not isinstance(tokenizer, Tokenizer) or tokenizer.prefix:
        layer = MuralTokenizer(tokenizer, languages=model.languages)
    else:
        pieces, lower_case = tokenizer.vocabulary, tokenizer.lower_case
        layer = MuralTokenizer(pieces, tokenizer.max_tokens, lower_case, model.languages)
    backbone = MuralBackbone(encoder=_without_adapters(model))
    _write(folder, backbone, layer, model.preprocessing, card, **options)


def _without_adapters(model):
    """Returns a model with plain weights: `model`, or a copy in which its adapters are merged."""
    if not adapter_variables(model):
        return model
    # The copy keeps the tokenizer and the preprocessing, because a preset contains them.
    copy = merge_adapters(type(model).from_config(model.get_config()))
    variables = {v.path: v for v in _weights(copy)}
    arrays = merge_arrays(model, {v.path: v.numpy() for v in _weights(model)})
    for path, array in arrays.items():
        variables[path].assign(array)
    copy.languages = model.languages
    return copy


def _check_empty(folder):
    if os.path.isdir(folder) and os.listdir(folder):
        raise UserError(f"{folder} is not empty: choose another folder")


def load_preset(path):
    """Loads a preset that `save_preset` or `save_model` wrote.

    Args:
        path: folder, or handle of a hub.

    Returns:
        Tuple of a `models.DualEncoder`, a `tokenizers.Tokenizer`, a `preprocessing.Preprocessing`,
        and the codes of the training languages (None: unknown).

    Raises:
        UserError: the preset does not exist, cannot be downloaded, or contains a model of another
            class.
    """
    try:
        backbone = MuralBackbone.from_preset(path)
        preprocessor = MuralPreprocessor.from_preset(path)
    except (ValueError, OSError, KeyError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{path} cannot be loaded as a preset of this package ({reason}): expected a folder "
            "that tools/export.py wrote, or the hf:// or kaggle:// handle of such a folder"
        ) from error
    encoder, tokenizer = backbone.encoder, preprocessor.tokenizer
    if "encoder" in backbone.get_config():
        tower = encoder.towers[encoder.default_tower("text")]
        inner = as_tokenizer(tokenizer, tower.max_tokens, tower.pad_id)
        return encoder, inner, encoder.preprocessing, encoder.languages
    tower = backbone.get_config()["image"]
    preprocessing = Preprocessing.from_config(preprocessor.image_converter.settings, tower)
    return encoder, tokenizer.tokenizer, preprocessing, tokenizer.languages


def _weights(encoder):
    return [v for v in encoder.variables if "seed_generator" not in v.path]
