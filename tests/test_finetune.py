"""Fine-tuning: evaluation before and after, learning rates by layer, early stopping, WiSE-FT."""

import json
import shutil

import keras
import numpy as np
import pytest

from tf_mural import experiment, models, optimizers
from tf_mural.backends.tensorflow import make_strategy
from tf_mural.errors import UserError
from tf_mural.experiment import config_loading
from tf_mural.experiment.trainer import _lr_multipliers
from tf_mural.training import checkpoints

RUN = (
    "--stage=finetune",
    "--strategy=one",
    "--config.batch_size=8",
    "--config.steps=6",
    "--config.log_every=1",
    "--config.evaluate_every=1",
    "--config.keep_best=-retrieval/*/average_recall",
    "--config.evaluation.retrieval.languages=en,de",
    "--config.report.show=0",
    "--config.model.text.dropout=0.1",
    "--config.model.image.stochastic_depth=0.2",
)


# --- the optimizer --------------------------------------------------------------------------------


def lamb_of(variables, **options):
    optimizer = optimizers.LAMB(0.1, exclude_from_layer_adaptation=(".*",), **options)
    optimizer.build(variables)
    return optimizer


def variables_of(*names):
    return [keras.Variable(np.ones(3, np.float32), name=name) for name in names]


def test_first_matching_pattern_multiplies_the_learning_rate():
    variables = variables_of("low", "high", "other")
    optimizer = lamb_of(variables, lr_multipliers=(("low", 0.25), ("high|low", 0.5)))
    gradients = [np.full(3, 2.0, np.float32)] * 3
    optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients], variables)
    moved = [1.0 - np.asarray(v)[0] for v in variables]
    np.testing.assert_allclose(moved, [0.025, 0.05, 0.1], rtol=1e-5)


def test_moving_average_equals_that_of_a_loop():
    (variable,) = variables_of("w")
    optimizer, rng, average = lamb_of([variable], ema_momentum=0.8), np.random.default_rng(0), None
    for _ in range(5):
        gradient = rng.normal(size=3).astype(np.float32)
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
        value = np.asarray(variable, np.float64)
        average = value if average is None else 0.8 * average + 0.2 * value
    np.testing.assert_allclose(np.asarray(optimizer.ema_variables[0]), average, rtol=1e-5)
    assert optimizers.LAMB.from_config(optimizer.get_config()).get_config()["ema_momentum"] == 0.8


def test_multipliers_decay_with_the_distance_to_the_output():
    config = config_loading.load_config("finetune", "tiny")
    config.optimizer.layer_decay = 0.5
    tokenizer = type("T", (), {"size": 50, "hash": "x", "max_tokens": 8})
    trainer = experiment.make_trainer(
        config, experiment.describe(config, tokenizer), ("en",), make_strategy("one")
    )
    multipliers = dict(
        zip(
            [v.path for v in trainer.encoder.trainable_variables],
            trainer.optimizer.multipliers,
            strict=True,
        )
    )

    def multiplier(part):
        (value,) = {m for path, m in multipliers.items() if part in path}
        return value

    assert multiplier("transformer_layer_1/") == 0.5 and multiplier("transformer_layer_0/") == 0.25
    assert multiplier("token_embedding") == multiplier("embeddings_layer_norm") == 0.125
    assert (
        multiplier("block4a_") == 0.5
        and multiplier("block1a_") == 0.5**4
        and multiplier("stem_") == 0.5**5
    )
    assert multiplier("projection") == multiplier("temperature") == 1.0
    assert len(models.lr_multipliers(0.5, 12, 7)) == 12 + 1 + 7 + 1


def test_multipliers_depend_on_the_layers_of_the_encoder():
    """A preset may have another number of layers than the encoder that the config names."""
    paths = ["text/transformer_layer_0/a", "text/transformer_layer_2/a", "image/stem_conv/a"]
    assert _lr_multipliers(paths, 0.5) == models.lr_multipliers(0.5, 3, 0)
    assert _lr_multipliers(["temperature"], 0.5) == models.lr_multipliers(0.5, 0, 0)


# --- runs -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_run_prints_which_languages_lost(train, finished, tmp_path):
    """The flag `keep_best` of RUN treats the lowest recall as the best.

    Training therefore stops after two evaluations without a lower recall.
    """
    done = train(
        *RUN, f"--init={finished[0]}", f"--workdir={tmp_path / 'run'}", "--config.stop_early=2"
    )
    assert done.code == 0, done.err
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["before"] == json.loads((tmp_path / "run" / "before.json").read_text())
    before, after = (
        {c: v["average_recall"] for c, v in results[key]["retrieval"]["values"].items()}
        for key in ("before", "evaluation")
    )
    table = done.out.split("average recall before the first step and after the last:")[1]
    worse = [code for code in before if after[code] < before[code] - 0.05]
    line = next(li for li in table.splitlines() if "worse than before" in li or "no language" in li)
    assert all(code in line for code in worse) and ("no language" in line) == (not worse)
    assert results["steps"] <= 6
    if results["steps"] < 6:
        assert f"stopped at step {results['steps']}: 2 evaluations without improvement" in done.out
        again = train(
            *RUN, f"--init={finished[0]}", f"--workdir={tmp_path / 'run'}", "--config.stop_early=2"
        )
        assert "already finished" in again.out


@pytest.mark.slow
def test_early_stop_is_repeated_after_a_resume(train, finished, tmp_path):
    """With a learning rate of 0, no step has a better recall than the initial weights."""
    flags = [*RUN, f"--init={finished[0]}", f"--workdir={tmp_path / 'run'}"]
    flags += ["--config.keep_best=retrieval/*/average_recall", "--config.stop_early=2"]
    flags += [
        "--config.optimizer.learning_rate=0.0",
        "--config.model.image.batch_norm_momentum=1.0",
    ]
    done = train(*flags)
    assert "stopped at step 2: 2 evaluations without improvement" in done.out
    assert json.loads((tmp_path / "run" / "results.json").read_text())["steps"] == 2
    (tmp_path / "run" / "results.json").unlink()  # as if the run had been killed before its end
    assert "stopped at step 2" in train(*flags).out


@pytest.fixture(scope="module")
def run(data_dir):
    config = config_loading.load_config("etcl", "tiny")
    config.optimizer.ema_momentum = 0.5
    return experiment.build(config, str(data_dir), make_strategy("one"))


def test_final_weights_are_the_average_and_the_interpolation(finished, run):
    trainer = run.trainer
    experiment.load_initial_weights(str(finished[0]), run)
    initial = checkpoints.read_weights(str(finished[0]))
    variables = checkpoints.variables_by_path(trainer.encoder)
    for average in trainer.optimizer.ema_variables:
        average.assign(np.full(average.shape, 0.25, np.float32))
    experiment.finalize_weights(trainer)
    for path, variable in variables.items():
        np.testing.assert_array_equal(variable.numpy(), initial[path])
    experiment.finalize_weights(
        trainer, ema_momentum=0.5, wise_ft_alpha=0.75, init=str(finished[0])
    )
    trained = {v.path for v in trainer.encoder.trainable_variables}
    for path, variable in variables.items():
        expected = 0.75 * 0.25 + 0.25 * initial[path] if path in trained else initial[path]
        np.testing.assert_allclose(variable.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("init", [None, "hf:kakaobrain/align-base"])
def test_interpolation_needs_the_workdir_of_a_run(run, init):
    with pytest.raises(UserError, match="expected the workdir of a finished run"):
        experiment.finalize_weights(run.trainer, wise_ft_alpha=0.5, init=init)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("stop_early", 3, "keep_best is not"),
        ("wise_ft_alpha", 0.0, "wise_ft_alpha is 0.0"),
        ("optimizer.ema_momentum", 1.0, "expected a momentum"),
    ],
)
def test_invalid_options_are_refused(name, value, message):
    config = config_loading.load_config("finetune", "tiny")
    config_loading.apply_overrides(config, [f"--config.{name}={value}"])
    with pytest.raises(UserError, match=message):
        experiment.check_config(config, 1)


def test_interpolation_without_initial_weights_is_refused_before_training(train):
    for init in (None, "hf:kakaobrain/align-base"):
        with pytest.raises(
            UserError, match="^wise_ft_alpha interpolates with the weights of `init`"
        ):
            experiment.check_wise_ft_alpha(0.5, init)
        experiment.check_wise_ft_alpha(1.0, init)
    done = train("--stage=mural", "--config.wise_ft_alpha=0.5")
    assert done.code == 2 and "step" not in done.out
    assert done.err.startswith("error: wise_ft_alpha interpolates")


@pytest.mark.parametrize("name", ["lamb", "adam"])
def test_optimizers_of_a_config_have_their_options(name):
    config = config_loading.load_config("finetune", "tiny")
    config.optimizer.name, config.optimizer.layer_decay = name, 0.9
    config.optimizer.ema_momentum = 0.9
    tokenizer = type("T", (), {"size": 50, "hash": "x", "max_tokens": 8})
    optimizer = experiment.make_trainer(
        config, experiment.describe(config, tokenizer), ("en",), make_strategy("one")
    ).optimizer
    decays = optimizer.uses_weight_decay
    assert any(optimizer.uses_layer_adaptation) == (name == "lamb")
    assert any(decays) and not all(decays)
    assert min(optimizer.multipliers) < 0.9 and len(optimizer.ema_variables) == len(decays)


@pytest.mark.parametrize("factor, changed", [(0.0, False), (0.1, True), (1.0, True)])
def test_learning_rate_of_the_learned_scalars_has_a_factor(factor, changed):
    config = config_loading.load_config("finetune", "tiny")
    config.optimizer.scalar_lr_multiplier = factor
    tokenizer = type("T", (), {"size": 50, "hash": "x", "max_tokens": 8})
    trainer = experiment.make_trainer(
        config, experiment.describe(config, tokenizer), ("en",), make_strategy("one")
    )
    variables = trainer.encoder.trainable_variables
    before = [np.asarray(v) for v in variables]
    trainer.optimizer.apply([keras.ops.ones(v.shape) for v in variables], variables)
    pairs = zip(variables, before, strict=True)
    steps = {v.path: np.abs(np.asarray(v) - old).max() for v, old in pairs}
    (scalar,) = (steps.pop(path) for path in list(steps) if "temperature" in path)
    assert min(steps.values()) > 0 and (scalar > 0) == changed
    # LAMB moves a scalar by its value times the learning rate.
    rate = config.optimizer.learning_rate * factor
    assert scalar == pytest.approx(0.07 * rate, rel=1e-3)


def test_damaged_initial_weights_are_named(finished, run, tmp_path):
    shutil.copytree(finished[0], tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoints"))
    (tmp_path / "copy" / "weights.npz").write_bytes(b"broken")
    with pytest.raises(UserError, match="weights.npz is damaged"):
        experiment.finalize_weights(run.trainer, wise_ft_alpha=0.5, init=str(tmp_path / "copy"))
