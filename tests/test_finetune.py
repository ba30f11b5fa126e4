"""Fine-tuning that does no harm: scores before and after, rates by layer, early stop, mixtures."""

import json
import shutil

import keras
import numpy as np
import options
import pytest

from tf_mural import experiment, models, optimizers
from tf_mural.backends.tensorflow import make_strategy
from tf_mural.errors import UserError
from tf_mural.experiment.trainer import _rate_factors as rate_factors
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
    optimizer = optimizers.Lamb(0.1, exclude_from_adaptation=(".*",), **options)
    optimizer.build(variables)
    return optimizer


def variables_of(*names):
    return [keras.Variable(np.ones(3, np.float32), name=name) for name in names]


def test_rates_are_multiplied_by_the_first_pattern_that_fits():
    one = variables_of("low", "high", "other")
    optimizer = lamb_of(one, rate_factors=(("low", 0.25), ("high|low", 0.5)))
    gradients = [np.full(3, 2.0, np.float32)] * 3
    optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients], one)
    moved = [1.0 - np.asarray(v)[0] for v in one]
    np.testing.assert_allclose(moved, [0.025, 0.05, 0.1], rtol=1e-5)


def test_the_average_is_that_of_a_loop():
    (variable,) = variables_of("w")
    optimizer, rng, kept = lamb_of([variable], average=0.8), np.random.default_rng(0), None
    for _ in range(5):
        gradient = rng.normal(size=3).astype(np.float32)
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
        now = np.asarray(variable, np.float64)
        kept = now if kept is None else 0.8 * kept + 0.2 * now
    np.testing.assert_allclose(np.asarray(optimizer.averages[0]), kept, rtol=1e-5)
    assert optimizers.Lamb.from_config(optimizer.get_config()).average == 0.8


def test_factors_fall_with_the_distance_to_the_output():
    config = options.load_config("finetune", "tiny")
    config.optimizer.layer_decay = 0.5
    tokenizer = type("T", (), {"size": 50, "hash": "x", "max_tokens": 8})
    trainer = experiment.make_trainer(
        config, experiment.describe(config, tokenizer), ("en",), make_strategy("one")
    )
    found = dict(
        zip(
            [v.path for v in trainer.encoder.trainable_variables],
            trainer.optimizer._factors,
            strict=True,
        )
    )

    def factor(part):
        (value,) = {f for path, f in found.items() if part in path}
        return value

    assert factor("transformer_layer_1/") == 0.5 and factor("transformer_layer_0/") == 0.25
    assert factor("token_embedding") == factor("embeddings_layer_norm") == 0.125
    assert factor("block4a_") == 0.5 and factor("block1a_") == 0.5**4 and factor("stem_") == 0.5**5
    assert factor("projection") == factor("temperature") == 1.0
    assert len(models.lr_multipliers(0.5, 12, 7)) == 12 + 1 + 7 + 1


def test_factors_are_those_of_the_layers_that_a_tower_has():
    """A preset brings its own number of them, whatever the config's name of a size says."""
    paths = ["text/transformer_layer_0/a", "text/transformer_layer_2/a", "image/stem_conv/a"]
    assert rate_factors(paths, 0.5) == models.lr_multipliers(0.5, 3, 0)
    assert rate_factors(["temperature"], 0.5) == models.lr_multipliers(0.5, 0, 0)
    assert rate_factors(paths, 1.0) == ()


# --- runs -----------------------------------------------------------------------------------------


def test_a_run_tells_which_languages_lost(train, finished, tmp_path):
    """`keep_best` asks for the lowest recall here, so that two steps that do not fall end it."""
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
    lost = [code for code in before if after[code] < before[code] - 0.05]
    line = next(li for li in table.splitlines() if "worse than before" in li or "no language" in li)
    assert all(code in line for code in lost) and ("no language" in line) == (not lost)
    assert results["steps"] <= 6
    if results["steps"] < 6:
        assert f"ended at step {results['steps']}: 2 evaluations without a better one" in done.out
        again = train(
            *RUN, f"--init={finished[0]}", f"--workdir={tmp_path / 'run'}", "--config.stop_early=2"
        )
        assert "finished already" in again.out


def test_a_stop_is_early_and_stays_one(train, finished, tmp_path):
    """At a rate of 0 no step is better than the weights that the run started from."""
    flags = [*RUN, f"--init={finished[0]}", f"--workdir={tmp_path / 'run'}"]
    flags += ["--config.keep_best=retrieval/*/average_recall", "--config.stop_early=2"]
    flags += [
        "--config.optimizer.learning_rate=0.0",
        "--config.model.image.batch_norm_momentum=1.0",
    ]
    done = train(*flags)
    assert "ended at step 2: 2 evaluations without a better one" in done.out
    assert json.loads((tmp_path / "run" / "results.json").read_text())["steps"] == 2
    (tmp_path / "run" / "results.json").unlink()  # as if it had been killed just before the end
    assert "ended at step 2" in train(*flags).out


@pytest.fixture(scope="module")
def run(data_dir):
    config = options.load_config("etcl", "tiny")
    config.optimizer.average = 0.5
    return experiment.build(config, str(data_dir), make_strategy("one"))


def test_weights_end_as_average_and_mixture(finished, run):
    trainer = run.trainer
    experiment.hand_over(str(finished[0]), run)
    start = checkpoints.read_weights(str(finished[0]))
    variables = checkpoints.variables_by_path(trainer.encoder)
    for kept in trainer.optimizer.averages:
        kept.assign(np.full(kept.shape, 0.25, np.float32))
    experiment.end_weights(trainer)
    for path, variable in variables.items():
        np.testing.assert_array_equal(variable.numpy(), start[path])
    experiment.end_weights(trainer, average=0.5, interpolate=0.75, init=str(finished[0]))
    trained = {v.path for v in trainer.encoder.trainable_variables}
    for path, variable in variables.items():
        expected = 0.75 * 0.25 + 0.25 * start[path] if path in trained else start[path]
        np.testing.assert_allclose(variable.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("init", [None, "hf:kakaobrain/align-base"])
def test_there_must_be_something_to_mix_with(run, init):
    with pytest.raises(UserError, match="expected the workdir of a finished run"):
        experiment.end_weights(run.trainer, interpolate=0.5, init=init)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("stop_early", 3, "keep_best is not"),
        ("interpolate", 0.0, "interpolate is 0.0"),
        ("optimizer.average", 1.0, "expected a momentum"),
    ],
)
def test_options_that_cannot_be_are_refused(name, value, words):
    config = options.load_config("finetune", "tiny")
    options.override(config, [f"--config.{name}={value}"])
    with pytest.raises(UserError, match=words):
        experiment.check(config, 1)


def test_a_mixture_without_a_start_is_refused_before_any_step(train):
    for init in (None, "hf:kakaobrain/align-base"):
        with pytest.raises(UserError, match="^interpolate mixes with the weights of --init, which"):
            experiment.check_interpolation(0.5, init)
        experiment.check_interpolation(1.0, init)
    done = train("--stage=mural", "--config.interpolate=0.5")
    assert done.code == 2 and "step" not in done.out
    assert done.err.startswith("error: interpolate mixes")


@pytest.mark.parametrize("name", ["lamb", "adam"])
def test_each_optimizer_of_a_config_trains(name):
    config = options.load_config("finetune", "tiny")
    config.optimizer.name, config.optimizer.layer_decay = name, 0.9
    config.optimizer.average = 0.9
    tokenizer = type("T", (), {"size": 50, "hash": "x", "max_tokens": 8})
    optimizer = experiment.make_trainer(
        config, experiment.describe(config, tokenizer), ("en",), make_strategy("one")
    ).optimizer
    assert any(optimizer.adapts) == (name == "lamb")
    assert any(optimizer.decays) and not all(optimizer.decays)
    assert min(optimizer._factors) < 0.9 and len(optimizer.averages) == len(optimizer.decays)


def test_a_damaged_start_is_named(finished, run, tmp_path):
    shutil.copytree(finished[0], tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoints"))
    (tmp_path / "copy" / "weights.npz").write_bytes(b"broken")
    with pytest.raises(UserError, match="weights.npz is damaged"):
        experiment.end_weights(run.trainer, interpolate=0.5, init=str(tmp_path / "copy"))
