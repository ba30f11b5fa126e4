"""JAX against TensorFlow: gradients, weights after steps, runs, resume, processes."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from helpers.comparison import largest_error, select_prefix

pytest.importorskip("jax", reason="JAX is not installed: pip install -r requirements-jax.txt")

TRAIN = os.path.join(ROOT, "tools", "train.py")
CONFIG = os.path.join(ROOT, "tests", "small_config.py")
# Reduces the compile time by two thirds; the arithmetic stays float32.
_FAST_COMPILE = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def environment(backend="jax", devices=1, **variables):
    flags = f"{_FAST_COMPILE} --xla_force_host_platform_device_count={devices}"
    fixed = {"KERAS_BACKEND": backend, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **fixed, **variables}


# --- gradients, and weights after steps -----------------------------------------------------------


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """{backend: {name: array}} of backend_script.py, with eight devices on JAX."""
    folder, running = tmp_path_factory.mktemp("steps"), {}
    for backend in ("tensorflow", "jax"):
        out = folder / f"{backend}.npz"
        command = [sys.executable, os.path.join(ROOT, "tests", "backend_script.py"), str(out)]
        with open(folder / f"{backend}.err", "w") as errors:
            process = subprocess.Popen(command, env=environment(backend, 8), stderr=errors)
        running[backend] = (process, out)
    arrays = {}
    for backend, (process, out) in running.items():
        assert process.wait() == 0, (folder / f"{backend}.err").read_text()[-3000:]
        with np.load(out) as file:
            arrays[backend] = {name: file[name] for name in file.files}
    return arrays


def errors(expected, actual):
    """Largest error of all variables, and of those whose gradient is more than rounding."""
    total = np.sqrt(sum(np.sum(np.square(g)) for g in expected.values()))
    significant = {k for k, g in expected.items() if np.linalg.norm(g) > 1e-4 * total}
    assert len(significant) > 0.8 * len(expected)
    parts = ({k: gradients[k] for k in significant} for gradients in (expected, actual))
    return largest_error(expected, actual)[0], largest_error(*parts)[0]


@pytest.mark.parametrize(
    ("stage", "case"),
    [
        ("mural", "mural"),
        ("etcl", "etcl"),
        ("etcl", "devices"),
        ("etcl", "sharded"),
        ("etcl", "microbatch"),
        ("etcl", "chunk"),
    ],
)
def test_gradients_equal_those_of_tensorflow(steps, stage, case):
    expected = select_prefix(steps["tensorflow"], f"{stage}/gradient/")
    actual = select_prefix(steps["jax"], f"{case}/gradient/")
    assert any("temperature" in name for name in actual) and len(actual) > 30
    assert any("_bn/" in name for name in actual)
    error, significant_error = errors(expected, actual)
    assert significant_error < 1.5e-5 and error < 1e-4


def test_bfloat16_is_as_far_from_float32_as_on_tensorflow(steps):
    float32 = select_prefix(steps["tensorflow"], "etcl/gradient/")
    exact = np.concatenate([g.ravel() for g in float32.values()])
    for backend in ("jax", "tensorflow"):
        bfloat16 = select_prefix(steps[backend], "bfloat16/gradient/")
        vector = np.concatenate([bfloat16[name].ravel() for name in float32])
        # Measured: 3.0 % on JAX and 3.4 % on TensorFlow.
        assert np.linalg.norm(vector - exact) / np.linalg.norm(exact) < 0.05, backend


def test_gradient_checkpointing_draws_the_same_dropout(steps):
    names = ("dropout", "remat", "etcl")
    plain, remat, without_dropout = (
        select_prefix(steps["jax"], f"{name}/gradient/") for name in names
    )
    error, significant_error = errors(plain, remat)
    assert significant_error < 1e-5 and error < 1e-4
    assert errors(without_dropout, plain)[1] > 0.1


# Variables whose gradient is only rounding, which LAMB turns into steps of full length.
_ROUNDING = ("block1b_project_bn/beta", "transformer_layer_0/self_attention_layer/key/bias")


def without_rounding(weights):
    """The weights without those of `_ROUNDING`."""
    for name in _ROUNDING:
        assert np.linalg.norm(weights.pop(name)) < 1e-3
    return weights


@pytest.mark.parametrize(
    ("stage", "case"),
    [("mural", "mural"), ("etcl", "etcl"), ("etcl", "devices"), ("etcl", "sharded")],
)
def test_weights_after_ten_steps_equal_those_of_tensorflow(steps, stage, case):
    expected = select_prefix(steps["tensorflow"], f"{stage}/weight/")
    actual = select_prefix(steps["jax"], f"{case}/weight/")
    assert any("moving_variance" in name for name in actual)
    assert largest_error(*map(without_rounding, (expected, actual)))[0] < 1e-4
    logs = select_prefix(steps["jax"], f"{case}/log/")
    for name, values in select_prefix(steps["tensorflow"], f"{stage}/log/").items():
        np.testing.assert_allclose(logs[name], values, rtol=1e-3, err_msg=name)


# --- runs -----------------------------------------------------------------------------------------


def start_training(folder, *options, **variables):
    command = [sys.executable, TRAIN, f"--config={CONFIG}", *options]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen(command, cwd=folder, env=environment(**variables), **pipes)


def wait_for(process, code=0):
    out, error = process.communicate(timeout=400)
    assert process.returncode == code, (process.returncode, error[-3000:], out[-1000:])
    return out, error


def weights(folder):
    with np.load(os.path.join(folder, "weights.npz")) as file:
        return {name: file[name] for name in file.files}


def cluster(count):
    """TF_CONFIG of each of `count` processes on this machine."""
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{server.getsockname()[1]}" for server in servers]
    for server in servers:
        server.close()
    return [
        json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": i}})
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data_dir):
    """Folder with two runs of MURAL: "one" on two devices, "two" by two processes."""
    folder = tmp_path_factory.mktemp("runs")
    options = ("--stage=mural", f"--data_dir={data_dir}")
    wait_for(start_training(folder, "--backend=jax", *options, "--workdir=one", devices=2))
    both = [
        start_training(folder, "--backend=jax", *options, "--workdir=two", TF_CONFIG=config)
        for config in cluster(2)
    ]
    for process in both:
        wait_for(process)
    return folder


@pytest.mark.slow
def test_two_processes_equal_one_process_with_two_devices(runs):
    assert largest_error(weights(runs / "one"), weights(runs / "two"))[0] < 1e-5
    for name in ("seed", "steps", "data"):
        one, two = (json.loads((runs / run / "results.json").read_text()) for run in ("one", "two"))
        assert one[name] == two[name]
    assert one["evaluation"]["retrieval"]["values"] == two["evaluation"]["retrieval"]["values"]


@pytest.mark.slow
def test_two_processes_with_a_sharded_state_equal_one_process(runs, data_dir):
    options = ("--stage=mural", f"--data_dir={data_dir}", "--workdir=sharded", "--backend=jax")
    options += ("--config.shard_optimizer=true", "--config.shard_embeddings=true")
    for process in [start_training(runs, *options, TF_CONFIG=config) for config in cluster(2)]:
        wait_for(process)
    one, sharded = (without_rounding(weights(runs / run)) for run in ("one", "sharded"))
    assert largest_error(one, sharded)[0] < 1e-5


@pytest.mark.slow
def test_each_backend_loads_the_weights_of_the_other(runs, data_dir):
    """ETCL on TensorFlow from MURAL on JAX, and ETCL on JAX from that.

    The learning rate is so small that the weights do not change.
    """
    options = ("--stage=etcl", f"--data_dir={data_dir}", "--config.steps=1")
    options += ("--config.optimizer.learning_rate=1e-30",)
    for backend, init in (("tensorflow", "one"), ("jax", "tensorflow")):
        own = (f"--backend={backend}", f"--init={init}", f"--workdir={backend}")
        out, _ = wait_for(start_training(runs, *options, *own))
        assert f"from {init}" in out
    before, after = weights(runs / "one"), weights(runs / "jax")
    for name in before:
        if "/moving_" not in name:
            np.testing.assert_array_equal(after[name], before[name], err_msg=name)


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_weights(runs, data_dir, tmp_path):
    options = ("--backend=jax", "--stage=mural", f"--data_dir={data_dir}", "--workdir=again")
    process = start_training(tmp_path, *options, devices=2)
    for line in process.stdout:
        if line.startswith("step 3"):
            break
    process.kill()
    process.wait()
    wait_for(start_training(tmp_path, *options, devices=2))
    again = weights(tmp_path / "again")
    for name, value in weights(runs / "one").items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)


@pytest.mark.slow
def test_the_loss_of_a_process_ends_the_others(data_dir, tmp_path):
    options = ("--stage=mural", f"--data_dir={data_dir}", "--workdir=run")
    options += ("--config.steps=5000", "--backend=jax")
    one, two = (start_training(tmp_path, *options, TF_CONFIG=config) for config in cluster(2))
    for line in one.stdout:
        if line.startswith("step"):
            break
    two.kill()
    _, error = wait_for(one, code=75)
    assert "process 0 of 2 has lost another one" in error
    two.communicate()


@pytest.mark.slow
def test_impossible_options_are_refused(data_dir, tmp_path):
    stage = ("--stage=mural", f"--data_dir={data_dir}", "--workdir=other")
    for options, message in (
        (("--backend=torch",), "error: unknown backend 'torch'"),
        (("--backend=jax", "--strategy=tpu"), "error: no TPU is available: JAX has only cpu dev"),
        (
            ("--backend=jax", "--config.precision=mixed_float16"),
            "error: mixed_float16 on JAX needs a",
        ),
        (("--backend=tensorflow", "--config.shard_optimizer=true"), "set --backend=jax"),
    ):
        _, error = wait_for(start_training(tmp_path, *stage, *options), code=2)
        assert message in error
