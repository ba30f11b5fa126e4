"""What of one run another may take: a model loaded, weights handed over, and their pictures."""

import os
import shutil

import numpy as np
import options
import pytest
from conftest import SMALL_RUN

from tf_mural import experiment
from tf_mural.backends.tensorflow import make_strategy
from tf_mural.errors import UserError
from tf_mural.training import checkpoints


@pytest.fixture
def model(finished, tmp_path):
    """A copy of a finished run's model."""
    folder = tmp_path / "model"
    shutil.copytree(finished[0], folder, ignore=shutil.ignore_patterns("checkpoints"))
    return folder


@pytest.fixture(scope="module")
def run(data_dir):
    """A fresh run of the same model as `finished`, ETCL after its MURAL."""
    config = options.load_config("etcl", "tiny")
    options.override(config, [a for a in SMALL_RUN if a.startswith("--config.model")])
    config.seed = 5
    return experiment.build(config, str(data_dir), make_strategy("one"))


def test_a_loaded_model_embeds_as_the_trained_one(finished):
    model = experiment.load(str(finished[0]))
    encoder, tokenizer, embed = model.encoder, model.tokenizer, model.embed
    with np.load(finished[0] / "weights.npz") as weights:
        paths = {v.path: v for v in encoder.variables if "seed" not in v.path}
        assert set(paths) == set(weights.files)
        for path, variable in paths.items():
            np.testing.assert_array_equal(variable.numpy(), weights[path])
    rows = embed.texts(["a red circle", "ein roter Kreis"])
    tokens = tokenizer(["a red circle", "ein roter Kreis"])
    np.testing.assert_allclose(rows, encoder.encode("text", tokens), atol=1e-5)
    assert rows.shape == (2, 128) and abs(rows[0] @ rows[1]) < 1 - 1e-6


def test_weights_are_handed_over_and_slots_stay_fresh(finished, run):
    trainer = run.trainer
    experiment.hand_over(str(finished[0]), run)
    with np.load(finished[0] / "weights.npz") as weights:
        for variable in trainer.encoder.variables:
            if "seed" not in variable.path:
                np.testing.assert_array_equal(variable.numpy(), weights[variable.path])
        # The temperature carries over; it had moved from where a run starts.
        sigma = float(weights["dual_encoder/temperature_shared"])
    assert sigma != pytest.approx(0.07)
    assert float(trainer.encoder.temperatures["shared"].numpy()) == pytest.approx(sigma)
    trainer.optimizer.build(trainer.encoder.trainable_variables)
    slots = [v for v in trainer.optimizer.variables if "second" in v.path]
    assert slots and not any(np.any(v.numpy()) for v in slots)
    assert int(trainer.step.numpy()) == 0


def test_a_vocabulary_that_was_changed_is_no_model(model):
    with open(model / "vocab.txt", "a", encoding="utf-8") as file:
        file.write("more\n")
    with pytest.raises(UserError, match="vocab.txt has hash .*was trained with .*: put the right"):
        experiment.load(str(model))


def test_an_unfinished_model_is_no_model(model, run):
    os.remove(model / "vocab.txt")
    for attempt in (
        lambda: experiment.load(str(model)),
        lambda: experiment.hand_over(str(model), run),
    ):
        with pytest.raises(UserError, match="holds no trained model: vocab.txt missing"):
            attempt()


def test_weights_of_another_vocabulary_are_not_handed_over(model, run):
    description = checkpoints.read_model(str(model))
    other = {**description, "vocabulary_hash": "0123456789abcdef"}
    checkpoints.write_json(str(model / "model.json"), other)
    with pytest.raises(
        UserError, match="with vocabulary 0123456789abcdef, this run has .*model/vo"
    ):
        experiment.hand_over(str(model), run)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a: a.update(extra=np.zeros(3)), "extra is not of this model"),
        (lambda a: a.pop("dual_encoder/temperature_shared"), "temperature_shared is missing"),
        (
            lambda a: a.update({"dual_encoder/temperature_shared": np.zeros(2)}),
            r"temperature_shared has shape \(2,\), expected \(\)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_not_handed_over(model, run, change, message):
    before = [variable.numpy() for variable in run.trainer.encoder.variables]
    with np.load(model / "weights.npz") as file:
        arrays = dict(file)
    change(arrays)
    np.savez(model / "weights.npz", **arrays)
    with pytest.raises(
        UserError, match=f"does not fit this model: .*{message}; use a run of the s"
    ):
        experiment.hand_over(str(model), run)
    after = [variable.numpy() for variable in run.trainer.encoder.variables]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_training_sheet_shows_the_first_pictures_with_their_captions(run):
    images, captions = run.contact_sheet()
    first = next(iter(run.dataset(start_step=0)))
    np.testing.assert_array_equal(images, first["image"]["pixels"][: len(images)])
    assert images.shape == (12, 64, 64, 3) and len(captions) == 12
    assert all(
        {code for code, _ in row} == {"en", "de", "fr", "cs", "zh", "ja"} for row in captions
    )
