"""Replicas: gradients of every variable, averages, weights and masks, in processes of their own."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tf_mural import distribute
from tf_mural.base import UserError

HERE = os.path.dirname(os.path.abspath(__file__))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replicas")
    found = {}
    for replicas in (1, 2):
        path = folder / f"{replicas}.npz"
        command = [sys.executable, os.path.join(HERE, "replicas.py"), str(replicas), str(path)]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL, timeout=300)
        with np.load(path) as file:
            found[replicas] = {name: file[name] for name in file.files}
    return found


def worst(one, two):
    """Largest |a - b| / max(|a|, floor). Some gradients are zero but for rounding: the bias of
    attention keys, and a shift that the next batch norm takes out again."""
    floor = 1e-2 * np.sqrt(sum((a**2).sum() for a in one.values()) / len(one))
    return max(np.linalg.norm(one[k] - two[k]) / max(np.linalg.norm(one[k]), floor) for k in one)


def part(run, prefix):
    return {k: v.astype(np.float64) for k, v in run.items() if k.startswith(prefix)}


@pytest.mark.parametrize("stage", ["mural", "etcl"])
def test_gradients_of_two_replicas_equal_those_of_one(runs, stage):
    one, two = (part(runs[k], f"{stage}/gradient/") for k in (1, 2))
    assert one.keys() == two.keys()
    assert any("temperature" in name for name in one)
    assert worst(one, two) < 3e-5
    # The test itself can tell: gradients twice too large, or one variable's lost.
    assert worst(one, {k: 2 * v for k, v in two.items()}) > 0.5
    assert worst(one, {k: 0 * v if "temperature" in k else v for k, v in two.items()}) > 0.5


@pytest.mark.parametrize("stage", ["mural", "etcl"])
def test_logs_are_those_of_the_global_batch(runs, stage):
    one, two = (part(runs[k], f"{stage}/log/") for k in (1, 2))
    assert one.keys() == two.keys() and f"{stage}/log/loss" in one
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-5, err_msg=name)


def test_the_loop_over_records_ends_in_the_same_weights(runs):
    one, two = (part(runs[k], "loop/") for k in (1, 2))
    assert one.keys() == two.keys() and any("moving_mean" in name for name in one)
    # SGD, whose step shows gradients that were summed twice; LAMB's would hide them.
    for name in one:
        error = np.linalg.norm(one[name] - two[name]) / max(np.linalg.norm(one[name]), 1e-2)
        assert error < 1e-4, (name, error)


def test_replicas_draw_different_masks_and_a_replay_draws_the_same(runs):
    steps = runs[2]["masks"]  # (steps 3, 4 and 3 again, replicas, draws)
    assert 0.2 < (steps == 0).mean() < 0.8
    np.testing.assert_array_equal(steps[0], steps[2])
    assert (steps[0] != steps[1]).mean() > 0.2
    assert (steps[0, 0] != steps[0, 1]).mean() > 0.2
    np.testing.assert_array_equal(runs[1]["masks"][:, 0], steps[:, 0])


def test_unknown_strategy():
    with pytest.raises(UserError, match="unknown strategy 'miror'"):
        distribute.make_strategy("miror")
