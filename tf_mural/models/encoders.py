"""Encoders that pool and project the features of any Keras model or KerasHub backbone."""

import warnings
from typing import Any

import keras
from keras import ops

import tf_mural
from tf_mural.errors import UserError, lookup
from tf_mural.models.image_encoder import apply_padding, rescaling
from tf_mural.models.text_encoder import TextTower

# Default height and width, in pixels, of the images for a backbone that takes images of any size.
_DEFAULT_IMAGE_SIZE = 224
_DEFAULT_MAX_TOKENS = 64
_NO_SCALING = {"scale": 1.0, "mean": (0.0,), "std": (1.0,)}
_SCALING_LAYERS = (keras.layers.Rescaling, keras.layers.Normalization)
# KerasHub's names of the inputs of a text backbone.
_TEXT_INPUTS = ("token_ids", "padding_mask", "segment_ids")
POOLINGS = ("average", "max", "cls")


class _BackboneEncoder(keras.Model):
    """The methods that encoders around a backbone share."""

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
        pooling: "average", "max", "cls" (the first token), None (the output consists of vectors),
            or "auto": None for vectors, "cls" if the backbone has a class token, otherwise
            "average".
        dtype: dtype policy of the projection. Defaults to the global policy of Keras. The layers of
            the backbone keep their policies.
        name: name of the model.

    Attributes:
        backbone: the argument `backbone`.
        image_size: height and width of the images in pixels.
        preprocessing: `data.preprocessing.Preprocessing`.

    Raises:
        UserError: the input or the output of the backbone is not as described above, or an argument
            does not fit the backbone.
    """

    modality = "image"

    def __init__(
        self,
        backbone: keras.Model,
        dim: int | None = 640,
        *,
        image_size: int | None = None,
        preprocessing: Any = None,
        pooling: str | None = "auto",
        dtype: Any = None,
        name: str = "image_tower",
    ):
        size = _image_size(backbone, image_size, preprocessing)
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
        x = _features(backbone, x)
        x = _pool(backbone, x, pooling, exact)
        x = _project(x, dim, policy, "image_projection")
        super().__init__(pixels, x, name=name)
        self.image_size, self.preprocessing = size, preprocessing
        # The encoder tracks those layers of the backbone that belong to its graph. A function hides
        # the backbone itself from Keras, because the backbone may have layers that are not used.
        self._get_backbone = lambda: backbone
        self._arguments = {
            "dim": dim,
            "image_size": size,
            "preprocessing": preprocessing.to_json(),
            "pooling": pooling,
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
        pooling: "average" or "max" over the tokens that are not padding, "cls" (the first token),
            None (the output consists of vectors), or "auto": None for vectors, "cls" if the
            backbone has a class token, otherwise "average".
        dtype: dtype policy of the projection. Defaults to the global policy of Keras. The layers of
            the backbone keep their policies.
        name: name of the model.

    Attributes:
        backbone: the argument `backbone`.
        tokenizer: an object with the interface of `data.tokenizers.Tokenizer`, or None.
        max_tokens: number of tokens per text.
        pad_id: token that pads texts.
        ignores_padding: whether the backbone takes a "padding_mask". The embedding of a text then
            does not depend on the padding at its end.

    Raises:
        UserError: the inputs or the output of the backbone are not as described above, or the
            tokenizer or another argument does not fit the backbone.
    """

    def __init__(
        self,
        backbone: keras.Model,
        tokenizer: Any = None,
        dim: int | None = 640,
        *,
        max_tokens: int | None = None,
        pad_id: int | None = None,
        pooling: str | None = "auto",
        dtype: Any = None,
        name: str = "text_tower",
    ):
        length, positions = _text_lengths(backbone)
        default = length or min(positions or _DEFAULT_MAX_TOKENS, _DEFAULT_MAX_TOKENS)
        if tokenizer is not None:
            tokenizer = tf_mural.data.as_tokenizer(tokenizer, max_tokens, pad_id, default)
            _check_tokenizer(backbone, tokenizer)
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
        x = _features(backbone, _text_inputs(backbone, tokens, mask))
        x = _pool(backbone, x, pooling, policy.variable_dtype, mask)
        x = _project(x, dim, policy, "text_projection")
        super().__init__(tokens, x, name=name)
        self.tokenizer, self.max_tokens, self.pad_id = tokenizer, max_tokens, pad_id
        shape = _input_shape(backbone)
        self.ignores_padding = isinstance(shape, dict) and "padding_mask" in shape
        self._get_backbone = lambda: backbone
        self._arguments = {
            "dim": dim,
            "max_tokens": max_tokens,
            "pad_id": pad_id,
            "pooling": pooling,
            "dtype": policy.name,
        }


def _input_shape(backbone):
    """Returns the shape of the single input, or {name: shape} of a dict; None: unknown."""
    try:
        inputs = backbone.input
    except (AttributeError, ValueError):
        return None  # a subclassed model, or a Sequential that is not built
    if isinstance(inputs, dict):
        return {name: tuple(x.shape) for name, x in inputs.items()}
    if isinstance(inputs, list | tuple):
        if len(inputs) != 1:
            raise UserError(
                f"the backbone {backbone.name!r} has {len(inputs)} inputs, expected one"
            )
        return tuple(inputs[0].shape)
    return tuple(inputs.shape)


def _features(backbone, inputs):
    """Returns the output of a backbone to which pooling is applied."""
    outputs = backbone(inputs)
    if not isinstance(outputs, dict | list | tuple):
        return outputs
    names = list(outputs) if isinstance(outputs, dict) else list(range(len(outputs)))
    name = "sequence_output" if "sequence_output" in names else names[0]
    if len(names) > 1 and name != "sequence_output":
        raise UserError(
            f"the backbone {backbone.name!r} has the outputs {names}: wrap the one to use, "
            "keras.Model(backbone.input, backbone.output[...])"
        )
    if len(names) == 1 or not hasattr(backbone, "output"):
        return outputs[name]
    # The layers of the other outputs are omitted, because their variables would get no gradients.
    return keras.Model(backbone.input, backbone.output[name], name=backbone.name)(inputs)


def _image_size(backbone, image_size, preprocessing):
    shape = _input_shape(backbone) or (None, None, None, 3)
    if isinstance(shape, dict) or len(shape) != 4 or shape[-1] != 3:
        raise UserError(
            f"the backbone {backbone.name!r} has the input shape {shape}, expected images "
            "(n, h, w, 3), with channels last"
        )
    height, width = shape[1:3]
    if height != width:
        raise UserError(
            f"the backbone {backbone.name!r} takes images of {height} x {width} pixels, expected "
            "the same height and width"
        )
    if isinstance(preprocessing, dict):
        preset_size = preprocessing["crop"]
    else:  # `Preprocessing` has a crop, and an image converter of KerasHub has an image size.
        preset_size = getattr(preprocessing, "crop", None)
        preset_size = preset_size or (getattr(preprocessing, "image_size", None) or (None,))[0]
    size = image_size or preset_size or height or _DEFAULT_IMAGE_SIZE
    if height and size != height:
        raise UserError(
            f"the image size is {size}, but the backbone {backbone.name!r} takes images of "
            f"{height} pixels: set image_size, or build the backbone for {size} pixels"
        )
    return size


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


def _text_lengths(backbone):
    """Returns the fixed input length and the number of positions; each is None if unknown."""
    shape = _input_shape(backbone)
    shape = shape.get("token_ids") if isinstance(shape, dict) else shape
    length = shape[1] if shape and len(shape) > 1 else None
    return length, getattr(backbone, "max_sequence_length", None)


def _text_inputs(backbone, tokens, mask):
    shape = _input_shape(backbone)
    if not isinstance(shape, dict):
        return tokens
    known = dict(zip(_TEXT_INPUTS, (tokens, mask, ops.zeros_like(tokens)), strict=True))
    unknown = [name for name in shape if name not in known]
    if unknown:
        raise UserError(
            f"the backbone {backbone.name!r} has the inputs {list(shape)}, expected some of "
            f"{list(known)}"
        )
    return {name: known[name] for name in shape}


def _check_tokenizer(backbone, tokenizer):
    size = getattr(backbone, "vocabulary_size", None)
    if size is not None and tokenizer.size > size:
        raise UserError(
            f"the tokenizer has {tokenizer.size} tokens, but the backbone {backbone.name!r} has "
            f"{size} token embeddings: use the tokenizer that belongs to the backbone"
        )


def _pool(backbone, x, pooling, dtype, mask=None):
    """Pools features (n, h, w, c) or (n, t, c) to (n, c); tokens with mask 0 are ignored."""
    rank = len(x.shape)
    if rank not in (2, 3, 4):
        raise UserError(
            f"the backbone {backbone.name!r} has the output shape {tuple(x.shape)}, expected "
            "(n, h, w, c), (n, t, c) or (n, c)"
        )
    if pooling == "auto":
        pooling = None if rank == 2 else "cls" if rank == 3 and _has_cls(backbone) else "average"
    if pooling is not None:
        lookup(dict.fromkeys(POOLINGS), pooling, "pooling")
    if (pooling is None) != (rank == 2) or (pooling == "cls" and rank == 4):
        raise UserError(
            f"pooling is {pooling!r}, but the output of the backbone {backbone.name!r} has the "
            f"shape {tuple(x.shape)}"
        )
    if pooling is None:
        return x
    if pooling == "cls":
        return x[:, 0]
    x = ops.cast(x, dtype)
    if mask is None:
        axes = tuple(range(1, rank - 1))
        return ops.mean(x, axes) if pooling == "average" else ops.max(x, axes)
    mask = ops.expand_dims(ops.cast(mask, dtype), -1)
    if pooling == "max":
        return ops.max(ops.where(mask > 0, x, -ops.ones_like(x) * 1e9), axis=1)
    return ops.sum(x * mask, axis=1) / ops.maximum(ops.sum(mask, axis=1), 1.0)


def _has_cls(backbone):
    """Returns whether the first token of the output of a KerasHub backbone is a class token."""
    names = ("cls_token_index", "start_token_index")
    return any(getattr(backbone, name, None) == 0 for name in names) or bool(
        getattr(backbone, "use_class_token", False)
    )


def _project(x, dim, policy, name):
    if dim in (None, x.shape[-1]):
        return x
    return keras.layers.Dense(dim, dtype=policy, name=name)(x)
