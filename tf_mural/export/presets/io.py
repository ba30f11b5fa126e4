"""Saves and loads presets, and recognizes their paths."""

import json
import os

from tf_mural import file_io
from tf_mural.errors import UserError
from tf_mural.export.presets.backbone import MuralBackbone
from tf_mural.export.presets.preprocessing import (
    MuralImageConverter,
    MuralPreprocessor,
    MuralTokenizer,
)


def is_preset(path):
    """Returns whether a path is a handle of a hub, or a folder that `save_preset` wrote."""
    if file_io.is_on_hub(path):
        return True
    try:
        with open(os.path.join(path, "config.json"), encoding="utf-8") as file:
            return json.load(file).get("registered_name", "").startswith("tf_mural>")
    except (OSError, ValueError, AttributeError):
        return False


def save_preset(folder, arguments, encoder, tokenizer, sizes, card="", languages=None):
    """Writes a model as a preset.

    Args:
        folder: output folder; if it already exists, it must be empty.
        arguments: arguments of `models.dual_encoder` from which `encoder` was built, a dict.
        encoder: `models.DualEncoder`, whose weights are saved.
        tokenizer: `tokenizers.Tokenizer`.
        sizes: {"resize": pixels, "crop": pixels}, the side lengths to which images are resized and
            cropped.
        card: content of README.md. "": no README.md is written.
        languages: codes of the training languages. None: unknown.

    Raises:
        UserError: the folder is not empty.
    """
    if os.path.isdir(folder) and os.listdir(folder):
        raise UserError(f"{folder} is not empty: choose another folder")
    # The saved arguments do not name the presets of the backbones, because the new preset contains
    # all weights.
    image, text = ({**arguments[modality], "preset": None} for modality in ("image", "text"))
    towers = {
        name: {**tower, "preset": None} for name, tower in (arguments.get("towers") or {}).items()
    }
    backbone = MuralBackbone(**{**arguments, "image": image, "text": text, "towers": towers})
    for target, source in zip(_weights(backbone.encoder), _weights(encoder), strict=True):
        target.assign(source)
    lower_case = tokenizer.hash.endswith("-lower")
    preprocessor = MuralPreprocessor(
        MuralTokenizer(tokenizer.vocabulary, tokenizer.max_tokens, lower_case, languages),
        MuralImageConverter(sizes["resize"], sizes["crop"]),
    )
    os.makedirs(folder, exist_ok=True)
    backbone.save_to_preset(folder)
    preprocessor.save_to_preset(folder)
    if card:
        with open(os.path.join(folder, "README.md"), "w", encoding="utf-8") as file:
            file.write(card)


def load_preset(path):
    """Loads a preset that `save_preset` wrote.

    Args:
        path: folder, or handle of a hub.

    Returns:
        Tuple of a `models.DualEncoder`, a `tokenizers.Tokenizer`, the image sizes
        {"resize": pixels, "crop": pixels}, and the codes of the training languages (None: unknown).

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
    converter = preprocessor.image_converter
    sizes = {"resize": converter.resize, "crop": converter.crop}
    tokenizer = preprocessor.tokenizer
    return backbone.encoder, tokenizer.tokenizer, sizes, tokenizer.languages


def _weights(encoder):
    return [v for v in encoder.variables if "seed_generator" not in v.path]
