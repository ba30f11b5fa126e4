"""All changes that the models make to the behavior of Keras and KerasHub."""

import contextlib

import keras
from keras import ops

from tf_mural.errors import lookup
from tf_mural.models.ghost_batch_norm import GhostBatchNormalization
from tf_mural.models.model_configs import block_shapes

ACTIVATIONS = {
    "gelu_approximate": lambda x: keras.activations.gelu(x, approximate=True),
    "gelu": lambda x: keras.activations.gelu(x, approximate=False),
}


@contextlib.contextmanager
def dtype_policy_scope(policy):
    """Context manager: sets the global dtype policy of Keras; None leaves the policy unchanged."""
    # The policy must be global: the EfficientNet v1 blocks of KerasHub read no other policy.
    original = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy or original)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(original)


@contextlib.contextmanager
def ghost_batch_norm_scope(virtual_batch_size, momentum, all_reduce_mean=list):
    """Context manager: `keras.layers.BatchNormalization` builds `GhostBatchNormalization`.

    KerasHub has no argument for the class of batch norm layers, and its EfficientNet v1 blocks have
    no argument for the momentum.

    Args:
        virtual_batch_size: see `GhostBatchNormalization`.
        momentum: momentum of the moving averages.
        all_reduce_mean: see `GhostBatchNormalization`.
    """
    original = keras.layers.BatchNormalization

    def build(**kwargs):
        kwargs = {**kwargs, "momentum": momentum}
        return GhostBatchNormalization(virtual_batch_size, all_reduce_mean, **kwargs)

    keras.layers.BatchNormalization = build
    try:
        yield
    finally:
        keras.layers.BatchNormalization = original


@contextlib.contextmanager
def end_padding_scope(config):
    """Context manager: changes the padding that KerasHub adds before stride-2 convolutions.

    One row of padding at the top and one column of padding at the left are omitted.

    Args:
        config: arguments of KerasHub's `EfficientNetBackbone`.
    """
    original = keras.layers.ZeroPadding2D
    strided = [name for name, (*_, stride, _) in block_shapes(config).items() if stride == 2]
    names = {"stem_conv_pad", *(f"{name}_dwconv_pad" for name in strided)}

    def build(padding, name):
        end_padding = tuple((size - 1, size) for size in padding)
        return original(padding=end_padding if name in names else padding, name=name)

    keras.layers.ZeroPadding2D = build
    try:
        yield
    finally:
        keras.layers.ZeroPadding2D = original


def patch_bert(backbone, activation):
    """Changes a `BertBackbone` in place: activation, attention projections and precision.

    Args:
        backbone: `keras_hub.models.BertBackbone`.
        activation: name of the feed-forward activation, a key of `ACTIVATIONS`.
    """
    for layer in backbone.transformer_layers:
        layer._feedforward_intermediate_dense.activation = lookup(
            ACTIVATIONS, activation, "activation"
        )
        attention = layer._self_attention_layer
        for name in ("query", "key", "value", "output"):
            _use_tensordot(getattr(attention, f"_{name}_dense"))
    # Without this policy, the gradients of position embeddings would be summed over the batch in
    # half precision, and a float16 sum of equal values stops growing after 8,192 values. Keras
    # already sums the gradients of token and segment embeddings in float32.
    backbone.position_embedding.dtype_policy = keras.config.dtype_policy().variable_dtype


def _use_tensordot(dense):
    """Replaces the einsum of an `EinsumDense` by a single matmul with the same result.

    TensorFlow computes the einsum of (n, t, c) and (c, heads, d) one text at a time, which takes
    50 % longer than a matmul on a CPU. JAX compiles the einsum and the matmul to the same code.

    Args:
        dense: `keras.layers.EinsumDense` that maps (n, t, ...) to (n, t, ...).
    """

    def call(inputs, training=None):
        return ops.tensordot(inputs, dense.kernel, axes=len(inputs.shape) - 2) + dense.bias

    dense.call = call
