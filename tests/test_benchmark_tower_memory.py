"""The benchmark of the memory of public models."""

import json
import math
import os
import subprocess
import sys

import keras
import pytest
from conftest import ROOT

from benchmarks import tower_memory
from tf_mural.public_models import open_model

SMALL = tower_memory._siglip(
    {**tower_memory._sizes(3, 32, 2, 64), "image_size": 32, "patch_size": 16},
    {**tower_memory._sizes(4, 32, 2, 64), "vocab_size": 50, "max_position_embeddings": 16},
)


@pytest.mark.parametrize("name", tower_memory.MODELS)
def test_published_sizes_describe_a_public_model(name, tmp_path):
    config = tower_memory.MODELS[name]
    tower_memory.write_folder(tmp_path, config)
    model = open_model(f"hf:{tmp_path}")
    assert model.modalities == tuple(tower_memory.layers_of(config))
    changed = tower_memory.with_layers(config, {"text": 5})
    assert tower_memory.layers_of(changed)["text"] == 5 != tower_memory.layers_of(config)["text"]


def test_the_number_of_parameters_is_that_of_the_published_clip(tmp_path):
    tower_memory.write_folder(tmp_path, tower_memory.MODELS["clip_b32"])
    model, count = open_model(f"hf:{tmp_path}"), 0
    with keras.StatelessScope(initialize_variables=False):
        for modality in model.modalities:
            encoder = model.encoder(modality, weights=False)
            count += sum(math.prod(variable.shape) for variable in encoder.weights)
    assert count == 151_277_312  # without the temperature


def test_memory_is_extrapolated_linearly_in_the_layers_of_both_encoders(monkeypatch):
    def compile_step(config, **options):
        layers = tower_memory.layers_of(config)
        memory = 100 + 7 * layers["image"] + 11 * layers["text"]
        return {"memory": memory, "weights": memory, "slots": 0, "seconds": 1.0}

    monkeypatch.setattr(tower_memory, "compile_step", compile_step)
    for layers in (None, (1, 2), (2, 4)):
        result = tower_memory.estimate(SMALL, layers, batch=8)
        assert result["memory"] == result["weights"] == 100 + 7 * 3 + 11 * 4


@pytest.mark.slow
def test_the_memory_of_a_step_grows_with_the_batch_and_shrinks_with_lora(tmp_path):
    pytest.importorskip("libtpu", reason="pip install -r requirements-plan.txt")
    code = (
        "from benchmarks import tower_memory\n"
        "from test_benchmark_tower_memory import SMALL\n"
        "tower_memory.MODELS['small'] = SMALL\n"
        "for batch in ('64', '256'):\n"
        "    tower_memory.main(['--models=small', '--adapt=full,lora:2', '--layers=all',\n"
        "        f'--batch={batch}', f'--json={batch}.json'])\n"
    )
    paths = os.pathsep.join([ROOT, os.path.dirname(__file__)])
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = {}
    for batch in (64, 256):
        with open(tmp_path / f"{batch}.json", encoding="utf-8") as file:
            results[batch] = json.load(file)["results"]
    full, lora = results[256]
    assert results[64][0]["memory"] < full["memory"]
    assert lora["slots"] < full["slots"] / 2 and lora["memory"] < full["memory"]
    assert lora["weights"] > full["weights"]  # with the adapters
