"""Blocks that keep of a training pass no more than their input, and compute the rest again."""

import keras
import tensorflow as tf


def rematerialise(block):
    """Makes a layer's training pass hold its input alone, and run once more on the way back.

    The second pass starts from the same random states and moving averages as the first, whatever
    became of them since, and leaves both as they are. Passes outside of training are not changed.

    Args:
        block: `keras.layers.Layer` without variables that other layers use. Of what it is called
            with, only the first argument is differentiated by.
    """
    plain = block.call

    def call(inputs, *args, training=False, **kwargs):
        if not training:
            return plain(inputs, *args, training=training, **kwargs)
        weights, states = block.trainable_variables, block.non_trainable_variables
        # Not `v.value`, which would be in half precision here.
        values = [tf.convert_to_tensor(v._value) for v in (*weights, *states)]
        changed = []

        def run(inputs, values):
            with keras.StatelessScope(zip((*weights, *states), values, strict=True)) as scope:
                before = [scope.get_current_value(v) for v in states]
                output = plain(inputs, *args, training=True, **kwargs)
                after = [scope.get_current_value(v) for v in states]
            pairs = zip(states, before, after, strict=True)
            found = [(v, value) for v, old, value in pairs if value is not old]
            changed[:] = [v for v, _ in found]
            return output, [value for _, value in found]

        @tf.custom_gradient
        def forward(inputs, *values):
            output, found = run(inputs, values)

            def back(upstream, *_):
                again, fixed = inputs + _nothing(upstream, inputs.dtype), values[len(weights) :]
                learnt = values[: len(weights)]
                with tf.GradientTape() as tape:
                    tape.watch((again, learnt))
                    output, _ = run(again, (*learnt, *fixed))
                found = tape.gradient(output, (again, *learnt), output_gradients=upstream)
                return *found, *(None for _ in fixed)

            return (output, *found), back

        output, *found = forward(inputs, *values)
        for variable, value in zip(changed, found, strict=True):
            variable.assign(value)
        return output

    block.call = call


def _nothing(upstream, dtype):
    """0, of which no compiler can know that it is.

    Added to a block's input it makes the second pass wait for the upstream gradient, and one that
    is not the same as the first: merged with that, it would have kept everything.
    """
    first = tf.reshape(upstream, (-1,))[0]
    return tf.cast(tf.math.is_nan(first) & tf.math.is_finite(first), dtype)
