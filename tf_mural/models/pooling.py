"""Pools the features of a backbone to one vector per image or text."""

import keras
from keras import ops

from tf_mural.errors import UserError, lookup

IMAGE_POOLINGS = ("average", "max", "cls", "map")
TEXT_POOLINGS = (*IMAGE_POOLINGS, "last", "eos")
_SYNONYMS = {"mean": "average"}
# Classes of KerasHub whose first token is a class token, without an attribute that says so.
_WITH_CLS = (
    "CLIPVisionEncoder",
    "DINOV2Backbone",
    "DINOV3Backbone",
    "DeiTBackbone",
    "MetaCLIP2VisionEncoder",
)


@keras.saving.register_keras_serializable(package="tf_mural")
class AttentionPooling(keras.layers.Layer):
    """Multi-head attention pooling of SigLIP (https://arxiv.org/abs/2303.15343).

        h = attention(query=probe, keys=x, values=x),  y = h + mlp(norm(h))

    The probe is a trained vector. The multilayer perceptron has one hidden layer.

    Args:
        num_heads: number of attention heads. None: one head for each 64 features of the input.
        hidden_dim: width of the hidden layer. None: four times the width of the input.
        **kwargs: arguments of `keras.layers.Layer`.

    Call arguments:
        x: features (n, t, c).
        attended: bool or int (n, t). Tokens with the value 0 are ignored. None: no token is.

    Returns:
        (n, c).
    """

    def __init__(self, num_heads=None, hidden_dim=None, **kwargs):
        super().__init__(**kwargs)
        self.num_heads, self.hidden_dim = num_heads, hidden_dim

    def build(self, input_shape):
        """Builds the layers for features (n, t, c)."""
        width, policy = input_shape[-1], self.dtype_policy
        heads = self.num_heads or max(1, width // 64)
        self.probe = self.add_weight((1, 1, width), "glorot_uniform", name="probe")
        self.attention = keras.layers.MultiHeadAttention(
            heads, width // heads, dtype=policy, name="attention"
        )
        self.attention.build((None, 1, width), (None, None, width))
        self.norm = keras.layers.LayerNormalization(epsilon=1e-6, dtype=policy, name="norm")
        self.norm.build((None, 1, width))
        hidden_dim = self.hidden_dim or 4 * width
        self.hidden = keras.layers.Dense(hidden_dim, activation="gelu", dtype=policy, name="hidden")
        self.hidden.build((None, 1, width))
        self.output_dense = keras.layers.Dense(width, dtype=policy, name="output")
        self.output_dense.build((None, 1, hidden_dim))

    def call(self, x, attended=None):
        """Pools features (n, t, c) to (n, c)."""
        probe = ops.repeat(ops.cast(self.probe, x.dtype), ops.shape(x)[0], axis=0)
        if attended is not None:
            attended = ops.cast(attended, "bool")[:, None]  # (n, 1, t)
        h = self.attention(probe, x, x, attention_mask=attended)
        return (h + self.output_dense(self.hidden(self.norm(h))))[:, 0]

    def compute_output_shape(self, x_shape, attended_shape=None):
        """Returns the shape (n, c)."""
        return (x_shape[0], x_shape[-1])

    def get_config(self):
        """Returns the constructor arguments."""
        sizes = {"num_heads": self.num_heads, "hidden_dim": self.hidden_dim}
        return {**super().get_config(), **sizes}


def canonical_pooling(pooling):
    """Returns the name of a pooling without synonyms: "average" for "mean"."""
    return _SYNONYMS.get(pooling, pooling)


def resolve_pooling(backbone, x, pooling, is_text=False):
    """Returns the name of the pooling that an argument `pooling` stands for.

    Args:
        backbone: `keras.Model` with the output `x`, for messages and for "auto".
        x: symbolic features (n, h, w, c), (n, t, c) or (n, c).
        pooling: see `encoders.ImageEncoder` and `encoders.TextEncoder`.
        is_text: whether the features are those of texts.

    Returns:
        An element of `IMAGE_POOLINGS` or `TEXT_POOLINGS`. None: `x` consists of vectors (n, c).

    Raises:
        UserError: the pooling is unknown, or does not fit the shape of `x`.
    """
    rank, shape = len(x.shape), tuple(x.shape)
    if rank not in (2, 3, 4):
        raise UserError(
            f"the backbone {backbone.name!r} has the output shape {shape}, expected (n, h, w, c), "
            "(n, t, c) or (n, c)"
        )
    if pooling == "auto":
        pooling = None if rank == 2 else "cls" if rank == 3 and has_cls(backbone) else "average"
    if is_text:
        pooling = canonical_pooling(pooling)
    if pooling is not None:
        names = TEXT_POOLINGS if is_text else IMAGE_POOLINGS
        lookup(dict.fromkeys(names), pooling, "pooling")
    if (pooling is None) != (rank == 2) or (pooling in ("cls", "last", "eos") and rank == 4):
        raise UserError(
            f"pooling is {pooling!r}, but the output of the backbone {backbone.name!r} has the "
            f"shape {shape}"
        )
    return pooling


def pool(x, pooling, dtype, tokens=None, attended=None, end_id=None):
    """Pools the output of a backbone.

    Args:
        x: symbolic features (n, h, w, c), (n, t, c) or (n, c).
        pooling: result of `resolve_pooling`.
        dtype: dtype of averages and of attention pooling.
        tokens: int32 (n, t) of texts. None: images.
        attended: int32 (n, t), 0 for padding. None: images.
        end_id: token at the end of a text, for the pooling "eos".

    Returns:
        Symbolic vectors (n, c).

    Raises:
        UserError: the pooling is "eos", and `end_id` is None.
    """
    if pooling is None:
        return x
    if pooling == "cls":
        return x[:, 0]
    if pooling in ("last", "eos"):
        return _take(x, _positions(pooling, tokens, attended, end_id))
    x, shape = ops.cast(x, dtype), tuple(x.shape)
    if pooling == "map":
        x = ops.reshape(x, (-1, shape[1] * shape[2], shape[3])) if len(shape) == 4 else x
        layer = AttentionPooling(dtype=dtype, name="attention_pooling")
        return layer(x) if attended is None else layer(x, attended)
    return _reduce(x, pooling, dtype, attended)


def _positions(pooling, tokens, attended, end_id):
    """Returns the index of the token that represents each text, int32 (n,)."""
    if pooling == "last":
        columns = ops.cumsum(ops.ones_like(tokens), axis=1)  # 1, 2, ..., t
        return ops.maximum(ops.max(attended * columns, axis=1) - 1, 0)
    if end_id is None:
        raise UserError(
            "pooling is 'eos', but the token at the end of texts is unknown: set end_id, or a "
            "tokenizer that puts a token at the end of each text"
        )
    return ops.argmax(ops.cast(ops.equal(tokens, end_id), "int32"), axis=1)  # the first


def _take(x, index):
    """Returns x[i, index[i]] for each i."""
    return ops.take_along_axis(x, ops.cast(index, "int32")[:, None, None], axis=1)[:, 0]


def _reduce(x, pooling, dtype, attended):
    if attended is None:
        axes = tuple(range(1, len(x.shape) - 1))
        return ops.mean(x, axes) if pooling == "average" else ops.max(x, axes)
    mask = ops.expand_dims(ops.cast(attended, dtype), -1)
    if pooling == "max":
        return ops.max(ops.where(mask > 0, x, -ops.ones_like(x) * 1e9), axis=1)
    return ops.sum(x * mask, axis=1) / ops.maximum(ops.sum(mask, axis=1), 1.0)


def has_cls(backbone):
    """Returns whether the first token of the output of a KerasHub backbone is a class token."""
    if type(backbone).__name__ in _WITH_CLS:
        return True
    names = ("cls_token_index", "start_token_index")
    return any(getattr(backbone, name, None) == 0 for name in names) or bool(
        getattr(backbone, "use_class_token", False)
    )


def token_features(backbone, pooling):
    """Returns a backbone whose output is not pooled, if a pooling is asked for.

    The encoders of SigLIP in KerasHub pool their tokens themselves. With another pooling than
    theirs, the layers after the last layer normalization are left out.

    Args:
        backbone: `keras.Model`.
        pooling: see `encoders.ImageEncoder`. With None or "auto", and with "map" if the backbone
            has an attention pooling, the backbone is returned unchanged.
    """
    head = type(getattr(backbone, "head", None)).__name__
    own = (None, "auto", "map") if head.endswith("AttentionPooling") else (None, "auto")
    norm = getattr(backbone, "post_layer_norm", None)
    if pooling in own or norm is None or not isinstance(backbone.output, keras.KerasTensor):
        return backbone
    return keras.Model(backbone.input, norm.output, name=backbone.name)
