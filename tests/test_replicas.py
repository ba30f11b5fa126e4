"""Compares steps on several replicas with steps of one device on the whole batch."""

import numpy as np
import pytest
import replica_script
from helpers.comparison import largest_error, select_prefix
from helpers.replicas import run_script

from tf_mural.backends import tensorflow as tf_backend
from tf_mural.errors import UserError


class Runs(dict):
    """Maps a number of replicas to {name of an array: array}, the output of replica_script.py.

    The script runs when a number of replicas is used for the first time.
    """

    def __init__(self, folder):
        self._folder = folder

    def __missing__(self, count):
        self[count] = run_script("replica_script.py", count, out=self._folder / f"{count}.npz")
        return self[count]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("replicas"))


# MURAL and ETCL with the contrastive loss, ETCL with the sigmoid loss, and terms with all options.
CASES = ["mural", "etcl", "sigmoid", "mixture"]
COUNTS = [2, pytest.param(4, marks=pytest.mark.slow)]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("replicas", COUNTS)
def test_gradients_equal_those_of_one_replica(runs, replicas, case):
    expected, actual = (select_prefix(runs[k], f"float64/{case}/gradient/") for k in (1, replicas))
    assert any("temperature" in name for name in expected) and len(expected) > 50
    assert largest_error(expected, actual)[0] < 1e-10


@pytest.mark.slow
def test_gradients_equal_those_of_one_replica_in_float32(runs):
    exact, expected, actual = (
        select_prefix(runs[k], f"{dtype}/etcl/gradient/")
        for k, dtype in ((1, "float64"), (1, "float32"), (2, "float32"))
    )
    # Gradients whose exact value is zero are not compared, because they consist only of rounding
    # errors in float32. Examples are the gradients of the key biases of attention, and of the shift
    # of a batch norm that is followed by another batch norm.
    norms = {name: np.linalg.norm(value) for name, value in exact.items()}
    vanishing = {name for name in norms if norms[name] < 1e-9 * max(norms.values())}
    assert all(name.endswith(("key/bias", "_bn/beta")) for name in vanishing), vanishing
    expected, actual = (
        {name: g for name, g in gradients.items() if name not in vanishing}
        for gradients in (expected, actual)
    )
    # The largest measured relative errors are 3e-6 to 1.2e-5.
    assert largest_error(expected, actual)[0] < 2e-5


@pytest.mark.slow
def test_gather_equals_scattered_rows_that_are_summed(runs):
    gathered, scattered = (
        select_prefix(runs[2], f"{name}/gradient/") for name in ("float64/etcl", "scattered")
    )
    assert largest_error(gathered, scattered)[0] < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("mutation", replica_script.MUTATIONS)
def test_the_comparison_detects_a_faulty_step(runs, mutation):
    right = select_prefix(runs[1], "float32/etcl/")
    wrong = select_prefix(runs[2], f"{mutation}/")
    error, name = largest_error(*(select_prefix(run, "gradient/") for run in (right, wrong)))
    assert error > 0.1, (error, name)
    # The losses of the terms are correct despite the fault.
    for term in ("image_text_a", "text_a_text_b", "text_b_image"):
        assert wrong[f"log/loss/{term}"] == pytest.approx(right[f"log/loss/{term}"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("replicas", COUNTS)
def test_synchronized_batch_norm_equals_that_of_one_replica(runs, replicas):
    expected, actual = (select_prefix(runs[k], "synchronized/gradient/") for k in (1, replicas))
    assert largest_error(expected, actual)[0] < 1e-10
    averages = select_prefix(runs[1], "synchronized/average of 0/")
    assert len(averages) > 10
    for replica in range(replicas):
        local = select_prefix(runs[replicas], f"synchronized/average of {replica}/")
        assert averages.keys() == local.keys()
        for name, value in averages.items():
            np.testing.assert_allclose(local[name], value, rtol=1e-10, err_msg=name)
    # All other tests use virtual batches of two images, which lead to different gradients.
    assert largest_error(expected, select_prefix(runs[1], "float64/etcl/gradient/"))[0] > 0.1


@pytest.mark.slow
def test_synchronized_batch_norm_reduces_in_the_backward_pass_too(runs):
    right = select_prefix(runs[1], "synchronized/gradient/")
    wrong = select_prefix(runs[2], "synchronized forward only/gradient/")
    assert largest_error(right, wrong)[0] > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("replicas", COUNTS)
def test_logs_are_those_of_the_global_batch(runs, replicas, case):
    expected, actual = (select_prefix(runs[k], f"float64/{case}/log/") for k in (1, replicas))
    assert expected.keys() == actual.keys() and "loss" in expected
    for name in expected:
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-5, err_msg=name)


@pytest.mark.slow
def test_training_over_records_ends_in_the_same_weights(runs):
    expected, actual = (select_prefix(runs[k], "loop/") for k in (1, 2))
    assert expected.keys() == actual.keys() and any("moving_mean" in name for name in expected)
    for name, value in expected.items():
        error = np.linalg.norm(value - actual[name]) / max(np.linalg.norm(value), 1e-2)
        assert error < 1e-4, (name, error)


@pytest.mark.slow
@pytest.mark.parametrize("replicas", COUNTS)
def test_replicas_and_steps_draw_different_masks_and_a_replay_draws_the_same(runs, replicas):
    # The array (3, replicas, size of a mask) contains masks of step 3, of step 4, and of step 3
    # drawn again.
    masks = runs[replicas]["masks"]
    assert masks.shape[1] == replicas
    assert 0.2 < (masks == 0).mean() < 0.8
    np.testing.assert_array_equal(masks[0], masks[2])
    assert (masks[0] != masks[1]).mean() > 0.2
    for i in range(replicas):
        for j in range(i):
            assert (masks[0, i] != masks[0, j]).mean() > 0.2
    np.testing.assert_array_equal(runs[1]["masks"][:, 0], masks[:, 0])


def test_an_unknown_strategy_is_refused():
    with pytest.raises(UserError, match="unknown strategy 'miror'"):
        tf_backend.make_strategy("miror")
