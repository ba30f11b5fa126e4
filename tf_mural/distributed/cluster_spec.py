"""Cluster specification from TF_CONFIG or from the environment variables of SLURM."""

import dataclasses
import json
import os
import re

from tf_mural.errors import UserError

_JOBS = ("chief", "worker")

# No common service listens on these ports. A job uses one port per process of a host.
_PORTS = range(20_000, 30_000)


@dataclasses.dataclass(frozen=True)
class ClusterSpec:
    """Addresses of all processes of a run, and the rank of this process.

    Attributes:
        addresses: tuple of "host:port", indexed by rank.
        rank: index of this process. Rank 0 is the primary process, which writes the outputs.
    """

    addresses: tuple
    rank: int


def resolve_cluster(environment=None):
    """Returns the `ClusterSpec` described by environment variables.

    TF_CONFIG takes precedence. The value of TF_CONFIG has the form {"cluster": {"worker":
    ["host:port", ...]}, "task": {"type": "worker", "index": 0}}. The cluster may also have a
    "chief", which gets rank 0. Without TF_CONFIG, the variables of a SLURM step are used, which
    `srun` sets.

    Args:
        environment: {name: value}. Default: `os.environ`.

    Raises:
        UserError: neither TF_CONFIG nor the variables of SLURM are set, or the values are invalid.
    """
    environment = os.environ if environment is None else environment
    if environment.get("TF_CONFIG"):
        return _from_tf_config(environment["TF_CONFIG"])
    if "SLURM_PROCID" in environment:
        return _from_slurm(environment)
    raise UserError(
        "`strategy=multiworker`: expected TF_CONFIG in the environment of each process, such as "
        '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", '
        '"index": 0}}, or a start by srun'
    )


def _from_tf_config(text):
    try:
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        job, index = task["type"], int(task["index"])
        addresses_by_job = {
            name: [str(address) for address in cluster.get(name, ())] for name in _JOBS
        }
        own_address = addresses_by_job[job][index] if index >= 0 else None
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise UserError(
            f"TF_CONFIG is not understood ({type(error).__name__}: {error}): expected "
            '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}; '
            f"got {text}"
        ) from None
    addresses = [address for name in _JOBS for address in addresses_by_job[name]]
    unknown_jobs = sorted(set(cluster) - set(_JOBS))
    if unknown_jobs or own_address is None or len(set(addresses)) < len(addresses):
        problem = (
            f"the job {unknown_jobs[0]!r}"
            if unknown_jobs
            else "a duplicate address or an index below 0"
        )
        raise UserError(
            f"TF_CONFIG has {problem}: expected workers, and at most one chief; got {text}"
        )
    first_rank = len(addresses_by_job["chief"]) if job == "worker" else 0
    return ClusterSpec(tuple(addresses), first_rank + index)


def _from_slurm(environment):
    # TensorFlow's resolver of SLURM variables is not used, because it sorts the hosts: node10 comes
    # before node9, and a process gets the address of another process. The resolver also fails on
    # machines without a GPU.
    try:
        hosts = expand_hostlist(environment["SLURM_STEP_NODELIST"])
        tasks_per_host = _expand_task_counts(environment["SLURM_STEP_TASKS_PER_NODE"])
        rank, node, local_rank = (
            int(environment[f"SLURM_{name}"]) for name in ("PROCID", "NODEID", "LOCALID")
        )
        job_id = int(environment["SLURM_JOB_ID"]) * 64 + int(environment.get("SLURM_STEP_ID", 0))
    except (KeyError, ValueError) as error:
        raise UserError(
            f"SLURM's variables are not understood ({type(error).__name__}: {error}); start the "
            "processes by srun, or set TF_CONFIG"
        ) from None
    if len(hosts) != len(tasks_per_host) or rank != sum(tasks_per_host[:node]) + local_rank:
        raise UserError(
            f"process {rank} has local rank {local_rank} on machine {node} (machines {hosts}, "
            f"processes {tasks_per_host}): expected consecutive ranks on each machine; start the "
            "processes by srun --distribution=block"
        )
    most_tasks = max(tasks_per_host)
    first_port = _PORTS[job_id * most_tasks % (len(_PORTS) - most_tasks)]
    addresses = tuple(
        f"{host}:{first_port + i}"
        for host, count in zip(hosts, tasks_per_host, strict=True)
        for i in range(count)
    )
    return ClusterSpec(addresses, rank)


def expand_hostlist(text):
    """Returns the host names of a SLURM hostlist in its order: "a[08-10],b" gives 4 names."""
    hosts = []
    for prefix, ranges, suffix in re.findall(r"([^,\[\]]+)(?:\[([^\]]*)\])?([^,\[\]]*)", text):
        if not ranges:
            hosts.append(prefix + suffix)
            continue
        for part in ranges.split(","):
            low, _, high = part.partition("-")
            numbers = range(int(low), int(high or low) + 1)
            hosts += [f"{prefix}{number:0{len(low)}d}{suffix}" for number in numbers]
    return hosts


def _expand_task_counts(text):
    """Returns the number of processes per host: "2(x3),1" gives [2, 2, 2, 1]."""
    counts = []
    for part in text.split(","):
        count, _, repeats = part.rstrip(")").partition("(x")
        counts += [int(count)] * int(repeats or 1)
    return counts
