"""Tests LAMB (compared with slow float64 code), AdamW, exclusions and the schedule."""

from collections import Counter

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from configs import base
from tf_mural import models
from tf_mural.optimizers import LAMB, OPTIMIZERS, LinearWarmupDecay


def slow_lamb(w, gradients, lr, weight_decay, adapts, b1=0.9, b2=0.999, eps=1e-6):
    w, m, v = w.astype(np.float64), 0.0, 0.0
    for t, g in enumerate(gradients, start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        u = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps) + weight_decay * w
        ratio = 1.0
        if adapts and np.linalg.norm(w) > 0 and np.linalg.norm(u) > 0:
            ratio = np.linalg.norm(w) / np.linalg.norm(u)
        w = w - lr * ratio * u
    return w


@pytest.mark.parametrize(
    "path, shape, decays, adapts",
    [
        ("dense/kernel", (4, 3), True, True),
        ("dense/bias", (3,), False, True),
        ("block_bn/gamma", (3,), False, False),
        ("temperature_shared", (), False, True),
    ],
)
def test_lamb_equals_the_slow_version(path, shape, decays, adapts):
    rng = np.random.default_rng(0)
    initial = rng.normal(size=shape)
    gradients = [rng.normal(size=shape) for _ in range(20)]
    variable = keras.Variable(initial.astype("float32"), name=path.split("/")[-1])
    variable._path = path
    optimizer = LAMB(
        1e-2,
        weight_decay=0.1,
        exclude_from_weight_decay=("_bn/", "/bias$", "temperature"),
        exclude_from_layer_adaptation=("_bn/",),
    )
    optimizer.build([variable])
    for gradient in gradients:
        optimizer.apply([tf.constant(gradient, tf.float32)])
    expected = slow_lamb(initial, gradients, 1e-2, 0.1 if decays else 0.0, adapts)
    np.testing.assert_allclose(variable.numpy(), expected, rtol=2e-6, atol=1e-7)


def test_adam_equals_adamw_of_keras():
    rng = np.random.default_rng(0)
    initial = rng.normal(size=(4, 3)).astype("float32")
    variable, reference = (keras.Variable(initial, name="kernel") for _ in range(2))
    adam = OPTIMIZERS["adam"](1e-2, weight_decay=0.1, epsilon=1e-12)
    keras_adam = keras.optimizers.AdamW(1e-2, weight_decay=0.1, epsilon=1e-12)
    adam.build([variable])
    keras_adam.build([reference])
    for _ in range(20):
        gradient = tf.constant(rng.normal(size=(4, 3)), tf.float32)
        adam.apply([gradient])
        keras_adam.apply([gradient])
    assert np.abs(variable.numpy() - initial).max() > 0.05
    np.testing.assert_allclose(variable.numpy(), reference.numpy(), rtol=1e-5, atol=1e-6)


def test_adam_refuses_exclusions_from_the_layer_adaptation_that_it_does_not_have():
    adam = OPTIMIZERS["adam"](1e-2, exclude_from_layer_adaptation=())
    assert "exclude_from_layer_adaptation" not in adam.get_config()
    with pytest.raises(ValueError, match=r"AdamW has no layer adaptation.*Received: \('_bn/',\)"):
        OPTIMIZERS["adam"](1e-2, exclude_from_layer_adaptation=("_bn/",))


def test_the_base_class_does_not_see_clipnorm_weight_decay_and_ema_momentum():
    """Tests that the base class of Keras does not apply the options of LAMB by its own rules."""
    variable = keras.Variable(np.ones(3, "float32"), name="bias")
    optimizer = LAMB(
        1e-2,
        weight_decay=0.5,
        exclude_from_weight_decay=("bias",),
        ema_momentum=0.9,
        global_clipnorm=0.1,
    )
    assert optimizer.clip_after_reduction == 0.1
    assert optimizer.weight_decay is None and optimizer.global_clipnorm is None
    assert not optimizer.use_ema
    optimizer.build([variable])
    optimizer.apply([tf.constant([3.0, 0.0, -4.0])])
    # The first moment shows that the gradient, whose norm is 5, was not clipped.
    np.testing.assert_allclose(optimizer._momentums[0].numpy(), [0.3, 0.0, -0.4], rtol=1e-5)
    # The element with a zero gradient shows that the excluded variable has no weight decay.
    assert variable.numpy()[1] == 1.0


@pytest.mark.parametrize("value", [None, 0.0])
def test_without_global_clipnorm_nothing_is_clipped(value):
    assert LAMB(1e-2, global_clipnorm=value).clip_after_reduction is None


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_is_rebuilt_from_its_config(name):
    options = dict(
        weight_decay=0.1,
        beta_1=0.8,
        beta_2=0.9,
        epsilon=1e-5,
        exclude_from_weight_decay=("bias",),
        lr_multipliers=(("stem_", 0.5),),
        ema_momentum=0.7,
        global_clipnorm=2.0,
    )
    optimizer = OPTIMIZERS[name](1e-2, **options)
    config = optimizer.get_config()
    assert {key: config[key] for key in options} == options
    restored = type(optimizer).from_config(config)
    assert type(restored) is OPTIMIZERS[name] and restored.get_config() == config


def test_zero_weights_have_a_trust_ratio_of_1():
    variable = keras.Variable(np.zeros(3, "float32"), name="kernel")
    optimizer = LAMB(1e-2)
    optimizer.build([variable])
    optimizer.apply([tf.constant([1.0, -2.0, 3.0])])
    np.testing.assert_allclose(variable.numpy(), [-1e-2, 1e-2, -1e-2], rtol=2e-6)


def test_the_update_of_a_scalar_is_proportional_to_its_value():
    variable = keras.Variable(np.float32(0.5), name="temperature")
    optimizer = LAMB(1e-2)
    optimizer.build([variable])
    optimizer.apply([tf.constant(123.0)])
    assert float(variable.numpy()) == pytest.approx(0.5 - 1e-2 * 0.5, rel=1e-6)


def test_repeated_rows_of_a_sparse_gradient_are_summed_before_they_are_squared():
    table = keras.Variable(np.ones((3, 2), "float32"), name="embeddings")
    gradient = tf.IndexedSlices(tf.constant([[1.0, 1.0], [3.0, 3.0]]), tf.constant([1, 1]), (3, 2))
    optimizer = LAMB(1e-2)
    optimizer.build([table])
    optimizer.apply([gradient])
    # The second moment must contain (1 + 3)^2 and not 1^2 + 3^2.
    np.testing.assert_allclose(optimizer._velocities[0].numpy()[1], [0.016, 0.016], rtol=1e-4)


# --- exclusions from weight decay and layer adaptation --------------------------------------------

# {role of a variable: tuple (whether it has weight decay, whether it has layer adaptation)}.
EXPECTED = {
    "convolution": (True, True),
    "dense": (True, True),
    "embedding": (True, True),
    "bias": (False, True),
    "layer norm": (False, True),
    "temperature": (False, True),
    "batch norm": (False, False),
}
ROLES = {
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


def variable_roles(encoder):
    """Returns {id of a trainable variable: role}, derived from the class of its layer."""
    roles = {}
    for layer in encoder._flatten_layers():
        for variable in layer._trainable_variables:
            (role,) = {role for cls, role in ROLES.items() if isinstance(layer, cls)}
            roles[id(variable)] = "bias" if variable is getattr(layer, "bias", None) else role
    return roles


# A block of EfficientNet has a depthwise convolution, a projection convolution and, except in the
# first block, an expansion convolution. Each of these convolutions is followed by a batch norm. In
# addition, a block has the two convolutions of squeeze-and-excitation, which have biases.
@pytest.mark.parametrize("name, blocks", [("tiny", 5), ("b0", 16)])
def test_the_recipes_exclude_biases_norms_and_temperatures(name, blocks):
    encoder = models.dual_encoder(
        dict(backbone=name, image_size=33),
        dict(backbone="nano", vocabulary_size=20, max_tokens=8),
        embedding_dim=16,
        scalars={"temperature": {"shared": 1.0, "bitext": 0.1}},
    )
    options = base.base_config("mural", "paper").optimizer
    optimizer = LAMB(
        exclude_from_weight_decay=options.exclude_from_weight_decay,
        exclude_from_layer_adaptation=options.exclude_from_layer_adaptation,
    )
    variables = encoder.trainable_variables
    optimizer.build(variables)
    roles = [variable_roles(encoder)[id(v)] for v in variables]
    assert Counter(roles) == {
        "convolution": 1 + (3 * blocks - 1) + 2 * blocks,  # one convolution is in the stem
        "batch norm": 2 * (1 + 3 * blocks - 1),
        "dense": 2 * 6 + 2,  # 6 kernels per transformer layer, and two projections
        "bias": 2 * blocks + 2 * 6 + 2,
        "layer norm": 2 * (2 * 2 + 1),
        "embedding": 3,  # tokens, positions, segments
        "temperature": 2,
    }
    flags = zip(optimizer.uses_weight_decay, optimizer.uses_layer_adaptation, strict=True)
    for variable, role, actual in zip(variables, roles, flags, strict=True):
        assert actual == EXPECTED[role], f"{variable.path}, {role}"


@pytest.mark.parametrize("make", [LAMB, keras.optimizers.AdamW])
def test_variables_are_excluded_from_weight_decay_by_the_method_of_keras(make):
    variables = [keras.Variable(np.ones(2, "float32"), name=name) for name in ("ab", "a", "c_x")]
    optimizer = make(learning_rate=0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_list=variables[1:2], var_names=["_x"])
    optimizer.build(variables)
    # If the gradients are 0, only weight decay changes a variable.
    optimizer.apply([np.zeros(2, "float32")] * 3)
    assert [bool((v.numpy() == 1).all()) for v in variables] == [False, True, True]


def test_variables_cannot_be_excluded_from_weight_decay_later():
    optimizer = LAMB()
    optimizer.build([keras.Variable(np.ones(2, "float32"), name="a")])
    with pytest.raises(ValueError, match="must be called before `build`"):
        optimizer.exclude_from_weight_decay(var_names=["a"])


@pytest.mark.parametrize("size", base.SIZES)
def test_all_sizes_have_the_same_exclusions(size):
    options, paper = (base.base_config("mural", s).optimizer for s in (size, "paper"))
    names = ("exclude_from_weight_decay", "exclude_from_layer_adaptation")
    for name in (*names, "beta_1", "beta_2", "epsilon"):
        assert options[name] == paper[name]
    assert options.name == "lamb"


# --- the schedule ---------------------------------------------------------------------------------


def test_the_schedule_increases_to_its_peak_and_decreases_to_0():
    schedule = LinearWarmupDecay(1.0, total_steps=10, warmup_steps=4)
    values = [float(schedule(step)) for step in range(12)]
    np.testing.assert_allclose(
        values, [0, 0.25, 0.5, 0.75, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0, 0], atol=1e-6
    )
    assert float(LinearWarmupDecay(2.0, 4)(0)) == 2.0
    with pytest.raises(ValueError, match="warmup_steps"):
        LinearWarmupDecay(1.0, 5, 5)
