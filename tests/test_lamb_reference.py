"""LAMB against trajectories of `tensorflow_addons.optimizers.LAMB`, see golden/record_lamb.py."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from golden import lamb_case

from configs import base
from tf_mural.optimizers import Lamb, LinearSchedule

# Relative, by steps done. Float32 rounding alone is about 1e-7.
TOLERANCE = {1: 5e-7, 2: 5e-7, 20: 1e-6, 50: 2e-6}


@pytest.fixture(scope="module")
def recorded():
    path = os.path.join(os.path.dirname(lamb_case.__file__), "lamb.npz")
    with np.load(path) as arrays:
        return dict(arrays)


def variables_of_the_case():
    """{name: keras.Variable}, each with its name as its path."""
    variables = {}
    for name, start in lamb_case.starts().items():
        variables[name] = keras.Variable(start, name=name.split("/")[-1])
        variables[name]._path = name
    return variables


def lamb_of(peak, warmup_steps, decay):
    rate = peak
    if warmup_steps is not None:
        rate = LinearSchedule(peak, lamb_case.STEPS, warmup_steps)
    options = base.base_config("etcl", "paper").optimizer
    return Lamb(
        rate,
        decay=decay,
        beta_1=options.beta_1,
        beta_2=options.beta_2,
        epsilon=options.epsilon,
        exclude_from_decay=options.exclude_from_decay,
        exclude_from_adaptation=options.exclude_from_adaptation,
    )


def slices(rows, ids, shape):
    """As a gradient of a lookup comes: a row for each token, some of them more than once."""
    return tf.IndexedSlices(tf.constant(rows), tf.constant(ids), tf.constant(shape))


def added_up(rows, ids, shape):
    table = np.zeros(shape, "float32")
    np.add.at(table, ids, rows)
    return tf.constant(table)


def distance(found, expected):
    """Largest difference, relative to the size of the variable."""
    scale = np.sqrt(np.mean(np.square(expected, dtype=np.float64)))
    return float(np.max(np.abs(np.float64(found) - expected)) / max(scale, 1e-30))


@pytest.mark.parametrize("embedding_gradient", [slices, added_up])
@pytest.mark.parametrize("case", lamb_case.CASES)
def test_equals_the_reference(recorded, case, embedding_gradient):
    variables = variables_of_the_case()
    optimizer = lamb_of(**lamb_case.CASES[case])
    optimizer.build(list(variables.values()))
    apply = tf.function(optimizer.apply, autograph=False)
    for done, step in enumerate(lamb_case.gradients(), start=1):
        table = variables[lamb_case.EMBEDDING]
        step[lamb_case.EMBEDDING] = embedding_gradient(*step[lamb_case.EMBEDDING], table.shape)
        apply([step[name] for name in variables])
        if done in lamb_case.RECORDED_STEPS:
            for name, variable in variables.items():
                far = distance(variable.numpy(), recorded[f"{case}/{done}/{name}"])
                assert far < TOLERANCE[done], f"{name} after {done} steps"


def test_the_exclusions_are_those_of_the_recipes_and_of_the_reference(recorded):
    variables = variables_of_the_case()
    optimizer = lamb_of(**lamb_case.CASES["constant"])
    assert optimizer.exclude_from_decay == lamb_case.EXCLUDE_FROM_DECAY
    assert optimizer.exclude_from_adaptation == lamb_case.EXCLUDE_FROM_ADAPTATION
    optimizer.build(list(variables.values()))
    for name, *found in zip(variables, optimizer.decays, optimizer.adapts, strict=True):
        assert found == [bool(recorded[f"{what}/{name}"]) for what in ("decays", "adapts")], name
    # Both, adaptation alone, neither.
    assert {*zip(optimizer.decays, optimizer.adapts, strict=True)} == {
        (True, True),
        (False, True),
        (False, False),
    }


@pytest.mark.parametrize("case", lamb_case.CASES)
def test_every_variable_of_the_recorded_case_moves(recorded, case):
    for name, start in lamb_case.starts().items():
        assert distance(start, recorded[f"{case}/50/{name}"]) > 1e-2, name


def test_tokens_that_nobody_asked_for_decay_nevertheless(recorded):
    before = lamb_case.starts()[lamb_case.EMBEDDING][-2:]
    after = recorded[f"constant/50/{lamb_case.EMBEDDING}"][-2:]
    # The same factor for all: nothing but decay moved them.
    factors = after / before
    np.testing.assert_allclose(factors, factors[0, 0], rtol=1e-5)
    assert 0 < factors[0, 0] < 1
