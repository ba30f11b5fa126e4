"""Compares the losses with hand-computed values, slow float64 code and open_clip."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from golden import clip_loss_case, siglip_loss_case

from tf_mural import losses


def slow_contrastive(x, y, sigma, margin=0.0, eps=0.0, ignore=None):
    """Computes the losses (N,), summed over both directions, pair by pair in float64."""
    total = len(x)
    losses_of_pairs = np.zeros(total)
    for a, b in ((x, y), (y, x)):
        for i in range(total):
            valid = [j for j in range(total) if j == i or ignore is None or not ignore[i, j]]
            logits = {j: (a[i] @ b[j] - margin * (i == j)) / sigma for j in valid}
            log_normalizer = np.log(sum(np.exp(value) for value in logits.values()))
            for j in valid:
                target = (1 - eps) * (i == j) + eps / len(valid)
                losses_of_pairs[i] -= target * (logits[j] - log_normalizer)
    return losses_of_pairs


def unit_vectors(shape, seed):
    x = np.random.default_rng(seed).normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def loss(x, y, sigma=1.0, **options):
    return losses.contrastive((x, y), (x, y), 0, sigma, **options)


@pytest.mark.parametrize("margin, eps", [(0.0, 0.0), (0.3, 0.0), (0.0, 0.1), (0.3, 0.1)])
def test_equals_the_slow_code(margin, eps):
    x, y = unit_vectors((7, 5), 0), unit_vectors((7, 5), 1)
    expected = slow_contrastive(x, y, 0.2, margin, eps)
    np.testing.assert_allclose(
        loss(x, y, 0.2, margin=margin, label_smoothing=eps), expected, rtol=1e-12
    )


def test_ignored_candidates_are_excluded_from_denominator_and_target():
    x, y = unit_vectors((6, 4), 0), unit_vectors((6, 4), 1)
    ignore = np.random.default_rng(2).random((6, 6)) < 0.4
    # The diagonal must have no effect, because the matching candidate is never excluded.
    np.fill_diagonal(ignore, True)
    actual = loss(x, y, 0.3, margin=0.3, label_smoothing=0.1, ignore=ignore)
    np.testing.assert_allclose(actual, slow_contrastive(x, y, 0.3, 0.3, 0.1, ignore), rtol=1e-12)
    assert not np.allclose(actual, slow_contrastive(x, y, 0.3, 0.3, 0.1))


def test_losses_of_a_slice_equal_those_of_the_whole_batch():
    x, y = unit_vectors((8, 5), 0), unit_vectors((8, 5), 1)
    expected = loss(x, y, 0.1, margin=0.3, label_smoothing=0.1)
    for offset in (0, 4):
        part = slice(offset, offset + 4)
        actual = losses.contrastive((x[part], y[part]), (x, y), offset, 0.1, 0.3, 0.1)
        np.testing.assert_allclose(actual, expected[part], rtol=1e-12)


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-12), ("float32", 1e-5)])
@pytest.mark.parametrize("sigma", [2.0, 0.07, 0.005])
def test_is_exact_at_the_bounds_of_the_temperature(sigma, dtype, tolerance):
    x, y = (unit_vectors((12, 6), seed).astype(dtype) for seed in (0, 1))
    actual = loss(x, y, np.asarray(sigma, dtype), margin=0.3, label_smoothing=0.1)
    assert keras.backend.standardize_dtype(actual.dtype) == dtype
    expected = slow_contrastive(x.astype("float64"), y.astype("float64"), sigma, 0.3, 0.1)
    np.testing.assert_allclose(actual, expected, rtol=tolerance)


# --- worked out by hand ---------------------------------------------------------------------------


def test_two_orthogonal_pairs():
    # The logits of both examples are 1 / sigma (match) and 0, and their loss in each direction is
    # log(1 + exp(-1 / sigma)).
    x = np.eye(2)
    np.testing.assert_allclose(loss(x, x, 0.5), 2 * np.log1p(np.exp(-2.0)) * np.ones(2), rtol=1e-12)
    # With a margin of 1, both logits of an example are equal.
    np.testing.assert_allclose(loss(x, x, 0.5, margin=1.0), 2 * np.log(2) * np.ones(2), rtol=1e-12)


def test_a_collapsed_encoder():
    x = np.ones((5, 3)) / np.sqrt(3)
    np.testing.assert_allclose(loss(x, x, 0.1), 2 * np.log(5) * np.ones(5), rtol=1e-12)
    # Only the margin distinguishes the candidates: the logit of the match is (1 - 0.3) / 0.1, and
    # the other four logits are 1 / 0.1.
    expected = 2 * np.log(np.exp(-3) + 4) + 2 * 3
    np.testing.assert_allclose(loss(x, x, 0.1, margin=0.3), expected * np.ones(5), rtol=1e-12)
    x = np.zeros((4, 3))
    np.testing.assert_allclose(loss(x, x, 0.1), 2 * np.log(4) * np.ones(4), rtol=1e-12)


def test_a_zero_vector():
    x, y = tf.constant([[1.0, 0.0], [0.0, 0.0]], tf.float64), tf.eye(2, dtype=tf.float64)
    with tf.GradientTape() as tape:
        tape.watch((x, y))
        pair_losses = loss(x, y, 0.5)
    # In both directions, the first example has the logits 1 / sigma (match) and 0, and both logits
    # of the second example are 0.
    expected = [2 * np.log1p(np.exp(-2.0)), 2 * np.log(2)]
    np.testing.assert_allclose(pair_losses, expected, rtol=1e-12)
    gradient = tape.gradient(pair_losses, x)
    # The gradient pulls the zero vector toward its match, with 1/2 / sigma = 1 in each direction,
    # and pushes it away from the other vector.
    np.testing.assert_allclose(gradient[1, 1], -2.0, rtol=1e-12)
    assert np.isfinite(gradient).all() and gradient[1, 0] > 0


def test_the_loss_is_zero_without_negatives():
    options = dict(label_smoothing=0.1, margin=0.3)
    x, y = unit_vectors((4, 3), 0), unit_vectors((4, 3), 1)
    np.testing.assert_allclose(loss(x[:1], y[:1], 0.1, **options), [0.0], atol=1e-12)
    actual = loss(x, y, 0.1, ignore=np.ones((4, 4), bool), **options)
    np.testing.assert_allclose(actual, np.zeros(4), atol=1e-12)


def test_a_repeated_pair():
    # Pairs 0 and 1 are identical. Without `ignore`, each of these pairs is a negative of the other,
    # with the same logit as the match.
    x = np.eye(2)[[0, 0, 1]]
    far = np.exp(-2.0)
    expected = 2 * np.log([2 + far, 2 + far, 1 + 2 * far])
    np.testing.assert_allclose(loss(x, x, 0.5), expected, rtol=1e-12)
    ignore = np.zeros((3, 3), bool)
    ignore[0, 1] = ignore[1, 0] = True
    expected = 2 * np.log([1 + far, 1 + far, 1 + 2 * far])
    np.testing.assert_allclose(loss(x, x, 0.5, ignore=ignore), expected, rtol=1e-12)


# --- reference values -----------------------------------------------------------------------------


def test_the_loss_of_random_vectors():
    # Random unit vectors of many dimensions are almost orthogonal. The loss per direction is then
    # about 7.2015 for N = 1024.
    x, y = (unit_vectors((1024, 4096), seed).astype("float32") for seed in (0, 1))
    actual = float(np.mean(loss(x, y, 1.0, margin=0.3, label_smoothing=0.1))) / 2
    assert actual == pytest.approx(7.2015, abs=2e-3)
    assert float(np.mean(loss(x, y))) / 2 == pytest.approx(np.log(1024), abs=2e-3)


@pytest.mark.parametrize(
    "total, floor", [(64, 0.7295), (1024, 1.0172), (16384, 1.2954), (32768, 1.3648)]
)
def test_the_minimum_of_the_smoothed_loss(total, floor):
    # The minimum of the loss is the entropy of the smoothed target.
    own, other = 0.9 + 0.1 / total, 0.1 / total
    assert -own * np.log(own) - (total - 1) * other * np.log(other) == pytest.approx(
        floor, abs=1e-4
    )
    # The two local examples equal their matches and are orthogonal to all other candidates.
    x = np.eye(3)[[0, 1, *[2] * (total - 2)]]

    def one_direction(sigma):
        local = (x[:2], x[:2])
        return np.asarray(losses.contrastive(local, (x, x), 0, sigma, label_smoothing=0.1)) / 2

    best_sigma = 1 / np.log(own / other)
    np.testing.assert_allclose(one_direction(best_sigma), floor, atol=1e-4)
    for sigma in (0.9 * best_sigma, 1.1 * best_sigma):
        assert (one_direction(sigma) > floor + 1e-3).all()


# --- open_clip ------------------------------------------------------------------------------------


def recorded_arrays(name):
    path = os.path.join(os.path.dirname(clip_loss_case.__file__), f"{name}.npz")
    with np.load(path) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def recorded():
    return recorded_arrays("clip_loss")


@pytest.fixture(scope="module")
def recorded_siglip():
    return recorded_arrays("siglip_loss")


@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("case", clip_loss_case.CASES)
def test_equals_open_clip(recorded, case, parts):
    """Compares loss and gradients, with the batch divided into parts as among replicas."""
    settings = dict(clip_loss_case.CASES[case])
    scale = settings.pop("scale")
    x, y = (tf.constant(v) for v in clip_loss_case.features(**settings))
    sigma = tf.constant(1 / scale, tf.float64)
    bounds = np.linspace(0, len(x), parts + 1).astype(int)
    with tf.GradientTape() as tape:
        tape.watch((x, y, sigma))
        pair_losses = [
            losses.contrastive((x[a:b], y[a:b]), (x, y), a, sigma)
            for a, b in zip(bounds, bounds[1:], strict=False)
        ]
        # open_clip averages the losses of both directions, `contrastive` sums them.
        total = tf.reduce_mean(tf.concat(pair_losses, 0)) / 2
    by_x, by_y, by_sigma = tape.gradient(total, (x, y, sigma))
    close = dict(rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(total, recorded[f"{case}/loss"], **close)
    np.testing.assert_allclose(by_x, recorded[f"{case}/images"], **close)
    np.testing.assert_allclose(by_y, recorded[f"{case}/texts"], **close)
    # Because sigma = 1 / scale, the gradient at scale is -1 / scale^2 times the gradient at sigma.
    np.testing.assert_allclose(-by_sigma / scale**2, recorded[f"{case}/scale"], **close)


def test_the_recorded_values_of_open_clip_are_not_trivial(recorded):
    assert recorded["one pair/loss"] == 0
    for case in ("chance", "trained", "sharp"):
        assert recorded[f"{case}/loss"] > 0.1
        for name in ("images", "texts"):
            assert np.abs(recorded[f"{case}/{name}"]).max() > 1e-2
        assert abs(recorded[f"{case}/scale"]) > 1e-4


@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("case", siglip_loss_case.CASES)
def test_sigmoid_equals_open_clip(recorded_siglip, case, parts):
    """Compares loss and gradients, with the batch divided into parts as among replicas."""
    settings = dict(siglip_loss_case.CASES[case])
    scale, bias = settings.pop("scale"), settings.pop("bias")
    x, y = (tf.constant(v) for v in clip_loss_case.features(**settings))
    inputs = (x, y, tf.constant(1 / scale, tf.float64), tf.constant(bias, tf.float64))
    bounds = np.linspace(0, len(x), parts + 1).astype(int)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        example_losses = [
            losses.sigmoid((x[a:b], y[a:b]), (x, y), a, *inputs[2:])
            for a, b in zip(bounds, bounds[1:], strict=False)
        ]
        total = tf.reduce_mean(tf.concat(example_losses, 0))
    by_x, by_y, by_sigma, by_bias = tape.gradient(total, inputs)
    # The derivative of scale = 1 / sigma with respect to sigma is -scale^2.
    actual = dict(loss=total, images=by_x, texts=by_y, scale=-by_sigma / scale**2, bias=by_bias)
    for name, value in actual.items():
        np.testing.assert_allclose(
            value, recorded_siglip[f"{case}/{name}"], rtol=1e-9, atol=1e-12, err_msg=name
        )


def test_the_recorded_values_of_siglip_are_not_trivial(recorded_siglip):
    for case in siglip_loss_case.CASES:
        assert recorded_siglip[f"{case}/loss"] > 0.01
        for name in ("images", "texts", "scale", "bias"):
            assert np.abs(recorded_siglip[f"{case}/{name}"]).max() > 1e-4, (case, name)


# --- sigmoid --------------------------------------------------------------------------------------


def slow_sigmoid(x, y, sigma, bias, ignore=None):
    """Computes the sigmoid losses (N,) pair by pair in float64."""
    losses_of_examples = np.zeros(len(x))
    for i in range(len(x)):
        for j in range(len(x)):
            logit = x[i] @ y[j] / sigma + bias
            probability = 1 / (1 + np.exp(-logit))
            if i == j:
                losses_of_examples[i] -= np.log(probability)
            elif ignore is None or not ignore[i, j]:
                losses_of_examples[i] -= np.log(1 - probability)
    return losses_of_examples


def sigmoid_loss(x, y, sigma=0.1, bias=-10.0, **options):
    return losses.sigmoid((x, y), (x, y), 0, sigma, bias, **options)


@pytest.mark.parametrize("sigma, bias", [(0.1, -10.0), (1.0, 0.0), (0.3, 2.0)])
def test_sigmoid_equals_the_slow_code(sigma, bias):
    x, y = unit_vectors((7, 5), 0), unit_vectors((7, 5), 1)
    ignore = np.random.default_rng(2).random((7, 7)) < 0.4
    np.fill_diagonal(ignore, True)  # the matching pair is never excluded
    expected = slow_sigmoid(x, y, sigma, bias)
    np.testing.assert_allclose(sigmoid_loss(x, y, sigma, bias), expected, rtol=1e-11)
    expected = slow_sigmoid(x, y, sigma, bias, ignore)
    actual = sigmoid_loss(x, y, sigma, bias, ignore=ignore)
    np.testing.assert_allclose(actual, expected, rtol=1e-11)


def test_sigmoid_by_hand():
    # With sigma = 0.1 and bias = -10, a matching pair of cosine similarity 1 has the logit
    # 1 / 0.1 - 10 = 0, and an orthogonal pair has the logit -10.
    x = np.eye(3)
    expected = np.log(2) + 2 * np.log1p(np.exp(-10.0))
    np.testing.assert_allclose(sigmoid_loss(x, x), expected * np.ones(3), rtol=1e-12)
    # With a collapsed encoder, every pair has the logit 0, which is the probability 1/2.
    x = np.ones((5, 4)) / 2
    np.testing.assert_allclose(sigmoid_loss(x, x), 5 * np.log(2) * np.ones(5), rtol=1e-12)
    # With zero vectors, the logit of every pair equals the bias.
    zeros = np.zeros((4, 3))
    expected = np.log1p(np.exp(10.0)) + 3 * np.log1p(np.exp(-10.0))
    np.testing.assert_allclose(sigmoid_loss(zeros, zeros), expected * np.ones(4), rtol=1e-12)


def test_sigmoid_is_finite_at_the_bounds_of_the_temperature_in_float32():
    x, y = (unit_vectors((12, 6), seed).astype("float32") for seed in (0, 1))
    tensors = [tf.constant(v) for v in (x, y, np.float32(0.005), np.float32(-10))]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        example_losses = sigmoid_loss(*tensors)
    assert example_losses.dtype == tf.float32
    pairs = np.arange(12)
    logits = x.astype("float64") @ y.T.astype("float64") / 0.005 - 10
    logits[pairs, pairs] *= -1
    np.testing.assert_allclose(example_losses, np.logaddexp(0, logits).sum(axis=1), rtol=1e-5)
    assert all(np.isfinite(g).all() for g in tape.gradient(example_losses, tensors))


# --- gradients ------------------------------------------------------------------------------------


def test_gradients_equal_finite_differences():
    x, y, sigma = unit_vectors((5, 4), 0), unit_vectors((5, 4), 1), 0.3
    ignore = np.zeros((5, 5), bool)
    ignore[0, 3] = ignore[4, 1] = True
    tensors = [tf.constant(v) for v in (x, y, np.float64(sigma))]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        a, b, s = tensors
        total = keras.ops.sum(losses.contrastive((a, b), (a, b), 0, s, 0.3, 0.1, ignore))
    gradients = tape.gradient(total, tensors)

    def value(x, y, sigma):
        return slow_contrastive(x, y, sigma, 0.3, 0.1, ignore).sum()

    h = 1e-6
    for k, (i, j) in ((0, (2, 1)), (1, (4, 3)), (0, (0, 0))):
        upper, lower = ([x.copy(), y.copy(), sigma] for _ in range(2))
        upper[k][i, j] += h
        lower[k][i, j] -= h
        expected = (value(*upper) - value(*lower)) / (2 * h)
        assert float(gradients[k][i, j]) == pytest.approx(expected, rel=1e-6)
    expected = (value(x, y, sigma + h) - value(x, y, sigma - h)) / (2 * h)
    assert float(gradients[2]) == pytest.approx(expected, rel=1e-6)
