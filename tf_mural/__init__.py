"""Multilingual image-text training with MURAL and ETCL in TensorFlow and Keras."""

import importlib

__version__ = "0.1.0"

# What is offered here, by the room that has it; imported when it is asked for.
_OFFERED = {"Embedder": "tf_mural.experiment.embedder"}

__all__ = ["Embedder", "__version__"]


def __getattr__(name):
    if name not in _OFFERED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_OFFERED[name]), name)


def __dir__():
    return sorted(__all__)
