"""Adapted towers on both backends and on several replicas, and runs with adapters."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, SMALL_RUN
from helpers.backends import backend_environment
from helpers.comparison import largest_error, select_prefix

from tf_mural import experiment
from tf_mural.training import checkpoints


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """Returns {(backend, number of replicas): {name: array}}, of adaptation_script.py."""
    pytest.importorskip("jax", reason="JAX is not installed: pip install -r requirements-jax.txt")
    folder, arrays = tmp_path_factory.mktemp("adaptation"), {}
    for backend in ("tensorflow", "jax"):
        for count in (1, 2):
            out = folder / f"{backend}{count}.npz"
            script = os.path.join(ROOT, "tests", "adaptation_script.py")
            environment = backend_environment(backend, count)
            command = [sys.executable, script, str(count), str(out)]
            done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True)
            assert done.returncode == 0, done.stderr[-3000:]
            with np.load(out) as file:
                arrays[backend, count] = {name: file[name] for name in file.files}
    return arrays


@pytest.mark.slow
@pytest.mark.parametrize("case", ["last", "adapters"])
def test_gradients_are_equal_for_both_backends_and_several_replicas(steps, case):
    gradients = {key: select_prefix(value, f"{case}/gradient/") for key, value in steps.items()}
    expected = gradients["tensorflow", 1]
    assert any("temperature" in path for path in expected)
    assert any("lora_kernel_a" in path for path in expected) == (case == "adapters")
    # Gradients of key biases and of shifts before a batch norm consist only of rounding errors.
    norms = {path: np.linalg.norm(value) for path, value in expected.items()}
    significant = {path for path in norms if norms[path] > 1e-4 * max(norms.values())}
    for key, values in gradients.items():
        assert values.keys() == expected.keys()
        pair = ({p: g[p] for p in significant} for g in (expected, values))
        assert largest_error(*pair)[0] < 1e-4, key
    others = [
        name.split("/")[0]
        for name in {**steps["jax", 1], **steps["jax", 2]}
        if name.startswith(f"{case} ")
    ]
    assert others
    for name in set(others):
        source = steps["jax", 2 if "sharded" in name else 1]
        values = select_prefix(source, f"{name}/gradient/")
        pair = ({p: g[p] for p in significant} for g in (expected, values))
        assert largest_error(*pair)[0] < 1e-4, name


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_a_resumed_run_with_adapters_is_equal_bit_for_bit(steps, backend):
    arrays = steps[backend, 1]
    expected, resumed = (select_prefix(arrays, f"{name}/") for name in ("expected", "resumed"))
    assert expected.keys() == resumed.keys()
    assert any("lora_kernel_b" in path and value.any() for path, value in expected.items())
    for path, value in expected.items():
        np.testing.assert_array_equal(resumed[path], value, err_msg=path)


@pytest.mark.slow
def test_a_run_with_adapters_ends_with_plain_weights(train, finished, tmp_path):
    init, run, again = str(finished[0]), tmp_path / "run", tmp_path / "again"
    flags = [*SMALL_RUN, "--config.evaluate_before_training=true"]
    flags += ["--config.optimizer.learning_rate=0.05", "--config.model.image.adapt=frozen"]
    done = train(*flags, f"--init={init}", f"--workdir={run}", "--config.model.text.adapt=lora:2")
    assert done.code == 0, done.err
    before, after = (checkpoints.read_weights(str(folder)) for folder in (init, run))
    assert before.keys() == after.keys()
    changed = {path for path in before if not np.array_equal(before[path], after[path])}
    kinds = {"/".join(path.split("/")[-2:]) for path in changed}
    assert kinds == {
        "query/kernel",
        "value/kernel",
        "text_projection/kernel",
        "text_projection/bias",
        "dual_encoder/temperature_shared",
    }
    description = json.loads((run / "model.json").read_text())
    assert description["model"]["text"]["adapt"] == "lora:2"
    model = experiment.load(str(run))
    assert not any("lora" in v.path for v in model.encoder.variables)
    results = json.loads((run / "results.json").read_text())
    before, after = results["before"]["retrieval"], results["evaluation"]["retrieval"]
    assert before["values"].keys() == after["values"].keys()
    # The finished run is an ordinary run for the next stage, also with WiSE-FT.
    done = train(
        *flags,
        f"--init={run}",
        f"--workdir={again}",
        "--config.model.text.adapt=lora:3",
        "--config.wise_ft_alpha=1e-6",
    )
    assert done.code == 0, done.err
    weights = checkpoints.read_weights(str(run))
    for path, array in checkpoints.read_weights(str(again)).items():
        np.testing.assert_allclose(array, weights[path], rtol=1e-5, atol=1e-5, err_msg=path)
