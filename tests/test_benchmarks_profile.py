"""Where the time of a step goes: what is read out of a profile, and what is told of it."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

from benchmarks import profile_step


def written(folder, events):
    """A profile of host events [(name, seconds)]."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace()
    line = space.planes.add(name="/host:CPU").lines.add()
    for number, (name, seconds) in enumerate(events, 1):
        space.planes[0].event_metadata[number].name = name
        line.events.add(metadata_id=number, duration_ps=int(seconds * 1e12))
    (folder / "plugins").mkdir()
    (folder / "plugins" / "host.xplane.pb").write_bytes(space.SerializeToString())


def test_operations_are_told_from_what_runs_them(tmp_path):
    events = [("a/b/convolution:Conv2D", 2.0), ("c:_FusedConv2D", 1.0), ("d/mul:Mul", 0.5)]
    events += [("lamb/truediv_3:RealDiv", 0.25), ("ExecutorState::Process", 9.0), ("a step", 9.0)]
    events += [("e:_MklNativeConv2DBackpropFilterWithBias", 0.5), ("f:_MklFusedBatchMatMulV2", 4.0)]
    events += [("g:_Arg", 0.125), ("EagerLocalExecute: __inference_step_7", 9.0)]
    written(tmp_path, events)
    found = profile_step.read_profile(str(tmp_path))
    plain = {"Conv2D": 3.0, "Mul": 0.5, "LAMB": 0.25, "_Arg": 0.125}
    assert found == plain | {"Conv2DBackpropFilter": 0.5, "BatchMatMulV2": 4.0}


def test_shares_and_rates_are_those_of_the_kinds():
    kinds = {
        "MatMul": {"seconds": 3.0, "flops": 3e9, "share_of_peak": 0.5},
        "Mul": {"seconds": 1.0, "flops": 0, "share_of_peak": 0.0},
    }
    found = {"kinds": kinds, "peak_flops_per_second": 2e9, "flops": 3e9, "step": 3.5}
    lines = profile_step.table(found)
    assert lines[1].split() == ["MatMul", "3.000", "75.0%", "3.0", "1.0", "50.0%"]
    assert lines[2].split() == ["Mul", "1.000", "25.0%"]
    assert "a step: 3.50 s, 3 GFLOP, 43% of the peak of 2 GFLOP/s" in lines
    assert lines[-1].startswith("75% of the time") and "50% of the peak" in lines[-1]


def test_a_step_is_profiled(tmp_path):
    path = tmp_path / "profile.json"
    command = [sys.executable, os.path.join(ROOT, "benchmarks", "profile_step.py")]
    command += ["--case=tiny", "--steps=2", "--warmup=1", f"--json={path}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(path.read_text())
    kinds = found["kinds"]
    # All that has floating-point operations to count was seen to run.
    assert sum(of["flops"] for of in kinds.values()) == found["flops"] > 0
    assert {"MatMul", "Conv2D", "DepthwiseConv2dNative", "LAMB"} <= set(kinds)
    rate = kinds["MatMul"]["flops"] / kinds["MatMul"]["seconds"]
    assert kinds["MatMul"]["share_of_peak"] == pytest.approx(rate / found["peak_flops_per_second"])
    assert "MatMul" in done.stdout and "of the peak" in done.stdout
