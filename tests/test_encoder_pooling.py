"""Tests the poolings of encoders, the split into features and projection, and positions."""

import keras
import keras_hub
import numpy as np
import pytest
from helpers import encoders
from helpers.small_models import random_images
from keras_hub.src.models.siglip.siglip_layers import SigLIPMultiHeadAttentionPooling

import tf_mural
from tf_mural import models
from tf_mural.data import Tokenizer
from tf_mural.errors import UserError
from tf_mural.experiment import extractor
from tf_mural.models import positions

TOKENS = np.array([[2, 5, 6, 3, 0, 0], [2, 7, 3, 0, 0, 0], [0] * 6], "int32")
END = 3


def causal_text_encoder():
    return keras_hub.models.CLIPTextEncoder(
        vocabulary_size=len(encoders.PIECES),
        embedding_dim=8,
        hidden_dim=8,
        num_layers=2,
        num_heads=2,
        intermediate_dim=12,
        max_sequence_length=10,
    )


def clip_vision_encoder(size=32):
    return keras_hub.models.CLIPVisionEncoder(
        patch_size=8,
        hidden_dim=16,
        num_layers=1,
        num_heads=2,
        intermediate_dim=12,
        image_shape=(size, size, 3),
    )


def test_last_and_eos_take_the_states_of_the_last_and_of_the_end_token():
    backbone = causal_text_encoder()
    hidden = np.asarray(backbone({"token_ids": TOKENS}))
    last = tf_mural.TextEncoder(backbone, dim=None, pooling="last")
    np.testing.assert_allclose(last(TOKENS), hidden[[0, 1, 2], [3, 2, 0]], atol=1e-6)
    # The end token and the padding may be the same token; the first one is the end.
    padded = np.where(TOKENS == 0, END, TOKENS)
    eos = tf_mural.TextEncoder(backbone, dim=None, pooling="eos", end_id=END, pad_id=END)
    expected = np.asarray(backbone({"token_ids": padded}))[[0, 1, 2], [3, 2, 0]]
    np.testing.assert_allclose(eos(padded), expected, atol=1e-6)
    # Rows of another length give the same embeddings, because the attention is causal.
    assert eos.ignores_padding and last.ignores_padding
    np.testing.assert_allclose(eos(padded[:2, :4]), expected[:2], atol=1e-6)
    tokenizer = Tokenizer(encoders.PIECES, 8)
    assert tf_mural.TextEncoder(backbone, tokenizer, pooling="eos").get_config()["end_id"] == END


def test_the_mean_is_a_synonym_of_the_average_of_texts():
    backbone = encoders.bert()
    mean, average = (
        tf_mural.TextEncoder(backbone, dim=None, pooling=name) for name in ("mean", "average")
    )
    np.testing.assert_array_equal(mean(TOKENS), average(TOKENS))


def test_fingerprints_depend_on_the_pooling():
    """Without the pooling, an index or stored features could be used with another model."""
    models_, features = {}, {}
    image, text = encoders.vit(), encoders.bert()
    tokenizer = Tokenizer(encoders.PIECES, 8)
    for pooling in ("auto", "cls", "average", "max"):
        model = models_[pooling] = tf_mural.DualEncoder(
            tf_mural.ImageEncoder(image, dim=None, pooling=pooling),
            tf_mural.TextEncoder(text, tokenizer, dim=None, pooling=pooling),
        )
        for of in ("images", "texts"):
            made = extractor.make_extractor(model.embedder(), "m", "x", of, features=True)
            features[of, pooling] = made.description["model"]["fingerprint"]
    prints = {pooling: model.embedder().fingerprint for pooling, model in models_.items()}
    assert prints["auto"] == prints["cls"] and len(set(prints.values())) == 3
    assert len({features["images", pooling] for pooling in prints}) == 3
    assert len({features["texts", pooling] for pooling in prints}) == 3
    mean = tf_mural.TextEncoder(text, tokenizer, dim=None, pooling="mean")
    assert mean.pooling == "average" == models_["average"].towers["text"].pooling


def test_attention_pooling_equals_that_of_keras_hub_and_ignores_padding():
    x = np.random.default_rng(0).normal(size=(3, 5, 8)).astype("float32")
    ours = models.AttentionPooling(num_heads=2, hidden_dim=12)
    reference = SigLIPMultiHeadAttentionPooling(8, 12, 2, "gelu")
    ours(x), reference(x)
    encoders.randomize(keras.Sequential([reference]))
    pairs = (
        (ours.attention, reference.attention),
        (ours.norm, reference.layer_norm),
        (ours.hidden, reference.mlp.fc1),
        (ours.output_dense, reference.mlp.fc2),
    )
    ours.probe.assign(reference.probe)
    for layer, source in pairs:
        layer.set_weights(source.get_weights())
    np.testing.assert_allclose(ours(x), reference(x), atol=1e-5)
    attended = np.array([[1, 1, 1, 0, 0]] * 3)
    np.testing.assert_allclose(ours(x, attended), ours(x[:, :3]), atol=1e-5)


@pytest.mark.parametrize("backbone", [encoders.vit, encoders.efficientnet_of_keras_hub])
def test_images_are_pooled_with_attention(backbone):
    encoder = tf_mural.ImageEncoder(backbone(), dim=5, image_size=encoders.SIZE, pooling="map")
    images = random_images(2)
    embeddings = np.asarray(encoder(images))
    assert embeddings.shape == (2, 5)
    config = keras.saving.serialize_keras_object(encoder)
    copy = keras.saving.deserialize_keras_object(config)
    copy.set_weights(encoder.get_weights())
    np.testing.assert_array_equal(copy(images), embeddings)
    assert any("attention_pooling/probe" in v.path for v in encoder.trainable_variables)


@pytest.mark.parametrize("pooling", ["map", "last", "eos"])
def test_texts_are_pooled_alike_with_more_padding(pooling):
    encoder = tf_mural.TextEncoder(encoders.bert(), dim=5, pooling=pooling, end_id=END)
    longer = np.pad(TOKENS[:2], ((0, 0), (0, 3)))
    np.testing.assert_allclose(encoder(longer), encoder(TOKENS[:2]), atol=1e-5)


def test_split_gives_the_features_and_the_projection_with_shared_layers():
    images = random_images(2)
    options = dict(pooling="cls", pooled_norm=1e-5, projection_bias=False)
    encoder = tf_mural.ImageEncoder(encoders.vit(), dim=5, **options)
    features, projection = encoder.split()
    rows = np.asarray(features(images))
    assert rows.shape == (2, 12)
    np.testing.assert_allclose(rows.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_array_equal(projection(rows), encoder(images))
    kernel = encoder.get_layer("image_projection").kernel
    assert len(projection.variables) == 1 and projection.variables[0] is kernel
    np.testing.assert_allclose(projection(rows), rows @ np.asarray(kernel), atol=1e-5)
    same_width = tf_mural.ImageEncoder(encoders.vit(), dim=12, projection=True)
    assert len(same_width.split()[1].variables) == 2
    identity = tf_mural.TextEncoder(encoders.bert(), dim=None)
    features, projection = identity.split()
    np.testing.assert_array_equal(projection(features(TOKENS)), identity(TOKENS))
    assert not projection.variables


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "eos"}, "the token at the end of texts is unknown: set end_id, or a token"),
        ({"pooling": "first"}, "unknown pooling 'first'; known: .*last, eos"),
        ({"dim": 5, "projection": False}, "dim is 5 and projection is False, but .* 12 values"),
    ],
)
def test_arguments_of_a_text_encoder_that_contradict_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        tf_mural.TextEncoder(encoders.bert(), **options)


def test_images_have_no_last_token():
    with pytest.raises(UserError, match="unknown pooling 'last'; known: average, max, cls, map"):
        tf_mural.ImageEncoder(encoders.vit(), pooling="last")


def test_the_patches_of_a_new_clip_have_different_positions():
    backbone = clip_vision_encoder()
    assert not np.asarray(backbone.embedding.position_ids).any()
    encoder = tf_mural.ImageEncoder(backbone, dim=None, pooling="cls")
    np.testing.assert_array_equal(backbone.embedding.position_ids, [np.arange(17)])
    larger = models.resize_backbone(encoder.backbone, image_size=48)
    np.testing.assert_array_equal(larger.embedding.position_ids, [np.arange(37)])


def test_cubic_interpolation_keeps_constants_and_the_size_of_the_table():
    table = np.random.default_rng(0).normal(size=(1 + 16, 3)).astype("float32")
    same = positions.interpolate_image_positions(table, 4, num_prefix=1)
    np.testing.assert_allclose(same, table, atol=1e-6)
    constant = positions.interpolate_image_positions(np.ones((9, 2)), 5)
    np.testing.assert_allclose(constant, np.ones((25, 2)))
    with pytest.raises(UserError, match="10 positions of patches, which is not a square number"):
        positions.interpolate_image_positions(np.ones((10, 2)), 4)


def test_longer_texts_get_linear_positions_behind_the_reserved_rows():
    table = np.array([[7.0], [8.0], [0.0], [1.0], [4.0]])
    longer = positions.interpolate_text_positions(table, 5, num_prefix=2)
    np.testing.assert_allclose(longer[:, 0], [7, 8, 0, 0.5, 1, 2.5, 4])
    shorter = positions.interpolate_text_positions(table, 2, num_prefix=2)
    np.testing.assert_allclose(shorter[:, 0], [7, 8, 0, 1])
