"""Embeddings do not depend on the other items of a batch, on any backend and in any export."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from batch_orders_script import SIZES, in_all_orders, make_items
from conftest import ROOT
from helpers.backends import backend_environment

from tf_mural import experiment, export
from tf_mural.data import image_ops

TOLERANCES = {"float32": 1e-5, "mixed_bfloat16": 1e-2}


def in_batches(items, size, embed):
    """Embeds batches of `size` items; the last batch may be smaller."""
    rows = [np.asarray(embed(items[i : i + size])) for i in range(0, len(items), size)]
    return np.concatenate(rows)


def embed_saved_model(folder):
    import tensorflow as tf

    signatures = tf.saved_model.load(str(folder)).signatures

    def embed(part, items, size):
        function = signatures[f"embed_{part}"]
        call = lambda batch: function(**{part: tf.constant(batch)})["embeddings"]  # noqa: E731
        return in_batches(items, size, call)

    return embed


def embed_onnx(folder, model):
    import onnxruntime

    def tokens(texts):
        return np.asarray(model.tokenizer(texts))

    def pixels(images):
        images = [
            image_ops.preprocess_for_evaluation(image, model.preprocessing) for image in images
        ]
        return np.stack(images).astype(np.float32)

    towers = {"texts": ("text.onnx", tokens), "images": ("image.onnx", pixels)}

    def embed(part, items, size):
        file, preprocess = towers[part]
        session = onnxruntime.InferenceSession(os.path.join(folder, file))
        name = session.get_inputs()[0].name
        return in_batches(
            items, size, lambda batch: session.run(None, {name: preprocess(batch)})[0]
        )

    return embed


def with_precision(run, precision, folder):
    """Copies the files that describe a model, with another precision."""
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("checkpoints", "evals", "*.jsonl"))
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "precision": precision}))
    return folder


def run_script(backend, out, *folders):
    environment = backend_environment(backend)
    script = os.path.join(ROOT, "tests", "batch_orders_script.py")
    command = [sys.executable, script, str(out), *map(str, folders)]
    process = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert process.returncode == 0, process.stderr[-3000:]
    with np.load(out) as arrays:
        return {f"{backend}/{name}": arrays[name] for name in arrays.files}


@pytest.mark.slow
@pytest.mark.parametrize("precision", TOLERANCES)
def test_embeddings_do_not_depend_on_the_batch(tools, finished, tmp_path, precision):
    run = with_precision(finished[0], precision, tmp_path / "run")
    tools.run(tmp_path, "export.py", f"--model={run}", "--format=preset", "--out=preset")
    results = run_script("tensorflow", tmp_path / "tf.npz", run, tmp_path / "preset")
    try:
        import jax  # noqa: F401

        results |= run_script("jax", tmp_path / "jax.npz", run, tmp_path / "preset")
    except ImportError:
        pass
    model = experiment.load(str(run))
    export.export_saved_model(str(tmp_path / "saved"), model)
    results |= in_all_orders("saved_model", embed_saved_model(tmp_path / "saved"))
    if precision == "float32":  # ONNX Runtime has no bfloat16 on CPUs
        pytest.importorskip("tf2onnx", reason="pip install -r requirements-export.txt")
        export.export_onnx(str(tmp_path / "onnx"), model)
        results |= in_all_orders("onnx", embed_onnx(tmp_path / "onnx", model))

    for part, items in make_items().items():
        expected = results[f"tensorflow/run/{part}/{SIZES[-1]}"]
        assert expected.shape[0] == len(items)
        names = [name for name in results if f"/{part}/" in name]
        assert len(names) >= 3 * len(SIZES)
        errors = {name: float(np.abs(results[name] - expected).max()) for name in names}
        assert max(errors.values()) <= TOLERANCES[precision], errors
        # Different items differ much more than the same item in different batches.
        assert np.abs(expected - expected[::-1]).max() > 2 * max(errors.values())
