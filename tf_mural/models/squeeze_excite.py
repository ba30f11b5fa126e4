"""Squeeze and excite (https://arxiv.org/abs/1709.01507) with a gradient that takes a single pass.

Squeeze and excite multiplies each channel of an image by a factor; these factors are the gate. The
gradient of the gate and the gradient of the preceding batch norm are sums over the same two
tensors: the gradient of the gated activations, and the input of the batch norm. With KerasHub's
layers, each sum depends on the previous sum, and the two tensors are therefore read several times.
With the layers of this module, no sum depends on another sum, and a compiler can compute all sums
in one pass over the two tensors. The gradients equal those of KerasHub's layers.
"""

import keras
from keras import ops

from tf_mural.models.ghost_batch_norm import at_least_float32


@keras.saving.register_keras_serializable(package="tf_mural")
class Excitation(keras.layers.Layer):
    """Multiplies activations, (n, h, w, c), by a gate, (n, 1, 1, c).

    The gradient of the gate is summed in float32 or float64, the dtype of the sums in batch norm. A
    sum in another dtype would need a separate pass over the activations.
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


def fuse_squeeze_excite(backbone, replace):
    """Clones an EfficientNet of KerasHub and fuses each squeeze with the batch norm before it.

    The clone shares all layers with `backbone` that `replace` returns unchanged.

    Args:
        backbone: `keras_hub.models.EfficientNetBackbone`.
        replace: callable that maps a layer of `backbone` to the layer that replaces it. A batch
            norm before a squeeze must be replaced by a new `GhostBatchNormalization`.

    Returns:
        The clone, and a dict from the name of a layer to the input tensor of the layer.
    """
    names = [x.name.split("_")[0] for x in backbone.layers if x.name.endswith("_se_squeeze")]
    # The fused layer always computes swish. Backbones with another activation are not changed.
    blocks = set(names) if backbone.activation in ("swish", "silu") else set()
    inputs, means = {}, {}

    def clone(layer):
        layer = replace(layer)
        block, _, role = layer.name.partition("_")
        if block in blocks and role == "dwconv_bn":
            layer.fuse_squeeze = True
        return layer

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
