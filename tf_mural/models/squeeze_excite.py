"""Squeeze and excite, https://arxiv.org/abs/1709.01507, so that its gradient takes one pass.

What a block's gate is owed, and what the batch norm before it is, are sums over the same two
tensors: the block's upstream and the input of the batch norm. KerasHub's layers go over them again
and again, since each sum waits for the one before; here none waits, and a compiler can take all at
once. The maths is the same.
"""

import keras
from keras import ops

from tf_mural.models.ghost_batch_norm import at_least_float32


class Excitation(keras.layers.Layer):
    """(n, h, w, c) times (n, 1, 1, c), whose gradient is summed in float32 at least.

    As are those of batch norm: sums of another dtype would take a pass of their own.
    """

    def call(self, x, gate, training=None):
        """Multiplies."""
        if not training:
            return x * gate

        @ops.custom_gradient
        def excite(x, gate):
            def gradient(upstream):
                wide = at_least_float32(x.dtype)
                products = ops.cast(upstream, wide) * ops.cast(x, wide)
                of_gate = ops.sum(products, axis=(1, 2), keepdims=True)
                return upstream * gate, ops.cast(of_gate, gate.dtype)

            return x * gate, gradient

        return excite(x, gate)


def squeezing(backbone, average):
    """An EfficientNet of KerasHub whose batch norms take in the squeeze after them.

    Args:
        backbone: built inside of `batch_norm_of`. Its batch norms before a squeeze are replaced by
            new ones, with weights of their own.
        average: of `batch_norm_of`.

    Returns:
        A model of the same layers but these, and {name of a layer: what it is called with}.
    """
    names = [x.name.split("_")[0] for x in backbone.layers if x.name.endswith("_se_squeeze")]
    # What the batch norm takes in is swish; KerasHub has EfficientNets with another activation.
    blocks = set(names) if backbone.activation in ("swish", "silu") else set()
    inputs, means = {}, {}

    def clone(layer):
        block, _, kind = layer.name.partition("_")
        if block not in blocks or kind != "dwconv_bn":
            return layer
        return type(layer)(average=average, **{**layer.get_config(), "squeeze": True})

    def call(layer, *args, **kwargs):
        inputs[layer.name] = args[0]
        block, _, kind = layer.name.partition("_")
        kind = kind if block in blocks else None
        if kind == "dwconv_bn":
            y, means[block] = layer(*args, **kwargs)
            return y
        if kind == "dwconv_activation":
            return args[0]
        if kind == "se_squeeze":
            return means[block]
        if kind == "se_excite":
            return Excitation(name=layer.name)(*args[0])
        return layer(*args, **kwargs)

    return keras.models.clone_model(backbone, clone_function=clone, call_function=call), inputs
