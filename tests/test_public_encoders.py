"""Runs whose encoders are public models: settings, training on both backends, resume, presets."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from helpers import keras_hub_presets, public_checkpoints
from helpers.backends import backend_environment

import tf_mural
from tf_mural import experiment
from tf_mural.errors import UserError
from tf_mural.experiment import config_loading, dry_run, public_encoders
from tf_mural.training import checkpoints

# A run of two steps, whose learning rate of 0 does not change the weights.
OPTIONS = {
    "batch_size": 8,
    "steps": 2,
    "checkpoint_every": 1,
    "optimizer.warmup_steps": 0,
    "optimizer.learning_rate": 0.0,
    "evaluation.retrieval.languages": "en",
    "report.show": 0,
}
TEXTS = ["a red dog", "a blue cat"]


def train(workdir, data_dir, stage="align", init=None, **overrides):
    options = {**OPTIONS, **{name.replace("__", "."): value for name, value in overrides.items()}}
    return tf_mural.train(
        stage, str(workdir), init=init, overrides=options, data_dir=str(data_dir), strategy="one"
    )


def config_with(*changes, size="tiny"):
    config = config_loading.load_config("align", size)
    config_loading.apply_overrides(config, [f"--config.{change}" for change in changes])
    return config


def read(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


@pytest.fixture(scope="module")
def siglip(data_dir, tmp_path_factory):
    """(workdir, embeddings of the public model) of a run whose public model was deleted."""
    folder = tmp_path_factory.mktemp("siglip")
    public = public_checkpoints.siglip(str(folder / "public"))
    embedder = tf_mural.Embedder.load(f"hf:{public}")
    expected = {"texts": embedder.embed_texts(TEXTS, warn=False)}
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 56, 3), np.uint8)
    expected |= {"images": embedder.embed_images(list(pixels)), "pixels": list(pixels)}
    train(folder / "run", data_dir, init=f"hf:{public}")
    shutil.rmtree(public)
    return folder / "run", expected


def test_a_run_starts_with_the_weights_and_settings_of_the_public_model(siglip):
    workdir, expected = siglip
    config, model = read(workdir / "config.json"), read(workdir / "model.json")
    assert config["model"]["image"]["image_size"] == config["images"]["crop"] == 32
    assert config["model"]["text"]["max_tokens"] == 12 and config["model"]["embedding_dim"] == 16
    assert config["images"]["antialias"] and config["lower_case"]
    assert config["model"]["scalars"]["temperature"]["shared"] == pytest.approx(1 / 20)
    assert set(model["encoders"]) == {"image", "text"}
    assert sorted(os.listdir(workdir / "tokenizer"))[-1] == "tokenizer.json"
    embedder = tf_mural.Embedder.load(str(workdir))
    np.testing.assert_allclose(
        embedder.embed_texts(TEXTS, warn=False), expected["texts"], atol=1e-5
    )
    images = embedder.embed_images(expected["pixels"])
    np.testing.assert_allclose(images, expected["images"], atol=1e-5)


def test_a_resumed_run_needs_no_public_model(siglip, data_dir, tmp_path):
    shutil.copytree(siglip[0], tmp_path / "run")
    for name in ("results.json", "weights.npz"):
        os.remove(tmp_path / "run" / name)
    config = read(tmp_path / "run" / "config.json")
    config["vocabulary"] = str(tmp_path / "run" / "tokenizer")
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    train(tmp_path / "run", data_dir)
    before, after = (checkpoints.read_weights(f) for f in (siglip[0], tmp_path / "run"))
    assert before.keys() == after.keys()
    for path, array in before.items():
        np.testing.assert_array_equal(array, after[path])


@pytest.mark.slow
def test_the_next_stage_inherits_the_encoders(siglip, data_dir, tmp_path, capsys):
    train(tmp_path / "next", data_dir, stage="finetune", init=str(siglip[0]))
    assert "model.text.backbone=hf:" in capsys.readouterr().out
    before, after = (checkpoints.read_weights(f) for f in (siglip[0], tmp_path / "next"))
    for path, array in before.items():
        np.testing.assert_array_equal(array, after[path])
    assert read(tmp_path / "next" / "model.json")["encoders"]


def test_a_preset_of_the_run_embeds_alike(siglip, tmp_path):
    model = tf_mural.Embedder.load(str(siglip[0]))
    model.model.save_to_preset(str(tmp_path / "preset"))
    preset = tf_mural.Embedder.load(str(tmp_path / "preset"))
    texts = [e.embed_texts(TEXTS, warn=False) for e in (model, preset)]
    np.testing.assert_allclose(*texts, atol=1e-6)
    assert preset.fingerprint == model.fingerprint


def test_sizes_of_the_user_are_kept(tmp_path):
    public = f"hf:{public_checkpoints.siglip(str(tmp_path / 'public'))}"
    config = config_with(
        f"model.image.backbone={public}", f"model.text.backbone={public}", "model.text.max_tokens=9"
    )
    config.model.image.image_size = 48
    note = public_encoders.apply_backbone_settings(config, str(tmp_path / "run"))
    assert note.startswith(f"set by {public}: ") and "model.embedding_dim=16" in note
    assert (config.images.resize, config.images.crop, config.model.image.image_size) == (48,) * 3
    assert config.model.text.max_tokens == 9
    experiment.check_config(config, 1)


@pytest.mark.parametrize(
    "backbone, message",
    [
        ("hf:./no-such-folder", "no folder './no-such-folder'"),
        ("siglip", "model.image.backbone is 'siglip'; expected tiny, b0.*keras_hub:<preset"),
    ],
)
def test_an_unknown_backbone_is_refused(backbone, message, data_dir, tmp_path):
    with pytest.raises(UserError, match=message):
        train(tmp_path / "run", data_dir, model__image__backbone=backbone)


def test_a_pooling_that_an_efficientnet_does_not_have_is_refused(tmp_path):
    folder = keras_hub_presets.save(tmp_path / "lite", keras_hub_presets.efficientnet_lite())
    config = config_with(f"model.image.backbone=keras_hub:{folder}", "model.image.pooling=max")
    with pytest.raises(UserError, match="image.pooling is 'max', but the EfficientNet keras_hub:"):
        public_encoders.check_backbones(config)
    config.model.image.pooling = "average"
    public_encoders.check_backbones(config)


def test_an_image_size_that_the_positions_cannot_take_is_refused(tmp_path):
    public = f"hf:{public_checkpoints.siglip(str(tmp_path / 'public'))}"
    config = config_with(
        f"model.image.backbone={public}", f"model.text.backbone={public}", "batch_size=2"
    )
    config.model.image.image_size = 7
    with pytest.raises(UserError, match="image_size is 7, but the patches of .* 8 pixels") as error:
        dry_run.trial_step(config)
    assert "\n" not in str(error.value)


_TRAIN_AND_EMBED = """
import json, sys
import numpy as np, tf_mural
workdir, data_dir, init, options, out = sys.argv[1:]
options = json.loads(options)
tf_mural.train("align", workdir, init=init, overrides=options, data_dir=data_dir, strategy="one")
embedder, pixels = tf_mural.Embedder.load(workdir), np.load(out)
images, texts = embedder.embed_images(list(pixels)), embedder.embed_texts(TEXTS, warn=False)
np.savez(out, images=images, texts=texts)
"""


@pytest.mark.slow
def test_a_run_on_jax_is_loaded_on_both_backends(data_dir, tmp_path):
    pytest.importorskip("jax", reason="JAX is not installed: pip install -r requirements-jax.txt")
    public, run, out = (str(tmp_path / name) for name in ("public", "run", "out.npz"))
    public_checkpoints.clip(public)
    before = tf_mural.Embedder.load(f"hf:{public}").embed_texts(TEXTS, warn=False)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 56, 3), np.uint8)
    with open(out, "wb") as file:
        np.save(file, pixels)
    options = {**OPTIONS, "optimizer.learning_rate": 1e-2, "batch_size": 4}
    code = _TRAIN_AND_EMBED.replace("TEXTS", repr(TEXTS))
    command = [sys.executable, "-c", code, run, str(data_dir), f"hf:{public}"]
    done = subprocess.run(
        [*command, json.dumps(options), out],
        cwd=ROOT,
        env=backend_environment("jax"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    shutil.rmtree(public)
    embedder = tf_mural.Embedder.load(run)
    texts, images = embedder.embed_texts(TEXTS, warn=False), embedder.embed_images(list(pixels))
    with np.load(out) as expected:
        np.testing.assert_allclose(texts, expected["texts"], atol=1e-5)
        np.testing.assert_allclose(images, expected["images"], atol=1e-5)
    assert np.abs(texts - before).max() > 1e-3 and read(f"{run}/results.json")["steps"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("image, text", [("clip", "nano"), ("tiny", "siglip_2")])
def test_a_public_encoder_is_trained_with_an_encoder_of_the_paper(image, text, data_dir, tmp_path):
    names = {}
    for modality, family in (("image", image), ("text", text)):
        write = public_checkpoints.FAMILIES.get(family)
        names[modality] = f"hf:{write(str(tmp_path / family))}" if write else family
    train(
        tmp_path / "run",
        data_dir,
        model__image__backbone=names["image"],
        model__text__backbone=names["text"],
        optimizer__learning_rate=1e-3,
        optimizer__layer_decay=0.9,
        model__image__adapt="last:1",
        remat=True,
        vocabulary="scenes",
    )
    for family in public_checkpoints.FAMILIES:
        shutil.rmtree(tmp_path / family, ignore_errors=True)
    embedder = tf_mural.Embedder.load(str(tmp_path / "run"))
    rows = embedder.embed_texts(TEXTS, warn=False)
    assert rows.shape == (2, 128) and np.abs(rows[0] - rows[1]).max() > 1e-4
    (image_row,) = embedder.embed_images([np.zeros((30, 50, 3), np.uint8)])
    np.testing.assert_allclose(np.linalg.norm(image_row), 1.0, rtol=1e-5)
