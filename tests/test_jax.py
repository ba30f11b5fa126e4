"""The JAX backend beside TensorFlow: gradients, weights after steps, runs, resume, processes."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from test_distribute import part, worst

pytest.importorskip("jax", reason="JAX is not installed: pip install -r requirements-jax.txt")

TRAIN = os.path.join(ROOT, "tools", "train.py")
CONFIG = os.path.join(ROOT, "tests", "workers_config.py")
# Compiles in a third of the time; the arithmetic stays float32.
_QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def environment(backend="jax", devices=1, **more):
    flags = f"{_QUICK} --xla_force_host_platform_device_count={devices}"
    names = {"KERAS_BACKEND": backend, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **names, **more}


# --- gradients, and weights after steps -----------------------------------------------------------


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """{backend: arrays} of backend_steps.py, with eight devices on JAX."""
    folder, running = tmp_path_factory.mktemp("steps"), {}
    for backend in ("tensorflow", "jax"):
        out = folder / f"{backend}.npz"
        command = [sys.executable, os.path.join(ROOT, "tests", "backend_steps.py"), str(out)]
        with open(folder / f"{backend}.err", "w") as errors:
            process = subprocess.Popen(command, env=environment(backend, 8), stderr=errors)
        running[backend] = (process, out)
    found = {}
    for backend, (process, out) in running.items():
        assert process.wait() == 0, (folder / f"{backend}.err").read_text()[-3000:]
        with np.load(out) as file:
            found[backend] = {name: file[name] for name in file.files}
    return found


def differ(expected, found):
    """(the worst of all variables, the worst of those with a gradient that is not all rounding)."""
    total = np.sqrt(sum(np.sum(np.square(g)) for g in expected.values()))
    real = {k for k, g in expected.items() if np.linalg.norm(g) > 1e-4 * total}
    assert len(real) > 0.8 * len(expected)
    some = ({k: of[k] for k in real} for of in (expected, found))
    return worst(expected, found)[0], worst(*some)[0]


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
def test_gradients_are_those_of_tensorflow(steps, stage, case):
    expected = part(steps["tensorflow"], f"{stage}/gradient/")
    found = part(steps["jax"], f"{case}/gradient/")
    assert any("temperature" in name for name in found) and len(found) > 30
    assert any("_bn/" in name for name in found)
    of_all, of_real = differ(expected, found)
    assert of_real < 1.5e-5 and of_all < 1e-4


def test_bfloat16_is_as_far_from_float32_as_on_tensorflow(steps):
    exact = part(steps["tensorflow"], "etcl/gradient/")
    ours, theirs = (part(steps[name], "bfloat16/gradient/") for name in ("jax", "tensorflow"))
    exact, ours, theirs = (
        np.concatenate([of[name].ravel() for name in exact]) for of in (exact, ours, theirs)
    )

    def far(found):
        return np.linalg.norm(found - exact) / np.linalg.norm(exact)

    # Found: 3.0 % and 3.4 %.
    assert far(ours) < 0.05 and far(theirs) < 0.05


def test_blocks_that_are_computed_twice_draw_the_same(steps):
    names = ("dropout", "rematerialised", "etcl")
    once, twice, without = (part(steps["jax"], f"{name}/gradient/") for name in names)
    of_all, of_real = differ(once, twice)
    assert of_real < 1e-5 and of_all < 1e-4
    assert differ(without, once)[1] > 0.1


_ROUNDING = ("block1b_project_bn/beta", "transformer_layer_0/self_attention_layer/key/bias")


def without_rounding(weights):
    """Weights but for those whose gradient is all rounding, of which LAMB makes steps."""
    for name in _ROUNDING:
        assert np.linalg.norm(weights.pop(name)) < 1e-3
    return weights


@pytest.mark.parametrize(
    ("stage", "case"),
    [("mural", "mural"), ("etcl", "etcl"), ("etcl", "devices"), ("etcl", "sharded")],
)
def test_weights_after_ten_steps_are_those_of_tensorflow(steps, stage, case):
    expected = part(steps["tensorflow"], f"{stage}/weight/")
    found = part(steps["jax"], f"{case}/weight/")
    assert any("moving_variance" in name for name in found)
    assert worst(*map(without_rounding, (expected, found)))[0] < 1e-4
    told = part(steps["jax"], f"{case}/log/")
    for name, values in part(steps["tensorflow"], f"{stage}/log/").items():
        np.testing.assert_allclose(told[name], values, rtol=1e-3, err_msg=name)


# --- runs -----------------------------------------------------------------------------------------


def train(folder, *options, **environ):
    command = [sys.executable, TRAIN, f"--config={CONFIG}", *options]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen(command, cwd=folder, env=environment(**environ), **pipes)


def finished(process, code=0):
    out, error = process.communicate(timeout=400)
    assert process.returncode == code, (process.returncode, error[-3000:], out[-1000:])
    return out, error


def weights(folder):
    with np.load(os.path.join(folder, "weights.npz")) as file:
        return {name: file[name] for name in file.files}


def cluster(count):
    """TF_CONFIG of each of so many processes on this machine."""
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
    """Folder in which MURAL was trained over two devices, and in another run by two processes."""
    folder = tmp_path_factory.mktemp("runs")
    options = ("--stage=mural", f"--data_dir={data_dir}")
    finished(train(folder, "--backend=jax", *options, "--workdir=one", devices=2))
    both = [
        train(folder, "--backend=jax", *options, "--workdir=two", TF_CONFIG=config)
        for config in cluster(2)
    ]
    for process in both:
        finished(process)
    return folder


@pytest.mark.slow
def test_two_processes_equal_one_with_two_devices(runs):
    assert worst(weights(runs / "one"), weights(runs / "two"))[0] < 1e-5
    for name in ("seed", "steps", "data"):
        one, two = (json.loads((runs / run / "results.json").read_text()) for run in ("one", "two"))
        assert one[name] == two[name]
    assert one["evaluation"]["retrieval"]["values"] == two["evaluation"]["retrieval"]["values"]


@pytest.mark.slow
def test_two_processes_that_part_the_state_equal_one_that_has_it_whole(runs, data_dir):
    options = ("--stage=mural", f"--data_dir={data_dir}", "--workdir=parted", "--backend=jax")
    options += ("--config.shard_optimizer=true", "--config.shard_embeddings=true")
    for process in [train(runs, *options, TF_CONFIG=config) for config in cluster(2)]:
        finished(process)
    one, parted = (without_rounding(weights(runs / run)) for run in ("one", "parted"))
    assert worst(one, parted)[0] < 1e-5


@pytest.mark.slow
def test_each_backend_takes_up_what_the_other_one_trained(runs, data_dir):
    """ETCL on TensorFlow from the MURAL of JAX, and on JAX from that; at a rate of almost nothing
    the weights stay what they were."""
    options = ("--stage=etcl", f"--data_dir={data_dir}", "--config.steps=1")
    options += ("--config.optimizer.learning_rate=1e-30",)
    for backend, init in (("tensorflow", "one"), ("jax", "tensorflow")):
        own = (f"--backend={backend}", f"--init={init}", f"--workdir={backend}")
        out, _ = finished(train(runs, *options, *own))
        assert f"from {init}" in out
    before, after = weights(runs / "one"), weights(runs / "jax")
    for name in before:
        if "/moving_" not in name:
            np.testing.assert_array_equal(after[name], before[name], err_msg=name)


@pytest.mark.slow
def test_a_run_that_was_killed_ends_in_the_same_weights(runs, data_dir, tmp_path):
    options = ("--backend=jax", "--stage=mural", f"--data_dir={data_dir}", "--workdir=again")
    process = train(tmp_path, *options, devices=2)
    for line in process.stdout:
        if line.startswith("step 3"):
            break
    process.kill()
    process.wait()
    finished(train(tmp_path, *options, devices=2))
    again = weights(tmp_path / "again")
    for name, value in weights(runs / "one").items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)


@pytest.mark.slow
def test_a_lost_process_ends_the_others(data_dir, tmp_path):
    options = ("--stage=mural", f"--data_dir={data_dir}", "--workdir=run")
    options += ("--config.steps=5000", "--backend=jax")
    one, two = (train(tmp_path, *options, TF_CONFIG=config) for config in cluster(2))
    for line in one.stdout:
        if line.startswith("step"):
            break
    two.kill()
    _, error = finished(one, code=75)
    assert "process 0 of 2 has lost another one" in error
    two.communicate()


@pytest.mark.slow
def test_what_cannot_be_is_told(data_dir, tmp_path):
    stage = ("--stage=mural", f"--data_dir={data_dir}", "--workdir=other")
    for options, message in (
        (("--backend=torch",), "error: unknown backend 'torch'"),
        (("--backend=jax", "--strategy=tpu"), "error: no TPU is to be had: JAX finds cpu devices"),
        (
            ("--backend=jax", "--config.precision=mixed_float16"),
            "error: mixed_float16 on JAX wants a",
        ),
        (("--backend=tensorflow", "--config.shard_optimizer=true"), "set --backend=jax"),
    ):
        _, error = finished(train(tmp_path, *stage, *options), code=2)
        assert message in error
