"""Saves models as KerasHub presets, and loads presets of this and of an older tf_mural version."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile

import keras_hub
import numpy as np
import pytest
from conftest import ROOT
from golden import old_preset_case
from helpers.backends import backend_environment
from helpers.images import encode, random_pixels

import tf_mural
from tf_mural import experiment, models
from tf_mural.errors import UserError
from tf_mural.export import parity, presets

TEXTS = ["a red circle", "ein roter Kreis", ""]


@pytest.fixture(scope="module")
def preset(tools, finished, tmp_path_factory):
    """Returns the folder of the preset of a finished run, and the result of tools/export.py."""
    folder = tmp_path_factory.mktemp("presets") / "mural-scenes"
    flags = (f"--model={finished[0]}", "--format=preset", f"--out={folder}")
    return folder, tools.run(folder.parent, "export.py", *flags)


def test_a_preset_gives_the_same_embeddings_as_its_run(finished, preset):
    folder, result = preset
    assert "images 0.0e+00, texts 0.0e+00" in result.out
    run, loaded = (tf_mural.Embedder.load(path) for path in (finished[0], folder))
    np.testing.assert_array_equal(run.embed_texts(TEXTS), loaded.embed_texts(TEXTS))
    images = parity.sample_images()
    np.testing.assert_array_equal(run.embed_images(images), loaded.embed_images(images))
    assert run.fingerprint == loaded.fingerprint


def test_keras_hub_loads_a_preset(finished, preset):
    backbone = keras_hub.models.Backbone.from_preset(str(preset[0]))
    assert type(backbone) is presets.MuralBackbone
    tokenizer = keras_hub.tokenizers.Tokenizer.from_preset(str(preset[0]))
    model = experiment.load(str(finished[0]))
    np.testing.assert_array_equal(tokenizer(TEXTS), model.tokenizer(TEXTS))
    assert tokenizer.vocabulary_size() == model.tokenizer.size
    assert tokenizer.id_to_token(tokenizer.token_to_id("[CLS]")) == "[CLS]"
    preprocessor = presets.MuralPreprocessor.from_preset(str(preset[0]))
    images = np.random.default_rng(0).integers(0, 256, (2, 100, 80, 3), np.uint8)
    outputs = backbone(preprocessor({"images": images, "texts": TEXTS[:2]}))
    embedder = tf_mural.Embedder.load(preset[0])
    expected = embedder.embed_images(list(images))
    np.testing.assert_allclose(outputs["image_embeddings"], expected, atol=1e-6)
    expected = embedder.embed_texts(TEXTS[:2])
    np.testing.assert_allclose(outputs["text_embeddings"], expected, atol=1e-6)


def test_saving_a_loaded_preset_changes_nothing(preset, tmp_path):
    backbone = presets.MuralBackbone.from_preset(str(preset[0]))
    backbone.save_to_preset(str(tmp_path))
    reloaded = presets.MuralBackbone.from_preset(str(tmp_path))
    for weight, expected in zip(reloaded.weights, backbone.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), expected.numpy())
    assert reloaded.get_config() == backbone.get_config()


@pytest.mark.parametrize("backbone_class", [presets.MuralBackbone, keras_hub.models.Backbone])
def test_a_preset_of_an_earlier_version_gives_the_recorded_embeddings(
    backbone_class, tmp_path, monkeypatch
):
    """Loads a preset of an older tf_mural version, whose arguments and layers had other names.

    golden/record_old_preset.py recorded the preset and its embeddings.
    """
    case = old_preset_case
    monkeypatch.setitem(models.EFFICIENTNETS, case.NAME, case.EFFICIENTNET)
    with zipfile.ZipFile(case.ARCHIVE) as archive:
        archive.extractall(tmp_path)
    folder = tmp_path / "preset"
    config = json.loads((folder / "config.json").read_text())["config"]
    assert config["image"]["batch_norm_group"] == 2
    weights = (folder / "model.weights.h5").read_bytes()
    assert b"grouped_batch_normalization" in weights
    assert presets.is_preset(folder)
    backbone = backbone_class.from_preset(str(folder))
    assert backbone.get_config()["image"]["virtual_batch_size"] == 2
    assert (folder / "model.weights.h5").read_bytes() == weights
    tokenizer = presets.MuralTokenizer.from_preset(str(folder))
    inputs = {"image": case.images().astype("float32"), "text": tokenizer(case.TEXTS)}
    with np.load(tmp_path / "embeddings.npz") as recorded:
        for modality, expected in recorded.items():
            actual = backbone.encoder.encode(modality, np.asarray(inputs[modality]))
            np.testing.assert_allclose(actual, expected, atol=1e-5)
    assert float(backbone.encoder.scalars["temperature"]["shared"]) == 0.5


@pytest.mark.slow
def test_jax_gives_the_same_embeddings_as_tensorflow(preset):
    pytest.importorskip("jax", reason="pip install -r requirements-jax.txt")
    code = (
        f"import sys; sys.path.insert(0, {ROOT!r})\nimport numpy as np, tf_mural\n"
        f"embedder = tf_mural.Embedder.load({str(preset[0])!r})\n"
        f"np.save(sys.argv[1], embedder.embed_texts({TEXTS!r}))\nprint(embedder.fingerprint)\n"
    )
    path = preset[0].parent / "jax.npy"
    environment = backend_environment("jax")
    command = [sys.executable, "-c", code, str(path)]
    process = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert process.returncode == 0, process.stderr[-2000:]
    embedder = tf_mural.Embedder.load(preset[0])
    np.testing.assert_allclose(np.load(path), embedder.embed_texts(TEXTS), atol=2e-6)
    assert process.stdout.strip() == embedder.fingerprint


def test_the_model_card_describes_the_run(preset, data_dir):
    card = (preset[0] / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: keras-hub\n") and "# mural-scenes\n" in card
    for line in (
        "Stages: mural (6 steps, seed 0).",
        "| term image_caption | contrastive, image with caption, weight 0.5, margin 0.3, ",
        "retrieval (protocol retrieval/v1):",
        "- scenes/train: cs 24, de 24, en 96, fr 24, ja 24, zh 24",
        "| scenes/bitext | ",
        "texts of at most 32 tokens",
        "Model: (to be filled in by its author)",
    ):
        assert line in card, line
    config = json.loads((preset[0].parent / "mural-scenes" / "config.json").read_text())
    assert config["registered_name"] == "tf_mural>MuralBackbone"


def test_the_card_names_the_languages_of_all_stages(finished):
    """Creates a card without records, which may be on another machine."""
    description = json.loads((finished[0] / "model.json").read_text())
    card = presets.model_card("bare", description)
    front_matter = card.split("---")[1]
    codes = [line.removeprefix("- ") for line in front_matter.splitlines() if len(line) == 4]
    assert codes == "cs de en es fr it ja ko sw tr uk zh".split()


def test_a_preset_knows_the_languages_of_its_model(preset):
    embedder = tf_mural.Embedder.load(preset[0])
    (note,) = embedder.text_notes(["красный круг"])
    assert "lacks letters" in note


def test_the_code_in_the_card_runs_in_a_new_process(preset, tmp_path):
    """KerasHub finds the classes of a preset only after the import that the card contains."""
    blocks = re.findall(r"```python\n(.*?)```", (preset[0] / "README.md").read_text(), re.S)
    assert len(blocks) == 2
    shutil.copytree(preset[0], tmp_path / "mural-scenes")
    (tmp_path / "dog.jpg").write_bytes(encode(random_pixels(), "JPEG"))

    without_import = (
        "import keras_hub, tf_mural\n"
        "try:\n    keras_hub.models.Backbone.from_preset('mural-scenes')\n"
        "except Exception as error:\n    print('MuralBackbone' in str(error))\n"
    )
    code = [f"import sys; sys.path.append({ROOT!r})", without_import, blocks[1], blocks[0]]
    code.append("print(type(backbone).__name__, scores.shape)")
    command = [sys.executable, "-c", "\n".join(code)]
    process = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    expected = ["True", "MuralBackbone (1, 1)"]
    assert process.stdout.splitlines() == expected, process.stderr[-2000:]


def test_a_model_card_without_a_run_describes_only_the_model(finished):
    description = json.loads((finished[0] / "model.json").read_text())
    card = presets.model_card("bare", description)
    assert "EfficientNet-TINY at 64 px" in card and "## Data" not in card


@pytest.mark.parametrize("path", ["hf://nobody/nothing", "kaggle://a/b", "modelscope://a/b"])
def test_a_handle_that_cannot_be_downloaded_is_named(path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert presets.is_preset(path)
    with pytest.raises(UserError, match=f"{path} cannot be loaded as a preset"):
        presets.load_preset(path)


def test_a_model_on_a_hub_is_evaluated(preset, data_dir, tmp_path):
    # These folders have the layout of the download cache of huggingface_hub.
    commit, repository = "0" * 40, tmp_path / "cache" / "models--who--mural"
    shutil.copytree(preset[0], repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, os.path.join(ROOT, "tools", "evaluate.py"), "--model=hf://who/mural"]
    command += [f"--data_dir={data_dir}", "--records=scenes/test", "--languages=en"]
    process = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert process.returncode == 0, process.stderr[-2000:]
    folder = tmp_path / "runs" / "hub" / "who-mural" / "evals"
    result = json.loads((folder / "retrieval-scenes-test-languages-en.json").read_text())
    assert result["model"] == "hf://who/mural"
    assert tf_mural.Embedder.load(preset[0]).fingerprint.startswith(result["weights_hash"])


def test_a_preset_of_another_model_is_refused(tmp_path):
    bert = keras_hub.models.BertBackbone(
        vocabulary_size=8, num_layers=1, num_heads=1, hidden_dim=4, intermediate_dim=4
    )
    bert.save_to_preset(str(tmp_path))
    assert not presets.is_preset(tmp_path) and not presets.is_preset(tmp_path / "nothing")
    with pytest.raises(UserError, match="not a subclass of calling class"):
        presets.load_preset(str(tmp_path))


def test_a_folder_that_is_not_empty_is_not_overwritten(finished, preset):
    model = experiment.load(str(finished[0]))
    with pytest.raises(UserError, match="is not empty: choose another folder"):
        presets.save_preset(str(preset[0]), {}, model.encoder, model.tokenizer, model.preprocessing)
