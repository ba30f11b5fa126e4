"""Tokenizer and image preparation of a model, as the parts of KerasHub that presets hold."""

import os

import keras
import keras_hub

from tf_mural.data import image_ops
from tf_mural.data import tokenizers as text
from tf_mural.export.presets.backbone import MuralBackbone

_VOCABULARY = "vocabulary.txt"


@keras.saving.register_keras_serializable(package="tf_mural")
class MuralTokenizer(keras_hub.tokenizers.Tokenizer):
    """`text.Tokenizer` as a layer of KerasHub: strings (n,) to int32 (n, max_tokens).

    Args:
        vocabulary: pieces in the order of their ids, or a file; None is set later, by a preset.
        max_tokens, lower_case: see `text.Tokenizer`.
        **kwargs: of `keras_hub.tokenizers.Tokenizer`.

    Attributes:
        tokenizer: the `text.Tokenizer`.
    """

    backbone_cls = MuralBackbone

    def __init__(self, vocabulary=None, max_tokens=64, lower_case=False, **kwargs):
        super().__init__(**{"dtype": "int32", **kwargs})
        self.max_tokens, self.lower_case = max_tokens, lower_case
        self.file_assets = [_VOCABULARY]
        self.tokenizer = None
        if vocabulary is not None:
            self._set(vocabulary)

    def _set(self, vocabulary):
        self.tokenizer = text.Tokenizer(vocabulary, self.max_tokens, self.lower_case)

    def tokenize(self, inputs):
        """Strings (n,) to int32 (n, max_tokens)."""
        return self._known(inputs)

    @property
    def _known(self):
        if self.tokenizer is None:
            raise ValueError("Expected a vocabulary. Received: None; load it from a preset.")
        return self.tokenizer

    def get_vocabulary(self):
        """The pieces in the order of their ids."""
        return list(self._known.vocabulary)

    def vocabulary_size(self):
        """How many there are."""
        return self._known.size

    def id_to_token(self, id):
        """The piece of an id."""
        return self._known.vocabulary[id]

    def token_to_id(self, token):
        """The id of a piece."""
        return self._known.vocabulary.index(token)

    def save_assets(self, dir_path):
        """Writes the vocabulary into a folder."""
        text.save_vocabulary(os.path.join(dir_path, _VOCABULARY), self._known.vocabulary)

    def load_assets(self, dir_path):
        """Reads it from there."""
        self._set(os.path.join(dir_path, _VOCABULARY))

    def get_config(self):
        """Constructor arguments but the vocabulary, which is an asset."""
        sizes = {"max_tokens": self.max_tokens, "lower_case": self.lower_case}
        return {**super().get_config(), **sizes}


@keras.saving.register_keras_serializable(package="tf_mural")
class MuralImageConverter(keras_hub.layers.ImageConverter):
    """Images as the evaluation of this package prepares them: resized, then cropped.

    Args:
        resize: pixels a side that an image is stretched to, whatever its aspect ratio.
        crop: pixels a side of its centre.
        **kwargs: of `keras_hub.layers.ImageConverter`.
    """

    backbone_cls = MuralBackbone

    def __init__(self, resize=346, crop=289, **kwargs):
        super().__init__(**{**kwargs, "image_size": (crop, crop)})
        self.resize, self.crop = resize, crop

    def call(self, inputs):
        """uint8 (h, w, 3) or (n, h, w, 3) to uint8 (..., crop, crop, 3)."""
        import tensorflow as tf

        inputs = tf.convert_to_tensor(inputs)

        def one(image):
            return image_ops.centre_crop(image_ops.resize(image, self.resize), self.crop)

        if len(inputs.shape) == 3:
            return one(inputs)
        return tf.map_fn(one, inputs, fn_output_signature=tf.uint8)

    def get_config(self):
        """Constructor arguments."""
        config = super().get_config()
        config.pop("image_size", None)
        return {**config, "resize": self.resize, "crop": self.crop}


@keras.saving.register_keras_serializable(package="tf_mural")
class MuralPreprocessor(keras_hub.models.Preprocessor):
    """{"images", "texts"}, or one of them, to {"pixels", "tokens"}.

    Args:
        tokenizer: `MuralTokenizer`.
        image_converter: `MuralImageConverter`.
        **kwargs: of `keras_hub.models.Preprocessor`.
    """

    backbone_cls = MuralBackbone
    tokenizer_cls = MuralTokenizer
    image_converter_cls = MuralImageConverter

    def __init__(self, tokenizer, image_converter, **kwargs):
        super().__init__(**kwargs)
        self.tokenizer, self.image_converter = tokenizer, image_converter

    def call(self, x):
        """Images uint8 (n, h, w, 3), texts (n,) strings."""
        parts = {"images": ("pixels", self.image_converter), "texts": ("tokens", self.tokenizer)}
        return {parts[key][0]: parts[key][1](value) for key, value in x.items()}
