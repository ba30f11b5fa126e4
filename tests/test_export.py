"""Exports models to SavedModel and ONNX, and checks the flags of tools/export.py."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from helpers.image_cases import png16, with_alpha, with_exif
from helpers.images import encode

import tf_mural
from tf_mural import experiment
from tf_mural.errors import UserError
from tf_mural.experiment import run_report
from tf_mural.export import image_decoding
from tf_mural.export.parity import assert_close

TEXTS = ["a red circle", "ein roter Kreis", ""]


@pytest.mark.slow
def test_a_saved_model_takes_encoded_images_and_strings(tools, finished, tmp_path):
    folder = tmp_path / "saved"
    flags = (f"--model={finished[0]}", "--format=saved_model", f"--out={folder}")
    assert "maximum differences from the model" in tools.run(tmp_path, "export.py", *flags).out
    # A process loads the SavedModel like a server, without importing this package.
    code = (
        "import sys, numpy as np, tensorflow as tf, tensorflow_text\n"
        "loaded = tf.saved_model.load(sys.argv[1])\n"
        "texts = loaded.signatures['serving_default'](texts=tf.constant(['a red circle', '']))\n"
        "files = tf.constant([open(path, 'rb').read() for path in sys.argv[3:]])\n"
        "images = loaded.signatures['embed_images'](images=files)['embeddings']\n"
        "pixels = np.load(sys.argv[1] + '.npy')\n"
        "pixels = loaded.signatures['embed_pixels'](pixels=pixels)['embeddings']\n"
        "np.savez(sys.argv[2], texts=texts['embeddings'], images=images, pixels=pixels)\n"
        "assert not [name for name in sys.modules if name.startswith('tf_mural')]\n"
    )
    contents = [
        encode(np.zeros((33, 20, 3), np.uint8)),
        with_exif(6, format="PNG"),
        with_exif(8, quality=95),
        encode(with_alpha()),
        png16(np.random.default_rng(0).integers(0, 1 << 16, (50, 40, 4), np.uint16)),
    ]
    files = [str(tmp_path / f"{number}.image") for number in range(len(contents))]
    for path, data in zip(files, contents, strict=True):
        (tmp_path / path).write_bytes(data)
    pixels = np.random.default_rng(1).integers(0, 256, (3, 50, 70, 3), np.uint8)
    np.save(f"{folder}.npy", pixels)
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / "out.npz"), *files]
    process = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert process.returncode == 0, process.stderr[-2000:]
    embedder = tf_mural.Embedder.load(finished[0])
    with np.load(tmp_path / "out.npz") as actual:
        expected = embedder.embed_texts(["a red circle", ""])
        np.testing.assert_allclose(actual["texts"], expected, atol=1e-5)
        # The graph decodes rotated JPEGs with TensorFlow, and the embedder with Pillow.
        expected = embedder.embed_images(files)
        np.testing.assert_allclose(actual["images"][[0, 1]], expected[[0, 1]], atol=1e-5)
        np.testing.assert_allclose(actual["images"], expected, atol=5e-3)
        expected = embedder.embed_images(list(pixels))
        np.testing.assert_allclose(actual["pixels"], expected, atol=1e-5)
    card = (folder / "README.md").read_text()
    assert "`embed_pixels`" in card and image_decoding.LIMITS in card


@pytest.mark.parametrize("quantize", ["", pytest.param("int8", marks=pytest.mark.slow)])
def test_onnx_runs_without_this_package(tools, finished, tmp_path, quantize):
    pytest.importorskip("tf2onnx", reason="pip install -r requirements-export.txt")
    import onnxruntime

    folder = tmp_path / "onnx"
    flags = (f"--model={finished[0]}", "--format=onnx", f"--out={folder}")
    output = tools.run(tmp_path, "export.py", *flags, f"--quantize={quantize}").out
    assert "image " in output and "text " in output
    files = ["image.onnx", "preprocessing.json", "text.onnx", "vocab.txt"]
    assert sorted(os.listdir(folder)) == files
    preprocessing = json.loads((folder / "preprocessing.json").read_text())
    assert preprocessing["images"]["crop"] == 64 and preprocessing["texts"]["max_tokens"] == 32
    model = experiment.load(str(finished[0]))
    session = onnxruntime.InferenceSession(str(folder / "text.onnx"))
    tokens = np.asarray(model.tokenizer(TEXTS))
    (actual,) = session.run(None, {"tokens": tokens})
    tolerance = 1e-2 if quantize else 1e-4
    np.testing.assert_allclose(actual, model.embed.embed_texts(TEXTS), atol=tolerance)


def test_an_export_that_differs_from_the_model_is_refused():
    assert_close("x", {"image": 1e-5}, 1e-4)
    for value in (2e-4, float("nan")):
        with pytest.raises(UserError, match="x: image differs by .* from the model"):
            assert_close("x", {"image": value}, 1e-4)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--format=tflite"], "unknown format 'tflite'"),
        (["--out="], "--out is missing"),
        (["--model="], "--model is missing"),
        (["--quantize=int8"], "--quantize requires --format=onnx"),
    ],
)
def test_invalid_flags_are_refused(tools, finished, tmp_path, flags, message):
    defaults = [f"--model={finished[0]}", f"--out={tmp_path / 'out'}"]
    result = tools.run(tmp_path, "export.py", *defaults, *flags)
    assert message in result.err and not (tmp_path / "out").exists()


def test_an_existing_folder_is_not_overwritten(tools, finished, tmp_path):
    (tmp_path / "out").mkdir()
    flags = [f"--model={finished[0]}", f"--out={tmp_path / 'out'}"]
    assert "already exists" in tools.run(tmp_path, "export.py", *flags).err


def test_the_best_step_of_a_run_has_the_model_card_of_the_run(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished[0], run, ignore=shutil.ignore_patterns("checkpoints"))
    (run / "best").mkdir()
    assert run_report.run_lineage(str(run / "best")) == [str(run)]
    assert run_report.run_lineage(str(tmp_path / "nothing")) == []
