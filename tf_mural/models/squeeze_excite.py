"""Squeeze and excite (https://arxiv.org/abs/1709.01507) with a gradient that takes a single pass.

The gradients of a block's gate and of the batch norm before it are sums over the same two tensors:
the gradient of the block's output and the input of the batch norm. With KerasHub's layers each sum
depends on the previous one, so that these tensors are read several times. Here no sum depends on
another one, and a compiler can compute all of them in one pass. The result is the same.
"""

import keras
from keras import ops

from tf_mural.models.ghost_batch_norm import at_least_float32


class Excitation(keras.layers.Layer):
    """Multiplies (n, h, w, c) by a gate (n, 1, 1, c).

    The gradient of the gate is summed in float32 at least, as in batch norm: a sum in another dtype
    would need a separate pass.
    """

    def call(self, x, gate, training=None):
        """Returns `x * gate`."""
        if not training:
            return x * gate

        @ops.custom_gradient
        def excite(x, gate):
            def gradient(upstream):
                dtype = at_least_float32(x.dtype)
                products = ops.cast(upstream, dtype) * ops.cast(x, dtype)
                gate_gradient = ops.sum(products, axis=(1, 2), keepdims=True)
                return upstream * gate, ops.cast(gate_gradient, gate.dtype)

            return x * gate, gradient

        return excite(x, gate)


def fuse_squeeze_excite(backbone, all_reduce_mean):
    """Clones an EfficientNet of KerasHub so that its batch norms include the squeeze that follows.

    Args:
        backbone: `keras_hub.models.EfficientNetBackbone`, built inside `ghost_batch_norm_scope`.
            Batch norms before a squeeze are replaced by new ones with new weights; all other layers
            are shared.
        all_reduce_mean: argument of `ghost_batch_norm_scope`.

    Returns:
        The model, and a dict from layer name to the layer's input.
    """
    names = [x.name.split("_")[0] for x in backbone.layers if x.name.endswith("_se_squeeze")]
    # The fused layer computes swish; some EfficientNets of KerasHub have another activation.
    blocks = set(names) if backbone.activation in ("swish", "silu") else set()
    inputs, means = {}, {}

    def clone(layer):
        block, _, role = layer.name.partition("_")
        if block not in blocks or role != "dwconv_bn":
            return layer
        config = {**layer.get_config(), "fuse_squeeze": True}
        return type(layer)(all_reduce_mean=all_reduce_mean, **config)

    def call(layer, *args, **kwargs):
        inputs[layer.name] = args[0]
        block, _, role = layer.name.partition("_")
        role = role if block in blocks else None
        if role == "dwconv_bn":
            y, means[block] = layer(*args, **kwargs)
            return y
        if role == "dwconv_activation":
            return args[0]
        if role == "se_squeeze":
            return means[block]
        if role == "se_excite":
            return Excitation(name=layer.name)(*args[0])
        return layer(*args, **kwargs)

    return keras.models.clone_model(backbone, clone_function=clone, call_function=call), inputs
