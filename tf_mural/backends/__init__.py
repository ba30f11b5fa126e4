"""The Keras backends that training supports.

The packages `tensorflow` and `jax` have modules with the same public names and signatures. The rest
of `tf_mural` can therefore use either package.
"""

import importlib

from tf_mural.errors import lookup

_BACKENDS = {"tensorflow": "tf_mural.backends.tensorflow", "jax": "tf_mural.backends.jax"}


def backend_module():
    """Imports and returns the package `tensorflow` or `jax`, depending on the backend of Keras.

    Other modules of `tf_mural` call this function, and import neither package directly.

    Raises:
        UserError: the backend of Keras is neither TensorFlow nor JAX.
    """
    import keras

    return importlib.import_module(lookup(_BACKENDS, keras.backend.backend(), "backend of Keras"))
