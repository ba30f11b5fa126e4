"""Tests which settings of a config may change when a run is restarted."""

import copy

import pytest

from configs import etcl, finetune
from tf_mural.errors import UserError
from tf_mural.experiment.initialization import set_padding
from tf_mural.training import checkpoints


def test_an_older_run_was_float32_and_its_bad_step_policy_may_change(tmp_path):
    folder, older = str(tmp_path), {"steps": 3}
    checkpoints.write_json(str(tmp_path / "config.json"), older)
    new = {**older, "precision": "float32", "on_bad_step": "skip", "max_consecutive_skips": 5}
    assert checkpoints.check_same_config(folder, new)
    with pytest.raises(UserError, match="precision is 'float32' there and 'mixed_float16' now"):
        checkpoints.check_same_config(folder, {**new, "precision": "mixed_float16"})


def test_an_older_run_equals_one_with_the_defaults_of_later_settings(tmp_path):
    folder, config = str(tmp_path), finetune.get_config("tiny")
    set_padding(config)  # as at the start of each run
    config = config.to_dict()
    older = copy.deepcopy(config)
    for part, *names in (
        (older, "precision", "wise_ft_alpha", "stop_early", "remat", "on_bad_step"),
        (older["optimizer"], "layer_decay", "ema_momentum", "scalar_lr_multiplier"),
        (older["model"]["image"], "padding", "scale", "mean", "std"),
        (older["images"], "method", "antialias", "background"),
        (older["model"]["text"], "activation"),
    ):
        for name in names:
            del part[name]
    checkpoints.write_json(str(tmp_path / "config.json"), older)
    assert checkpoints.check_same_config(folder, config)


def test_the_initial_weights_of_a_run_are_stored_and_others_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, messages = str(tmp_path), []
    # The folder has no run yet.
    assert checkpoints.resolve_init(folder, "runs/a") == "runs/a"
    # Earlier versions did not store the initial weights.
    checkpoints.write_json("config.json", {"steps": 3})
    assert checkpoints.resolve_init(folder, "runs/a") == "runs/a"
    for init in ("runs/a", "hf:a/b", None):
        checkpoints.write_json("config.json", {"steps": 3, "init": init})
        assert checkpoints.resolve_init(folder, None) == init
        with pytest.raises(UserError, match=f"was started from {init or 'nothing'}, not from x"):
            checkpoints.resolve_init(folder, "x")
        assert checkpoints.resolve_init(folder, "x", messages.append) == "x"
        assert checkpoints.check_same_config(folder, {"steps": 3})
    assert messages[0] == "init changes from 'runs/a' to 'x'"
    checkpoints.write_json("config.json", {"init": "runs/a"})
    assert checkpoints.resolve_init(folder, str(tmp_path / "runs" / "a")) == "runs/a"


def test_settings_that_affect_weights_must_be_accepted_and_others_need_not(tmp_path):
    folder, config = str(tmp_path), etcl.get_config("tiny").to_dict()
    checkpoints.write_json(str(tmp_path / "config.json"), config)
    harmless = {
        "profile_steps": (1, 2),
        "evaluate_before_training": True,
        "stop_early": 2,
        "loss_chunk": 8,
    }
    assert checkpoints.check_same_config(folder, {**config, **harmless})
    changed = {**config, "optimizer": {**config["optimizer"], "learning_rate": 1e-5}}
    with pytest.raises(UserError, match="optimizer.learning_rate is .* there and 1e-05 now"):
        checkpoints.check_same_config(folder, changed)
    messages, before = [], config["optimizer"]["learning_rate"]
    assert checkpoints.check_same_config(folder, changed, messages.append)
    assert messages == [f"optimizer.learning_rate changes from {before} to 1e-05"]
    assert not checkpoints.check_same_config(str(tmp_path / "none"), changed, messages.append)
