"""Pairs of public image and text encoders: ETCL steps, runs and exports.

Four families of image encoders are paired with four families of text encoders. On TensorFlow,
`make test` checks one pair per family, and the slow tests check the other pairs. The slow tests
also check all pairs on JAX. Each tower is exported by itself, so that the exports of one pair per
family contain all towers.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tower_matrix_script as script
from conftest import ROOT
from helpers import tower_families
from helpers.backends import backend_environment
from helpers.comparison import largest_error, select_prefix

ALL = [f"{image}/{text}" for image in tower_families.IMAGES for text in tower_families.TEXTS]
ONE_PER_FAMILY = list(map("/".join, zip(tower_families.IMAGES, tower_families.TEXTS, strict=True)))
PAIRS = [p if p in ONE_PER_FAMILY else pytest.param(p, marks=pytest.mark.slow) for p in ALL]


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    """Returns the folder of the public models of all families."""
    folder = str(tmp_path_factory.mktemp("public"))
    tower_families.write(folder)
    return folder


@pytest.fixture(scope="module")
def runs(public, tmp_path_factory):
    """Returns a function that maps a pair to the arrays of `run_pair`; its attribute is `out`."""
    out, results = str(tmp_path_factory.mktemp("runs")), {}

    def run(pair):
        if pair not in results:
            results[pair] = script.run_pair(public, out, pair)
        return results[pair]

    run.out = out
    return run


@pytest.fixture(scope="module")
def jax_runs(public, tmp_path_factory):
    """Returns (folder of the runs of JAX, {pair: arrays of `run_pair`})."""
    pytest.importorskip("jax", reason="JAX is not installed: pip install -r requirements-jax.txt")
    out = str(tmp_path_factory.mktemp("jax"))
    command = [sys.executable, os.path.join(ROOT, "tests", "tower_matrix_script.py"), public, out]
    environment = backend_environment("jax")
    done = subprocess.run([*command, *ALL], env=environment, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    arrays = {}
    for pair in ALL:
        with np.load(script.run_file(out, pair) + ".npz") as file:
            arrays[pair] = dict(file)
    return out, arrays


def gradients(arrays, name):
    """Returns the gradients of a step, without those that consist only of rounding errors."""
    values = select_prefix(arrays, f"{name}/gradient/")
    total = np.sqrt(sum(np.sum(np.square(g)) for g in values.values()))
    significant = {path: g for path, g in values.items() if np.linalg.norm(g) > 1e-4 * total}
    assert len(significant) > 0.7 * len(values)
    return significant


def changes(arrays, name):
    """Returns {path: largest change of the variable by a step}."""
    before, after = (select_prefix(arrays, f"{name}/{time}/") for time in ("before", "after"))
    return {path: np.abs(after[path] - before[path]).max(initial=0) for path in before}


def check_layer_decay(arrays):
    """Checks that the learning rates decrease by a factor of 2 from layer to layer.

    The first step of Adam changes a value with a large gradient by the learning rate.
    """
    rates = {path: x / script.LEARNING_RATE for path, x in changes(arrays, "remat").items()}
    moved = gradients(arrays, "remat")
    parts = json.loads(str(arrays["parts"]))
    names = {"block 0", "block 1", "projection", "other"}
    assert set(parts["image"]) == set(parts["text"]) == names
    for tower, paths in parts.items():
        for part, expected in (("block 0", 0.25), ("block 1", 0.5), ("projection", 1.0)):
            actual = [rates[path] for path in paths[part] if path in moved]
            assert actual and np.allclose(actual, expected, rtol=2e-2), (tower, part, actual)
        # Embeddings and stems lie before the first block, norms and poolings behind the last one.
        others = {round(rates[path], 3) for path in paths["other"] if path in moved}
        assert 0.125 in others and others <= {0.125, 1.0}, (tower, others)


def check_embeddings(loaded, trained, atol):
    for tower in ("image", "text"):
        rows = trained[f"trained/{tower}"]
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
        assert np.abs(rows[0] - rows[1]).max() > 1e-4  # The images are noise.
        np.testing.assert_allclose(loaded[tower], rows, atol=atol)


@pytest.mark.parametrize("pair", PAIRS)
def test_a_pair_takes_a_step_of_etcl(pair, runs):
    arrays = runs(pair)
    assert 0.1 < arrays["plain/loss"] < 100
    moved, parts = gradients(arrays, "plain"), json.loads(str(arrays["parts"]))
    for tower in ("image", "text"):
        for part, paths in parts[tower].items():
            assert any(path in moved for path in paths), (tower, part)


@pytest.mark.parametrize("pair", PAIRS)
def test_gradients_with_remat_equal_those_without(pair, runs):
    arrays = runs(pair)
    plain, remat = (select_prefix(arrays, f"{name}/gradient/") for name in ("plain", "remat"))
    error, path = largest_error(plain, remat)
    assert error < 1e-4, path


@pytest.mark.parametrize("pair", PAIRS)
def test_only_the_trained_part_of_a_tower_changes(pair, runs):
    arrays = runs(pair)
    parts = json.loads(str(arrays["parts"]))
    for frozen, trained in (("image", "text"), ("text", "image")):
        changed = {path for path, x in changes(arrays, f"frozen {frozen}").items() if x > 0}
        assert not changed & {path for paths in parts[frozen].values() for path in paths}
        # Of the other tower, the last block and the layers behind it are trained.
        full = {path for path, x in changes(arrays, "plain").items() if x > 0}
        assert not changed & set(parts[trained]["block 0"])
        for part in ("block 1", "projection"):
            assert set(parts[trained][part]) & full <= changed, (trained, part)
        # The learning rates show which of the other layers lie before the first block.
        rates, moved = changes(arrays, "remat"), gradients(arrays, "plain").keys()
        other = [path for path in parts[trained]["other"] if path in moved]
        before = {path for path in other if rates[path] < 0.2 * script.LEARNING_RATE}
        assert before and not changed & before


@pytest.mark.parametrize("pair", PAIRS)
def test_learning_rates_decay_from_layer_to_layer(pair, runs):
    check_layer_decay(runs(pair))


@pytest.mark.parametrize("pair", PAIRS)
def test_a_saved_run_has_the_embeddings_of_the_trained_model(pair, runs):
    arrays = runs(pair)
    check_embeddings(select_prefix(arrays, "loaded/"), arrays, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("pair", ALL)
def test_jax_takes_the_step_of_tensorflow(pair, runs, jax_runs):
    tensorflow, jax = runs(pair), jax_runs[1][pair]
    np.testing.assert_allclose(jax["remat/loss"], tensorflow["plain/loss"], rtol=1e-4)
    expected, actual = gradients(tensorflow, "plain"), gradients(jax, "remat")
    paths = expected.keys() & actual.keys()
    assert len(paths) > 0.95 * len(expected)
    error, path = largest_error(*({path: x[path] for path in paths} for x in (expected, actual)))
    assert error < 1e-3, path
    check_layer_decay(jax)


@pytest.mark.slow
@pytest.mark.parametrize("pair", ALL)
def test_both_backends_load_a_run_of_jax(pair, jax_runs):
    from tf_mural import experiment

    folder, arrays = jax_runs
    check_embeddings(select_prefix(arrays[pair], "loaded/"), arrays[pair], atol=1e-6)
    model = experiment.load(script.run_file(folder, pair))
    texts = np.asarray(model.tokenizer(script.TEXTS["text_a"]))
    size = model.preprocessing.crop
    pixels = np.random.default_rng(0).integers(0, 256, (len(texts), size, size, 3)).astype(np.uint8)
    batch = {"image": {"pixels": pixels}, "text_a": {"tokens": texts}}
    loaded = select_prefix(script.embed("tensorflow", model.encoder, batch), "tensorflow/")
    check_embeddings(loaded, arrays[pair], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("pair", ONE_PER_FAMILY)
def test_exports_embed_like_the_run(pair, runs, tmp_path):
    pytest.importorskip("onnxruntime", reason="pip install -r requirements-export.txt")
    from tf_mural import experiment, export

    runs(pair)
    model = experiment.load(script.run_file(runs.out, pair))
    differences = export.export_onnx(str(tmp_path / "onnx"), model)
    assert differences.keys() == {"image", "text"}
    differences |= export.export_saved_model(str(tmp_path / "saved_model"), model)
    assert {"embed_images", "embed_texts"} <= differences.keys()
    assert max(differences.values()) < 1e-4, differences
