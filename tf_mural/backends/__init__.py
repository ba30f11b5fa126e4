"""The backends of Keras that training runs on.

The packages `tensorflow` and `jax` have the same modules with the same public names and signatures,
so that the layers above use either of them.
"""

import importlib

from tf_mural.errors import lookup

_BACKENDS = {"tensorflow": "tf_mural.backends.tensorflow", "jax": "tf_mural.backends.jax"}


def backend_module():
    """Imports and returns the package of the backend that Keras runs on.

    This is the only place that asks Keras for its backend.

    Raises:
        UserError: Keras runs on another backend.
    """
    import keras

    return importlib.import_module(lookup(_BACKENDS, keras.backend.backend(), "backend of Keras"))
