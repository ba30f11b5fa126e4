"""Plans of TPU runs: FLOPs, HLO programs, lower bounds on time, and the compiler."""

import json
import os
import re
import subprocess
import sys

import pytest
import tpu_planner
from conftest import ROOT
from tpu_planner import cli

from tf_mural.errors import UserError
from tf_mural.experiment import config_loading

TOOL = os.path.join(ROOT, "tools", "plan_tpu.py")

# A step with a loop. The instructions in the body of the loop return arrays of 4 x 8 floats (128
# bytes): %part and %ar are stored in HBM, and %inner in the memory of the core.
HLO = """HloModule jit_step, is_scheduled=true

%fused (param_0: f32[16,8], param_1: s32[]) -> f32[4,8] {
  %param_0 = f32[16,8]{1,0} parameter(0)
  %param_1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %slice = f32[4,8]{1,0} dynamic-slice(%param_0, %param_1, %zero), dynamic_slice_sizes={4,8}
}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body (loop: (s32[], f32[16,8], f32[4,8])) -> (s32[], f32[16,8], f32[4,8]) {
  %loop = (s32[], f32[16,8]{1,0}, f32[4,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%loop), index=0
  %all = f32[16,8]{1,0} get-tuple-element(%loop), index=1
  %part = f32[4,8]{1,0:T(8,128)} fusion(%all, %i), kind=kLoop, calls=%fused
  %inner = f32[4,8]{1,0:T(8,128)S(1)} negate(%part)
  %ar = f32[4,8]{1,0} all-reduce(%inner), channel_id=2, replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %next = (s32[], f32[16,8]{1,0}, f32[4,8]{1,0}) tuple(%i, %all, %ar)
}

%condition (loop.1: (s32[], f32[16,8], f32[4,8])) -> pred[] {
  %loop.1 = (s32[], f32[16,8]{1,0}, f32[4,8]{1,0}) parameter(0)
  ROOT %more = pred[] constant(true)
}

%begin (p: bf16[2,8]) -> bf16[16,8] {
  %p = bf16[2,8]{1,0} parameter(0)
  ROOT %gathered = bf16[16,8]{1,0} all-gather(%p), channel_id=1, CHAINED
}

%end (p.1: bf16[2,8]) -> bf16[16,8] {
  %p.1 = bf16[2,8]{1,0} parameter(0)
  ROOT %gathered.1 = bf16[16,8]{1,0} all-gather(%p.1), channel_id=1, CHAINED
}

ENTRY %main (x: f32[16,8], y: f32[4,8], z: bf16[2,8]) -> f32[4,8] {
  %x = f32[16,8]{1,0} parameter(0)
  %y = f32[4,8]{1,0} parameter(1)
  %z = bf16[2,8]{1,0} parameter(2)
  %first = bf16[16,8]{1,0} fusion(%z), kind=kCustom, calls=%begin
  %second = bf16[16,8]{1,0} fusion(%z), kind=kCustom, calls=%end
  %n = s32[] constant(5)
  %start = (s32[], f32[16,8]{1,0}, f32[4,8]{1,0}) tuple(%n, %x, %y)
  %while = (s32[], f32[16,8]{1,0}, f32[4,8]{1,0}) while(%start), condition=%condition, BODY
  ROOT %out = f32[4,8]{1,0} get-tuple-element(%while), index=2
}
"""
HLO = HLO.replace(
    "CHAINED", 'replica_groups={{0,1,2,3,4,5,6,7}}, frontend_attributes={chain_id="3"}'
).replace("BODY", 'body=%body, backend_config={"known_trip_count":{"n":"5"}}')


# --- HLO ------------------------------------------------------------------------------------------


def test_collectives_count_as_often_as_they_run_and_chains_count_once():
    assert tpu_planner.Program(HLO, 8).collectives == [
        tpu_planner.Collective("all-reduce", 4 * 8 * 4, 5, 4),
        tpu_planner.Collective("all-gather", 16 * 8 * 2, 1, 8),
    ]


def test_hbm_bytes_count_loops_as_often_as_they_run():
    program, row = tpu_planner.Program(HLO, 8), 4 * 8 * 4
    # %part reads a row and a position (4 bytes) and writes a row. %inner only reads a row from HBM,
    # and %ar only writes a row to HBM.
    body = (row + 4 + row) + row + row
    entry = 2 * (2 * 8 * 2 + 16 * 8 * 2)
    assert program.hbm_bytes() == entry + 5 * body
    assert program.hbm_bytes(with_trip_counts=False) == entry + body


def test_prefetched_slices_count_only_the_slice():
    """Of an array of 64 x 4 floats, only 8 x 4 floats are read into the memory of the core."""
    start = (
        "  %a = ((f32[64,4]{1,0}), f32[8,4]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) "
        "slice-start(%y), slice={[0:8], [0:4]}\n"
        "  %b = (f32[4,8]{1,0:S(1)}, f32[4,8]{1,0}, u32[]{:S(2)}) copy-start(%y)\n"
    )
    line = "  %n = s32[] constant(5)\n"
    more = tpu_planner.Program(HLO.replace(line, line + start), 8).hbm_bytes()
    assert more - tpu_planner.Program(HLO, 8).hbm_bytes() == 8 * 4 * 4 + 4 * 8 * 4


def test_host_calls_are_found():
    assert tpu_planner.Program(HLO, 8).host_calls == []
    line = "  %n = s32[] constant(5)\n"
    for host_call in (
        '  %bad = f32[4,8]{1,0} custom-call(%y), custom_call_target="xla_python_cpu_callback"\n',
        "  %bad = (f32[4,8]{1,0}, u32[], token[]) send(%y), channel_id=7, is_host_transfer=true\n",
    ):
        assert tpu_planner.Program(HLO.replace(line, line + host_call), 8).host_calls == ["bad"]


# --- FLOPs and lower bounds -----------------------------------------------------------------------


def test_flops_equal_those_computed_by_hand():
    jax = pytest.importorskip("jax", reason="pip install -r requirements-jax.txt")
    import jax.numpy as jnp

    def layers(x, w, kernel, depthwise):
        dimensions = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=dimensions)
        x = jax.lax.conv_general_dilated(
            x, depthwise, (1, 1), "SAME", dimension_numbers=dimensions, feature_group_count=6
        )
        rows = x.reshape(-1, 6)
        return jax.lax.scan(lambda c, _: (c @ w, None), rows, length=7)[0].sum()

    shapes = ((2, 8, 8, 3), (6, 6), (3, 3, 3, 6), (5, 5, 1, 6))
    arguments = [jnp.zeros(shape[i]) for i, shape in enumerate([shapes] * 4)]
    first = 2 * (2 * 4 * 4 * 6) * (3 * 3 * 3)
    second = 2 * (2 * 4 * 4 * 6) * (5 * 5)
    products = 7 * 2 * (2 * 4 * 4) * 6 * 6
    forward = first + second + products
    assert tpu_planner.count_flops(jax.make_jaxpr(layers)(*arguments)) == forward
    # The gradients of weights and of inputs each take the FLOPs of the forward pass.
    gradient = jax.make_jaxpr(jax.grad(layers, argnums=(0, 1, 2, 3)))(*arguments)
    assert tpu_planner.count_flops(gradient) == pytest.approx(3 * forward, rel=0.02)
    recomputed = jax.make_jaxpr(jax.grad(jax.checkpoint(layers), argnums=(0, 1, 2, 3)))(*arguments)
    assert tpu_planner.count_flops(recomputed) == pytest.approx(4 * forward, rel=0.02)


def test_ring_algorithms_send_the_published_number_of_bytes():
    factors = {"all-gather": 3 / 4, "all-reduce": 6 / 4, "reduce-scatter": 3.0}
    for kind, factor in factors.items():
        assert tpu_planner.ring_bytes(tpu_planner.Collective(kind, 1000, 1, 4)) == 1000 * factor
        assert tpu_planner.ring_bytes(tpu_planner.Collective(kind, 1000, 1, 1)) == 0


def test_step_is_bound_by_the_largest_of_the_lower_bounds():
    chip = tpu_planner.find_chip("v5e:2x2")
    counts = {
        "fits": True,
        "flops": chip.flops / 100,
        "hbm_bytes": chip.bandwidth / 20,
        "memory": {"arguments": 10, "temporaries": 5},
        "collectives": [
            {"kind": "all-gather", "bytes": chip.interconnect / 75, "count": 2, "group": 4}
        ],
    }
    plan = tpu_planner.estimate(counts, chip, 4, 64, 7200)
    assert plan["roofline"] == pytest.approx(
        {"compute": 0.01, "memory": 0.05, "interconnect": 0.02}
    )
    assert (plan["bound"], plan["used"]) == ("memory", 15)
    assert plan["hours"] == pytest.approx(0.1) and plan["chip_hours"] == pytest.approx(0.4)
    assert plan["rows_per_second"] == pytest.approx(64 / 0.05)


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ("v5x:2x2", "'v5x'"),
        ("v5e:3x3", "v5e has no slice '3x3'; it has 1x1, 2x2"),
        ("v5e", "v5e has no slice ''"),
    ],
)
def test_unknown_topology_lists_the_known_ones(topology, message):
    with pytest.raises(UserError, match=message):
        tpu_planner.find_chip(topology)


# --- the command ----------------------------------------------------------------------------------


def run(*arguments, **environment):
    command = [sys.executable, TOOL, "--size=tiny", *arguments]
    names = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=names)


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """(printed output, JSON plan, folder of the files) for a small step on four chips."""
    pytest.importorskip("libtpu", reason="libtpu is not installed: requirements-plan.txt")
    folder = tmp_path_factory.mktemp("plan")
    return *run_plan(folder), folder


def run_plan(folder, *more):
    out = folder / "plan.json"
    small = f"--config={os.path.join(ROOT, 'tests', 'small_config.py')}"
    flags = [small, "--topology=v5e:2x2", f"--cache={folder / 'cache'}", f"--out={out}"]
    done = run("--stage=etcl", *flags, *more)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(out.read_text())


@pytest.mark.slow
def test_training_step_compiles_for_a_tpu(planned):
    output, plan, _ = planned
    assert "fits" in output and "4 chips, 2 rows each" in output
    assert plan["host_calls"] == [] and plan["fits"] and not plan["cached"]
    # Each replica gathers the embeddings of three fields: 8 rows of 16 floats per field.
    gathers = [c for c in plan["collectives"] if c["kind"] == "all-gather"]
    assert sum(c["bytes"] * c["count"] for c in gathers) == 3 * 8 * 16 * 4
    # The gradients of all variables are summed in few collectives.
    assert sum(c["count"] for c in plan["collectives"]) < 12
    assert plan["config"]["precision"] == "mixed_bfloat16"
    assert 0 < plan["used"] < plan["capacity"] == 16 << 30
    assert plan["slots"] > 2 * 0.9 * plan["weights"] > 0


@pytest.mark.slow
def test_counts_of_a_step_are_cached(planned):
    *_, folder = planned
    _, again = run_plan(folder)
    assert again["cached"]
    assert len(os.listdir(folder / "cache")) == 1


@pytest.mark.slow
def test_step_that_does_not_fit_has_its_memory_in_the_counts():
    """The compiler refuses a matrix product that needs 40 GiB on a chip with 16 GiB."""
    pytest.importorskip("libtpu", reason="libtpu is not installed: requirements-plan.txt")
    code = f"""
import sys; sys.path[:0] = [{ROOT!r}, {os.path.join(ROOT, "tools")!r}]
import jax, jax.numpy as jnp, numpy as np
import tpu_planner
devices = tpu_planner.find_devices("v5e:2x2", tpu_planner.find_chip("v5e:2x2"))
mesh = jax.sharding.Mesh(np.array(devices), ("data",))
replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
f = jax.jit(lambda a: jnp.sin(a) @ a, in_shardings=(replicated,), out_shardings=replicated)
shape = jax.ShapeDtypeStruct((60_000, 60_000), "float32")
counts = tpu_planner.compile_and_count(f.trace(shape), 4, "v5e:2x2")
assert not counts["fits"], counts
print(counts["memory"]["used"] / 2**30, counts["memory"]["capacity"] / 2**30)
"""
    names = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **names}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    used, capacity = map(float, done.stdout.split())
    assert used > 13 and 15 < capacity < 16


@pytest.mark.parametrize(
    ("topology", "message"), [("v9:2x2", "unknown TPU .*'v9'; known: v4"), ("v5e:5x5", "2x2, 2x4")]
)
def test_command_refuses_an_unknown_topology(topology, message):
    with pytest.raises(UserError, match=message):
        cli.main([f"--topology={topology}"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--topology=v5e:2x2", "--batch=30"], "batch_size is 30"),
        (["--topology=v5e:2x2", "--config.shard_optimiser=true"], "shard_optimizer"),
    ],
)
def test_user_errors_of_the_child_process_are_one_line(arguments, message):
    pytest.importorskip("libtpu", reason="libtpu is not installed: requirements-plan.txt")
    done = run("--stage=etcl", "--cache=", *arguments)
    assert done.returncode == 2 and message in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_missing_package_is_named_with_the_command_that_installs_it(tmp_path):
    hidden = tmp_path / "sitecustomize.py"
    hidden.write_text(
        "import importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'libtpu' else find(name, *a)\n"
    )
    done = run("--stage=etcl", "--topology=v5e:2x2", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == ("error: a plan needs libtpu: pip install -r requirements-plan.txt\n")


IN_CHILD = f"""
import sys; sys.path[:0] = [{ROOT!r}, {os.path.dirname(TOOL)!r}]
import os, signal
from tf_mural.errors import UserError
from tpu_planner import cli
def fail(): raise UserError("no such thing")
try:
    print(cli.run_in_child(lambda: %s))
except UserError as error:
    print("UserError:", error)
"""


@pytest.mark.parametrize(
    ("expression", "output"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "UserError: .* has too little memory"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "UserError: .* crashed .SIGSEGV., an error of l"),
        ("(1, 'two')", r"\(1, 'two'\)"),
        ("fail()", "UserError: no such thing"),
    ],
)
def test_result_or_end_of_the_child_process_is_reported(expression, output):
    code = IN_CHILD % expression
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert re.match(output, done.stdout), done.stderr


def test_advice_lists_the_settings_that_are_not_in_use():
    config = config_loading.load_config("etcl", "paper")
    plan = {"batch": 16_384, "chips": 128, "slots": 4 << 30}
    lines = tpu_planner.advice(plan, config)
    assert [line.split("=")[0] for line in lines] == [
        "--config.microbatch",
        "--config.remat",
        "--config.shard_optimizer",
        "--config.loss_chunk",
    ]
    assert "=64: activations of 64 rows instead of 128" in lines[0]
    assert "4.0 GiB less" in lines[2]
    config.microbatch, config.loss_chunk = 16, 64
    config.remat = config.shard_optimizer = True
    assert tpu_planner.advice(plan, config) == ["more chips, or a smaller batch"]
