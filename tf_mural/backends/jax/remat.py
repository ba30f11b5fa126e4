"""Gradient checkpointing: a block stores only its input and runs again in the backward pass."""

import jax
import keras
from keras import ops
from keras.src.backend import AutocastScope

from tf_mural.models import call_in_training, is_training


def remat(block):
    """Makes a layer discard its activations in training and recompute them for the gradient.

    Calls with `training=False` are not affected.

    Args:
        block: `keras.layers.Layer` whose variables no other layer uses. Only the first argument of
            the layer gets gradients.
    """
    plain_call = block.call

    def call(inputs, *args, training=None, **kwargs):
        if not is_training(block, training):
            if training is not None:
                kwargs["training"] = training
            return plain_call(inputs, *args, **kwargs)
        weights, states = block.trainable_variables, block.non_trainable_variables

        @jax.checkpoint
        def run(inputs, values):
            with keras.StatelessScope(zip((*weights, *states), values, strict=True)) as scope:
                output = call_in_training(block, plain_call, inputs, *args, **kwargs)
                return output, [scope.get_current_value(v) for v in states]

        # The values are read without autocast, because the layers inside the block must get the
        # float32 values. These layers cast the values to half precision themselves.
        with AutocastScope(None):
            values = [ops.convert_to_tensor(v) for v in (*weights, *states)]
        output, new_states = run(inputs, values)
        for variable, value in zip(states, new_states, strict=True):
            variable.assign(value)
        return output

    block.call = call
