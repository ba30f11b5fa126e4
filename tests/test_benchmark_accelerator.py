"""The accelerator benchmark: the largest batch that fits, and its rates."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT
from helpers.backends import backend_environment

from benchmarks import accelerator
from benchmarks.cases import CASES


class FakeWorker:
    """Worker on a device that has memory for 32 triples."""

    def __init__(self, module, name, case, **arguments):
        self.case = case
        if (arguments.get("microbatch") or case.batch) > 32:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")

    def call(self, method, *_):
        facts = {"flops": 10 * self.case.batch, "device": "fake"}
        seconds = 0.1 * self.case.batch if method == "step" else 0.5
        return facts if method == "describe" else None, seconds, seconds

    def close(self):
        pass


def test_the_batch_is_doubled_until_the_memory_is_full(monkeypatch, capsys):
    monkeypatch.setattr(accelerator, "Worker", FakeWorker)
    options = accelerator.parse(["--model=tiny", "--no-peer", "--matmul=4"])
    largest = accelerator.measure_largest("tf_mural", CASES["tiny"], options)
    assert largest["batch"] == 32 and largest["milliseconds"] == pytest.approx(3200)
    assert "batch 64 does not fit" in capsys.readouterr().out
    large_case = accelerator.dataclasses.replace(CASES["tiny"], batch=128)
    large = accelerator.measure("tf_mural", large_case, options, 32)
    plain, microbatches = accelerator.add_shares([largest, large])
    assert microbatches["batch"] == 128 and microbatches["microbatch"] == 32
    # The step runs at 10 triples per second with 10 FLOPs per triple, which is 100 FLOPs per
    # second. The peak rate is 2 * 4^3 FLOPs in half a second, which is 256 FLOPs per second.
    assert plain["share_of_peak"] == pytest.approx(100 / 256)
    assert "PyTorch" not in "\n".join(accelerator.table([plain, microbatches]))


def test_other_failures_are_raised(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no such device")

    monkeypatch.setattr(accelerator, "Worker", fail)
    options = accelerator.parse(["--model=tiny", "--no-peer"])
    with pytest.raises(RuntimeError, match="no such device"):
        accelerator.measure_largest("tf_mural", CASES["tiny"], options)


@pytest.mark.slow
def test_the_benchmark_runs_on_a_cpu(tmp_path):
    pytest.importorskip("jax")
    path = tmp_path / "accelerator.json"
    command = [sys.executable, os.path.join(ROOT, "benchmarks", "accelerator.py"), "--model=tiny"]
    flags = ["--no-peer", "--max_batch=16", "--batch=8", "--steps=1", "--warmup=1", "--matmul=256"]
    environment = backend_environment("jax")
    process = subprocess.run(
        [*command, *flags, f"--json={path}"], capture_output=True, text=True, env=environment
    )
    assert process.returncode == 0, process.stderr
    runs = json.loads(path.read_text())["runs"]
    assert [(run["batch"], run["microbatch"]) for run in runs] == [(16, 0)]
    print(process.stdout)
