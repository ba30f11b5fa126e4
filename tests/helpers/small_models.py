"""Settings and inputs of small towers for tests, and functions that access their layers."""

import keras
import numpy as np

TINY_IMAGE = dict(backbone="tiny", image_size=32, stochastic_depth=0.0)
NANO_TEXT = dict(backbone="nano", vocabulary_size=20, max_tokens=8, dropout=0.0)
TOKENS = np.array([[2, 7, 9, 3, 0, 0], [2, 8, 3, 0, 0, 0]], "int32")


def layers_by_name(model, layer_class=keras.layers.Layer):
    """Returns {name: layer} of the layers of a class, including layers of nested models."""
    leaves = [layer for layer in model._flatten_layers() if not isinstance(layer, keras.Model)]
    return {layer.name: layer for layer in leaves if isinstance(layer, layer_class)}


def drop_rates(tower):
    """Returns the rates of stochastic depth of an image tower in ascending order."""
    dropouts = layers_by_name(tower, keras.layers.Dropout).values()
    return sorted(layer.rate for layer in dropouts if layer.noise_shape)


def clone_without_fusing(backbone, replace):
    """Takes the place of `fuse_squeeze_excite` in comparisons; fuses no layers."""
    inputs = {}

    def call(layer, *args, **kwargs):
        inputs[layer.name] = args[0]
        return layer(*args, **kwargs)

    clone = keras.models.clone_model(backbone, clone_function=replace, call_function=call)
    return clone, inputs


def random_images(count, size=32, seed=0):
    """Returns random float32 pixels in [0, 255], an array (count, size, size, 3)."""
    shape = (count, size, size, 3)
    return np.random.default_rng(seed).integers(0, 256, shape).astype("float32")


def cls_states(tower, tokens):
    """Returns the last hidden states of [CLS], which a text tower projects to embeddings."""
    hidden = keras.Model(tower.input, tower.get_layer("text_projection").input)
    return np.asarray(hidden(tokens))
