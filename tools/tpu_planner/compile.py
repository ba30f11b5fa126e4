"""Compiles a traced step for a TPU that is not present, and counts its operations."""

import hashlib
import importlib.metadata
import json
import os
import re
import time

from tf_mural import file_io
from tf_mural.errors import UserError
from tpu_planner.hlo import Program
from tpu_planner.roofline import count_flops

# Version of the cached counts; counts of other versions are not used.
_VERSION = 3
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
# The two messages of libtpu for programs that do not fit into the memory of a chip.
_EXCEEDED = (
    re.compile(r"\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)"),
    re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm"),
)


def find_devices(topology, chip):
    """Returns the devices of a topology, one device per chip. The chips need not be present.

    Args:
        topology: chip and slice, such as "v5e:8x16".
        chip: `roofline.Chip` of the topology.

    Raises:
        UserError: libtpu does not know the topology.
    """
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(topology, platform="tpu", **chip.options).devices
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--topology={topology}: libtpu refuses it ({reason})") from error


def compile_and_count(traced, num_devices, topology, cache_dir=None):
    """Compiles a step, unless its counts are cached, and counts its operations.

    Args:
        traced: `jax.stages.Traced` for the devices of `find_devices`.
        num_devices: number of devices.
        topology: name of the topology.
        cache_dir: folder in which counts are cached, in files that are named by the hash of the
            lowered module; None: no cache.

    Returns:
        A dict for JSON with these values:
          fits: whether the program fits into the memory of a chip.
          memory: {kind of use: bytes per chip}; {"used", "capacity": bytes} if the program does not
          fit.
          flops: FLOPs per chip and step, see `count_flops`.
          seconds: duration of the compilation.
          cached: whether the counts come from the cache.
        Only if the program fits:
          compiler: counts of the compiler, which counts the body of a loop once.
          hbm_bytes, hbm_bytes_once: see `Program.hbm_bytes`.
          collectives, host_calls: see `Program`.
    """
    lowered = traced.lower()
    libtpu = importlib.metadata.version("libtpu")
    key = "\n".join((str(_VERSION), libtpu, topology, lowered.as_text()))
    digest = hashlib.sha256(key.encode()).hexdigest()[:32]
    path = cache_dir and os.path.join(cache_dir, f"{digest}.json")
    if path and os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            return {**json.load(file), "cached": True}
    counts = {"module": digest, "libtpu": libtpu, "flops": count_flops(traced.jaxpr)}
    start_time = time.perf_counter()
    counts |= _compile(lowered, num_devices)
    counts["seconds"] = round(time.perf_counter() - start_time, 1)
    if path:
        os.makedirs(cache_dir, exist_ok=True)
        file_io.write_json(path, counts)
    return {**counts, "cached": False}


def _compile(lowered, num_devices):
    import jax

    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        matches = (pattern.search(str(error)) for pattern in _EXCEEDED)
        match = next(filter(None, matches), None)
        if match is None:
            raise
        used, capacity = (float(match[i]) * _UNITS[match[i + 1]] for i in (1, 3))
        return {"fits": False, "memory": {"used": used, "capacity": capacity}}
    stats, cost = compiled.memory_analysis(), compiled.cost_analysis()
    program = Program(compiled.as_text(), num_devices)
    return {
        "fits": True,
        "memory": {
            "arguments": stats.argument_size_in_bytes,
            "outputs": stats.output_size_in_bytes - stats.alias_size_in_bytes,
            "temporaries": stats.temp_size_in_bytes,
            "program": stats.generated_code_size_in_bytes,
        },
        "compiler": {name: cost[name] for name in ("flops", "bytes accessed") if name in cost},
        "hbm_bytes": program.hbm_bytes(),
        "hbm_bytes_once": program.hbm_bytes(with_trip_counts=False),
        "collectives": [vars(collective) for collective in program.collectives],
        "host_calls": program.host_calls,
    }
