"""Trained models: loading, initial weights of another run, and model.json of earlier versions."""

import copy
import json
import os
import shutil

import numpy as np
import pytest
from conftest import SMALL_RUN

from tf_mural import experiment, file_io
from tf_mural.backends.tensorflow import make_strategy
from tf_mural.data.tokenizers import Tokenizer
from tf_mural.errors import UserError
from tf_mural.experiment import config_loading, model_io
from tf_mural.training import checkpoints


@pytest.fixture
def model(finished, tmp_path):
    """A copy of the model of a finished run."""
    folder = tmp_path / "model"
    shutil.copytree(finished[0], folder, ignore=shutil.ignore_patterns("checkpoints"))
    return folder


@pytest.fixture(scope="module")
def run(data_dir):
    """A new run of ETCL with the model of `finished`."""
    config = config_loading.load_config("etcl", "tiny")
    config_loading.apply_overrides(config, [a for a in SMALL_RUN if a.startswith("--config.model")])
    config.seed = 5
    return experiment.build(config, str(data_dir), make_strategy("one"))


def test_loaded_model_has_the_weights_and_embeds_with_them(finished):
    model = experiment.load(str(finished[0]))
    encoder, tokenizer, embed = model.encoder, model.tokenizer, model.embed
    with np.load(finished[0] / "weights.npz") as weights:
        paths = {v.path: v for v in encoder.variables if "seed" not in v.path}
        assert set(paths) == set(weights.files)
        for path, variable in paths.items():
            np.testing.assert_array_equal(variable.numpy(), weights[path])
    rows = embed.embed_texts(["a red circle", "ein roter Kreis"])
    tokens = tokenizer(["a red circle", "ein roter Kreis"])
    np.testing.assert_allclose(rows, encoder.encode("text", tokens), atol=1e-5)
    assert rows.shape == (2, 128) and abs(rows[0] @ rows[1]) < 1 - 1e-6


def test_initial_weights_are_loaded_and_slots_are_zero(finished, run):
    trainer = run.trainer
    experiment.load_initial_weights(str(finished[0]), run)
    with np.load(finished[0] / "weights.npz") as weights:
        for variable in trainer.encoder.variables:
            if "seed" not in variable.path:
                np.testing.assert_array_equal(variable.numpy(), weights[variable.path])
        # The temperature is also loaded from the file. The temperature was 0.07 at the start, and
        # training has changed it.
        sigma = float(weights["dual_encoder/temperature_shared"])
    assert sigma != pytest.approx(0.07)
    assert float(trainer.encoder.scalars["temperature"]["shared"].numpy()) == pytest.approx(sigma)
    trainer.optimizer.build(trainer.encoder.trainable_variables)
    slots = [v for v in trainer.optimizer.variables if "second" in v.path]
    assert slots and not any(np.any(v.numpy()) for v in slots)
    assert int(trainer.step.numpy()) == 0


def test_changed_vocabulary_is_refused(model):
    with open(model / "vocab.txt", "a", encoding="utf-8") as file:
        file.write("more\n")
    with pytest.raises(UserError, match="vocab.txt has hash .*was trained with .*: restore"):
        experiment.load(str(model))


def test_incomplete_model_is_refused(model, run):
    os.remove(model / "vocab.txt")
    for attempt in (
        lambda: experiment.load(str(model)),
        lambda: experiment.load_initial_weights(str(model), run),
    ):
        with pytest.raises(UserError, match="holds no trained model: vocab.txt missing"):
            attempt()


def test_initial_weights_of_another_vocabulary_are_refused(model, run):
    description = checkpoints.read_model(str(model))
    other = {**description, "vocabulary_hash": "0123456789abcdef"}
    file_io.write_json(str(model / "model.json"), other)
    with pytest.raises(
        UserError, match="with vocabulary 0123456789abcdef, this run has .*model/vo"
    ):
        experiment.load_initial_weights(str(model), run)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a: a.update(extra=np.zeros(3)), "extra does not belong to this model"),
        (lambda a: a.pop("dual_encoder/temperature_shared"), "temperature_shared is missing"),
        (
            lambda a: a.update({"dual_encoder/temperature_shared": np.zeros(2)}),
            r"temperature_shared has shape \(2,\), expected \(\)",
        ),
    ],
)
def test_initial_weights_of_other_shapes_are_refused_and_change_nothing(
    model, run, change, message
):
    before = [variable.numpy() for variable in run.trainer.encoder.variables]
    with np.load(model / "weights.npz") as file:
        arrays = dict(file)
    change(arrays)
    np.savez(model / "weights.npz", **arrays)
    with pytest.raises(
        UserError, match=f"does not fit this model: .*{message}; use a run of the s"
    ):
        experiment.load_initial_weights(str(model), run)
    after = [variable.numpy() for variable in run.trainer.encoder.variables]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_contact_sheet_has_the_first_training_images_with_their_captions(run):
    images, captions = run.contact_sheet()
    first = next(iter(run.dataset(start_step=0)))
    np.testing.assert_array_equal(images, first["image"]["pixels"][: len(images)])
    assert images.shape == (12, 64, 64, 3) and len(captions) == 12
    assert all(
        {code for code, _ in row} == {"en", "de", "fr", "cs", "zh", "ja"} for row in captions
    )


# --- model.json of earlier versions ---------------------------------------------------------------

# Content of a model.json that an earlier version wrote. Values that are null in the current format
# are 0, "" or [] in this file.
EARLIER = {
    "model": {
        "embedding_dim": 128,
        "freeze": [],
        "image": {
            "batch_norm_group": 0,
            "batch_norm_momentum": 0.9,
            "image_size": 64,
            "name": "tiny",
            "padding": "symmetric",
            "preset": "",
            "stochastic_depth": 0.0,
        },
        "temperatures": {"shared": 0.07},
        "text": {
            "activation": "gelu_approximate",
            "dropout": 0.0,
            "max_tokens": 32,
            "name": "nano",
            "preset": "",
            "sizes": [],
        },
    },
    "images": {"crop": 64, "resize": 72},
    "vocabulary_size": 3116,
    "vocabulary_hash": "6925540afbf8eb48",
    "max_tokens": 32,
    "lower_case": False,
    "pretrained": "",
    "precision": "float32",
}


def test_earlier_description_equals_the_current_one():
    config = config_loading.load_config("etcl", "tiny")
    tokenizer = Tokenizer(experiment.find_vocabulary("scenes", ""), 32)
    current = json.loads(json.dumps(experiment.describe(config, tokenizer)))
    assert EARLIER["vocabulary_hash"] == current["vocabulary_hash"]
    assert model_io.upgrade_description(EARLIER) == current
    assert model_io.upgrade_description(current) == current


def test_values_that_the_first_versions_did_not_store_have_defaults():
    first = copy.deepcopy(EARLIER)
    for key in ("lower_case", "pretrained", "precision"):
        del first[key]
    for key in ("sizes", "activation", "preset"):
        del first["model"]["text"][key]
    for key in ("padding", "preset"):
        del first["model"]["image"][key]
    assert model_io.upgrade_description(first) == model_io.upgrade_description(EARLIER)


@pytest.mark.parametrize("stored, current", [(0, None), (-1, -1), (16, 16)])
def test_group_sizes_of_batch_norm_keep_their_meaning(stored, current):
    earlier = copy.deepcopy(EARLIER)
    earlier["model"]["image"]["batch_norm_group"] = stored
    image = model_io.upgrade_description(earlier)["model"]["image"]
    assert image["virtual_batch_size"] == current and "batch_norm_group" not in image


def test_model_of_an_earlier_version_embeds_like_the_current_one(model):
    expected = experiment.load(str(model)).embed.embed_texts(["a red circle"])
    description = file_io.read_json(str(model / "model.json"))
    image, text = description["model"]["image"], description["model"]["text"]
    assert image.pop("virtual_batch_size") is None and text["sizes"] is None
    image.update(batch_norm_group=0, preset="")
    text.update(sizes=[], preset="")
    description["pretrained"] = ""
    (model / "model.json").write_text(json.dumps(description))
    embedded = experiment.load(str(model)).embed.embed_texts(["a red circle"])
    np.testing.assert_array_equal(embedded, expected)
