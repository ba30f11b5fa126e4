"""Multilingual image-text training with MURAL and ETCL in TensorFlow and Keras."""

import importlib

__version__ = "0.1.0"

# Maps each public name to the module that defines it. The module is imported when the name is first
# used, therefore `import tf_mural` does not import TensorFlow.
_MODULES = {"Embedder": "tf_mural.experiment.embedder"}

__all__ = ["Embedder", "__version__"]


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__():
    return sorted(__all__)
