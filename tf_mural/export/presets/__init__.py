"""Saves a trained model as a KerasHub preset: a folder with weights, tokenizer and preprocessing.

    MuralBackbone.from_preset("hf://user/name")       towers, scalars and weights
    MuralPreprocessor.from_preset("hf://user/name")   maps {"images", "texts"} to the inputs

Importing this package registers its classes with Keras. After the import, `Backbone.from_preset`
and `Tokenizer.from_preset` of KerasHub also load these presets.
"""

from tf_mural.export.presets.backbone import MuralBackbone
from tf_mural.export.presets.io import is_preset, load_preset, save_model, save_preset
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
    "save_model",
    "save_preset",
]
