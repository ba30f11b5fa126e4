"""The contrastive loss against figures worked out by hand and a slow float64 version."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_mural import losses


def slow(x, y, sigma, margin=0.0, eps=0.0, ignore=None):
    """The equations, one pair at a time, in float64: (N,) losses of both directions."""
    total = len(x)
    out = np.zeros(total)
    for a, b in ((x, y), (y, x)):
        for i in range(total):
            kept = [j for j in range(total) if j == i or ignore is None or not ignore[i, j]]
            logits = {j: (a[i] @ b[j] - margin * (i == j)) / sigma for j in kept}
            normaliser = np.log(sum(np.exp(value) for value in logits.values()))
            for j in kept:
                target = (1 - eps) * (i == j) + eps / len(kept)
                out[i] -= target * (logits[j] - normaliser)
    return out


def unit(shape, seed):
    x = np.random.default_rng(seed).normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def loss(x, y, sigma=1.0, **options):
    return losses.contrastive((x, y), (x, y), 0, sigma, **options)


@pytest.mark.parametrize("margin, eps", [(0.0, 0.0), (0.3, 0.0), (0.0, 0.1), (0.3, 0.1)])
def test_equals_the_slow_version(margin, eps):
    x, y = unit((7, 5), 0), unit((7, 5), 1)
    expected = slow(x, y, 0.2, margin, eps)
    np.testing.assert_allclose(
        loss(x, y, 0.2, margin=margin, label_smoothing=eps), expected, rtol=1e-12
    )


def test_ignored_columns_leave_denominator_and_target():
    x, y = unit((6, 4), 0), unit((6, 4), 1)
    ignore = np.random.default_rng(2).random((6, 6)) < 0.4
    np.fill_diagonal(ignore, True)  # the match itself stays whatever the mask says
    got = loss(x, y, 0.3, margin=0.3, label_smoothing=0.1, ignore=ignore)
    np.testing.assert_allclose(got, slow(x, y, 0.3, 0.3, 0.1, ignore), rtol=1e-12)
    assert not np.allclose(got, slow(x, y, 0.3, 0.3, 0.1))


def test_rows_of_a_slice_equal_the_rows_of_the_whole():
    x, y = unit((8, 5), 0), unit((8, 5), 1)
    whole = loss(x, y, 0.1, margin=0.3, label_smoothing=0.1)
    for first in (0, 4):
        part = slice(first, first + 4)
        got = losses.contrastive((x[part], y[part]), (x, y), first, 0.1, 0.3, 0.1)
        np.testing.assert_allclose(got, whole[part], rtol=1e-12)


def test_orthogonal_pairs_by_hand():
    # Two pairs, each equal, at a right angle: logits [1, 0] / sigma, so log(1 + exp(-1 / sigma)).
    x = np.eye(2)
    np.testing.assert_allclose(loss(x, x, 0.5), 2 * np.log1p(np.exp(-2.0)) * np.ones(2), rtol=1e-12)
    # With margin 1 both columns are alike.
    np.testing.assert_allclose(loss(x, x, 0.5, margin=1.0), 2 * np.log(2) * np.ones(2), rtol=1e-12)


def test_collapsed_encoder_and_zero_row():
    x = np.ones((5, 3)) / np.sqrt(3)
    np.testing.assert_allclose(loss(x, x, 0.1), 2 * np.log(5) * np.ones(5), rtol=1e-12)
    x = np.zeros((4, 3))
    np.testing.assert_allclose(loss(x, x, 0.1), 2 * np.log(4) * np.ones(4), rtol=1e-12)


def test_figures_of_the_recipe():
    # Random unit vectors in high dimension: about 7.2015 a direction at N = 1024.
    x, y = unit((1024, 8192), 0), unit((1024, 8192), 1)
    got = float(np.mean(loss(x, y, 1.0, margin=0.3, label_smoothing=0.1))) / 2
    assert got == pytest.approx(7.2015, abs=2e-3)
    assert float(np.mean(loss(x, y))) / 2 == pytest.approx(np.log(1024), abs=2e-3)


@pytest.mark.parametrize("total, floor", [(64, 0.7295), (1024, 1.0172)])
def test_floor_of_the_smoothed_loss(total, floor):
    # The best logits have one gap g between match and rest; the floor is their minimum over g.
    eps = 0.1
    gaps = np.linspace(0, 30, 300_001)
    by_gap = np.log(np.exp(gaps) + total - 1) - (1 - eps + eps / total) * gaps
    assert by_gap.min() == pytest.approx(floor, abs=1e-4)
    # Orthogonal pairs at the sigma of the best gap reach it.
    sigma = 1 / gaps[by_gap.argmin()]
    x = np.eye(total)
    assert float(loss(x, x, sigma, label_smoothing=eps)[0]) / 2 == pytest.approx(floor, abs=1e-4)


def test_gradients_equal_finite_differences():
    x, y, sigma = unit((5, 4), 0), unit((5, 4), 1), 0.3
    ignore = np.zeros((5, 5), bool)
    ignore[0, 3] = ignore[4, 1] = True
    tensors = [tf.constant(v) for v in (x, y, np.float64(sigma))]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        a, b, s = tensors
        total = keras.ops.sum(losses.contrastive((a, b), (a, b), 0, s, 0.3, 0.1, ignore))
    gradients = tape.gradient(total, tensors)

    def value(x, y, sigma):
        return slow(x, y, sigma, 0.3, 0.1, ignore).sum()

    h = 1e-6
    for k, (i, j) in ((0, (2, 1)), (1, (4, 3)), (0, (0, 0))):
        moved = [[x.copy(), y.copy(), sigma] for _ in range(2)]
        moved[0][k][i, j] += h
        moved[1][k][i, j] -= h
        expected = (value(*moved[0]) - value(*moved[1])) / (2 * h)
        assert float(gradients[k][i, j]) == pytest.approx(expected, rel=1e-6)
    expected = (value(x, y, sigma + h) - value(x, y, sigma - h)) / (2 * h)
    assert float(gradients[2]) == pytest.approx(expected, rel=1e-6)
