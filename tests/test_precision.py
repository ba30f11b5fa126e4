"""Half precision: what is computed in it, and how far its gradients are from those of float32."""

import copy

import keras
import numpy as np
import pytest
import replicas
import tensorflow as tf

from configs import etcl, finetune
from tf_mural import experiment, models
from tf_mural.data.tokenizers import Tokenizer
from tf_mural.errors import UserError
from tf_mural.experiment.config_validation import find_vocabulary
from tf_mural.training import checkpoints

HALVES = {"mixed_bfloat16": "bfloat16", "mixed_float16": "float16"}


def trainer_of(precision=None, **options):
    trainer, kinds = replicas.trainer_of("etcl", precision=precision, **options)
    return trainer, tf.nest.map_structure(tf.constant, replicas.global_batch(kinds))


def gradients(trainer, batch):
    """{path: float64 array}, and the logs."""
    found, logs = trainer.gradients(batch)
    paths = [v.path for v in trainer.encoder.trainable_variables]
    arrays = [np.asarray(g, np.float64) for g in found]
    return dict(zip(paths, arrays, strict=True)), logs


@pytest.fixture(scope="module")
def float32():
    trainer, batch = trainer_of("float32")
    found, logs = gradients(trainer, batch)
    return found, float(logs["loss"]), {v.path: v.numpy() for v in trainer.moving_averages}


@pytest.fixture(scope="module", params=HALVES)
def half(request):
    """(name, trainer, batch) of a precision; float16 with a scale that its gradients bear."""
    scale = 2.0**10 if request.param == "mixed_float16" else None
    return request.param, *trainer_of(request.param, loss_scale=scale)


def cosine(a, b):
    return (a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b))


def test_gradients_and_averages_are_close_to_those_of_float32(float32, half):
    name, trainer, batch = half
    expected, loss, averages = float32
    found, logs = gradients(trainer, batch)
    everything = [np.concatenate([x[k].ravel() for k in expected]) for x in (expected, found)]
    assert np.linalg.norm(everything[1]) == pytest.approx(np.linalg.norm(everything[0]), rel=1e-2)
    # Found: 0.99974 and 0.999998; averages 0.3 % and 0.05 % apart.
    assert cosine(*everything) > {"mixed_bfloat16": 0.999, "mixed_float16": 0.99999}[name]
    floor = np.sqrt(sum((x**2).sum() for x in expected.values()) / len(expected))
    far = {"mixed_bfloat16": 0.98, "mixed_float16": 0.999}[name]
    for path, value in expected.items():
        if np.linalg.norm(value) > 1e-2 * floor:
            assert cosine(value, found[path]) > far, path
    assert float(logs["loss"]) == pytest.approx(loss, rel=1e-2)
    for v in trainer.moving_averages:
        error = np.linalg.norm(v.numpy() - averages[v.path]) / np.linalg.norm(averages[v.path])
        assert error < 1e-2, v.path


def test_a_temperature_that_no_term_uses_is_no_harm():
    trainer, batch = trainer_of("mixed_float16", loss_scale=2.0**10, unused=("other",))
    logs = trainer.train_step(batch)
    assert np.isfinite(logs["loss"]) and float(logs["skipped_steps"]) == 0
    assert float(trainer.encoder.temperatures["other"]) == pytest.approx(0.1, rel=0.02)  # it decays


def test_towers_compute_in_half_and_what_is_kept_is_float32(half):
    name, trainer, batch = half
    computed = {}
    for block in trainer.encoder.remat_blocks:
        plain = block.call

        def call(*args, _plain=plain, _name=block.name, **kwargs):
            computed[_name] = _plain(*args, **kwargs)
            return computed[_name]

        block.call = call
    embeddings = trainer.encode(batch)
    for block in trainer.encoder.remat_blocks:
        block.call = type(block).call.__get__(block)
    assert len(computed) == 3
    assert {x.dtype.name for x in computed.values()} == {HALVES[name]}
    assert {x.dtype.name for x in embeddings.values()} == {"float32"}
    found, logs = trainer.gradients(batch)
    assert {g.dtype.name for g in found} == {x.dtype.name for x in logs.values()} == {"float32"}
    kept = [v for v in trainer.encoder.variables if "seed_generator" not in v.path]
    slots = [v for v in trainer.optimizer.variables if "iteration" not in v.path]
    assert len(slots) > 2 * len(trainer.encoder.trainable_variables)
    assert {str(v.dtype) for v in [*kept, *slots]} == {"float32"}
    assert any("temperature" in v.path for v in kept) and any("/moving_" in v.path for v in kept)


def test_no_policy_is_left_behind(half):
    assert keras.config.dtype_policy().name == "float32"
    assert keras.layers.Dense(2).compute_dtype == "float32"
    with pytest.raises(UserError, match="unknown EfficientNet"):
        models.dual_encoder(dict(name="b9"), {}, 16, precision="mixed_bfloat16")
    assert keras.config.dtype_policy().name == "float32"


def test_tables_get_the_gradient_of_all_rows_of_a_batch(half):
    # Added up in half precision, 20,001 ones are 19,968 in bfloat16, and 8,192 in float16.
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


def test_the_scale_keeps_gradients_that_float16_would_lose(float32):
    norms = []
    for scale in (None, 2.0**15):
        trainer, batch = trainer_of("mixed_float16", loss_scale=scale)
        for term in trainer.terms:
            object.__setattr__(term, "weight", 1e-6 * term.weight)
        found, _ = gradients(trainer, batch)
        tower = {k: v for k, v in found.items() if k.startswith("block1a")}
        norms.append([cosine(float32[0][k], v) if v.any() else 0.0 for k, v in tower.items()])
    assert min(norms[1]) > 0.99 and min(norms[0]) < 0.9, norms


# --- configs --------------------------------------------------------------------------------------


def test_the_precision_travels_with_the_model():
    config = etcl.get_config("tiny")
    tokenizer = Tokenizer(find_vocabulary("scenes", ""), 32)
    assert experiment.describe(config, tokenizer)["precision"] == "float32"
    config.precision = "mixed_bfloat16"
    description = experiment.describe(config, tokenizer)
    assert experiment.model_arguments(description)["precision"] == "mixed_bfloat16"
    del description["precision"]  # a model of before
    assert experiment.model_arguments(description)["precision"] == "float32"


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("precision", "bfloat16", "unknown precision 'bfloat16'; .* did you mean 'mixed_bfloat16'"),
        ("on_bad_step", "skp", "unknown on_bad_step 'skp'; known: .*did you mean 'skip'"),
        ("max_gradient_norm", -1.0, "max_gradient_norm is -1.0, expected a norm, or 0"),
        ("max_skipped_in_a_row", 0, "max_skipped_in_a_row is 0, expected a number of steps from 1"),
    ],
)
def test_a_switch_that_cannot_be(name, value, message):
    config = etcl.get_config("tiny")
    config[name] = value
    with pytest.raises(UserError, match=message):
        experiment.check(config, 1)


def test_an_older_run_was_float32_and_goes_on_with_another_guard(tmp_path):
    folder, older = str(tmp_path), {"steps": 3}
    checkpoints.write_json(str(tmp_path / "config.json"), older)
    new = {**older, "precision": "float32", "on_bad_step": "skip", "max_skipped_in_a_row": 5}
    assert checkpoints.check_same_config(folder, new)
    with pytest.raises(UserError, match="precision is 'float32' there and 'mixed_float16' now"):
        checkpoints.check_same_config(folder, {**new, "precision": "mixed_float16"})


def test_an_older_run_of_defaults_is_one_of_today_s_defaults(tmp_path):
    """What came later: config.json of the first runs lacks it."""
    folder, config = str(tmp_path), finetune.get_config("tiny").to_dict()
    older = copy.deepcopy(config)
    for part, *names in (
        (older, "precision", "interpolate", "stop_early", "rematerialise", "on_bad_step"),
        (older["optimizer"], "layer_decay", "average"),
        (older["model"]["image"], "padding"),
        (older["model"]["text"], "activation"),
    ):
        for name in names:
            del part[name]
    checkpoints.write_json(str(tmp_path / "config.json"), older)
    assert checkpoints.check_same_config(folder, config)


def test_what_a_run_started_from_is_kept_and_another_start_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, said = str(tmp_path), []
    assert checkpoints.resolve_init(folder, "runs/a") == "runs/a"  # there is no run yet
    checkpoints.write_json("config.json", {"steps": 3})  # one that is too old to say
    assert checkpoints.resolve_init(folder, "runs/a") == "runs/a"
    for theirs in ("runs/a", "hf:a/b", None):
        checkpoints.write_json("config.json", {"steps": 3, "init": theirs})
        assert checkpoints.resolve_init(folder, None) == theirs
        with pytest.raises(UserError, match=f"has started from {theirs or 'nothing'}, not from x"):
            checkpoints.resolve_init(folder, "x")
        assert checkpoints.resolve_init(folder, "x", said.append) == "x"
        assert checkpoints.check_same_config(folder, {"steps": 3})
    assert said[0] == "--init is 'x' from here on, it was 'runs/a'"
    checkpoints.write_json("config.json", {"init": "runs/a"})
    assert checkpoints.resolve_init(folder, str(tmp_path / "runs" / "a")) == "runs/a"


def test_settings_that_change_no_weights_are_free_and_others_are_to_be_accepted(tmp_path):
    folder, config = str(tmp_path), etcl.get_config("tiny").to_dict()
    checkpoints.write_json(str(tmp_path / "config.json"), config)
    free = {"profile_steps": (1, 2), "evaluate_first": True, "stop_early": 2, "loss_chunk": 8}
    assert checkpoints.check_same_config(folder, {**config, **free})
    other = {**config, "optimizer": {**config["optimizer"], "learning_rate": 1e-5}}
    with pytest.raises(UserError, match="optimizer.learning_rate is .* there and 1e-05 now"):
        checkpoints.check_same_config(folder, other)
    said, before = [], config["optimizer"]["learning_rate"]
    assert checkpoints.check_same_config(folder, other, said.append)
    assert said == [f"optimizer.learning_rate is 1e-05 from here on, it was {before}"]
    assert not checkpoints.check_same_config(str(tmp_path / "none"), other, said.append)
