"""Towers of stored vectors, and the split of towers into features and projection."""

import math

import keras
import numpy as np
import pytest
from helpers import pipeline, trainers

import tf_mural
from tf_mural import experiment
from tf_mural.errors import UserError

VECTORS = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)


def test_a_tower_without_layers_is_the_identity_in_every_precision():
    for policy in ("float32", "mixed_bfloat16"):
        keras.config.set_dtype_policy(policy)
        try:
            encoder = tf_mural.VectorsEncoder(6, vectors="teacher")
        finally:
            keras.config.set_dtype_policy("float32")
        assert not encoder.variables
        np.testing.assert_array_equal(np.asarray(encoder(VECTORS)), VECTORS)


def test_layers_are_those_of_the_equations():
    encoder = tf_mural.VectorsEncoder(6, (7, 4), dropout=0.5)
    first, first_bias, second, second_bias = (np.float64(w) for w in encoder.get_weights())
    hidden = VECTORS @ first + first_bias
    hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    np.testing.assert_allclose(encoder(VECTORS), hidden @ second + second_bias, atol=1e-5)
    in_training = np.asarray(encoder(VECTORS, training=True))
    assert np.abs(in_training - np.asarray(encoder(VECTORS))).max() > 1e-2


def test_a_model_with_a_tower_of_vectors_is_saved(tmp_path):
    teacher = tf_mural.VectorsEncoder(6, (trainers.EMBEDDING_DIM,), vectors="e5")
    model = tf_mural.DualEncoder(
        text_encoder=trainers.make_trainer("etcl").encoder.towers["text"],
        towers={"teacher": teacher},
    )
    assert model.stored.vectors == {"teacher": ("e5", 6)}
    assert model.stored.modalities == {"text": "text", "teacher": "vectors"}
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.stored.vectors == {"teacher": ("e5", 6)}
    np.testing.assert_array_equal(
        loaded.encode("teacher", VECTORS), model.encode("teacher", VECTORS)
    )


@pytest.mark.parametrize("arguments", [(0,), (6, (0,)), (6, (4,), {"dropout": 1.0})])
def test_invalid_sizes_are_refused(arguments):
    *positional, options = arguments if isinstance(arguments[-1], dict) else (*arguments, {})
    with pytest.raises(UserError, match=r"VectorsEncoder\(width=.*expected widths from 1, and a"):
        tf_mural.VectorsEncoder(*positional, **options)


@pytest.mark.parametrize("dim", [16, 24])  # 16 is the width of the features: no projection
def test_the_towers_of_the_paper_are_features_and_projection(dim):
    image = tf_mural.models.image_tower("test", 32, dim, 0.0)
    text = tf_mural.models.text_tower(50, "test", 6, dim, 0.0)
    inputs = {
        image: trainers.make_batch("etcl")["image"]["pixels"],
        text: trainers.make_batch("etcl")["text_a"]["tokens"],
    }
    for tower, batch in inputs.items():
        before = [v.path for v in tower.variables]
        features, projection = tower.split()
        np.testing.assert_array_equal(projection(features(batch)), tower(batch))
        assert [v.path for v in tower.variables] == before
        projected = {id(v) for v in projection.variables}
        assert projected.isdisjoint(id(v) for v in features.variables)
        is_text = tower is text
        assert len(projected) == 2 * (is_text or dim != 16) and features.output.shape == (None, 16)


def test_stored_features_freeze_the_layers_before_the_projection():
    model = trainers.make_trainer("etcl").encoder
    text = model.towers["text"]
    model.use_stored_features({"text": "bert"})
    assert [v.path for v in text.trainable_variables] == [
        "text_projection/kernel",
        "text_projection/bias",
    ]
    assert model.stored.vectors == {"text": ("bert", 16)}
    assert model.stored.modalities == {"image": "image", "text": "vectors"}
    tokens = trainers.make_batch("etcl")["text_a"]["tokens"]
    features = text.split()[0](tokens)
    np.testing.assert_allclose(
        model.encode("text", features, stored=True), model.encode("text", tokens), atol=1e-6
    )
    with pytest.raises(UserError, match="unknown tower 'txt'; known: image, text"):
        model.use_stored_features({"txt": "bert"})
    inputs = keras.Input((6,))
    plain = keras.Model(inputs, keras.layers.Dense(16)(inputs))
    other = tf_mural.DualEncoder(text_encoder=text, towers={"image": plain})
    with pytest.raises(UserError, match=r"tower 'image' \(Functional\) cannot be stored: expected"):
        other.use_stored_features({"image": "x"})


@pytest.fixture
def exportable():
    """An `experiment.Model` with an image tower, a text tower and two towers of vectors."""
    tokenizer = pipeline.make_tokenizer()
    encoder = tf_mural.DualEncoder(
        tf_mural.models.image_tower("test", 32, 24, 0.0),
        tf_mural.models.text_tower(tokenizer.size, "test", tokenizer.max_tokens, 24, 0.0),
        towers={
            "teacher": tf_mural.VectorsEncoder(24, vectors="teacher"),
            "features": tf_mural.VectorsEncoder(6, (24,), vectors="lite0", name="features_tower"),
        },
    )
    encoder.tokenizer = tokenizer
    parts = tokenizer, encoder.preprocessing
    embed = experiment.batch_embedder(encoder, *parts, 4)
    return experiment.Model(encoder, parts[0], embed, parts[1])


def test_a_preset_contains_towers_of_vectors(exportable, tmp_path):
    model = exportable.encoder
    model.save_to_preset(str(tmp_path / "preset"))
    loaded = tf_mural.DualEncoder.from_preset(str(tmp_path / "preset"))
    assert loaded.stored.vectors == {"teacher": ("teacher", 24), "features": ("lite0", 6)}
    for name, width in (("teacher", 24), ("features", 6)):
        vectors = np.random.default_rng(0).normal(size=(3, width)).astype(np.float32)
        np.testing.assert_array_equal(loaded.encode(name, vectors), model.encode(name, vectors))


@pytest.mark.slow
def test_towers_of_vectors_are_exported(exportable, tmp_path):
    from tf_mural import export

    differences = export.export_saved_model(str(tmp_path / "saved"), exportable)
    assert {"embed_vectors", "embed_vectors_features"} <= set(differences)
    assert max(differences.values()) < 1e-5
    pytest.importorskip("tf2onnx", reason="pip install -r requirements-export.txt")
    differences = export.export_onnx(str(tmp_path / "onnx"), exportable)
    assert {"teacher", "features"} <= set(differences) and max(differences.values()) < 1e-4
