"""The tokenizer and the image preprocessing of a model as classes of KerasHub."""

import os
import tempfile

import keras
import keras_hub

from tf_mural.data import image_ops, tokenizers
from tf_mural.data.base_tokenizer import BaseTokenizer
from tf_mural.data.encoder_inputs import as_tokenizer, load_tokenizer, save_tokenizer
from tf_mural.data.preprocessing import Preprocessing
from tf_mural.export.presets.backbone import MuralBackbone

_VOCABULARY = "vocabulary.txt"


@keras.saving.register_keras_serializable(package="tf_mural")
class MuralTokenizer(keras_hub.tokenizers.Tokenizer):
    """A tokenizer of this package as a layer of KerasHub.

    Args:
        vocabulary: WordPiece pieces in the order of their ids, the path of a vocabulary file, or a
            tokenizer of `tf_mural.data`. None: the vocabulary is loaded later, from a preset.
        max_tokens: see `tokenizers.Tokenizer`.
        lower_case: see `tokenizers.Tokenizer`.
        languages: codes of the training languages of the model. None: unknown.
        files: names of the files of a tokenizer that is not a WordPiece tokenizer, or has a prefix.
            None: the only file is the vocabulary of a WordPiece tokenizer.
        **kwargs: see `keras_hub.tokenizers.Tokenizer`.

    Attributes:
        tokenizer: `data.BaseTokenizer`, or None before the vocabulary is loaded.
    """

    backbone_cls = MuralBackbone

    def __init__(
        self,
        vocabulary=None,
        max_tokens=64,
        lower_case=False,
        languages=None,
        files=None,
        **kwargs,
    ):
        super().__init__(**{"dtype": "int32", **kwargs})
        self.languages = languages and list(languages)
        self.tokenizer = None
        if isinstance(vocabulary, BaseTokenizer):
            self.tokenizer = vocabulary
            max_tokens, lower_case = vocabulary.max_tokens, vocabulary.lower_case
            files = _files(vocabulary)
        self.max_tokens, self.lower_case = max_tokens, lower_case
        self.files = files and list(files)
        self.file_assets = self.files or [_VOCABULARY]
        if self.tokenizer is None and vocabulary is not None:
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
        """Writes the files of the tokenizer to a folder."""
        if self.files:
            save_tokenizer(self._loaded_tokenizer, dir_path)
            return
        path = os.path.join(dir_path, _VOCABULARY)
        tokenizers.save_vocabulary(path, self._loaded_tokenizer.vocabulary)

    def load_assets(self, dir_path):
        """Reads the files of the tokenizer from a folder."""
        if self.files:
            self.tokenizer = load_tokenizer(dir_path)
            return
        self._set_vocabulary(os.path.join(dir_path, _VOCABULARY))

    def get_config(self):
        """Returns the constructor arguments without the vocabulary, which is an asset."""
        options = {"max_tokens": self.max_tokens, "lower_case": self.lower_case}
        if self.files:
            options["files"] = self.files
        return {**super().get_config(), **options, "languages": self.languages}


def _files(tokenizer):
    """Returns the names of the files of a tokenizer; None if only a vocabulary is stored."""
    if isinstance(tokenizer, tokenizers.Tokenizer) and not tokenizer.prefix:
        return None
    with tempfile.TemporaryDirectory() as folder:
        save_tokenizer(tokenizer, folder)
        return sorted(os.listdir(folder))


@keras.saving.register_keras_serializable(package="tf_mural")
class MuralImageConverter(keras_hub.layers.ImageConverter):
    """Resizes and crops images in the same way as the evaluations of this package.

    Args:
        resize: height and width in pixels after resizing.
        crop: height and width in pixels of the center crop.
        background: color of transparent pixels in image files, see `preprocessing.Preprocessing`.
            This layer takes opaque pixels, and only stores the color.
        keep_aspect_ratio: see `preprocessing.Preprocessing`.
        **kwargs: see `keras_hub.layers.ImageConverter`. The arguments `interpolation` and
            `antialias` apply to the resizing.
    """

    backbone_cls = MuralBackbone

    def __init__(self, resize=346, crop=289, background="white", keep_aspect_ratio=False, **kwargs):
        super().__init__(**{**kwargs, "image_size": (crop, crop)})
        self.resize, self.crop, self.background = resize, crop, background
        self.keep_aspect_ratio = keep_aspect_ratio

    @property
    def settings(self):
        """Dict of arguments of `preprocessing.Preprocessing`."""
        return {
            "resize": self.resize,
            "crop": self.crop,
            "method": self.interpolation,
            "antialias": self.antialias,
            "background": self.background,
            "keep_aspect_ratio": self.keep_aspect_ratio,
        }

    def call(self, inputs):
        """Maps uint8 (h, w, 3) or (n, h, w, 3) to uint8 (..., crop, crop, 3)."""
        import tensorflow as tf

        inputs = tf.convert_to_tensor(inputs)

        preprocessing = Preprocessing(**self.settings)

        def convert(image):
            return image_ops.preprocess_pixels(image, preprocessing)

        if len(inputs.shape) == 3:
            return convert(inputs)
        return tf.map_fn(convert, inputs, fn_output_signature=tf.uint8)

    def get_config(self):
        """Returns the constructor arguments."""
        config = super().get_config()
        config.pop("image_size", None)
        names = ("resize", "crop", "background", "keep_aspect_ratio")
        return {**config, **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(package="tf_mural")
class MuralPreprocessor(keras_hub.models.Preprocessor):
    """Maps a dict with "images", "texts" or both to a dict with "pixels", "tokens" or both.

    Args:
        tokenizer: `MuralTokenizer`, or another tokenizer of KerasHub.
        image_converter: `MuralImageConverter`.
        max_tokens: number of tokens per text. None: `max_tokens` of `MuralTokenizer`.
        pad_id: token that pads texts. None: the padding token of the tokenizer.
        **kwargs: see `keras_hub.models.Preprocessor`.
    """

    backbone_cls = MuralBackbone
    tokenizer_cls = MuralTokenizer
    image_converter_cls = MuralImageConverter

    def __init__(self, tokenizer, image_converter, max_tokens=None, pad_id=None, **kwargs):
        super().__init__(**kwargs)
        self.tokenizer, self.image_converter = tokenizer, image_converter
        self.max_tokens, self.pad_id = max_tokens, pad_id

    def get_config(self):
        """Returns the constructor arguments."""
        return {**super().get_config(), "max_tokens": self.max_tokens, "pad_id": self.pad_id}

    def call(self, x):
        """Preprocesses a dict of "images", uint8 (n, h, w, 3), and "texts", strings (n,)."""
        tokenize = as_tokenizer(self.tokenizer, self.max_tokens, self.pad_id)
        parts = {"images": ("pixels", self.image_converter), "texts": ("tokens", tokenize)}
        return {parts[key][0]: parts[key][1](value) for key, value in x.items()}
