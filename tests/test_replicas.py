"""Replicas: gradients of every variable, averages, weights and masks, in processes of their own."""

import os
import subprocess
import sys

import numpy as np
import pytest
import replicas

from tf_mural.backends import tensorflow as tf_backend
from tf_mural.errors import UserError

HERE = os.path.dirname(os.path.abspath(__file__))


class Runs(dict):
    """{number of replicas: what a process with so many wrote}"""

    def __init__(self, folder):
        self._folder = folder

    def __missing__(self, count):
        path = self._folder / f"{count}.npz"
        command = [sys.executable, os.path.join(HERE, "replicas.py"), str(count), str(path)]
        subprocess.run(command, stderr=subprocess.DEVNULL, timeout=900, check=True)
        with np.load(path) as file:
            self[count] = {name: file[name] for name in file.files}
        return self[count]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("replicas"))


COUNTS = [2, pytest.param(4, marks=pytest.mark.slow)]


def part(run, prefix):
    return {k[len(prefix) :]: v.astype(np.float64) for k, v in run.items() if k.startswith(prefix)}


def worst(expected, found):
    """(error, name) of the variable with the largest |a - b| / max(|a|, floor)."""
    assert expected.keys() == found.keys()
    squares = sum((a**2).sum() for a in expected.values())
    floor = 1e-3 * np.sqrt(squares / len(expected))

    def error(name):
        a, b = expected[name], found[name]
        return np.linalg.norm(a - b) / max(np.linalg.norm(a), floor)

    return max((error(name), name) for name in expected)


@pytest.mark.parametrize("stage", ["mural", "etcl"])
@pytest.mark.parametrize("replicas", COUNTS)
def test_gradients_of_replicas_equal_those_of_one(runs, replicas, stage):
    one, more = (part(runs[k], f"float64/{stage}/gradient/") for k in (1, replicas))
    assert any("temperature" in name for name in one) and len(one) > 50
    assert worst(one, more)[0] < 1e-10


def test_gradients_of_replicas_equal_those_of_one_in_float32(runs):
    exact, one, more = (
        part(runs[k], f"{dtype}/etcl/gradient/")
        for k, dtype in ((1, "float64"), (1, "float32"), (2, "float32"))
    )
    # Rounding is all that float32 leaves of a gradient that is zero: that of the bias of attention
    # keys, and of a shift that the next batch norm takes out again.
    size = {name: np.linalg.norm(value) for name, value in exact.items()}
    vanishing = {name for name in size if size[name] < 1e-9 * max(size.values())}
    assert all(name.endswith(("key/bias", "_bn/beta")) for name in vanishing), vanishing
    one, more = ({k: v for k, v in x.items() if k not in vanishing} for x in (one, more))
    # Measured: 3e-6 to 1.2e-5.
    assert worst(one, more)[0] < 2e-5


def test_the_gather_is_that_of_scattered_rows_and_a_sum(runs):
    gathered, scattered = (part(runs[2], f"{x}/gradient/") for x in ("float64/etcl", "scattered"))
    assert worst(gathered, scattered)[0] < 1e-10


@pytest.mark.parametrize("mutation", replicas.MUTATIONS)
def test_the_comparison_turns_red(runs, mutation):
    right, wrong = (part(runs[1], "float32/etcl/"), part(runs[2], f"{mutation}/"))
    gradients = (part(x, "gradient/") for x in (right, wrong))
    error, name = worst(*gradients)
    assert error > 0.1, (error, name)
    # The terms of the loss, which is what people look at, do not show it.
    for term in ("image_text_a", "text_a_text_b", "text_b_image"):
        assert wrong[f"log/loss/{term}"] == pytest.approx(right[f"log/loss/{term}"], rel=1e-5)


@pytest.mark.parametrize("replicas", COUNTS)
def test_batch_norm_over_all_replicas_is_that_of_one_with_the_whole_batch(runs, replicas):
    one, more = (part(runs[k], "together/gradient/") for k in (1, replicas))
    assert worst(one, more)[0] < 1e-10
    averages = part(runs[1], "together/average of 0/")
    assert len(averages) > 10
    for replica in range(replicas):
        found = part(runs[replicas], f"together/average of {replica}/")
        assert averages.keys() == found.keys()
        for name, value in averages.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-10, err_msg=name)
    # Groups of two images, as in all that is compared above, are something else.
    assert worst(one, part(runs[1], "float64/etcl/gradient/"))[0] > 0.1


def test_batch_norm_over_all_replicas_reduces_in_the_backward_pass_too(runs):
    right, wrong = (
        part(run, f"{name}/gradient/")
        for run, name in ((runs[1], "together"), (runs[2], "together, forward only"))
    )
    assert worst(right, wrong)[0] > 0.01


@pytest.mark.parametrize("stage", ["mural", "etcl"])
@pytest.mark.parametrize("replicas", COUNTS)
def test_logs_are_those_of_the_global_batch(runs, replicas, stage):
    one, more = (part(runs[k], f"float64/{stage}/log/") for k in (1, replicas))
    assert one.keys() == more.keys() and "loss" in one
    for name in one:
        np.testing.assert_allclose(more[name], one[name], rtol=1e-5, err_msg=name)


def test_the_loop_over_records_ends_in_the_same_weights(runs):
    one, more = (part(runs[k], "loop/") for k in (1, 2))
    assert one.keys() == more.keys() and any("moving_mean" in name for name in one)
    # SGD, whose step shows gradients that were summed twice; LAMB's would hide them.
    for name in one:
        error = np.linalg.norm(one[name] - more[name]) / max(np.linalg.norm(one[name]), 1e-2)
        assert error < 1e-4, (name, error)


@pytest.mark.parametrize("replicas", COUNTS)
def test_replicas_draw_different_masks_and_a_replay_draws_the_same(runs, replicas):
    steps = runs[replicas]["masks"]  # (steps 3, 4 and 3 again, replicas, draws)
    assert steps.shape[1] == replicas
    assert 0.2 < (steps == 0).mean() < 0.8
    np.testing.assert_array_equal(steps[0], steps[2])
    assert (steps[0] != steps[1]).mean() > 0.2
    for i in range(replicas):
        for j in range(i):
            assert (steps[0, i] != steps[0, j]).mean() > 0.2
    np.testing.assert_array_equal(runs[1]["masks"][:, 0], steps[:, 0])


def test_unknown_strategy():
    with pytest.raises(UserError, match="unknown strategy 'miror'"):
        tf_backend.make_strategy("miror")
