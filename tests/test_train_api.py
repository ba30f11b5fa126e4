"""Tests `tf_mural.train` and `tf_mural.evaluate`, and errors that contain names of arguments."""

import json

import numpy as np
import pytest
from conftest import SMALL_RUN
from helpers import keras_trainers

import tf_mural
from tf_mural.cli.error_lines import with_flags
from tf_mural.errors import UserError
from tf_mural.experiment import config_loading, evaluate, train
from tf_mural.nonfinite import BadStepPolicy
from tf_mural.training.checkpoints.model_files import read_weights


def overrides_of(flags):
    """Returns the argument `overrides` for flags "--config.name=value"."""
    config = config_loading.load_config("mural", "tiny")
    names = [f.removeprefix("--config.").partition("=") for f in flags if "--config." in f]
    config_loading.apply_overrides(config, [f"--config.{n}={v}" for n, _, v in names])
    values = {}
    for name, _, _ in names:
        value = config
        for part in name.split("."):
            value = value[part]
        values[name] = value
    return values


@pytest.mark.slow
def test_train_does_what_the_command_does(finished, data_dir, tmp_path):
    workdir, _ = finished
    results = tf_mural.train(
        "mural",
        tmp_path / "run",
        data_dir=data_dir,
        strategy="one",
        overrides=overrides_of(SMALL_RUN),
    )
    expected = json.loads((workdir / "results.json").read_text())
    assert (
        results["evaluation"]["retrieval"]["values"]
        == expected["evaluation"]["retrieval"]["values"]
    )
    assert results["data"] and results["steps"] == 6
    arrays, expected_arrays = read_weights(tmp_path / "run"), read_weights(workdir)
    assert arrays.keys() == expected_arrays.keys()
    for name, value in expected_arrays.items():
        np.testing.assert_array_equal(arrays[name], value, err_msg=name)
    # A second call returns the results of the finished run.
    again = tf_mural.train(
        "mural", tmp_path / "run", data_dir=data_dir, overrides=overrides_of(SMALL_RUN)
    )
    assert again == json.loads((tmp_path / "run" / "results.json").read_text())


@pytest.mark.slow
def test_evaluate_returns_the_result_of_the_run(finished, data_dir, tmp_path):
    workdir, _ = finished
    options = {"records": "scenes/test", "data_dir": data_dir, "languages": ["en", "de", "ko"]}
    out = tmp_path / "result.json"
    result = tf_mural.evaluate(workdir, "retrieval", out=out, **options)
    expected = json.loads((workdir / "results.json").read_text())["evaluation"]["retrieval"]
    assert result.values == expected["values"]
    written = json.loads(out.read_text())
    assert written["values"] == result.values and written["weights_hash"]
    embedder = tf_mural.Embedder.load(workdir)
    assert tf_mural.evaluate(embedder, "retrieval", **options).values == result.values
    results = tf_mural.evaluate(
        workdir, "retrieval", records=["scenes/test", "scenes/train"], data_dir=data_dir
    )
    assert set(results) == {"retrieval scenes/test", "retrieval scenes/train"}


def test_configs_are_found_by_name_path_and_object():
    assert train._find_config("etcl", "mural") == ("etcl", None)
    assert train._find_config("configs/etcl.py", "mural") == ("etcl", None)
    stage, path = train._find_config("configs/examples/own.py", "mural")
    assert stage == "mural" and path.endswith("configs/examples/own.py")
    with pytest.raises(UserError, match="config is 'etlc', expected a stage .align, .* or an"):
        tf_mural.train("etlc")
    config = config_loading.load_config("etcl", "tiny")
    config.model.embedding_dim = 32
    load = train._dict_loader(config, ["--config.steps=7"], seed=5)
    etcl, mural = load("etcl"), load("mural")
    assert (etcl.steps, etcl.seed, mural.seed) == (7, 5, 5) and mural.steps != 7
    assert mural.model.embedding_dim == 32 and mural.stage == "mural"
    assert config.steps != 7 and config.seed != 5  # The given config is not changed.


def test_errors_of_train_and_evaluate_name_arguments(tmp_path):
    with pytest.raises(UserError, match="`config.optimizer.learning_rat`: the config has no"):
        tf_mural.train("etcl", tmp_path, overrides={"optimizer.learning_rat": 1.0})
    with pytest.raises(UserError) as error:
        tf_mural.train("etcl", tmp_path, size="b3_mini", strategy="one")
    assert "give `init`, the workdir of a finished mural run" in str(error.value)
    assert "--" not in str(error.value)
    with pytest.raises(UserError, match="unknown task 'retrival'; .*did you mean 'retrieval'"):
        tf_mural.evaluate(tmp_path, "retrival")
    with pytest.raises(UserError, match="model is a int, expected a path"):
        evaluate._open_model(3)
    with pytest.raises(UserError, match="the first text tower of the model has no tokenizer"):
        evaluate._open_model(keras_trainers.make_model())


def test_user_errors_are_value_errors():
    assert issubclass(UserError, ValueError)
    with pytest.raises(ValueError, match="unknown loss"):
        tf_mural.Term("t", "x", "y", 1.0, loss="contrastve")


def test_the_commands_translate_arguments_into_flags():
    with pytest.raises(UserError) as error:
        BadStepPolicy().check_logs(3, {"loss": float("nan"), "gradient_norm": 1.0})
    assert "--" not in str(error.value)
    assert with_flags(str(error.value)).endswith(
        "Try a smaller --config.optimizer.learning_rate or --config.optimizer.global_clipnorm=1.0, "
        "with --allow_config_changes to continue from that checkpoint, or skip such steps with "
        "--config.on_bad_step=skip"
    )


def test_a_registered_loss_is_used_by_terms_and_cannot_replace_another(monkeypatch):
    losses = tf_mural.losses
    monkeypatch.setattr(losses, "LOSSES", dict(losses.LOSSES))

    def difference(local, candidates, offset, ignore=None):
        return local[0][:, 0] - local[1][:, 0]

    loss = losses.Loss(difference, needs_candidates=False)
    assert losses.register("difference", loss) is loss
    assert tf_mural.Term("t", "x", "y", 1.0, loss="difference").options == {}
    losses.register("difference", losses.Loss(difference, needs_candidates=True))
    with pytest.raises(UserError, match="'contrastive' belongs to the loss tf_mural.losses.contra"):
        losses.register("contrastive", loss)
    with pytest.raises(UserError, match="unknown kind of learned scalar .* 'slope'"):
        losses.register("other", losses.Loss(difference, scalars=("slope",)))
