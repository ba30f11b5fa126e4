"""The benchmark of an accelerator: the largest batch that fits, and what is told of it."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

from benchmarks import accelerator
from benchmarks.cases import CASES


class FakeWorker:
    """A device whose memory holds 32 rows."""

    def __init__(self, module, name, case, **arguments):
        self.case, self.rows = case, arguments.get("microbatch") or case.batch
        if self.rows > 32:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")

    def call(self, method, *_):
        facts = {"flops": 10 * self.case.batch, "device": "fake"}
        seconds = 0.1 * self.case.batch if method == "step" else 0.5
        return facts if method == "describe" else None, seconds, seconds

    def close(self):
        pass


def test_batches_are_doubled_until_the_memory_is_full(monkeypatch, capsys):
    monkeypatch.setattr(accelerator, "Worker", FakeWorker)
    options = accelerator.parse(["--model=tiny", "--no-peer", "--matmul=4"])
    found = accelerator.largest("ours", CASES["tiny"], options)
    assert found["batch"] == 32 and found["milliseconds"] == pytest.approx(3200)
    assert "batch 64 does not fit" in capsys.readouterr().out
    more = accelerator.measure(
        "ours", accelerator.dataclasses.replace(CASES["tiny"], batch=128), options, 32
    )
    (plain, cached) = accelerator.shares([found, more])
    assert cached["batch"] == 128 and cached["microbatch"] == 32
    # 10 FLOPs a triple, 10 triples a second, of 2 * 4^3 FLOPs in half a second.
    assert plain["share_of_peak"] == pytest.approx(100 / 256)
    assert "PyTorch" not in "\n".join(accelerator.table([plain, cached]))


def test_other_failures_are_not_taken_for_a_full_memory(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no such device")

    monkeypatch.setattr(accelerator, "Worker", fail)
    options = accelerator.parse(["--model=tiny", "--no-peer"])
    with pytest.raises(RuntimeError, match="no such device"):
        accelerator.largest("ours", CASES["tiny"], options)


@pytest.mark.slow
def test_it_runs_on_a_cpu(tmp_path):
    pytest.importorskip("jax")
    out = tmp_path / "accelerator.json"
    command = [sys.executable, os.path.join(ROOT, "benchmarks", "accelerator.py"), "--model=tiny"]
    flags = ["--no-peer", "--max_batch=16", "--batch=4", "--steps=1", "--warmup=1", "--matmul=256"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [*command, *flags, f"--json={out}"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    runs = json.loads(out.read_text())["runs"]
    assert [(run["batch"], run["microbatch"]) for run in runs] == [(16, 0)]
    print(done.stdout)
