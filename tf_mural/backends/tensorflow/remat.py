"""Gradient checkpointing: a block stores only its input and runs again in the backward pass."""

import keras
import tensorflow as tf

from tf_mural.models import call_in_training, is_training


def remat(block):
    """Makes a layer discard its activations in training and recompute them for the gradient.

    The recomputation starts from the same random states and moving averages as the forward pass,
    and changes neither the random states nor the moving averages. Calls with `training=False` are
    not affected.

    Args:
        block: `keras.layers.Layer` whose variables no other layer uses. Of the arguments of the
            layer, only the first one gets gradients.
    """
    plain_call = block.call

    def call(inputs, *args, training=None, **kwargs):
        if not is_training(block, training):
            if training is not None:
                kwargs["training"] = training
            return plain_call(inputs, *args, **kwargs)
        weights, states = block.trainable_variables, block.non_trainable_variables
        # `v._value` is read, because `v.value` would be cast to the compute dtype in half
        # precision.
        values = [tf.convert_to_tensor(v._value) for v in (*weights, *states)]
        changed = []

        def run(inputs, values):
            with keras.StatelessScope(zip((*weights, *states), values, strict=True)) as scope:
                before = [scope.get_current_value(v) for v in states]
                output = call_in_training(block, plain_call, inputs, *args, **kwargs)
                after = [scope.get_current_value(v) for v in states]
            triples = zip(states, before, after, strict=True)
            updates = [(v, value) for v, old, value in triples if value is not old]
            changed[:] = [v for v, _ in updates]
            return output, [value for _, value in updates]

        @tf.custom_gradient
        def forward(inputs, *values):
            output, new_states = run(inputs, values)

            def backward(upstream, *_):
                # The added zero depends on the upstream gradient, see `_zero`.
                inputs_again = inputs + _zero(upstream, inputs.dtype)
                weight_values, state_values = values[: len(weights)], values[len(weights) :]
                with tf.GradientTape() as tape:
                    tape.watch((inputs_again, weight_values))
                    output, _ = run(inputs_again, (*weight_values, *state_values))
                gradients = tape.gradient(
                    output, (inputs_again, *weight_values), output_gradients=upstream
                )
                return *gradients, *(None for _ in state_values)

            return (output, *new_states), backward

        output, *new_states = forward(inputs, *values)
        for variable, value in zip(changed, new_states, strict=True):
            variable.assign(value)
        return output

    block.call = call


def _zero(upstream, dtype):
    """Returns a zero that depends on `upstream` and that the compiler cannot constant-fold.

    If this zero is added to the input of a block, the recomputation must wait for the upstream
    gradient. The compiler then cannot merge the recomputation with the forward pass. Merging would
    keep the activations of the forward pass in memory.
    """
    first = tf.reshape(upstream, (-1,))[0]
    return tf.cast(tf.math.is_nan(first) & tf.math.is_finite(first), dtype)
