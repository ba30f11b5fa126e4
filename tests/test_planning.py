"""Plans of TPU runs: FLOPs, what is read of HLO, rooflines, and the compiler itself."""

import json
import os
import subprocess
import sys

import pytest
import tpu_planner
from conftest import ROOT

from tf_mural.errors import UserError

TOOL = os.path.join(ROOT, "tools", "plan_tpu.py")

# Two arrays of 4 x 8 floats (128 bytes) in main memory, one in that of the core.
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


def test_collectives_count_as_often_as_they_run_and_chains_once():
    found = tpu_planner.Program(HLO, 8).collectives
    assert found == [
        tpu_planner.Collective("all-reduce", 4 * 8 * 4, 5, 4),
        tpu_planner.Collective("all-gather", 16 * 8 * 2, 1, 8),
    ]


def test_traffic_is_that_of_main_memory():
    program, row = tpu_planner.Program(HLO, 8), 4 * 8 * 4
    # A slice is read and written, with its position (4 bytes); %negate reads, %ar writes.
    body = (row + 4 + row) + row + row
    entry = 2 * (2 * 8 * 2 + 16 * 8 * 2)
    assert program.moved() == entry + 5 * body
    assert program.moved(loops=False) == entry + body


def test_what_is_fetched_ahead_counts_its_own_part_alone():
    """Eight of the 64 rows of 4 floats are read, into the core's own memory."""
    start = (
        "  %a = ((f32[64,4]{1,0}), f32[8,4]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) "
        "slice-start(%y), slice={[0:8], [0:4]}\n"
        "  %b = (f32[4,8]{1,0:S(1)}, f32[4,8]{1,0}, u32[]{:S(2)}) copy-start(%y)\n"
    )
    line = "  %n = s32[] constant(5)\n"
    more = tpu_planner.Program(HLO.replace(line, line + start), 8).moved()
    assert more - tpu_planner.Program(HLO, 8).moved() == 8 * 4 * 4 + 4 * 8 * 4


def test_calls_of_the_host_are_found():
    assert tpu_planner.Program(HLO, 8).host_calls == []
    line = "  %n = s32[] constant(5)\n"
    for bad in (
        '  %bad = f32[4,8]{1,0} custom-call(%y), custom_call_target="xla_python_cpu_callback"\n',
        "  %bad = (f32[4,8]{1,0}, u32[], token[]) send(%y), channel_id=7, is_host_transfer=true\n",
    ):
        assert tpu_planner.Program(HLO.replace(line, line + bad), 8).host_calls == ["bad"]


# --- FLOPs and rooflines --------------------------------------------------------------------------


def test_flops_are_those_by_hand():
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
    assert tpu_planner.flops(jax.make_jaxpr(layers)(*arguments)) == forward
    # Back to weights and inputs each takes what forward took, the pixels' gradient included.
    both = jax.make_jaxpr(jax.grad(layers, argnums=(0, 1, 2, 3)))(*arguments)
    assert tpu_planner.flops(both) == pytest.approx(3 * forward, rel=0.02)
    again = jax.make_jaxpr(jax.grad(jax.checkpoint(layers), argnums=(0, 1, 2, 3)))(*arguments)
    assert tpu_planner.flops(again) == pytest.approx(4 * forward, rel=0.02)


def test_a_ring_sends_what_it_must():
    kinds = {"all-gather": 3 / 4, "all-reduce": 6 / 4, "reduce-scatter": 3.0}
    for kind, share in kinds.items():
        assert tpu_planner.sent(tpu_planner.Collective(kind, 1000, 1, 4)) == 1000 * share
        assert tpu_planner.sent(tpu_planner.Collective(kind, 1000, 1, 1)) == 0


def test_a_step_takes_what_takes_longest():
    chip = tpu_planner.find_chip("v5e:2x2")
    counts = {
        "fits": True,
        "flops": chip.flops / 100,
        "moved": chip.bandwidth / 20,
        "memory": {"arguments": 10, "temporaries": 5},
        "collectives": [
            {"kind": "all-gather", "bytes": chip.interconnect / 75, "count": 2, "group": 4}
        ],
    }
    found = tpu_planner.plan(counts, chip, 4, 64, 7200)
    assert found["roofline"] == pytest.approx(
        {"compute": 0.01, "memory": 0.05, "interconnect": 0.02}
    )
    assert (found["bound"], found["used"]) == ("memory", 15)
    assert found["hours"] == pytest.approx(0.1) and found["chip_hours"] == pytest.approx(0.4)
    assert found["rows_per_second"] == pytest.approx(64 / 0.05)


@pytest.mark.parametrize(
    ("topology", "words"),
    [
        ("v5x:2x2", "'v5x'"),
        ("v5e:3x3", "v5e has no slice '3x3'; it has 1x1, 2x2"),
        ("v5e", "v5e has no slice ''"),
    ],
)
def test_an_unknown_topology_lists_those_known(topology, words):
    with pytest.raises(UserError, match=words):
        tpu_planner.find_chip(topology)


# --- the tool -------------------------------------------------------------------------------------


def run(*arguments, **environment):
    command = [sys.executable, TOOL, "--size=tiny", *arguments]
    names = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=names)


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """(what the tool says, its JSON, the folder of both) of a small step on four chips."""
    pytest.importorskip("libtpu", reason="libtpu is not installed: requirements-plan.txt")
    folder = tmp_path_factory.mktemp("plan")
    return *plan(folder), folder


def plan(folder, *more):
    out = folder / "plan.json"
    small = f"--config={os.path.join(ROOT, 'tests', 'workers_config.py')}"
    flags = [small, "--topology=v5e:2x2", f"--cache={folder / 'cache'}", f"--out={out}"]
    done = run("--stage=etcl", *flags, *more)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(out.read_text())


def test_the_real_step_compiles_for_a_tpu(planned):
    told, found, _ = planned
    assert "fits" in told and "4 chips, 2 rows each" in told
    assert found["host_calls"] == [] and found["fits"] and not found["cached"]
    # Each replica meets the embeddings of all: three fields, of 8 rows of 16 floats.
    gathers = [c for c in found["collectives"] if c["kind"] == "all-gather"]
    assert sum(c["bytes"] * c["count"] for c in gathers) == 3 * 8 * 16 * 4
    # Gradients are summed in few collectives, whatever the number of variables.
    assert sum(c["count"] for c in found["collectives"]) < 12
    assert found["config"]["precision"] == "mixed_bfloat16"
    assert 0 < found["used"] < found["capacity"] == 16 << 30
    assert found["slots"] > 2 * 0.9 * found["weights"] > 0


def test_the_same_step_is_compiled_once(planned):
    *_, folder = planned
    _, again = plan(folder)
    assert again["cached"]
    assert len(os.listdir(folder / "cache")) == 1


def test_what_does_not_fit_says_by_how_much():
    """A product of 40 GiB on a chip of 16, by the compiler itself; in a process of its own."""
    pytest.importorskip("libtpu", reason="libtpu is not installed: requirements-plan.txt")
    code = f"""
import sys; sys.path[:0] = [{ROOT!r}, {os.path.join(ROOT, "tools")!r}]
import jax, jax.numpy as jnp, numpy as np
import tpu_planner
devices = tpu_planner.find_devices("v5e:2x2", tpu_planner.find_chip("v5e:2x2"))
mesh = jax.sharding.Mesh(np.array(devices), ("data",))
whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
f = jax.jit(lambda a: jnp.sin(a) @ a, in_shardings=(whole,), out_shardings=whole)
shape = jax.ShapeDtypeStruct((60_000, 60_000), "float32")
counts = tpu_planner.counts(f.trace(shape), 4, "v5e:2x2")
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
    ("arguments", "words"),
    [
        (["--topology=v9:2x2"], "v4"),
        (["--topology=v5e:5x5"], "2x2, 2x4"),
        (["--topology=v5e:2x2", "--batch=30"], "batch_size is 30"),
        (["--topology=v5e:2x2", "--config.shard_optimiser=true"], "shard_optimizer"),
    ],
)
def test_bad_input_is_named(arguments, words):
    pytest.importorskip("libtpu", reason="libtpu is not installed: requirements-plan.txt")
    done = run("--stage=etcl", "--cache=", *arguments)
    assert done.returncode == 2 and words in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_a_missing_package_comes_with_the_line_that_installs_it(tmp_path):
    hidden = tmp_path / "sitecustomize.py"
    hidden.write_text(
        "import importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'libtpu' else find(name, *a)\n"
    )
    done = run("--stage=etcl", "--topology=v5e:2x2", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == ("error: a plan needs libtpu: pip install -r requirements-plan.txt\n")


@pytest.mark.parametrize(
    ("name", "words"), [("SIGKILL", "more memory than this machine"), ("SIGSEGV", "(SIGSEGV)")]
)
def test_how_the_compiler_ended_is_said(name, words):
    code = (
        f"import sys; sys.argv[1:] = []; sys.path.insert(0, {os.path.dirname(TOOL)!r})\n"
        "import os, signal, plan_tpu\n"
        "from tf_mural.errors import UserError\n"
        f"try:\n    plan_tpu.in_child(lambda: os.kill(os.getpid(), signal.{name}))\n"
        "except UserError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert words in done.stdout.replace("\n", " "), done.stderr


def test_advice_names_what_is_not_taken_yet():
    sys.path.insert(0, os.path.dirname(TOOL))
    import options

    config = options.load_config("etcl", "paper")
    found = {"batch": 16_384, "chips": 128, "slots": 4 << 30}
    lines = tpu_planner.advice(found, config)
    assert [line.split("=")[0] for line in lines] == [
        "--config.microbatch",
        "--config.rematerialise",
        "--config.shard_optimizer",
        "--config.loss_chunk",
    ]
    assert "=64: activations of 64 rows at a time instead of 128" in lines[0]
    assert "4.0 GiB less" in lines[2]
    config.microbatch, config.loss_chunk = 16, 64
    config.rematerialise = config.shard_optimizer = True
    assert tpu_planner.advice(found, config) == ["more chips, or a smaller batch"]
