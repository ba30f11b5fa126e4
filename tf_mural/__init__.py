"""Multilingual image-text training with MURAL and ETCL in TensorFlow and Keras."""

import importlib

from tf_mural.registration import register_with_keras

__version__ = "0.1.0"

# Maps each public name to the module that defines it. The module is imported when the name is first
# used. Therefore, `import tf_mural` does not import TensorFlow.
_MODULES = {
    "ALIGN": "tf_mural.trainers",
    "DualEncoder": "tf_mural.models",
    "ETCL": "tf_mural.trainers",
    "Embedder": "tf_mural.experiment.embedder",
    "ImageEncoder": "tf_mural.models",
    "MURAL": "tf_mural.trainers",
    "Term": "tf_mural.objective",
    "TextEncoder": "tf_mural.models",
    "Trainer": "tf_mural.trainers",
    "VectorsEncoder": "tf_mural.models",
    "evaluate": "tf_mural.experiment.evaluate",
    "train": "tf_mural.experiment.train",
}
# Public modules of the package. Each module is imported when its name is first used.
_SUBMODULES = {
    "data": "tf_mural.data",
    "losses": "tf_mural.losses",
    "metrics": "tf_mural.evaluation.metrics",
    "models": "tf_mural.models",
    "optimizers": "tf_mural.optimizers",
    "presets": "tf_mural.export.presets",
}

__all__ = ["__version__", *_MODULES, *_SUBMODULES]


def __getattr__(name):
    if name in _SUBMODULES:
        return importlib.import_module(_SUBMODULES[name])
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__():
    return sorted(__all__)


register_with_keras()
