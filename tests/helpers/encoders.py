"""Small backbones and tokenizers of Keras and KerasHub for tests of encoders."""

import keras
import keras_hub
import numpy as np

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "dog", "cat", "##s", "a", "hund"]
TEXTS = ["a red dog", "cats", ""]
SIZE = 32


@keras.saving.register_keras_serializable(package="tests")
class SubclassedBackbone(keras.Model):
    """A subclassed model, whose output shape is known only after a call."""

    def __init__(self, filters=6, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.conv = keras.layers.Conv2D(filters, 3, strides=4)

    def call(self, inputs):
        """Maps images (n, h, w, 3) to feature maps."""
        return keras.activations.relu(self.conv(inputs))

    def get_config(self):
        """Returns the constructor arguments."""
        return {**super().get_config(), "filters": self.filters}


def vit():
    """Returns a ViT of KerasHub with a class token."""
    return keras_hub.models.ViTBackbone(
        (SIZE, SIZE, 3), 16, num_layers=1, num_heads=2, hidden_dim=12, mlp_dim=16
    )


def efficientnet_of_keras_hub():
    """Returns an EfficientNet of KerasHub that takes images of any size."""
    return keras_hub.models.EfficientNetBackbone(
        stackwise_width_coefficients=[1.0],
        stackwise_depth_coefficients=[1.0],
        stackwise_kernel_sizes=[3],
        stackwise_num_repeats=[1],
        stackwise_input_filters=[8],
        stackwise_output_filters=[8],
        stackwise_expansion_ratios=[1],
        stackwise_strides=[2],
        stackwise_squeeze_and_excite_ratios=[0.25],
        stackwise_block_types=["v1"],
        stackwise_force_input_filters=[0],
        stackwise_nores_option=[False],
        use_depth_divisor_as_min_depth=True,
        include_stem_padding=True,
    )


def sequential():
    """Returns an unbuilt `Sequential` model."""
    return keras.Sequential(
        [
            keras.layers.Conv2D(8, 3, strides=4, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Conv2D(10, 3),
        ]
    )


def functional_with_rescaling():
    """Returns a functional model that scales its pixels, like those of `keras.applications`."""
    pixels = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Rescaling(1 / 255)(pixels)
    x = keras.layers.Conv2D(8, 3, strides=4, activation="relu")(x)
    return keras.Model(pixels, keras.layers.GlobalMaxPooling2D()(x))


def bert(**options):
    """Returns a BERT of KerasHub."""
    sizes = dict(num_layers=1, num_heads=2, hidden_dim=12, intermediate_dim=16)
    return keras_hub.models.BertBackbone(
        len(PIECES), **sizes, max_sequence_length=10, dropout=0.0, **options
    )


def xlm_roberta():
    """Returns an XLM-R of KerasHub, whose padding token is 1."""
    sizes = dict(num_layers=1, num_heads=2, hidden_dim=12, intermediate_dim=16)
    return keras_hub.models.XLMRobertaBackbone(
        len(PIECES), **sizes, max_sequence_length=12, dropout=0.0
    )


def text_convolution():
    """Returns a functional text model whose embeddings depend on the padding."""
    tokens = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(len(PIECES), 8)(tokens)
    return keras.Model(tokens, keras.layers.Conv1D(8, 3, padding="same")(x))


def bert_tokenizer():
    """Returns a tokenizer of KerasHub."""
    return keras_hub.tokenizers.BertTokenizer(vocabulary=PIECES, lowercase=True)


def randomize(model, seed=0):
    """Adds positive random numbers to all variables except seeds, in place."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        if "seed_generator" not in variable.path:
            noise = np.abs(rng.normal(0, 0.05, variable.shape))
            variable.assign(variable + noise)


def same_embeddings(first, second, inputs):
    """Returns whether two models give bit-equal embeddings of {tower: inputs}."""
    outputs = first(inputs), second(inputs)
    return all(np.array_equal(outputs[0][tower], outputs[1][tower]) for tower in inputs)
