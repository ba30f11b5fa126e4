"""Adapts tokenizers and image converters of KerasHub, and stores tokenizers in saved models."""

import functools
import os
import unicodedata
from typing import Any

from tf_mural.data import keras_hub_conversion, tokenizer_files
from tf_mural.data.base_tokenizer import BaseTokenizer
from tf_mural.data.preprocessing import Preprocessing
from tf_mural.data.tokenizers import vocabulary_hash
from tf_mural.errors import UserError


class KerasHubTokenizer:
    """A tokenizer of KerasHub with the interface of `tokenizers.Tokenizer`.

    A row consists of the start token, the tokens of the text, the end token and padding. The start
    token or the end token is omitted if the tokenizer does not define it.

    Args:
        tokenizer: `keras_hub.tokenizers.Tokenizer` that returns rows of different lengths.
        max_tokens: number of tokens per row, including start and end token.
        pad_id: token that pads rows. None: `pad_token_id` of the tokenizer.

    Attributes:
        tokenizer: the argument `tokenizer`.
        max_tokens: number of tokens per row.
        pad_id: token that pads rows.

    Raises:
        UserError: the tokenizer has no padding token, or returns rows of a fixed length.
    """

    def __init__(self, tokenizer: Any, max_tokens: int = 64, pad_id: int | None = None):
        name = type(tokenizer).__name__
        if getattr(tokenizer, "sequence_length", None) is not None:
            raise UserError(
                f"the {name} has sequence_length={tokenizer.sequence_length}: build it without "
                "sequence_length, and set max_tokens of the encoder"
            )
        pad_id = getattr(tokenizer, "pad_token_id", None) if pad_id is None else pad_id
        if pad_id is None:
            raise UserError(f"the {name} has no pad_token_id: set pad_id of the encoder")
        self.tokenizer, self.max_tokens, self.pad_id = tokenizer, max_tokens, pad_id
        self._start, self._end = (
            [] if token is None else [token]
            for token in (
                getattr(tokenizer, "start_token_id", None),
                getattr(tokenizer, "end_token_id", None),
            )
        )
        if max_tokens <= len(self._start) + len(self._end):
            raise UserError(
                f"max_tokens is {max_tokens}, but the start token, one piece and the end token "
                "need 3: set 3 or more"
            )

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Pieces in the order of their ids."""
        return tuple(self.tokenizer.get_vocabulary())

    @property
    def size(self) -> int:
        """Number of pieces."""
        return self.tokenizer.vocabulary_size()

    @property
    def prefix(self) -> str:
        """String that is put before each text: none."""
        return ""

    @property
    def num_special(self) -> int:
        """Number of tokens at the start and at the end of each text."""
        return len(self._start) + len(self._end)

    @property
    def end(self) -> tuple[int, ...]:
        """Tokens behind each text."""
        return tuple(self._end)

    @property
    def has_bytes(self) -> bool:
        """Whether characters that are not in the vocabulary are split into bytes."""
        return hasattr(self.tokenizer, "merges")

    def normalize_word(self, word: str) -> str:
        """Returns a word with the characters that pieces of the vocabulary are compared with."""
        word = unicodedata.normalize("NFC", word)
        return unicodedata.normalize("NFD", word).lower() if self.lower_case else word

    @property
    def lower_case(self) -> bool:
        """Whether texts are converted to lower case."""
        return bool(getattr(self.tokenizer, "lowercase", False))

    @property
    def hash(self) -> str:
        """Hash of the vocabulary and of the class of the tokenizer."""
        suffix = "-lower" if self.lower_case else ""
        return f"{vocabulary_hash(self.vocabulary)}-{type(self.tokenizer).__name__}{suffix}"

    def pieces(self, strings: Any) -> Any:
        """Tokenizes strings (n,) without start and end token; returns RaggedTensor int32 (n, None).

        Bytes that are not UTF-8 are dropped.
        """
        import tensorflow as tf

        strings = tf.strings.unicode_transcode(strings, "UTF-8", "UTF-8", errors="replace")
        return self._tokenize(strings)

    @functools.cached_property
    def _tokenize(self):
        import tensorflow as tf

        # KerasHub returns lists instead of tensors if its tokenizers are called outside of a graph.
        @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)], autograph=False)
        def tokenize(strings):
            return tf.cast(self.tokenizer(strings), tf.int32)

        return tokenize

    def __call__(self, strings: Any) -> Any:
        """Tokenizes strings (n,). Texts with too many pieces are truncated at the end.

        Returns:
            int32 (n, max_tokens).
        """
        import tensorflow as tf

        strings = tf.convert_to_tensor(strings, tf.string)
        pieces = self.pieces(strings)
        pieces = pieces[:, : self.max_tokens - len(self._start) - len(self._end)]
        start, end = (
            tf.tile(tf.constant([token], tf.int32), [tf.shape(strings)[0], 1])
            for token in (self._start, self._end)
        )
        rows = tf.concat([start, pieces, end], axis=1)
        tokens = rows.to_tensor(self.pad_id, shape=(None, self.max_tokens))
        return tf.ensure_shape(tokens, (strings.shape[0], self.max_tokens))

    def has_known_tokens(self, tokens: Any) -> Any:
        """Returns whether each row of `tokens`, int32 (n, t), has a known piece, bool (n,).

        Special tokens are not known pieces.
        """
        import tensorflow as tf

        special = {self.pad_id, *self._start, *self._end}
        unknown = getattr(self.tokenizer, "unk_token_id", None)
        if unknown is None and hasattr(self.tokenizer, "oov_token"):
            unknown = self.tokenizer.token_to_id(self.tokenizer.oov_token)
        special = sorted(special | ({unknown} - {None}))
        special = tf.constant(special, tokens.dtype)
        is_special = tf.reduce_any(tf.equal(tokens[..., None], special), axis=-1)
        return tf.reduce_any(tf.logical_not(is_special), axis=-1)


def as_tokenizer(
    tokenizer: Any,
    max_tokens: int | None = None,
    pad_id: int | None = None,
    default_max_tokens: int = 64,
) -> BaseTokenizer | KerasHubTokenizer:
    """Returns a tokenizer with the interface of `tokenizers.Tokenizer`.

    Args:
        tokenizer: `BaseTokenizer`, such as `Tokenizer`, `KerasHubTokenizer`, the path of a file or
            folder that `open_tokenizer` opens, or a tokenizer of KerasHub. Those for SentencePiece
            models and for CLIP are converted, because KerasHub converts only ASCII letters to lower
            case.
        max_tokens: number of tokens per text. None: `max_tokens` of the tokenizer.
        pad_id: token that pads rows. None: the padding token of the tokenizer.
        default_max_tokens: number of tokens per text if `max_tokens` is None, and the argument
            `tokenizer` has no attribute `max_tokens`.

    Raises:
        UserError: the tokenizer is of another type, or has another `max_tokens` or `pad_id`.
    """
    # The tokenizer of a preset (`export.presets.MuralTokenizer`) contains a `BaseTokenizer`.
    inner = getattr(tokenizer, "tokenizer", None)
    if isinstance(inner, BaseTokenizer) and not isinstance(tokenizer, KerasHubTokenizer):
        tokenizer = inner
    if isinstance(tokenizer, str | os.PathLike):
        tokenizer = tokenizer_files.open_tokenizer(tokenizer, max_tokens or default_max_tokens)
    elif hasattr(tokenizer, "get_vocabulary") and hasattr(tokenizer, "tokenize"):
        length = max_tokens or default_max_tokens
        tokenizer = keras_hub_conversion.convert(tokenizer, length, pad_id) or KerasHubTokenizer(
            tokenizer, length, pad_id
        )
    elif not isinstance(tokenizer, BaseTokenizer | KerasHubTokenizer):
        raise UserError(
            f"tokenizer is a {type(tokenizer).__name__}, expected a tokenizer of tf_mural.data, "
            "the path of a file or folder, or a tokenizer of KerasHub"
        )
    for name, value in (("max_tokens", max_tokens), ("pad_id", pad_id)):
        if value not in (None, getattr(tokenizer, name)):
            raise UserError(
                f"{name} is {value}, but the tokenizer has {name}={getattr(tokenizer, name)}: "
                "set the same value"
            )
    return tokenizer


def save_tokenizer(tokenizer: BaseTokenizer | KerasHubTokenizer, folder: str) -> None:
    """Writes a tokenizer to a folder.

    Args:
        tokenizer: `BaseTokenizer`, such as `Tokenizer`, or `KerasHubTokenizer`.
        folder: output folder, which is created if it does not exist.
    """
    if not isinstance(tokenizer, KerasHubTokenizer):
        tokenizer_files.save(tokenizer, folder)
        return
    import keras

    inner = keras.saving.serialize_keras_object(tokenizer.tokenizer)
    os.makedirs(folder, exist_ok=True)
    tokenizer.tokenizer.save_assets(folder)
    settings = {"max_tokens": tokenizer.max_tokens, "pad_id": tokenizer.pad_id, "keras_hub": inner}
    tokenizer_files.write_description(folder, settings)


def load_tokenizer(folder: str) -> BaseTokenizer | KerasHubTokenizer | None:
    """Reads a tokenizer that `save_tokenizer` wrote.

    Args:
        folder: folder of the tokenizer. If it does not exist or is empty, the result is None.

    Raises:
        UserError: a file is missing or damaged.
    """
    description = tokenizer_files.read_description(folder)
    if description is None:
        return None
    if "keras_hub" not in description:
        return tokenizer_files.load(folder, description)
    import keras
    import keras_hub  # noqa: F401  registers the classes of its tokenizers

    tokenizer = keras.saving.deserialize_keras_object(description["keras_hub"])
    tokenizer.load_assets(folder)
    return KerasHubTokenizer(tokenizer, description["max_tokens"], description["pad_id"])


def as_preprocessing(preprocessing: Any, size: int, **defaults: Any) -> Preprocessing:
    """Returns the preprocessing of an image tower.

    Args:
        preprocessing: `Preprocessing`, the result of its method `to_json`, a
            `keras_hub.layers.ImageConverter`, or None. Only the attributes `interpolation`,
            `antialias`, `scale`, `offset` and `image_size` of an image converter are used. Images
            are always resized to a square, without the cropping or padding of the image converter.
        size: height and width of the images in pixels.
        **defaults: values of attributes that are used instead of the defaults of `Preprocessing` if
            `preprocessing` is None.

    Raises:
        UserError: the argument is of another type, or its size is not `size`.
    """
    if preprocessing is None:
        return Preprocessing(size, size, **defaults)
    if isinstance(preprocessing, dict):
        preprocessing = Preprocessing(**preprocessing)
    elif hasattr(preprocessing, "interpolation") and hasattr(preprocessing, "image_size"):
        preprocessing = _from_image_converter(preprocessing, size)
    if not isinstance(preprocessing, Preprocessing):
        raise UserError(
            f"preprocessing is a {type(preprocessing).__name__}, expected a "
            "tf_mural.data.Preprocessing or an ImageConverter of KerasHub"
        )
    if preprocessing.crop != size:
        raise UserError(
            f"the images have {size} pixels, but preprocessing has crop={preprocessing.crop}: set "
            "the same size"
        )
    return preprocessing


def _from_image_converter(converter, size):
    """Returns a `Preprocessing` whose (x - mean) / std equals scale * x + offset of a converter."""
    height, width = converter.image_size or (size, size)
    if height != width:
        raise UserError(f"the image converter has the size {height} x {width}, expected a square")
    scale, offset = (
        default if value is None else value
        for value, default in ((converter.scale, 1.0), (converter.offset, 0.0))
    )
    scales, offsets = (
        [float(x)] * 3 if isinstance(x, int | float) else [float(v) for v in x]
        for x in (scale, offset)
    )
    return Preprocessing(
        height or size,
        height or size,
        method=converter.interpolation,
        antialias=bool(converter.antialias),
        scale=1.0,
        mean=[-o / s for s, o in zip(scales, offsets, strict=True)],
        std=[1 / s for s in scales],
    )
