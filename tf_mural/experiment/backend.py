"""Which rooms a run is made of: those of TensorFlow, or those of JAX.

This is the one place that asks for the backend. Both pairs of rooms offer the same names.
"""

import importlib

import keras

from tf_mural.errors import lookup

_ROOMS = {
    "tensorflow": ("tf_mural.backends.tensorflow", "tf_mural.backends.tensorflow.trainer"),
    "jax": ("tf_mural.backends.jax", "tf_mural.backends.jax.trainer"),
}


def rooms():
    """(`distribute`, `training`) of the backend that Keras runs on.

    Raises:
        UserError: it runs on another one.
    """
    names = lookup(_ROOMS, keras.backend.backend(), "backend of Keras")
    return tuple(importlib.import_module(name) for name in names)
