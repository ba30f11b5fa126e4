"""Which rooms a run is made of: those of TensorFlow, or those of JAX.

This is the one place that asks for the backend. Both pairs of rooms offer the same names.
"""

import importlib

import keras

from tf_mural.base import pick

_ROOMS = {
    "tensorflow": ("tf_mural.distribute", "tf_mural.training"),
    "jax": ("tf_mural.distribute_jax", "tf_mural.training_jax"),
}


def rooms():
    """(`distribute`, `training`) of the backend that Keras runs on.

    Raises:
        UserError: it runs on another one.
    """
    names = pick(_ROOMS, keras.backend.backend(), "backend of Keras")
    return tuple(importlib.import_module(name) for name in names)
