"""Compiles a traced step for a TPU that is not there, and counts what it would do."""

import hashlib
import importlib.metadata
import json
import os
import re
import time

from tf_mural.errors import UserError
from tpu_planner.flops import flops
from tpu_planner.hlo import Program

# Of what is counted; plans of another version are made again.
_VERSION = 2
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
# What libtpu says of a program that is too large, in one of two ways.
_EXCEEDED = (
    re.compile(r"\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)"),
    re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm"),
)


def find_devices(topology, chip):
    """The devices of a topology that need not be there: a chip is one.

    Args:
        topology: such as "v5e:8x16".
        chip: `chips.Chip` of it.

    Raises:
        UserError: libtpu does not know it.
    """
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(topology, platform="tpu", **chip.options).devices
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--topology={topology}: libtpu refuses it ({reason})") from error


def counts(traced, devices, topology, cache=None):
    """Compiles a step, unless it was before, and counts.

    Args:
        traced: `jax.stages.Traced`, for the devices of `find_devices`.
        devices: how many there are.
        topology: their name.
        cache: folder of earlier counts, by the hash of the lowered module; None is off.

    Returns:
        A dict for JSON: `fits`; `memory`, bytes a chip by what they hold, or where it does not fit
        {"used", "capacity"}; `flops` of a chip and step, see `flops.flops`; `compiler`, the
        compiler's own counts, with a loop's body once; `moved` and `moved_once`, see
        `hlo.Program.moved`; `collectives`; `host_calls`; `seconds` that compiling took.
    """
    lowered = traced.lower()
    libtpu = importlib.metadata.version("libtpu")
    key = "\n".join((str(_VERSION), libtpu, topology, lowered.as_text()))
    digest = hashlib.sha256(key.encode()).hexdigest()[:32]
    path = cache and os.path.join(cache, f"{digest}.json")
    if path and os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            return {**json.load(file), "cached": True}
    known = {"module": digest, "libtpu": libtpu, "flops": flops(traced.jaxpr)}
    began = time.perf_counter()
    found = known | _compiled(lowered, devices)
    found["seconds"] = round(time.perf_counter() - began, 1)
    if path:
        os.makedirs(cache, exist_ok=True)
        with open(f"{path}.{os.getpid()}", "w", encoding="utf-8") as file:
            json.dump(found, file, indent=1)
        os.replace(file.name, path)
    return {**found, "cached": False}


def _compiled(lowered, devices):
    import jax

    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        found = (pattern.search(str(error)) for pattern in _EXCEEDED)
        exceeded = next(filter(None, found), None)
        if exceeded is None:
            raise
        used, capacity = (float(exceeded[i]) * _UNITS[exceeded[i + 1]] for i in (1, 3))
        return {"fits": False, "memory": {"used": used, "capacity": capacity}}
    stats, cost = compiled.memory_analysis(), compiled.cost_analysis()
    program = Program(compiled.as_text(), devices)
    return {
        "fits": True,
        "memory": {
            "arguments": stats.argument_size_in_bytes,
            "outputs": stats.output_size_in_bytes - stats.alias_size_in_bytes,
            "temporaries": stats.temp_size_in_bytes,
            "program": stats.generated_code_size_in_bytes,
        },
        "compiler": {name: cost[name] for name in ("flops", "bytes accessed") if name in cost},
        "moved": program.moved(),
        "moved_once": program.moved(loops=False),
        "collectives": [vars(c) for c in program.collectives],
        "host_calls": program.host_calls,
    }
