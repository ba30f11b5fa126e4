"""Records trajectories of `tensorflow_addons.optimizers.LAMB` in lamb.npz, in the same folder.

    python3.11 -m venv venv-lamb
    venv-lamb/bin/pip install -r tests/golden/requirements-lamb.txt
    venv-lamb/bin/python tests/golden/record_lamb.py

The array "<case>/<number of steps>/<variable>" contains the float32 values of the variable. The
booleans "decays/<variable>" and "adapts/<variable>" state whether the reference applies weight
decay and layer adaptation to the variable.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import lamb_case
import numpy as np
import tensorflow as tf
import tensorflow_addons as tfa


def learning_rates(peak, warmup_steps):
    """Returns a callable (step) -> learning rate that uses the schedules of TensorFlow."""
    if warmup_steps is None:
        return lambda step: peak
    schedule = tf.keras.optimizers.schedules.PolynomialDecay
    decay = schedule(peak, lamb_case.STEPS - warmup_steps, end_learning_rate=0.0)
    if not warmup_steps:
        return decay
    warmup = schedule(0.0, warmup_steps, end_learning_rate=peak)
    return lambda step: warmup(step) if step < warmup_steps else decay(step - warmup_steps)


def trajectory(peak, warmup_steps, weight_decay):
    """Yields (number of steps, variables, optimizer) after each recorded step."""
    learning_rate = learning_rates(peak, warmup_steps)
    patterns = lamb_case.EXCLUDE_FROM_WEIGHT_DECAY
    optimizer = tfa.optimizers.LAMB(
        learning_rate=0.0,
        weight_decay=weight_decay,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-6,
        # The reference matches patterns with names that end in ":0", such as
        # "image_projection/bias:0".
        exclude_from_weight_decay=[pattern.replace("$", ":0$") for pattern in patterns],
        # If this argument were None or [], the reference would exclude the variables that
        # `exclude_from_weight_decay` matches.
        exclude_from_layer_adaptation=list(lamb_case.EXCLUDE_FROM_LAYER_ADAPTATION),
    )
    variables = {name: tf.Variable(v, name=name) for name, v in lamb_case.initial_values().items()}
    for step, gradients in enumerate(lamb_case.gradients()):
        rows, ids = gradients[lamb_case.EMBEDDING]
        shape = variables[lamb_case.EMBEDDING].shape
        gradients[lamb_case.EMBEDDING] = tf.IndexedSlices(
            tf.constant(rows), tf.constant(ids), tf.constant(shape)
        )
        optimizer.learning_rate.assign(learning_rate(step))
        optimizer.apply_gradients([(gradients[name], v) for name, v in variables.items()])
        if step + 1 in lamb_case.RECORDED_STEPS:
            yield step + 1, variables, optimizer


def main():
    """Records all trajectories and writes lamb.npz."""
    arrays = {}
    for case, settings in lamb_case.CASES.items():
        for steps, variables, optimizer in trajectory(**settings):
            for name, variable in variables.items():
                arrays[f"{case}/{steps}/{name}"] = variable.numpy()
                arrays[f"decays/{name}"] = np.bool_(optimizer._do_use_weight_decay(variable))
                arrays[f"adapts/{name}"] = np.bool_(optimizer._do_layer_adaptation(variable))
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lamb.npz")
    np.savez_compressed(path, **arrays)
    versions = f"tensorflow-addons {tfa.__version__}, TensorFlow {tf.__version__}"
    print(f"wrote {path}: {len(arrays)} arrays, {os.path.getsize(path)} bytes ({versions})")


if __name__ == "__main__":
    main()
