"""Small towers for tests, and access to their layers."""

import keras
import numpy as np

TINY_IMAGE = dict(name="tiny", image_size=32, stochastic_depth=0.0)
NANO_TEXT = dict(name="nano", vocabulary_size=20, max_tokens=8, dropout=0.0)
TOKENS = np.array([[2, 7, 9, 3, 0, 0], [2, 8, 3, 0, 0, 0]], "int32")


def layers_by_name(model, layer_class=keras.layers.Layer):
    """Returns the layers of a class by name, including those of nested models."""
    leaves = [layer for layer in model._flatten_layers() if not isinstance(layer, keras.Model)]
    return {layer.name: layer for layer in leaves if isinstance(layer, layer_class)}


def drop_rates(tower):
    """Returns the rates of stochastic depth in ascending order."""
    dropouts = layers_by_name(tower, keras.layers.Dropout).values()
    return sorted(layer.rate for layer in dropouts if layer.noise_shape)


def random_images(count, size=32, seed=0):
    """Returns float32 pixels in [0, 255], (count, size, size, 3)."""
    shape = (count, size, size, 3)
    return np.random.default_rng(seed).integers(0, 256, shape).astype("float32")


def cls_states(tower, tokens):
    """Returns the hidden states of [CLS] that a text tower projects."""
    hidden = keras.Model(tower.input, tower.get_layer("text_projection").input)
    return np.asarray(hidden(tokens))
