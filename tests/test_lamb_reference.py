"""Compares LAMB with recorded trajectories of `tensorflow_addons.optimizers.LAMB`.

golden/record_lamb.py recorded the trajectories.
"""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from golden import lamb_case

from configs import base
from tf_mural.optimizers import LAMB, LinearWarmupDecay

# {number of steps: relative tolerance}. The rounding error of a float32 operation is about 1e-7.
TOLERANCE = {1: 5e-7, 2: 5e-7, 20: 1e-6, 50: 2e-6}


@pytest.fixture(scope="module")
def recorded():
    path = os.path.join(os.path.dirname(lamb_case.__file__), "lamb.npz")
    with np.load(path) as arrays:
        return dict(arrays)


def make_variables():
    """Returns {name: keras.Variable}; the path of each variable is its name."""
    variables = {}
    for name, value in lamb_case.initial_values().items():
        variables[name] = keras.Variable(value, name=name.split("/")[-1])
        variables[name]._path = name
    return variables


def make_lamb(peak, warmup_steps, weight_decay):
    learning_rate = peak
    if warmup_steps is not None:
        learning_rate = LinearWarmupDecay(peak, lamb_case.STEPS, warmup_steps)
    options = base.base_config("etcl", "paper").optimizer
    return LAMB(
        learning_rate,
        weight_decay=weight_decay,
        beta_1=options.beta_1,
        beta_2=options.beta_2,
        epsilon=options.epsilon,
        exclude_from_weight_decay=options.exclude_from_weight_decay,
        exclude_from_layer_adaptation=options.exclude_from_layer_adaptation,
    )


def sparse_gradient(rows, ids, shape):
    """Returns the sparse gradient of an embedding lookup, with a row per token; ids may repeat."""
    return tf.IndexedSlices(tf.constant(rows), tf.constant(ids), tf.constant(shape))


def dense_gradient(rows, ids, shape):
    """Returns the gradient of `sparse_gradient` as a dense tensor."""
    table = np.zeros(shape, "float32")
    np.add.at(table, ids, rows)
    return tf.constant(table)


def relative_error(actual, expected):
    """Returns the largest difference, relative to the root mean square of `expected`."""
    scale = np.sqrt(np.mean(np.square(expected, dtype=np.float64)))
    return float(np.max(np.abs(np.float64(actual) - expected)) / max(scale, 1e-30))


@pytest.mark.parametrize("embedding_gradient", [sparse_gradient, dense_gradient])
@pytest.mark.parametrize("case", lamb_case.CASES)
def test_trajectories_equal_the_reference(recorded, case, embedding_gradient):
    variables = make_variables()
    optimizer = make_lamb(**lamb_case.CASES[case])
    optimizer.build(list(variables.values()))
    apply = tf.function(optimizer.apply, autograph=False)
    for steps, gradients in enumerate(lamb_case.gradients(), start=1):
        shape = variables[lamb_case.EMBEDDING].shape
        gradients[lamb_case.EMBEDDING] = embedding_gradient(*gradients[lamb_case.EMBEDDING], shape)
        apply([gradients[name] for name in variables])
        if steps in lamb_case.RECORDED_STEPS:
            for name, variable in variables.items():
                error = relative_error(variable.numpy(), recorded[f"{case}/{steps}/{name}"])
                assert error < TOLERANCE[steps], f"{name} after {steps} steps"


def test_the_recipes_exclude_the_same_variables_as_the_reference(recorded):
    variables = make_variables()
    optimizer = make_lamb(**lamb_case.CASES["constant"])
    config = optimizer.get_config()
    assert config["exclude_from_weight_decay"] == lamb_case.EXCLUDE_FROM_WEIGHT_DECAY
    assert config["exclude_from_layer_adaptation"] == lamb_case.EXCLUDE_FROM_LAYER_ADAPTATION
    optimizer.build(list(variables.values()))
    flags = list(zip(optimizer.uses_weight_decay, optimizer.uses_layer_adaptation, strict=True))
    for name, actual in zip(variables, flags, strict=True):
        expected = tuple(bool(recorded[f"{key}/{name}"]) for key in ("decays", "adapts"))
        assert actual == expected, name
    # These three combinations of weight decay and layer adaptation must all occur.
    assert {*flags} == {(True, True), (False, True), (False, False)}


@pytest.mark.parametrize("case", lamb_case.CASES)
def test_every_recorded_variable_changes(recorded, case):
    for name, value in lamb_case.initial_values().items():
        assert relative_error(value, recorded[f"{case}/50/{name}"]) > 1e-2, name


def test_embeddings_without_a_gradient_decay(recorded):
    before = lamb_case.initial_values()[lamb_case.EMBEDDING][-2:]
    after = recorded[f"constant/50/{lamb_case.EMBEDDING}"][-2:]
    # All values are multiplied by the same factor, which shows that only weight decay changed them.
    factors = after / before
    np.testing.assert_allclose(factors, factors[0, 0], rtol=1e-5)
    assert 0 < factors[0, 0] < 1
