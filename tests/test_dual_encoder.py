"""The dual encoder: normalized embeddings, temperatures, frozen towers, backbones from presets."""

import keras
import keras_hub
import numpy as np
import pytest
from helpers.small_models import (
    NANO_TEXT,
    TINY_IMAGE,
    TOKENS,
    drop_rates,
    layers_by_name,
    random_images,
)

from tf_mural import models
from tf_mural.errors import UserError


def small_encoder(**options):
    return models.dual_encoder(TINY_IMAGE, NANO_TEXT, embedding_dim=16, **options)


@pytest.fixture
def set_policy():
    """Returns a callable that sets the global dtype policy until the end of the test."""
    original = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(original)


@pytest.mark.parametrize("name", ["float32", "mixed_bfloat16"])
def test_embeddings_are_normalized_and_float32_at_any_precision(set_policy, name):
    set_policy(name)
    encoder = small_encoder()
    set_policy("float32")
    for modality, inputs in (("image", random_images(3)), ("text", TOKENS)):
        tower = encoder.towers[modality]
        assert tower.compute_dtype == name.removeprefix("mixed_")
        embeddings = encoder.encode(modality, inputs)
        assert embeddings.dtype == "float32" and embeddings.shape == (len(inputs), 16)
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1.0, atol=1e-6)
        raw = np.asarray(keras.ops.cast(tower(inputs), "float32"))
        expected = raw / np.linalg.norm(raw, axis=1, keepdims=True)
        np.testing.assert_allclose(embeddings, expected, atol=1e-5)
    assert encoder.scalars["temperature"]["shared"].dtype == "float32"
    embeddings = encoder({"image": random_images(3), "text": TOKENS})
    np.testing.assert_array_equal(embeddings["text"], encoder.encode("text", TOKENS))


def test_temperatures_are_clipped_and_counted():
    encoder = small_encoder(scalars={"temperature": {"hot": 3.0, "cold": 0.001, "fine": 0.5}})
    assert int(encoder.clamp_scalars()["temperature"]) == 2
    values = {name: float(v.numpy()) for name, v in encoder.scalars["temperature"].items()}
    assert values == pytest.approx({"hot": 2.0, "cold": 0.005, "fine": 0.5})
    assert int(encoder.clamp_scalars()["temperature"]) == 0
    assert len(encoder.scalar_variables) == 3
    assert all(v in encoder.trainable_variables for v in encoder.scalar_variables)


def test_the_default_is_a_single_temperature_of_1():
    values = small_encoder().scalar_values()
    assert keras.tree.map_structure(float, values) == {"temperature": {"shared": 1.0}}


@pytest.mark.parametrize("frozen, trained", [("image", "text"), ("text", "image")])
def test_a_frozen_tower_does_not_change_and_has_no_dropout(frozen, trained):
    image, text = {**TINY_IMAGE, "stochastic_depth": 0.5}, {**NANO_TEXT, "dropout": 0.5}
    {"image": image, "text": text}[frozen]["adapt"] = "frozen"
    encoder = models.dual_encoder(image, text, embedding_dim=16)
    paths = [v.path for v in encoder.trainable_variables]
    assert not set(paths) & {v.path for v in encoder.towers[frozen].variables}
    expected = {v.path for v in encoder.towers[trained].trainable_variables}
    assert set(paths) == expected | {"dual_encoder/temperature_shared"}
    before = [v.numpy() for v in encoder.towers[frozen].variables]
    inputs = {"image": random_images(4), "text": TOKENS}[frozen]
    embeddings = encoder.encode(frozen, inputs, training=True)
    np.testing.assert_allclose(embeddings, encoder.encode(frozen, inputs), atol=1e-6)
    after = [v.numpy() for v in encoder.towers[frozen].variables]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_unknown_towers_are_refused():
    with pytest.raises(UserError, match="unknown tower 'images'; known: image, text; did you me"):
        small_encoder().encode("images", random_images(1))
    with pytest.raises(UserError, match="unknown tower 'txt'"):
        models.DualEncoder(small_encoder().towers["image"], adapt={"txt": "frozen"})


def test_arguments_of_earlier_versions_are_upgraded():
    image = {"name": "tiny", "batch_norm_group": 16, "padding": "end", "preset": ""}
    text = {"max_tokens": 8, "sizes": [], "preset": "hf://user/name"}
    arguments = {"image": image, "text": text, "embedding_dim": 16}
    arguments["temperatures"] = {"shared": 0.5}
    upgraded = models.upgrade_arguments(arguments)
    assert upgraded == {
        "image": {"backbone": "tiny", "virtual_batch_size": 16, "padding": "end"},
        "text": {"backbone": "keras_hub:hf://user/name", "max_tokens": 8, "sizes": None},
        "embedding_dim": 16,
        "scalars": {"temperature": {"shared": 0.5}},
        "towers": {},
    }
    assert models.upgrade_arguments(upgraded) == upgraded
    assert image["batch_norm_group"] == 16  # upgrade_arguments does not change its input
    whole_batch = models.upgrade_arguments({"image": {"batch_norm_group": 0}, "text": {}})
    assert whole_batch["image"] == {"virtual_batch_size": None}
    frozen = {"image": {}, "text": {}, "towers": {"teacher": {}}, "freeze": ["teacher", "image"]}
    assert models.upgrade_arguments(frozen) == {
        "image": {"adapt": "frozen"},
        "text": {},
        "towers": {"teacher": {"adapt": "frozen"}},
    }


# --- backbones from presets -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def bert_preset(tmp_path_factory):
    """Returns a BERT backbone and the folder of its preset."""
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
def efficientnet_preset(tmp_path_factory):
    """Returns an EfficientNet with trained batch norm statistics, and the folder of its preset."""
    stages = models.EFFICIENTNETS["tiny"]
    backbone = keras_hub.models.EfficientNetBackbone(
        **stages,
        stackwise_force_input_filters=[0] * 4,
        stackwise_nores_option=[False] * 4,
        batch_norm_epsilon=2e-3,
        input_shape=(32, 32, 3),
    )
    for _ in range(3):
        backbone(random_images(4) / 127.5 - 1.0, training=True)
    folder = str(tmp_path_factory.mktemp("presets") / "efficientnet")
    backbone.save_to_preset(folder)
    return backbone, folder


def test_a_text_tower_takes_the_backbone_of_a_preset(bert_preset):
    backbone, folder = bert_preset
    tower = models.text_tower(20, embedding_dim=16, backbone=f"keras_hub:{folder}")
    mask = (TOKENS > 0).astype("int32")
    inputs = {"token_ids": TOKENS, "padding_mask": mask, "segment_ids": 0 * TOKENS}
    hidden = np.asarray(backbone(inputs)["sequence_output"])[:, 0]
    kernel, bias = tower.get_layer("text_projection").get_weights()
    np.testing.assert_allclose(tower(TOKENS), hidden @ kernel + bias, atol=1e-5)


def test_a_preset_with_another_vocabulary_is_refused(bert_preset):
    with pytest.raises(UserError, match="has 20 tokens, but the vocabulary file has 21; use the"):
        models.text_tower(21, embedding_dim=16, backbone=f"keras_hub:{bert_preset[1]}")


def test_an_image_tower_takes_the_backbone_of_a_preset(efficientnet_preset):
    backbone, folder = efficientnet_preset
    options = dict(virtual_batch_size=2, batch_norm_momentum=0.8)
    tower = models.image_tower(
        image_size=32, embedding_dim=16, backbone=f"keras_hub:{folder}", **options
    )
    features = keras.Model(backbone.input, backbone.get_layer("top_conv").input)
    pooled = np.asarray(features(random_images(2) / 127.5 - 1.0)).mean(axis=(1, 2))
    kernel, bias = tower.get_layer("image_projection").get_weights()
    np.testing.assert_allclose(tower(random_images(2)), pooled @ kernel + bias, atol=1e-4)
    norms = [x for x in layers_by_name(tower).values() if hasattr(x, "moving_mean")]
    assert len(norms) > 10 and all(isinstance(x, models.GhostBatchNormalization) for x in norms)
    assert {(x.virtual_batch_size, x.momentum, x.epsilon) for x in norms} == {(2, 0.8, 2e-3)}
    # Only the fourth of the five blocks is residual.
    assert drop_rates(tower) == pytest.approx([0.2 * 3 / 5])


def test_a_missing_preset_is_refused(tmp_path):
    for build in (models.image_tower, lambda **options: models.text_tower(20, **options)):
        with pytest.raises(UserError, match="the preset .*nowhere. cannot be loaded as"):
            build(backbone=f"keras_hub:{tmp_path / 'nowhere'}")
