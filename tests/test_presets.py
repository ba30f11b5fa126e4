"""A model as a KerasHub preset, and as an export to other programs."""

import json
import os
import shutil
import subprocess
import sys

import keras_hub
import numpy as np
import pytest
from conftest import ROOT

import tf_mural
from tf_mural import experiment
from tf_mural.errors import UserError
from tf_mural.export import parity, presets

TEXTS = ["a red circle", "ein roter Kreis", ""]


@pytest.fixture(scope="module")
def preset(tools, finished, tmp_path_factory):
    """(folder of the preset of a finished run, what the tool said)."""
    folder = tmp_path_factory.mktemp("presets") / "mural-scenes"
    flags = (f"--model={finished[0]}", "--format=preset", f"--out={folder}")
    return folder, tools.run(folder.parent, "export.py", *flags)


def test_a_preset_embeds_as_the_run_it_was_made_of(finished, preset):
    folder, done = preset
    assert "images 0.0e+00, texts 0.0e+00" in done.out
    one, other = (tf_mural.Embedder.load(path) for path in (finished[0], folder))
    np.testing.assert_array_equal(one.texts(TEXTS), other.texts(TEXTS))
    pictures = parity.sample_images()
    np.testing.assert_array_equal(one.images(pictures), other.images(pictures))
    assert one.fingerprint == other.fingerprint


def test_keras_hub_itself_loads_it(finished, preset):
    backbone = keras_hub.models.Backbone.from_preset(str(preset[0]))
    assert type(backbone) is presets.MuralBackbone
    tokenizer = keras_hub.tokenizers.Tokenizer.from_preset(str(preset[0]))
    model = experiment.load(str(finished[0]))
    np.testing.assert_array_equal(tokenizer(TEXTS), model.tokenizer(TEXTS))
    assert tokenizer.vocabulary_size() == model.tokenizer.size
    assert tokenizer.id_to_token(tokenizer.token_to_id("[CLS]")) == "[CLS]"
    preprocessor = presets.MuralPreprocessor.from_preset(str(preset[0]))
    pictures = np.random.default_rng(0).integers(0, 256, (2, 100, 80, 3), np.uint8)
    found = backbone(preprocessor({"images": pictures, "texts": TEXTS[:2]}))
    expected = tf_mural.Embedder.load(preset[0])
    np.testing.assert_allclose(
        found["image_embeddings"], expected.images(list(pictures)), atol=1e-6
    )
    np.testing.assert_allclose(found["text_embeddings"], expected.texts(TEXTS[:2]), atol=1e-6)


def test_a_preset_of_a_preset_changes_nothing(preset, tmp_path):
    backbone = presets.MuralBackbone.from_preset(str(preset[0]))
    backbone.save_to_preset(str(tmp_path))
    again = presets.MuralBackbone.from_preset(str(tmp_path))
    for one, other in zip(backbone.weights, again.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    assert again.get_config() == backbone.get_config()


def test_a_preset_does_not_know_its_backend(preset):
    pytest.importorskip("jax", reason="pip install -r requirements-jax.txt")
    code = (
        f"import sys; sys.path.insert(0, {ROOT!r})\nimport numpy as np, tf_mural\n"
        f"e = tf_mural.Embedder.load({str(preset[0])!r})\n"
        f"np.save(sys.argv[1], e.texts({TEXTS!r}))\nprint(e.fingerprint)\n"
    )
    out = preset[0].parent / "jax.npy"
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    command = [sys.executable, "-c", code, str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    ours = tf_mural.Embedder.load(preset[0])
    np.testing.assert_allclose(np.load(out), ours.texts(TEXTS), atol=2e-6)
    assert done.stdout.strip() == ours.fingerprint


def test_the_card_tells_what_the_run_was(preset, data_dir):
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
    scores = json.loads((preset[0].parent / "mural-scenes" / "config.json").read_text())
    assert scores["registered_name"] == "tf_mural>MuralBackbone"


def test_a_card_without_a_run_tells_of_the_model_alone(finished):
    description = json.loads((finished[0] / "model.json").read_text())
    card = presets.model_card("bare", description)
    assert "EfficientNet-TINY at 64 px" in card and "## Data" not in card


@pytest.mark.parametrize("path", ["hf://nobody/nothing", "kaggle://a/b", "modelscope://a/b"])
def test_a_handle_that_cannot_be_fetched_is_named(path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert presets.is_preset(path)
    with pytest.raises(UserError, match=f"{path} cannot be loaded as a preset"):
        presets.load_preset(path)


def test_a_model_on_a_hub_is_scored(preset, data_dir, tmp_path):
    # As a download lays it into the cache of the hub's own library.
    commit, repository = "0" * 40, tmp_path / "cache" / "models--who--mural"
    shutil.copytree(preset[0], repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, os.path.join(ROOT, "tools", "evaluate.py"), "--model=hf://who/mural"]
    command += [f"--data_dir={data_dir}", "--records=scenes/test", "--languages=en"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    folder = tmp_path / "runs" / "hub" / "who-mural" / "evals"
    result = json.loads((folder / "retrieval-scenes-test-languages-en.json").read_text())
    assert result["model"] == "hf://who/mural"
    assert tf_mural.Embedder.load(preset[0]).fingerprint.startswith(result["weights_hash"])


def test_another_preset_is_none_of_ours(tmp_path):
    bert = keras_hub.models.BertBackbone(
        vocabulary_size=8, num_layers=1, num_heads=1, hidden_dim=4, intermediate_dim=4
    )
    bert.save_to_preset(str(tmp_path))
    assert not presets.is_preset(tmp_path) and not presets.is_preset(tmp_path / "nothing")
    with pytest.raises(UserError, match="not a subclass of calling class"):
        presets.load_preset(str(tmp_path))


def test_a_folder_that_is_not_empty_is_left_alone(finished, preset):
    model = experiment.load(str(finished[0]))
    with pytest.raises(UserError, match="holds something already"):
        presets.save_preset(str(preset[0]), {}, model.encoder, model.tokenizer, model.sizes)


# --- exports --------------------------------------------------------------------------------------


def test_a_saved_model_takes_bytes_and_strings(tools, finished, tmp_path):
    out = tmp_path / "saved"
    flags = (f"--model={finished[0]}", "--format=saved_model", f"--out={out}")
    assert "at most so far from the model" in tools.run(tmp_path, "export.py", *flags).out
    # As a server would: another process, without this package.
    code = (
        "import sys, numpy as np, tensorflow as tf, tensorflow_text\n"
        "loaded = tf.saved_model.load(sys.argv[1])\n"
        "texts = loaded.signatures['serving_default'](texts=tf.constant(['a red circle', '']))\n"
        "png = tf.io.encode_png(np.zeros((33, 20, 3), np.uint8))\n"
        "images = loaded.signatures['embed_images'](images=png[None])\n"
        "np.savez(sys.argv[2], texts=texts['embeddings'], images=images['embeddings'])\n"
        "assert not [name for name in sys.modules if name.startswith('tf_mural')]\n"
    )
    command = [sys.executable, "-c", code, str(out), str(tmp_path / "out.npz")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    embedder = tf_mural.Embedder.load(finished[0])
    with np.load(tmp_path / "out.npz") as found:
        np.testing.assert_allclose(found["texts"], embedder.texts(["a red circle", ""]), atol=1e-5)
        expected = embedder.images([np.zeros((33, 20, 3), np.uint8)])
        np.testing.assert_allclose(found["images"], expected, atol=1e-5)


@pytest.mark.parametrize("quantize", ["", "int8"])
def test_onnx_runs_without_this_package(tools, finished, tmp_path, quantize):
    pytest.importorskip("tf2onnx", reason="pip install -r requirements-export.txt")
    import onnxruntime

    out = tmp_path / "onnx"
    flags = (f"--model={finished[0]}", "--format=onnx", f"--out={out}", f"--quantize={quantize}")
    told = tools.run(tmp_path, "export.py", *flags).out
    assert "image " in told and "text " in told
    assert sorted(os.listdir(out)) == ["image.onnx", "preprocessing.json", "text.onnx", "vocab.txt"]
    about = json.loads((out / "preprocessing.json").read_text())
    assert about["images"]["crop"] == 64 and about["texts"]["max_tokens"] == 32
    model = experiment.load(str(finished[0]))
    session = onnxruntime.InferenceSession(str(out / "text.onnx"))
    tokens = np.asarray(model.tokenizer(TEXTS))
    (rows,) = session.run(None, {"tokens": tokens})
    tolerance = 1e-2 if quantize else 1e-4
    np.testing.assert_allclose(rows, model.embed.texts(TEXTS), atol=tolerance)


def test_an_export_that_differs_is_refused(finished):
    from tf_mural.export.parity import far_apart

    far_apart("x", {"image": 1e-5}, 1e-4)
    for value in (2e-4, float("nan")):
        with pytest.raises(UserError, match="x: image is .* away from the model"):
            far_apart("x", {"image": value}, 1e-4)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--format=tflite"], "unknown format 'tflite'"),
        (["--out="], "--out is missing"),
        (["--model="], "--model is missing"),
        (["--quantize=int8"], "--quantize goes with --format=onnx"),
    ],
)
def test_bad_flags_are_refused(tools, finished, tmp_path, flags, words):
    given = [f"--model={finished[0]}", f"--out={tmp_path / 'out'}", *flags]
    done = tools.run(tmp_path, "export.py", *given)
    assert words in done.err and not (tmp_path / "out").exists()


def test_what_is_there_is_not_overwritten(tools, finished, tmp_path):
    (tmp_path / "out").mkdir()
    flags = [f"--model={finished[0]}", f"--out={tmp_path / 'out'}"]
    assert "is there already" in tools.run(tmp_path, "export.py", *flags).err


def test_the_best_step_of_a_run_has_the_card_of_the_run(finished, tmp_path):
    import reporting

    run = tmp_path / "run"
    shutil.copytree(finished[0], run, ignore=shutil.ignore_patterns("checkpoints"))
    (run / "best").mkdir()
    assert reporting.chain(str(run / "best")) == [str(run)]
    assert reporting.chain(str(tmp_path / "nothing")) == []
