"""The profile of a step: reading TensorFlow's file, and the table."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

from benchmarks import profile_step


def write_profile(folder, events):
    """Writes a profile of events of the host, [(name, seconds)]."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace()
    line = space.planes.add(name="/host:CPU").lines.add()
    for number, (name, seconds) in enumerate(events, 1):
        space.planes[0].event_metadata[number].name = name
        line.events.add(metadata_id=number, duration_ps=int(seconds * 1e12))
    (folder / "plugins").mkdir()
    (folder / "plugins" / "host.xplane.pb").write_bytes(space.SerializeToString())


def test_only_operations_are_read_by_their_type(tmp_path):
    events = [("a/b/convolution:Conv2D", 2.0), ("c:_FusedConv2D", 1.0), ("d/mul:Mul", 0.5)]
    events += [("lamb/truediv_3:RealDiv", 0.25), ("ExecutorState::Process", 9.0), ("a step", 9.0)]
    events += [("e:_MklNativeConv2DBackpropFilterWithBias", 0.5), ("f:_MklFusedBatchMatMulV2", 4.0)]
    events += [("g:_Arg", 0.125), ("EagerLocalExecute: __inference_step_7", 9.0)]
    write_profile(tmp_path, events)
    seconds = profile_step.read_profile(str(tmp_path))
    expected = {"Conv2D": 3.0, "Mul": 0.5, "LAMB": 0.25, "_Arg": 0.125}
    assert seconds == expected | {"Conv2DBackpropFilter": 0.5, "BatchMatMulV2": 4.0}


def test_the_table_contains_shares_and_rates_by_type():
    types = {
        "MatMul": {"seconds": 3.0, "flops": 3e9, "share_of_peak": 0.5},
        "Mul": {"seconds": 1.0, "flops": 0, "share_of_peak": 0.0},
    }
    results = {"types": types, "peak_flops_per_second": 2e9, "flops": 3e9, "step": 3.5}
    lines = profile_step.table(results)
    assert lines[1].split() == ["MatMul", "3.000", "75.0%", "3.0", "1.0", "50.0%"]
    assert lines[2].split() == ["Mul", "1.000", "25.0%"]
    assert "a step: 3.50 s, 3 GFLOP, 43% of the peak of 2 GFLOP/s" in lines
    assert lines[-1].startswith("75% of the time") and "50% of the peak" in lines[-1]


@pytest.mark.slow
def test_a_step_is_profiled(tmp_path):
    path = tmp_path / "profile.json"
    command = [sys.executable, os.path.join(ROOT, "benchmarks", "profile_step.py")]
    command += ["--case=tiny", "--steps=2", "--warmup=1", f"--json={path}"]
    process = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=400)
    assert process.returncode == 0, process.stderr[-2000:]
    results = json.loads(path.read_text())
    types, peak = results["types"], results["peak_flops_per_second"]
    # Every counted operation is in the profile.
    assert sum(values["flops"] for values in types.values()) == results["flops"] > 0
    assert {"MatMul", "Conv2D", "DepthwiseConv2dNative", "LAMB"} <= set(types)
    rate = types["MatMul"]["flops"] / types["MatMul"]["seconds"]
    assert types["MatMul"]["share_of_peak"] == pytest.approx(rate / peak)
    assert "MatMul" in process.stdout and "of the peak" in process.stdout
