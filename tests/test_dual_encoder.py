"""The dual encoder: unit rows, temperatures, frozen towers, and backbones out of presets."""

import keras
import keras_hub
import numpy as np
import pytest
from test_models import NANO, TINY, TOKENS, drop_rates, layers_of, pixels

from tf_mural import models
from tf_mural.errors import UserError


def encoder_of(**options):
    return models.dual_encoder(TINY, NANO, embedding_dim=16, **options)


@pytest.fixture
def policy():
    """Sets a dtype policy for one test."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("name", ["float32", "mixed_bfloat16"])
def test_rows_are_of_length_one_in_float32_at_any_precision(policy, name):
    policy(name)
    encoder = encoder_of()
    policy("float32")
    for kind, inputs in (("image", pixels(3)), ("text", TOKENS)):
        tower = encoder.towers[kind]
        assert tower.compute_dtype == name.removeprefix("mixed_")
        rows = encoder.encode(kind, inputs)
        assert rows.dtype == "float32" and rows.shape == (len(inputs), 16)
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-6)
        raw = np.asarray(keras.ops.cast(tower(inputs), "float32"))
        expected = raw / np.linalg.norm(raw, axis=1, keepdims=True)
        np.testing.assert_allclose(rows, expected, atol=1e-5)
    assert encoder.temperatures["shared"].dtype == "float32"
    both = encoder({"image": pixels(3), "text": TOKENS})
    np.testing.assert_array_equal(both["text"], encoder.encode("text", TOKENS))


def test_temperatures_are_clamped_and_counted():
    encoder = encoder_of(temperatures={"hot": 3.0, "cold": 0.001, "fine": 0.5})
    assert int(encoder.clamp_temperatures()) == 2
    values = {name: float(v.numpy()) for name, v in encoder.temperatures.items()}
    assert values == pytest.approx({"hot": 2.0, "cold": 0.005, "fine": 0.5})
    assert int(encoder.clamp_temperatures()) == 0
    assert all(v in encoder.trainable_variables for v in encoder.temperatures.values())


def test_the_paper_s_temperature_is_one_for_all():
    encoder = encoder_of()
    assert {name: float(v.numpy()) for name, v in encoder.temperatures.items()} == {"shared": 1.0}


@pytest.mark.parametrize("kind, other", [("image", "text"), ("text", "image")])
def test_a_frozen_tower_stays(kind, other):
    """In training too: a locked tower has neither dropout nor stochastic depth."""
    image, text = {**TINY, "stochastic_depth": 0.5}, {**NANO, "dropout": 0.5}
    encoder = models.dual_encoder(image, text, embedding_dim=16, freeze=(kind,))
    paths = [v.path for v in encoder.trainable_variables]
    assert not set(paths) & {v.path for v in encoder.towers[kind].variables}
    trained = {v.path for v in encoder.towers[other].trainable_variables}
    assert set(paths) == trained | {"dual_encoder/temperature_shared"}
    before = [v.numpy() for v in encoder.towers[kind].variables]
    inputs = {"image": pixels(4), "text": TOKENS}[kind]
    in_training = encoder.encode(kind, inputs, training=True)
    np.testing.assert_allclose(in_training, encoder.encode(kind, inputs), atol=1e-6)
    after = [v.numpy() for v in encoder.towers[kind].variables]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_unknown_towers():
    with pytest.raises(UserError, match="unknown tower 'images'; known: image, text; did you me"):
        encoder_of().encode("images", pixels(1))
    with pytest.raises(UserError, match="unknown tower 'txt'"):
        encoder_of(freeze=("txt",))


# --- backbones out of presets ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """(backbone, folder of its preset)."""
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=20,
        num_layers=2,
        num_heads=2,
        hidden_dim=12,
        intermediate_dim=24,
        max_sequence_length=30,
    )
    folder = str(tmp_path_factory.mktemp("presets") / "bert")
    backbone.save_to_preset(folder)
    return backbone, folder


@pytest.fixture(scope="module")
def efficientnet(tmp_path_factory):
    """(backbone, folder of its preset), with statistics that are not those of a fresh layer."""
    stages = models.EFFICIENTNETS["tiny"]
    backbone = keras_hub.models.EfficientNetBackbone(
        **stages,
        stackwise_force_input_filters=[0] * 4,
        stackwise_nores_option=[False] * 4,
        batch_norm_epsilon=2e-3,
        input_shape=(32, 32, 3),
    )
    for _ in range(3):
        backbone(pixels(4) / 127.5 - 1.0, training=True)
    folder = str(tmp_path_factory.mktemp("presets") / "efficientnet")
    backbone.save_to_preset(folder)
    return backbone, folder


def test_a_text_tower_out_of_a_preset(bert):
    backbone, folder = bert
    tower = models.text_tower(20, embedding_dim=16, preset=folder)
    mask = (TOKENS > 0).astype("int32")
    inputs = {"token_ids": TOKENS, "padding_mask": mask, "segment_ids": 0 * TOKENS}
    hidden = np.asarray(backbone(inputs)["sequence_output"])[:, 0]
    kernel, bias = tower.get_layer("text_projection").get_weights()
    np.testing.assert_allclose(tower(TOKENS), hidden @ kernel + bias, atol=1e-5)


def test_a_preset_of_another_vocabulary(bert):
    with pytest.raises(UserError, match="has 20 tokens, the vocabulary file 21; use the vocab"):
        models.text_tower(21, embedding_dim=16, preset=bert[1])


def test_an_image_tower_out_of_a_preset(efficientnet):
    backbone, folder = efficientnet
    options = dict(virtual_batch_size=2, batch_norm_momentum=0.8)
    tower = models.image_tower(image_size=32, embedding_dim=16, preset=folder, **options)
    features = keras.Model(backbone.input, backbone.get_layer("top_conv").input)
    pooled = np.asarray(features(pixels(2) / 127.5 - 1.0)).mean(axis=(1, 2))
    kernel, bias = tower.get_layer("image_projection").get_weights()
    np.testing.assert_allclose(tower(pixels(2)), pooled @ kernel + bias, atol=1e-4)
    norms = [x for x in layers_of(tower).values() if hasattr(x, "moving_mean")]
    assert len(norms) > 10 and all(isinstance(x, models.GhostBatchNormalization) for x in norms)
    assert {(x.virtual_batch_size, x.momentum, x.epsilon) for x in norms} == {(2, 0.8, 2e-3)}
    # Of 5 blocks the fourth alone is residual.
    assert drop_rates(tower) == pytest.approx([0.2 * 3 / 5])


def test_a_preset_that_is_not_there(tmp_path):
    for make in (models.image_tower, lambda **options: models.text_tower(20, **options)):
        with pytest.raises(UserError, match="the preset .*nowhere. cannot be loaded as"):
            make(preset=str(tmp_path / "nowhere"))
