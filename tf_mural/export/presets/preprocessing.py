"""The tokenizer and the image preprocessing of a model as classes of KerasHub."""

import os

import keras
import keras_hub

from tf_mural.data import image_ops, tokenizers
from tf_mural.export.presets.backbone import MuralBackbone

_VOCABULARY = "vocabulary.txt"


@keras.saving.register_keras_serializable(package="tf_mural")
class MuralTokenizer(keras_hub.tokenizers.Tokenizer):
    """`tokenizers.Tokenizer` as a layer of KerasHub.

    Args:
        vocabulary: pieces in the order of their ids, or the path of a vocabulary file. None: the
            vocabulary is loaded later, from a preset.
        max_tokens: see `tokenizers.Tokenizer`.
        lower_case: see `tokenizers.Tokenizer`.
        languages: codes of the training languages of the model. None: unknown.
        **kwargs: see `keras_hub.tokenizers.Tokenizer`.

    Attributes:
        tokenizer: `tokenizers.Tokenizer`, or None before the vocabulary is loaded.
    """

    backbone_cls = MuralBackbone

    def __init__(self, vocabulary=None, max_tokens=64, lower_case=False, languages=None, **kwargs):
        super().__init__(**{"dtype": "int32", **kwargs})
        self.max_tokens, self.lower_case = max_tokens, lower_case
        self.languages = languages and list(languages)
        self.file_assets = [_VOCABULARY]
        self.tokenizer = None
        if vocabulary is not None:
            self._set_vocabulary(vocabulary)

    def _set_vocabulary(self, vocabulary):
        self.tokenizer = tokenizers.Tokenizer(vocabulary, self.max_tokens, self.lower_case)

    @property
    def _loaded_tokenizer(self):
        if self.tokenizer is None:
            raise ValueError(
                "Expected a vocabulary. Received: None; load the tokenizer from a preset."
            )
        return self.tokenizer

    def tokenize(self, inputs):
        """Maps strings (n,) to int32 tokens (n, max_tokens)."""
        return self._loaded_tokenizer(inputs)

    def get_vocabulary(self):
        """Returns the pieces in the order of their ids."""
        return list(self._loaded_tokenizer.vocabulary)

    def vocabulary_size(self):
        """Returns the number of pieces."""
        return self._loaded_tokenizer.size

    def id_to_token(self, id):
        """Returns the piece that has the given id."""
        return self._loaded_tokenizer.vocabulary[id]

    def token_to_id(self, token):
        """Returns the id of a piece."""
        return self._loaded_tokenizer.vocabulary.index(token)

    def save_assets(self, dir_path):
        """Writes the vocabulary to a folder."""
        path = os.path.join(dir_path, _VOCABULARY)
        tokenizers.save_vocabulary(path, self._loaded_tokenizer.vocabulary)

    def load_assets(self, dir_path):
        """Reads the vocabulary from a folder."""
        self._set_vocabulary(os.path.join(dir_path, _VOCABULARY))

    def get_config(self):
        """Returns the constructor arguments without the vocabulary, which is an asset."""
        options = {"max_tokens": self.max_tokens, "lower_case": self.lower_case}
        return {**super().get_config(), **options, "languages": self.languages}


@keras.saving.register_keras_serializable(package="tf_mural")
class MuralImageConverter(keras_hub.layers.ImageConverter):
    """Resizes and crops images as the evaluations of this package do.

    Args:
        resize: height and width in pixels after resizing; the aspect ratio is not kept.
        crop: height and width in pixels of the center crop.
        **kwargs: see `keras_hub.layers.ImageConverter`.
    """

    backbone_cls = MuralBackbone

    def __init__(self, resize=346, crop=289, **kwargs):
        super().__init__(**{**kwargs, "image_size": (crop, crop)})
        self.resize, self.crop = resize, crop

    def call(self, inputs):
        """Maps uint8 (h, w, 3) or (n, h, w, 3) to uint8 (..., crop, crop, 3)."""
        import tensorflow as tf

        inputs = tf.convert_to_tensor(inputs)

        def convert(image):
            return image_ops.center_crop(image_ops.resize(image, self.resize), self.crop)

        if len(inputs.shape) == 3:
            return convert(inputs)
        return tf.map_fn(convert, inputs, fn_output_signature=tf.uint8)

    def get_config(self):
        """Returns the constructor arguments."""
        config = super().get_config()
        config.pop("image_size", None)
        return {**config, "resize": self.resize, "crop": self.crop}


@keras.saving.register_keras_serializable(package="tf_mural")
class MuralPreprocessor(keras_hub.models.Preprocessor):
    """Maps a dict with "images", "texts" or both to a dict with "pixels", "tokens" or both.

    Args:
        tokenizer: `MuralTokenizer`.
        image_converter: `MuralImageConverter`.
        **kwargs: see `keras_hub.models.Preprocessor`.
    """

    backbone_cls = MuralBackbone
    tokenizer_cls = MuralTokenizer
    image_converter_cls = MuralImageConverter

    def __init__(self, tokenizer, image_converter, **kwargs):
        super().__init__(**kwargs)
        self.tokenizer, self.image_converter = tokenizer, image_converter

    def call(self, x):
        """Preprocesses a dict of "images", uint8 (n, h, w, 3), and "texts", strings (n,)."""
        parts = {"images": ("pixels", self.image_converter), "texts": ("tokens", self.tokenizer)}
        return {parts[key][0]: parts[key][1](value) for key, value in x.items()}
