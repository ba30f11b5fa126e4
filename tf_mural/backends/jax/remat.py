"""Blocks that keep of a training pass no more than their input, and compute the rest again."""

import jax
import keras
from keras import ops
from keras.src.backend import AutocastScope


def rematerialise(block):
    """Makes a layer's training pass hold its input alone, and run once more on the way back.

    Args:
        block: `keras.layers.Layer` without variables that other layers use. Of what it is called
            with, only the first argument is differentiated by.
    """
    plain = block.call

    def call(inputs, *args, training=False, **kwargs):
        if not training:
            return plain(inputs, *args, training=training, **kwargs)
        weights, states = block.trainable_variables, block.non_trainable_variables

        @jax.checkpoint
        def run(inputs, values):
            with keras.StatelessScope(zip((*weights, *states), values, strict=True)) as scope:
                output = plain(inputs, *args, training=True, **kwargs)
                return output, [scope.get_current_value(v) for v in states]

        # Not as the block would see them, which is in half precision: its layers decide that.
        with AutocastScope(None):
            values = [ops.convert_to_tensor(v) for v in (*weights, *states)]
        output, after = run(inputs, values)
        for variable, value in zip(states, after, strict=True):
            variable.assign(value)
        return output

    block.call = call
