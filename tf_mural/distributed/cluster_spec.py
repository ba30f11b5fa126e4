"""Which processes a run has, and which of them this one is: from TF_CONFIG, or from SLURM."""

import dataclasses
import json
import os
import re

from tf_mural.errors import UserError

_JOBS = ("chief", "worker")

# Ports that no service of a usual machine has; a job takes one a process of a machine.
_PORTS = range(20_000, 30_000)


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The processes of a run.

    Attributes:
        addresses: tuple of "host:port", by number of the process.
        number: of this process; the first one, 0, writes what the run leaves behind.
    """

    addresses: tuple
    number: int


def find_cluster(environment=None):
    """The `Cluster` that the environment tells of.

    TF_CONFIG counts where there is one, {"cluster": {"worker": ["host:port", ...]}, "task":
    {"type": "worker", "index": 0}}, with a "chief" before the workers or without; else SLURM's
    variables of a step, which `srun` sets.

    Args:
        environment: {name: value}; that of this process by default.

    Raises:
        UserError: there is neither; or it cannot be.
    """
    environment = os.environ if environment is None else environment
    if environment.get("TF_CONFIG"):
        return _of_tf_config(environment["TF_CONFIG"])
    if "SLURM_PROCID" in environment:
        return _of_slurm(environment)
    raise UserError(
        "--strategy=multiworker: expected TF_CONFIG in the environment of each process, such as "
        '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", '
        '"index": 0}}, or a start by srun'
    )


def _of_tf_config(text):
    try:
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        kind, index = task["type"], int(task["index"])
        jobs = {name: [str(address) for address in cluster.get(name, ())] for name in _JOBS}
        own = jobs[kind][index] if index >= 0 else None
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise UserError(
            f"TF_CONFIG is not understood ({type(error).__name__}: {error}): expected "
            '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}; '
            f"got {text}"
        ) from None
    addresses = [address for name in _JOBS for address in jobs[name]]
    unknown = sorted(set(cluster) - set(_JOBS))
    if unknown or own is None or len(set(addresses)) < len(addresses):
        what = f"the job {unknown[0]!r}" if unknown else "an address twice or an index below 0"
        raise UserError(f"TF_CONFIG has {what}: expected workers, and a chief or none; got {text}")
    return Cluster(tuple(addresses), (len(jobs["chief"]) if kind == "worker" else 0) + index)


def _of_slurm(environment):
    # TensorFlow's own resolver sorts the hosts, so that node10 comes before node9 and a process
    # takes the address of another; and it fails on machines without a GPU.
    try:
        hosts = expand_hosts(environment["SLURM_STEP_NODELIST"])
        tasks = _expand_tasks(environment["SLURM_STEP_TASKS_PER_NODE"])
        number, node, local = (
            int(environment[f"SLURM_{name}"]) for name in ("PROCID", "NODEID", "LOCALID")
        )
        job = int(environment["SLURM_JOB_ID"]) * 64 + int(environment.get("SLURM_STEP_ID", 0))
    except (KeyError, ValueError) as error:
        raise UserError(
            f"SLURM's variables are not understood ({type(error).__name__}: {error}); start the "
            "processes by srun, or set TF_CONFIG"
        ) from None
    if len(hosts) != len(tasks) or number != sum(tasks[:node]) + local:
        raise UserError(
            f"process {number} is number {local} of machine {node} (machines {hosts}, processes "
            f"{tasks}): expected the processes of a machine to follow each other; start them by "
            "srun --distribution=block"
        )
    first = _PORTS[job * max(tasks) % (len(_PORTS) - max(tasks))]
    pairs = zip(hosts, tasks, strict=True)
    return Cluster(tuple(f"{host}:{first + i}" for host, k in pairs for i in range(k)), number)


def expand_hosts(text):
    """Names of a list of hosts as SLURM writes it, in its order: "a[08-10,12],b" has five."""
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


def _expand_tasks(text):
    """Numbers of processes by machine: "2(x3),1" is 2, 2, 2, 1."""
    counts = []
    for part in text.split(","):
        count, _, times = part.rstrip(")").partition("(x")
        counts += [int(count)] * int(times or 1)
    return counts
