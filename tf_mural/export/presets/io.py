"""Saving a model as a preset, and finding out what a path is."""

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
    """Whether a path is one of a hub, or a folder that `save_preset` wrote."""
    if file_io.is_on_hub(path):
        return True
    try:
        with open(os.path.join(path, "config.json"), encoding="utf-8") as file:
            return json.load(file).get("registered_name", "").startswith("tf_mural>")
    except (OSError, ValueError, AttributeError):
        return False


def save_preset(folder, arguments, encoder, tokenizer, sizes, card=""):
    """Writes a preset.

    Args:
        folder: where to; must not exist, or be empty.
        arguments: of `models.dual_encoder`, by which `encoder` was made.
        encoder: `models.DualEncoder`, whose weights are copied.
        tokenizer: `text.Tokenizer`.
        sizes: {"resize", "crop"} in pixels.
        card: text of README.md.

    Raises:
        UserError: there is something in the folder.
    """
    if os.path.isdir(folder) and os.listdir(folder):
        raise UserError(f"{folder} holds something already: choose another folder")
    # The preset brings all weights along, whatever its towers were made of at first.
    image, text = ({**arguments[kind], "preset": None} for kind in ("image", "text"))
    image.pop("average", None)
    backbone = MuralBackbone(**{**arguments, "image": image, "text": text})
    for mine, its in zip(_weights(backbone.encoder), _weights(encoder), strict=True):
        mine.assign(its)
    lower_case = tokenizer.hash.endswith("-lower")
    preprocessor = MuralPreprocessor(
        MuralTokenizer(tokenizer.vocabulary, tokenizer.max_tokens, lower_case),
        MuralImageConverter(sizes["resize"], sizes["crop"]),
    )
    os.makedirs(folder, exist_ok=True)
    backbone.save_to_preset(folder)
    preprocessor.save_to_preset(folder)
    if card:
        with open(os.path.join(folder, "README.md"), "w", encoding="utf-8") as file:
            file.write(card)


def load_preset(path):
    """(encoder, tokenizer, {"resize", "crop"}) of a preset.

    Raises:
        UserError: there is none, it cannot be fetched, or it is of another kind of model.
    """
    try:
        backbone = MuralBackbone.from_preset(path)
        preprocessor = MuralPreprocessor.from_preset(path)
    except (ValueError, OSError, KeyError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{path} cannot be loaded as a preset of this package ({reason}): expected a folder "
            "that tools/export.py wrote, or a hf:// or kaggle:// handle of one"
        ) from error
    converter = preprocessor.image_converter
    sizes = {"resize": converter.resize, "crop": converter.crop}
    return backbone.encoder, preprocessor.tokenizer.tokenizer, sizes


def _weights(encoder):
    return [v for v in encoder.variables if "seed_generator" not in v.path]
