"""Tests which values are computed in half precision, and how close they are to float32."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import trainers

from configs import etcl
from tf_mural import experiment, models
from tf_mural.data.tokenizers import Tokenizer
from tf_mural.errors import UserError
from tf_mural.experiment import model_io

HALF_DTYPES = {"mixed_bfloat16": "bfloat16", "mixed_float16": "float16"}


def trainer_and_batch(precision=None, **options):
    batch = trainers.to_tensors(trainers.make_batch("etcl"))
    return trainers.make_trainer("etcl", precision=precision, **options), batch


def compute_gradients(trainer, batch):
    """Returns {path: gradient as a float64 array}, and the logs."""
    gradients, logs = trainer.core.compute_gradients(batch)
    gradients = trainers.gradients_by_path(trainer, gradients)
    return {path: g.astype(np.float64) for path, g in gradients.items()}, logs


@pytest.fixture(scope="module")
def float32():
    """Returns gradients, loss and moving averages of a step in float32."""
    trainer, batch = trainer_and_batch("float32")
    gradients, logs = compute_gradients(trainer, batch)
    return gradients, float(logs["loss"]), trainers.moving_averages(trainer)


@pytest.fixture(scope="module", params=HALF_DTYPES)
def half(request):
    """Returns (precision, trainer, batch).

    With mixed_float16, the trainer has a loss scale at which all gradients are finite.
    """
    scale = 2.0**10 if request.param == "mixed_float16" else None
    return request.param, *trainer_and_batch(request.param, loss_scale=scale)


def cosine(a, b):
    return (a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b))


def test_gradients_and_averages_are_close_to_those_of_float32(float32, half):
    precision, trainer, batch = half
    expected, loss, averages = float32
    actual, logs = compute_gradients(trainer, batch)
    vectors = [np.concatenate([x[k].ravel() for k in expected]) for x in (expected, actual)]
    assert np.linalg.norm(vectors[1]) == pytest.approx(np.linalg.norm(vectors[0]), rel=1e-2)
    # The measured cosine between the gradient and the float32 gradient is 0.99974 (bfloat16) or
    # 0.999998 (float16). The moving averages differ from those of float32 by 0.3 % (bfloat16) or
    # 0.05 % (float16).
    assert cosine(*vectors) > {"mixed_bfloat16": 0.999, "mixed_float16": 0.99999}[precision]
    floor = np.sqrt(sum((x**2).sum() for x in expected.values()) / len(expected))
    limit = {"mixed_bfloat16": 0.98, "mixed_float16": 0.999}[precision]
    for path, value in expected.items():
        if np.linalg.norm(value) > 1e-2 * floor:
            assert cosine(value, actual[path]) > limit, path
    assert float(logs["loss"]) == pytest.approx(loss, rel=1e-2)
    for path, value in trainers.moving_averages(trainer).items():
        error = np.linalg.norm(value - averages[path]) / np.linalg.norm(averages[path])
        assert error < 1e-2, path


def test_a_temperature_that_no_term_uses_gets_a_finite_gradient():
    options = {"loss_scale": 2.0**10, "scalars": {"temperature": {"shared": 0.2, "other": 0.1}}}
    trainer, batch = trainer_and_batch("mixed_float16", **options)
    logs = trainer.train_step(batch)
    assert np.isfinite(logs["loss"]) and float(logs["skipped_steps"]) == 0
    # The unused temperature has no gradient. Weight decay reduces the temperature by 1 %.
    assert float(trainer.encoder.scalars["temperature"]["other"]) == pytest.approx(0.1, rel=0.02)


def test_towers_compute_in_half_precision_and_everything_else_is_float32(half):
    precision, trainer, batch = half
    core, encoder, outputs = trainer.core, trainer.encoder, {}
    for block in encoder.remat_blocks:
        plain_call = block.call

        def call(*args, _plain_call=plain_call, _name=block.name, **kwargs):
            outputs[_name] = _plain_call(*args, **kwargs)
            return outputs[_name]

        block.call = call
    embeddings = core.encode(batch)
    for block in encoder.remat_blocks:
        block.call = type(block).call.__get__(block)
    assert len(outputs) == 3
    assert {x.dtype.name for x in outputs.values()} == {HALF_DTYPES[precision]}
    assert {x.dtype.name for x in embeddings.values()} == {"float32"}
    gradients, logs = core.compute_gradients(batch)
    assert {x.dtype.name for x in (*gradients, *logs.values())} == {"float32"}
    variables = [v for v in encoder.variables if "seed_generator" not in v.path]
    slots = [v for v in trainer.optimizer.variables if "iteration" not in v.path]
    assert len(slots) > 2 * len(encoder.trainable_variables)
    assert {str(v.dtype) for v in [*variables, *slots]} == {"float32"}
    assert any("temperature" in v.path for v in variables)
    assert any("/moving_" in v.path for v in variables)


def test_the_global_dtype_policy_is_restored(half):
    assert keras.config.dtype_policy().name == "float32"
    assert keras.layers.Dense(2).compute_dtype == "float32"
    with pytest.raises(UserError, match="unknown EfficientNet"):
        models.dual_encoder(dict(backbone="b9"), {}, 16, precision="mixed_bfloat16")
    assert keras.config.dtype_policy().name == "float32"


def test_the_gradients_of_embedding_tables_are_summed_in_float32(half):
    # In half precision, the sum of 20,001 ones would be 19,968 (bfloat16) or 8,192 (float16).
    layers = {x.name: x for x in half[1].encoder.towers["text"]._flatten_layers()}
    position, token = layers["position_embedding"], layers["token_embedding"]
    with tf.GradientTape(persistent=True) as tape:
        positions = tf.reduce_sum(tf.cast(position(tf.ones((20_001, 6, 16))), tf.float32))
        tokens = tf.reduce_sum(tf.cast(token(tf.ones((1, 20_001), tf.int32)), tf.float32))
    for total, table in ((positions, position.position_embeddings), (tokens, token.embeddings)):
        gradient = tf.convert_to_tensor(tape.gradient(total, table))
        np.testing.assert_array_equal(gradient[1], np.full(16, 20_001.0))


def test_pixels_are_scaled_before_they_are_rounded(half):
    tower = half[1].encoder.towers["image"]
    scaled = tower.get_layer("rescale")(tf.constant([[[0], [128], [255]]], tf.uint8))
    np.testing.assert_allclose(tf.squeeze(scaled), [-1, 1 / 255, 1], atol=1e-6)


def test_the_loss_scale_preserves_gradients_that_would_underflow_in_float16(float32):
    similarities = []
    for scale in (None, 2.0**15):
        trainer, batch = trainer_and_batch("mixed_float16", loss_scale=scale)
        for term in trainer.core.terms:
            object.__setattr__(term, "weight", 1e-6 * term.weight)
        gradients, _ = compute_gradients(trainer, batch)
        block = {path: g for path, g in gradients.items() if path.startswith("block1a")}
        similarities.append(
            [cosine(float32[0][path], g) if g.any() else 0.0 for path, g in block.items()]
        )
    assert min(similarities[1]) > 0.99 and min(similarities[0]) < 0.9, similarities


# --- configs --------------------------------------------------------------------------------------


def test_the_precision_is_stored_with_the_model():
    config = etcl.get_config("tiny")
    tokenizer = Tokenizer(experiment.find_vocabulary("scenes", ""), 32)
    assert experiment.describe(config, tokenizer)["precision"] == "float32"
    config.precision = "mixed_bfloat16"
    description = experiment.describe(config, tokenizer)
    assert experiment.model_arguments(description)["precision"] == "mixed_bfloat16"
    del description["precision"]  # models of earlier versions do not store their precision
    assert model_io.upgrade_description(description)["precision"] == "float32"


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("precision", "bfloat16", "unknown precision 'bfloat16'; .* did you mean 'mixed_bfloat16'"),
        ("on_bad_step", "skp", "unknown on_bad_step 'skp'; known: .*did you mean 'skip'"),
        ("max_gradient_norm", -1.0, "max_gradient_norm is -1.0, expected a number above 0 or none"),
        ("max_consecutive_skips", 0, "max_consecutive_skips is 0, expected a number from 1"),
    ],
)
def test_invalid_settings_of_the_step_are_refused(name, value, message):
    config = etcl.get_config("tiny")
    config[name] = value
    with pytest.raises(UserError, match=message):
        experiment.check_config(config, 1)
