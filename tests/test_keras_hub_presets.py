"""Tests presets of KerasHub as encoders: features, tokens, sizes, gradients, blocks and errors."""

import json
import os

import keras
import numpy as np
import pytest
from helpers import keras_hub_presets as presets
from helpers import sentence_checkpoints
from helpers.small_models import random_images
from keras import ops

import tf_mural
from tf_mural import models
from tf_mural.errors import UserError
from tf_mural.models.positions import number_positions
from tf_mural.public_models import keras_hub_presets, open_model

# Families whose blocks are no transformer layers.
CONVOLUTIONAL = ("efficientnet", "efficientnet_lite", "resnet", "mobilenet")
WITH_CLS = ("vit", "deit", "dinov2", "dinov3")
# `make test` tests one family of each kind, the slow tests all families.
FAST = ("efficientnet_lite", "dinov3", "e5", "siglip")
TEXTS = ["a red dog", "A Blue cat!", ""]


def slow_except_fast(families):
    return [
        family if family in FAST else pytest.param(family, marks=pytest.mark.slow)
        for family in families
    ]


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def rebuilt(encoder):
    """Returns the encoder that is built from the config of an encoder, with the same weights."""
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(encoder)))
    result = keras.saving.deserialize_keras_object(config)
    result.set_weights(encoder.get_weights())
    return result


def check_gradients(encoder, inputs):
    """Checks that all trainable variables have a finite gradient."""
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = ops.sum(ops.square(encoder(inputs, training=True)))
    variables = encoder.trainable_variables
    gradients = tape.gradient(loss, [v.value for v in variables])
    missing = [v.path for v, g in zip(variables, gradients, strict=True) if g is None]
    assert not missing
    norms = [float(tf.norm(tf.convert_to_tensor(g))) for g in gradients]
    assert np.isfinite(norms).all() and np.mean(np.array(norms) > 0) > 0.7


def check_blocks(family, encoder):
    if family not in CONVOLUTIONAL:
        assert len(models.remat_blocks(encoder)) == 2
        assert len(models.lr_multipliers_by_block("image", encoder, 0.5)) > 10
        return
    model = tf_mural.DualEncoder(image_encoder=encoder)
    with pytest.raises(UserError, match="has no blocks to recompute") as error:
        _ = model.remat_blocks
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="the order of the layers .* is unknown: .* layer_decay to"):
        models.lr_multipliers_by_block("image", encoder, 0.5)


# --- images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", slow_except_fast(presets.IMAGE_BACKBONES))
def test_each_image_backbone_of_keras_hub_is_an_encoder(family, tmp_path):
    backbone = presets.randomize(presets.IMAGE_BACKBONES[family]())
    scale, offset = [1 / 100, 1 / 120, 1 / 140], [-1.0, -0.9, -0.8]
    folder = presets.save(
        tmp_path / family,
        backbone,
        image_size=(presets.SIZE, presets.SIZE),
        scale=scale,
        offset=offset,
        interpolation="bicubic",
        antialias=True,
    )
    model = open_model(f"keras_hub:{folder}")
    assert model.modalities == ("image",) and model.embedding_dim is None
    assert model.tokenizer is None and dict(model.scalars) == {}
    encoder = model.encoder("image", dim=10)
    assert encoder.preprocessing.method == "bicubic" and encoder.preprocessing.antialias
    assert encoder.preprocessing.keep_aspect_ratio and encoder.image_size == presets.SIZE
    images = random_images(2)
    inputs = images * np.array(scale, "float32") + np.array(offset, "float32")
    inputs = {"dinov2": {"images": inputs}, "dinov3": {"pixel_values": inputs}}.get(family, inputs)
    features = np.asarray(backbone(inputs))
    axes = tuple(range(1, features.ndim - 1))
    own = features[:, 0] if family in WITH_CLS else features.mean(axis=axes)
    kernel, bias = encoder.get_layer("image_projection").get_weights()
    np.testing.assert_allclose(encoder(images), own @ kernel + bias, rtol=1e-3, atol=1e-4)
    average = model.encoder("image", pooling="average")
    np.testing.assert_allclose(average(images), features.mean(axis=axes), rtol=1e-3, atol=1e-4)
    pooled = model.encoder("image", pooling="map", weights=False)
    assert np.asarray(pooled(images)).shape == (2, features.shape[-1])
    np.testing.assert_array_equal(rebuilt(encoder)(images), encoder(images))
    check_gradients(encoder, images)
    check_blocks(family, encoder)


def test_a_preset_without_a_converter_has_the_default_preprocessing(tmp_path):
    model = open_model(f"keras_hub:{presets.save(tmp_path / 'vit', presets.vit())}")
    assert model.preprocessing == tf_mural.data.Preprocessing(presets.SIZE, presets.SIZE)
    model = open_model(f"keras_hub:{presets.save(tmp_path / 'resnet', presets.resnet())}")
    assert model.preprocessing == tf_mural.data.Preprocessing(224, 224)


def test_the_settings_of_a_preset_replace_those_of_the_converter(tmp_path):
    backbone = presets.randomize(presets.efficientnet_lite())
    folder = presets.save(tmp_path / "lite", backbone, image_size=(40, 40), scale=1 / 255)
    stated = tf_mural.data.Preprocessing(34, 32, mean=1.5, padding="end")
    settings = {"preprocessing": stated.to_json(), "pooling": "max"}
    path = os.path.join(folder, keras_hub_presets.SETTINGS)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(settings, file)
    model = open_model(f"keras_hub:{folder}")
    assert model.preprocessing == stated
    encoder = model.encoder("image")
    images = random_images(2)
    models.image_encoder.apply_padding(backbone, "end")
    expected = np.asarray(backbone(images / 127.5 - 1.5)).max(axis=(1, 2))
    np.testing.assert_allclose(encoder(images), expected, rtol=1e-4, atol=1e-4)
    same = rebuilt(encoder)
    np.testing.assert_array_equal(same(images), encoder(images))
    with open(path, "w", encoding="utf-8") as file:
        json.dump({**settings, "pool": "max"}, file)
    with pytest.raises(UserError, match=r"unknown key of tf_mural.json .* 'pool'; .*pooling"):
        open_model(f"keras_hub:{folder}")


@pytest.mark.parametrize(
    "family", slow_except_fast(["vit", "deit", "dinov2", "dinov3", "swin", "resnet"])
)
def test_another_image_size_is_possible(family, tmp_path):
    folder = presets.save(
        tmp_path / family, presets.randomize(presets.IMAGE_BACKBONES[family]()), image_size=(32, 32)
    )
    encoder = open_model(f"keras_hub:{folder}").encoder("image", image_size=48)
    assert encoder.image_size == encoder.preprocessing.crop == encoder.preprocessing.resize == 48
    assert np.isfinite(np.asarray(encoder(random_images(1, size=48)))).all()


# --- texts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", slow_except_fast(presets.TEXT_BACKBONES))
def test_each_text_backbone_of_keras_hub_is_an_encoder(family, tmp_path):
    backbone, tokenizer = presets.TEXT_BACKBONES[family]()
    presets.randomize(backbone)
    folder = presets.save(tmp_path / family, backbone, tokenizer)
    model = open_model(f"keras_hub:{folder}")
    assert model.modalities == ("text",) and model.preprocessing is None
    encoder = model.encoder("text", pooling="mean")
    assert encoder.max_tokens == model.tokenizer.max_tokens == 20
    tokens = np.asarray(model.tokenizer(TEXTS))
    mask = (tokens != model.tokenizer.pad_id).astype("int32")
    inputs = {"token_ids": tokens, "padding_mask": mask, "segment_ids": 0 * tokens}
    hidden = backbone({name: inputs[name] for name in backbone.input})
    hidden = np.asarray(hidden["sequence_output"] if isinstance(hidden, dict) else hidden)
    expected = (hidden * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(encoder(tokens), expected, atol=1e-5)
    cls = model.encoder("text")
    np.testing.assert_allclose(cls(tokens), hidden[:, 0], atol=1e-5)
    np.testing.assert_array_equal(rebuilt(cls)(tokens), cls(tokens))
    check_gradients(encoder, tokens)
    check_blocks(family, encoder)
    assert model.encoder("text", max_tokens=9).tokenizer(TEXTS).shape == (3, 9)
    assert model.encoder("text", max_tokens=30).backbone.max_sequence_length == 30


def test_a_preset_like_e5_has_its_prefix_pooling_and_length(tmp_path):
    backbone, tokenizer = presets.e5()
    folder = presets.save(tmp_path / "e5", backbone, tokenizer)
    settings = {"prefix": "query: ", "pooling": "mean", "max_tokens": 16}
    with open(os.path.join(folder, keras_hub_presets.SETTINGS), "w", encoding="utf-8") as file:
        json.dump(settings, file)
    model = open_model(f"keras_hub:{folder}")
    assert model.tokenizer.prefix == "query: " and model.tokenizer.max_tokens == 16
    plain = open_model(f"keras_hub:{presets.save(tmp_path / 'plain', backbone, tokenizer)}")
    texts = [f"query: {text}" for text in TEXTS]
    np.testing.assert_array_equal(model.tokenizer(TEXTS), plain.tokenizer(texts)[:, :16])
    tokens = model.tokenizer(TEXTS)
    mean = plain.encoder("text", pooling="average", max_tokens=16)
    np.testing.assert_array_equal(model.encoder("text")(tokens), mean(tokens))


def test_the_pooling_of_a_text_embedder_is_used(tmp_path):
    import keras_hub

    backbone, tokenizer = presets.e5()
    folder = presets.save(tmp_path / "e5", presets.randomize(backbone), tokenizer)
    embedder = keras_hub.models.BertTextEmbedder(backbone, pooling_mode="max")
    embedder.save_to_preset(folder)
    model = open_model(f"keras_hub:{folder}")
    tokens = model.tokenizer(TEXTS)
    expected = model.encoder("text", pooling="max")(tokens)
    np.testing.assert_array_equal(model.encoder("text")(tokens), expected)


# --- images and texts -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_towers(tmp_path_factory):
    """Returns {family: (backbone, its preset)}."""
    root, result = tmp_path_factory.mktemp("presets"), {}
    for family, make in presets.TWO_TOWERS.items():
        backbone, tokenizer = make()
        presets.randomize(backbone)
        number_positions(backbone)
        options = dict(image_size=(presets.SIZE, presets.SIZE), scale=1 / 127.5, offset=-1.0)
        result[family] = backbone, presets.save(root / family, backbone, tokenizer, **options)
    return result


@pytest.mark.parametrize("family", slow_except_fast(presets.TWO_TOWERS))
def test_both_halves_equal_those_of_keras_hub(family, two_towers):
    backbone, folder = two_towers[family]
    model = open_model(f"keras_hub:{folder}")
    assert model.modalities == ("image", "text")
    assert model.embedding_dim == (presets.WIDTH if family == "siglip" else 10)
    image, text = model.encoder("image"), model.encoder("text")
    images, tokens = random_images(3), np.asarray(model.tokenizer(TEXTS))
    assert tokens.shape == (3, 12 if family == "siglip" else 14)
    rows = {"image": np.asarray(image(images)), "text": np.asarray(text(tokens))}
    pixels = np.asarray(images / 127.5 - 1, "float32")
    expected = {
        "image": np.asarray(backbone.get_vision_embeddings(ops.convert_to_tensor(pixels))),
        "text": np.asarray(backbone.get_text_embeddings(ops.convert_to_tensor(tokens))),
    }
    for modality, actual in rows.items():
        np.testing.assert_allclose(actual, expected[modality], rtol=1e-4, atol=1e-5)
    logits = unit(rows["text"]) @ unit(rows["image"]).T / model.scalars["temperature"]
    outputs = backbone({"images": pixels, "token_ids": tokens})
    expected = np.asarray(outputs["text_logits"])
    np.testing.assert_allclose(logits + model.scalars.get("bias", 0.0), expected, atol=1e-4)
    assert model.loss == ("sigmoid" if family == "siglip" else "contrastive")


@pytest.mark.slow
@pytest.mark.parametrize("family", presets.TWO_TOWERS)
def test_each_half_is_rebuilt_resized_and_trained(family, two_towers):
    model = open_model(f"keras_hub:{two_towers[family][1]}")
    images, tokens = random_images(2), np.asarray(model.tokenizer(TEXTS))
    for modality, inputs in (("image", images), ("text", tokens)):
        encoder = model.encoder(modality)
        np.testing.assert_array_equal(rebuilt(encoder)(inputs), encoder(inputs))
        features, projection = encoder.split()
        np.testing.assert_array_equal(projection(features(inputs)), encoder(inputs))
        check_gradients(encoder, inputs)
        check_blocks(family, encoder)
        other = model.encoder(modality, dim=7, weights=False)
        assert np.asarray(other(inputs)).shape[1] == 7
    larger = model.encoder("image", image_size=48)
    assert np.asarray(larger(random_images(1, size=48))).shape == (1, model.embedding_dim)
    shorter = model.encoder("text", max_tokens=9)
    assert np.asarray(shorter(shorter.tokenizer(TEXTS))).shape == (3, model.embedding_dim)
    average = model.encoder("text", pooling="average")
    assert np.asarray(average(tokens)).shape[1] == model.embedding_dim


def test_texts_of_a_preset_of_siglip_are_tokenized_as_in_training(two_towers):
    model = open_model(f"keras_hub:{two_towers['siglip'][1]}")
    first, second = np.asarray(model.tokenizer(["A Blue, dog!", "a blue dog"]))
    np.testing.assert_array_equal(first, second)
    assert 1 in first and first[-1] == model.tokenizer.pad_id


@pytest.mark.slow
def test_a_dual_encoder_of_a_preset_is_saved_with_its_tokenizer(two_towers, tmp_path):
    model = open_model(f"keras_hub:{two_towers['metaclip_2'][1]}")
    encoder = tf_mural.DualEncoder(model.encoder("image"), model.encoder("text"))
    texts = sentence_checkpoints.TEXTS
    expected = encoder.embed_texts(texts)
    encoder.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.embed_texts(texts), expected)


# --- precision and errors -------------------------------------------------------------------------


def test_a_preset_gets_the_global_dtype_policy(two_towers):
    model = open_model(f"keras_hub:{two_towers['clip'][1]}")
    with models.keras_patches.dtype_policy_scope("mixed_bfloat16"):
        encoder = model.encoder("image")
    block = models.remat_blocks(encoder)[0]
    assert block.compute_dtype == "bfloat16" and block.variable_dtype == "float32"


def test_a_preset_of_another_class_gives_one_clear_line(tmp_path):
    import keras_hub

    sizes = dict(vocabulary_size=9, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=8)
    folder = presets.save(tmp_path / "whisper", keras_hub.models.WhisperBackbone(**sizes))
    with pytest.raises(UserError, match="has the inputs .*encoder_features") as error:
        open_model(f"keras_hub:{folder}").encoder("text")
    assert "\n" not in str(error.value)


def test_a_missing_or_damaged_preset_gives_one_clear_line(two_towers, tmp_path):
    folder = presets.save(tmp_path / "vit", presets.vit())
    with open(os.path.join(folder, "model.weights.h5"), "wb") as file:
        file.write(b"damaged")
    cases = {
        "no_such_preset": "the preset 'no_such_preset' cannot be loaded",
        str(tmp_path): "cannot be loaded .* has no config.json",
        folder: "cannot be loaded",
    }
    for source, message in cases.items():
        with pytest.raises(UserError, match=message) as error:
            open_model(f"keras_hub:{source}").encoder("image")
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="has no encoder of modality 'text'; it has: image"):
        open_model(f"keras_hub:{folder}").encoder("text")
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        file.write("{")
    with pytest.raises(UserError, match="cannot be loaded"):
        open_model(f"keras_hub:{folder}")
