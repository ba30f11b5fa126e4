"""Registers the classes of this package with Keras, without importing Keras or the classes.

`keras.saving.load_model` looks up the classes of a saved model by their names. Keras finds only
registered classes, and a class is registered when its module is imported. Importing all modules
would make `import tf_mural` slow. Therefore, `import tf_mural` registers a `LazyClass` in the place
of each class: immediately if Keras is already imported, otherwise as soon as Keras is imported.
"""

import importlib.abc
import importlib.util
import sys

PACKAGE = "tf_mural"
# {module: names of its serializable classes that a saved model or trainer may contain}
CLASSES = {
    "tf_mural.models": (
        "AttentionPooling",
        "BertEncoder",
        "DualEncoder",
        "EfficientNetEncoder",
        "Excitation",
        "GhostBatchNormalization",
        "ImageEncoder",
        "TextEncoder",
        "VectorsEncoder",
    ),
    "tf_mural.optimizers": ("AdamW", "LAMB", "LinearWarmupDecay"),
    "tf_mural.trainers": ("ALIGN", "ETCL", "MURAL", "Trainer"),
}


class LazyClass:
    """Placeholder of a class in the registry of Keras until the class is imported.

    Args:
        module: dotted name of the module that defines the class.
        name: name of the class.
    """

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name

    def from_config(self, config: dict):
        """Imports the class, which registers itself, and builds an object from a config."""
        return getattr(importlib.import_module(self.module), self.name).from_config(config)


class _KerasImportHook(importlib.abc.MetaPathFinder):
    """Calls `_register` after the first import of Keras."""

    def __init__(self):
        self._searching = False

    def find_spec(self, fullname, path=None, target=None):
        """Returns the spec of Keras with a loader that also registers the classes."""
        if fullname != "keras" or self._searching:
            return None
        self._searching = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._searching = False
        if spec is None or spec.loader is None:
            return spec
        exec_module = spec.loader.exec_module

        def exec_and_register(module):
            exec_module(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            _register()

        spec.loader.exec_module = exec_and_register
        return spec


def _register():
    import keras

    objects = keras.saving.get_custom_objects()
    for module, names in CLASSES.items():
        for name in names:
            objects.setdefault(f"{PACKAGE}>{name}", LazyClass(module, name))


def register_with_keras() -> None:
    """Makes `keras.saving.load_model` find the classes of this package."""
    if "keras" in sys.modules:
        _register()
    elif not any(isinstance(finder, _KerasImportHook) for finder in sys.meta_path):
        sys.meta_path.insert(0, _KerasImportHook())
