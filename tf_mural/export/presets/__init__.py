"""A trained model as a KerasHub preset: one folder, with tokenizer and preprocessing in it.

    MuralBackbone.from_preset("hf://user/name")           towers, temperature, weights
    MuralPreprocessor.from_preset("hf://user/name")       {"images", "texts"} to what they take

Importing this room registers its classes, so that KerasHub's own `Backbone.from_preset` and
`Tokenizer.from_preset` find them as well.
"""

from tf_mural.export.presets.backbone import MuralBackbone
from tf_mural.export.presets.io import is_preset, load_preset, save_preset
from tf_mural.export.presets.model_card import model_card
from tf_mural.export.presets.preprocessing import (
    MuralImageConverter,
    MuralPreprocessor,
    MuralTokenizer,
)

__all__ = [
    "MuralBackbone",
    "MuralImageConverter",
    "MuralPreprocessor",
    "MuralTokenizer",
    "is_preset",
    "load_preset",
    "model_card",
    "save_preset",
]
