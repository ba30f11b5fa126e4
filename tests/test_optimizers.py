"""LAMB against a slow float64 version written from the paper, what it leaves out, the schedule."""

from collections import Counter

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from configs import base
from tf_mural import models
from tf_mural.optimizers import OPTIMIZERS, Lamb, LinearSchedule


def slow_lamb(w, gradients, lr, decay, adapt, b1=0.9, b2=0.999, eps=1e-6):
    w, m, v = w.astype(np.float64), 0.0, 0.0
    for t, g in enumerate(gradients, start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        u = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps) + decay * w
        ratio = 1.0
        if adapt and np.linalg.norm(w) > 0 and np.linalg.norm(u) > 0:
            ratio = np.linalg.norm(w) / np.linalg.norm(u)
        w = w - lr * ratio * u
    return w


@pytest.mark.parametrize(
    "name, shape, decays, adapts",
    [
        ("dense/kernel", (4, 3), True, True),
        ("dense/bias", (3,), False, True),
        ("block_bn/gamma", (3,), False, False),
        ("temperature_shared", (), False, True),
    ],
)
def test_equals_the_slow_version(name, shape, decays, adapts):
    rng = np.random.default_rng(0)
    start = rng.normal(size=shape)
    gradients = [rng.normal(size=shape) for _ in range(20)]
    variable = keras.Variable(start.astype("float32"), name=name.split("/")[-1])
    variable._path = name
    optimizer = Lamb(
        1e-2,
        decay=0.1,
        exclude_from_decay=("_bn/", "/bias$", "temperature"),
        exclude_from_adaptation=("_bn/",),
    )
    optimizer.build([variable])
    for gradient in gradients:
        optimizer.apply([tf.constant(gradient, tf.float32)])
    expected = slow_lamb(start, gradients, 1e-2, 0.1 if decays else 0.0, adapts)
    np.testing.assert_allclose(variable.numpy(), expected, rtol=2e-6, atol=1e-7)


def test_adam_equals_that_of_keras_with_decay_beside_the_gradient():
    rng = np.random.default_rng(0)
    start = rng.normal(size=(4, 3)).astype("float32")
    ours, theirs = keras.Variable(start, name="kernel"), keras.Variable(start, name="kernel")
    one = OPTIMIZERS["adam"](1e-2, decay=0.1, epsilon=1e-12, exclude_from_adaptation=("_bn/",))
    two = keras.optimizers.AdamW(1e-2, weight_decay=0.1, epsilon=1e-12)
    for optimizer, variable in ((one, ours), (two, theirs)):
        optimizer.build([variable])
    for _ in range(20):
        gradient = tf.constant(rng.normal(size=(4, 3)), tf.float32)
        one.apply([gradient])
        two.apply([gradient])
    assert np.abs(ours.numpy() - start).max() > 0.05
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-5, atol=1e-6)


def test_zero_weights_move_by_the_plain_update():
    variable = keras.Variable(np.zeros(3, "float32"), name="kernel")
    optimizer = Lamb(1e-2)
    optimizer.build([variable])
    optimizer.apply([tf.constant([1.0, -2.0, 3.0])])
    np.testing.assert_allclose(variable.numpy(), [-1e-2, 1e-2, -1e-2], rtol=2e-6)


def test_a_scalar_moves_by_the_rate_times_its_value():
    variable = keras.Variable(np.float32(0.5), name="temperature")
    optimizer = Lamb(1e-2)
    optimizer.build([variable])
    optimizer.apply([tf.constant(123.0)])
    assert float(variable.numpy()) == pytest.approx(0.5 - 1e-2 * 0.5, rel=1e-6)


def test_repeated_rows_of_an_embedding_are_added_before_they_are_squared():
    table = keras.Variable(np.ones((3, 2), "float32"), name="embeddings")
    twice = tf.IndexedSlices(tf.constant([[1.0, 1.0], [3.0, 3.0]]), tf.constant([1, 1]), (3, 2))
    optimizer = Lamb(1e-2)
    optimizer.build([table])
    optimizer.apply([twice])
    # (1 + 3)^2, not 1^2 + 3^2
    np.testing.assert_allclose(optimizer._second[0].numpy()[1], [0.016, 0.016], rtol=1e-4)


# --- what decays and what adapts ------------------------------------------------------------------

# (decays, adapts) by what a variable is: batch norm is left out of both, as are biases, layer norm
# and the temperature out of decay.
EXPECTED = {
    "convolution": (True, True),
    "dense": (True, True),
    "embedding": (True, True),
    "bias": (False, True),
    "layer norm": (False, True),
    "temperature": (False, True),
    "batch norm": (False, False),
}
KINDS = {
    keras.layers.Conv2D: "convolution",
    keras.layers.DepthwiseConv2D: "convolution",
    keras.layers.Dense: "dense",
    keras.layers.EinsumDense: "dense",
    keras.layers.Embedding: "embedding",
    keras_hub.layers.PositionEmbedding: "embedding",
    keras.layers.LayerNormalization: "layer norm",
    keras.layers.BatchNormalization: "batch norm",
    models.DualEncoder: "temperature",
}


def kinds_of(encoder):
    """{id of a trainable variable: kind}, by the class of its layer and not by its name."""
    kinds = {}
    for layer in encoder._flatten_layers():
        for variable in layer._trainable_variables:
            (kind,) = {kind for cls, kind in KINDS.items() if isinstance(layer, cls)}
            kinds[id(variable)] = "bias" if variable is getattr(layer, "bias", None) else kind
    return kinds


# A block of EfficientNet has a depthwise, a projecting and (but for the first) an expanding
# convolution, each with its batch norm, and two of squeeze and excitation, with biases.
@pytest.mark.parametrize("name, blocks", [("tiny", 5), ("b0", 16)])
def test_what_decays_and_what_adapts_in_the_model_of_the_recipes(name, blocks):
    encoder = models.dual_encoder(
        dict(name=name, image_size=33),
        dict(name="nano", vocabulary_size=20, max_tokens=8),
        embedding_dim=16,
        temperatures={"shared": 1.0, "bitext": 0.1},
    )
    options = base.base_config("mural", "paper").optimizer
    optimizer = Lamb(
        exclude_from_decay=options.exclude_from_decay,
        exclude_from_adaptation=options.exclude_from_adaptation,
    )
    variables = encoder.trainable_variables
    optimizer.build(variables)
    kinds = [kinds_of(encoder)[id(v)] for v in variables]
    assert Counter(kinds) == {
        "convolution": 1 + (3 * blocks - 1) + 2 * blocks,  # the stem, too
        "batch norm": 2 * (1 + 3 * blocks - 1),
        "dense": 2 * 6 + 2,  # of both layers of the text tower, and the projections
        "bias": 2 * blocks + 2 * 6 + 2,
        "layer norm": 2 * (2 * 2 + 1),
        "embedding": 3,  # tokens, positions, segments
        "temperature": 2,
    }
    found = zip(optimizer.decays, optimizer.adapts, strict=True)
    for variable, kind, flags in zip(variables, kinds, found, strict=True):
        assert flags == EXPECTED[kind], f"{variable.path}, {kind}"


@pytest.mark.parametrize("size", base.SIZES)
def test_all_sizes_leave_out_the_same(size):
    options, paper = (base.base_config("mural", s).optimizer for s in (size, "paper"))
    for name in ("exclude_from_decay", "exclude_from_adaptation", "beta_1", "beta_2", "epsilon"):
        assert options[name] == paper[name]
    assert options.name == "lamb"


# --- the schedule ---------------------------------------------------------------------------------


def test_linear_schedule():
    schedule = LinearSchedule(1.0, total_steps=10, warmup_steps=4)
    values = [float(schedule(step)) for step in range(12)]
    np.testing.assert_allclose(
        values, [0, 0.25, 0.5, 0.75, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0, 0], atol=1e-6
    )
    assert float(LinearSchedule(2.0, 4)(0)) == 2.0
    with pytest.raises(ValueError, match="warmup_steps"):
        LinearSchedule(1.0, 5, 5)
