"""Encoders that pool and project the features of any Keras model or KerasHub backbone."""

import warnings
from typing import Any

import keras
from keras import ops

import tf_mural
from tf_mural.errors import UserError
from tf_mural.models import backbone_inputs
from tf_mural.models.image_encoder import apply_padding, rescaling
from tf_mural.models.pooling import pool, resolve_pooling, token_features
from tf_mural.models.positions import number_positions
from tf_mural.models.text_encoder import TextTower
from tf_mural.models.vectors_encoder import split_tower

_DEFAULT_MAX_TOKENS = 64
_NORM = "pooled_norm"
_NO_SCALING = {"scale": 1.0, "mean": (0.0,), "std": (1.0,)}
_SCALING_LAYERS = (keras.layers.Rescaling, keras.layers.Normalization)
# With these poolings, tokens of padding have no influence if the attention is causal.
_UNAFFECTED = ("average", "max", "map", "cls", "last", "eos")


class _BackboneEncoder(keras.Model):
    """The methods that encoders around a backbone share."""

    def split(self) -> tuple[keras.Model, keras.Model]:
        """Returns the encoder as two models that share its layers.

        Returns:
            A tuple: the features, a model from the input of the encoder to pooled vectors (n, c),
            and the projection, a model from (n, c) to embeddings (n, dim). The projection is the
            identity if the encoder has no projection.
        """
        return split_tower(self, self._get_features(), self._projection_name)

    @property
    def backbone(self) -> keras.Model:
        """The backbone, whose layers the encoder shares."""
        return self._get_backbone()

    def get_config(self):
        """Returns the constructor arguments, except the tokenizer, which is saved as assets."""
        backbone = keras.saving.serialize_keras_object(self.backbone)
        return {"backbone": backbone, **self._arguments, "name": self.name}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Builds an encoder with new weights and no tokenizer from the result of `get_config`."""
        backbone = keras.saving.deserialize_keras_object(config["backbone"], custom_objects)
        return cls(**{**config, "backbone": backbone})


@keras.saving.register_keras_serializable(package="tf_mural")
class ImageEncoder(_BackboneEncoder):
    """Maps images to vectors with any Keras model or KerasHub backbone.

        pixels x in [0, 255] -> (scale * x - mean) / std -> backbone -> pooling -> linear layer

        encoder = tf_mural.ImageEncoder(keras.applications.EfficientNetB0(include_top=False))

    Args:
        backbone: `keras.Model` with one input, images (n, h, w, 3). Its output consists of feature
            maps (n, h, w, c), tokens (n, t, c) or vectors (n, c). The encoder shares the layers of
            the backbone.
        dim: width of the embeddings. If the features have another width, a linear layer projects
            the features to this width. None: the width of the features.
        image_size: height and width of the images in pixels. None: the size of `preprocessing`;
            without `preprocessing`, the input size of the backbone, or 224 if the backbone takes
            images of any size.
        preprocessing: `data.preprocessing.Preprocessing` or `keras_hub.layers.ImageConverter`, the
            description of how image files are resized, and how pixels are scaled. None: images are
            resized to `image_size` without cropping, and pixels are scaled to [-1, 1]. Pixels are
            not scaled if the backbone contains a `Rescaling` or `Normalization` layer, as the
            EfficientNets of `keras.applications` do. If the padding of the preprocessing is "end",
            the padding layers of a KerasHub EfficientNet are changed accordingly.
        pooling: "average", "max", "cls" (the first token), "map" (attention pooling, see
            `pooling.AttentionPooling`), None (the output consists of vectors), or "auto": None for
            vectors, "cls" if the backbone has a class token, otherwise "average".
        pooled_norm: epsilon of a layer normalization between the pooling and the projection, as in
            CLIP. None: there is none.
        projection: whether a linear layer follows. None: only if `dim` is not the width of the
            features.
        projection_bias: whether the linear layer has a bias.
        dtype: dtype policy of the projection. Defaults to the global policy of Keras. The layers of
            the backbone keep their policies.
        name: name of the model.

    Attributes:
        backbone: the argument `backbone`.
        image_size: height and width of the images in pixels.
        preprocessing: `data.preprocessing.Preprocessing`.
        pooling: name of the pooling in use, never "auto". None: the backbone returns vectors.

    Raises:
        UserError: the input or the output of the backbone is not as described above, or an argument
            does not fit the backbone.
    """

    modality = "image"
    _projection_name = "image_projection"

    def __init__(
        self,
        backbone: keras.Model,
        dim: int | None = 640,
        *,
        image_size: int | None = None,
        preprocessing: Any = None,
        pooling: str | None = "auto",
        pooled_norm: float | None = None,
        projection: bool | None = None,
        projection_bias: bool = True,
        dtype: Any = None,
        name: str = "image_tower",
    ):
        size = backbone_inputs.image_size(backbone, image_size, preprocessing)
        is_stated = isinstance(preprocessing, dict) or hasattr(preprocessing, "padding")
        preprocessing = _preprocessing(backbone, preprocessing, size)
        apply_padding(backbone, preprocessing.padding if is_stated else None)
        factor, offset = rescaling(preprocessing.scale, preprocessing.mean, preprocessing.std)
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        # Rescaling and pooling use the dtype of the weights. In bfloat16, the constant 1 / 127.5
        # has a relative error of 0.4 %, which would change every pixel.
        exact = policy.variable_dtype
        pixels = keras.Input((size, size, 3), name="pixels")
        x = keras.layers.Rescaling(factor, offset, dtype=exact, name="rescale")(pixels)
        number_positions(backbone)
        backbone_inputs.freeze_unused(backbone)
        x = backbone_inputs.features(token_features(backbone, pooling), x)
        if len(x.shape) == 2 and pooling == "map":
            pooling = None  # The backbone contains its attention pooling.
        resolved = resolve_pooling(backbone, x, pooling)
        x = pool(x, resolved, exact)
        options = dict(
            pooled_norm=pooled_norm, projection=projection, projection_bias=projection_bias
        )
        features, x = _embed(x, dim, policy, self._projection_name, **options)
        super().__init__(pixels, x, name=name)
        self.image_size, self.preprocessing, self.pooling = size, preprocessing, resolved
        self._get_features = lambda: features
        # The encoder tracks those layers of the backbone that belong to its graph. A function hides
        # the backbone itself from Keras, because the backbone may have layers that are not used.
        self._get_backbone = lambda: backbone
        self._arguments = {
            "dim": dim,
            "image_size": size,
            "preprocessing": preprocessing.to_json(),
            "pooling": pooling,
            **options,
            "dtype": policy.name,
        }


@keras.saving.register_keras_serializable(package="tf_mural")
class TextEncoder(_BackboneEncoder, TextTower):
    """Maps texts to vectors with any Keras model or KerasHub backbone.

        tokens (n, t), padded with `pad_id` -> backbone -> pooling -> projection to `dim`

        encoder = tf_mural.TextEncoder(backbone, tokenizer="vocabulary.txt")

    Args:
        backbone: `keras.Model` whose input is either an array of token ids (n, t), or a dict with
            some or all of the inputs of KerasHub's backbones: "token_ids", "padding_mask" and
            "segment_ids". Its output is an array of tokens (n, t, c) or vectors (n, c), or a dict
            with the tokens as "sequence_output". The encoder shares the layers of the backbone.
        tokenizer: a `data.tokenizers.Tokenizer`, a tokenizer of KerasHub, or the path of a
            vocabulary, a file with one piece per line. None: the model encodes only tokens, not
            strings.
        dim: width of the embeddings. If the features have another width, a linear layer projects
            the features to this width. None: the width of the features.
        max_tokens: number of tokens per text, including special tokens; longer texts are truncated.
            None: `max_tokens` of the tokenizer; if the tokenizer has no such number, the fixed
            number of tokens of the backbone, or 64, or its number of positions if it is smaller.
        pad_id: token that pads texts. None: `pad_id` of the tokenizer, or 0.
        pooling: "average" (or its synonym "mean"), "max" or "map" (attention pooling, see
            `pooling.AttentionPooling`) over the tokens that are not padding, "cls" (the first
            token), "last" (the last token that is not padding), "eos" (the first token `end_id`),
            None (the output consists of vectors), or "auto": None for vectors, "cls" if the
            backbone has a class token, otherwise "average".
        end_id: token at the end of texts, for the pooling "eos". None: that of the tokenizer.
        pooled_norm, projection, projection_bias: see `ImageEncoder`.
        projection_activation: activation behind the linear layer, such as "tanh" in LaBSE. None:
            there is none.
        dtype: dtype policy of the projection. Defaults to the global policy of Keras. The layers of
            the backbone keep their policies.
        name: name of the model.

    Attributes:
        backbone: the argument `backbone`.
        tokenizer: an object with the interface of `data.tokenizers.Tokenizer`, or None.
        max_tokens: number of tokens per text.
        pad_id: token that pads texts.
        pooling: see `ImageEncoder`.
        ignores_padding: whether the embedding of a text does not depend on the padding at its end,
            because the backbone takes a "padding_mask", or because its attention is causal.

    Raises:
        UserError: the inputs or the output of the backbone are not as described above, or the
            tokenizer or another argument does not fit the backbone.
    """

    _projection_name = "text_projection"

    def __init__(
        self,
        backbone: keras.Model,
        tokenizer: Any = None,
        dim: int | None = 640,
        *,
        max_tokens: int | None = None,
        pad_id: int | None = None,
        pooling: str | None = "auto",
        end_id: int | None = None,
        pooled_norm: float | None = None,
        projection: bool | None = None,
        projection_bias: bool = True,
        projection_activation: str | None = None,
        dtype: Any = None,
        name: str = "text_tower",
    ):
        length, positions = backbone_inputs.text_lengths(backbone)
        default = length or min(positions or _DEFAULT_MAX_TOKENS, _DEFAULT_MAX_TOKENS)
        if tokenizer is not None:
            tokenizer = tf_mural.data.as_tokenizer(tokenizer, max_tokens, pad_id, default)
            backbone_inputs.check_tokenizer(backbone, tokenizer)
        max_tokens = tokenizer.max_tokens if tokenizer else max_tokens or default
        if length not in (None, max_tokens) or (positions or max_tokens) < max_tokens:
            raise UserError(
                f"max_tokens is {max_tokens}, but the backbone {backbone.name!r} takes "
                f"{length or f'at most {positions}'} tokens: set max_tokens to this number"
            )
        pad_id = pad_id if pad_id is not None else tokenizer.pad_id if tokenizer else 0
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        tokens = keras.Input((length,), dtype="int32", name="tokens")
        mask = ops.cast(ops.not_equal(tokens, pad_id), "int32")
        end_id = end_id if end_id is not None else backbone_inputs.end_id(tokenizer)
        inputs = backbone_inputs.text_inputs(backbone, tokens, mask)
        x = backbone_inputs.features(token_features(backbone, pooling), inputs)
        resolved = resolve_pooling(backbone, x, pooling, is_text=True)
        x = pool(x, resolved, policy.variable_dtype, tokens, mask, end_id)
        options = dict(
            pooled_norm=pooled_norm,
            projection=projection,
            projection_bias=projection_bias,
            projection_activation=projection_activation,
        )
        features, x = _embed(x, dim, policy, self._projection_name, **options)
        super().__init__(tokens, x, name=name)
        self._get_features = lambda: features
        self.tokenizer, self.max_tokens, self.pad_id = tokenizer, max_tokens, pad_id
        self.ignores_padding = backbone_inputs.takes_mask(backbone) or (
            resolved in _UNAFFECTED and backbone_inputs.is_causal(backbone)
        )
        self.pooling = resolved
        self._get_backbone = lambda: backbone
        self._arguments = {
            "dim": dim,
            "max_tokens": max_tokens,
            "pad_id": pad_id,
            "pooling": pooling,
            "end_id": end_id,
            **options,
            "dtype": policy.name,
        }


def _preprocessing(backbone, preprocessing, size):
    scales = any(isinstance(layer, _SCALING_LAYERS) for layer in backbone._flatten_layers())
    defaults = _NO_SCALING if scales and preprocessing is None else {}
    preprocessing = tf_mural.data.as_preprocessing(preprocessing, size, **defaults)
    values = {name: getattr(preprocessing, name) for name in _NO_SCALING}
    if scales and values != _NO_SCALING:
        warnings.warn(
            f"the backbone {backbone.name!r} contains a layer that scales pixels, and the encoder "
            f"scales them before ({values}); if this is not intended, set scale=1, mean=0 and "
            "std=1 in the preprocessing",
            stacklevel=3,
        )
    return preprocessing


def _embed(
    x, dim, policy, name, pooled_norm, projection, projection_bias, projection_activation=None
):
    """Normalizes and projects pooled vectors (n, c).

    Returns:
        A tuple: the vectors before the projection, and the embeddings (n, dim).
    """
    if pooled_norm is not None:
        norm = keras.layers.LayerNormalization(epsilon=pooled_norm, dtype=policy, name=_NORM)
        x = norm(x)
    features, width = x, x.shape[-1]
    if projection is None:
        projection = dim not in (None, width)
    if projection:
        dense = keras.layers.Dense(
            dim or width,
            activation=projection_activation,
            use_bias=projection_bias,
            dtype=policy,
            name=name,
        )
        return features, dense(x)
    if dim not in (None, width):
        raise UserError(
            f"dim is {dim} and projection is False, but the features have {width} values: set "
            f"dim={width} or projection=True"
        )
    return features, x
