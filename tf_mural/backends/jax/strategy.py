"""Devices by name of a strategy, and where arrays lie on them."""

import contextlib
import os

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tf_mural.backends.jax.collectives import AXIS
from tf_mural.distributed import find_cluster, rendezvous
from tf_mural.errors import UserError, lookup

# Variables of fewer values are whole on each device: their collectives would cost more than they.
_SMALL = 1 << 14

_current = []


class Devices:
    """The devices of a run, in one row; to this backend what a strategy is to TensorFlow.

    Args:
        devices: those of all processes, a process's own ones next to each other. They need not be
            there: a topology that is only described will do for compiling.
    """

    def __init__(self, devices):
        self.mesh = Mesh(np.array(devices), (AXIS,))

    @property
    def num_replicas_in_sync(self):
        """How many devices there are; each is a replica."""
        return self.mesh.size

    @contextlib.contextmanager
    def scope(self):
        """Inside, `current()` are these."""
        _current.append(self)
        try:
            yield
        finally:
            _current.pop()

    def over(self, spec):
        """The `NamedSharding` of a partition of arrays over these devices."""
        return NamedSharding(self.mesh, spec)

    def parted(self, shape):
        """How an array is parted over the devices: by its largest dimension that divides by them.

        Returns:
            `PartitionSpec`; that of a whole copy a device where no dimension does, or for few
            values.
        """
        fitting = [d for d in range(len(shape)) if shape[d] and shape[d] % self.mesh.size == 0]
        if not fitting or np.prod(shape) < _SMALL or self.mesh.size == 1:
            return P()
        axis = max(fitting, key=lambda d: shape[d])
        return P(*[None] * axis, AXIS)


def current():
    """The `Devices` whose scope this is, else the first device."""
    return _current[-1] if _current else _one()


def _one(*_):
    return Devices(jax.local_devices()[:1])


def _mirrored(*_):
    return Devices(jax.local_devices())


def _everywhere():
    return Devices(sorted(jax.devices(), key=lambda d: (d.process_index, d.id)))


def _multiworker(_, seconds):
    cluster = find_cluster()
    # The first one's coordinator takes over at its address; nothing follows at the others'.
    with rendezvous(cluster, seconds, answers=cluster.number > 0):
        _connect(
            seconds,
            coordinator_address=cluster.addresses[0],
            num_processes=len(cluster.addresses),
            process_id=cluster.number,
        )
    return _everywhere()


def _tpu(name, seconds):
    if name != "local":
        raise UserError(
            f"--tpu={name}: the JAX backend runs on the TPU's own hosts; run the same command on "
            "each of them, with --tpu=local"
        )
    if os.environ.get("TPU_WORKER_HOSTNAMES", "").count(",") or os.environ.get(
        "MEGASCALE_SLICE_ID"
    ):
        _connect(seconds)  # a pod: libtpu and the metadata server tell who else there is
    found = jax.devices()
    if found[0].platform != "tpu":
        raise UserError(
            f"no TPU is to be had: JAX finds {found[0].platform} devices. Run on a TPU VM with "
            "the packages of requirements-jax.txt, or choose another --strategy "
            "(python tools/doctor.py says which work)"
        )
    return _everywhere()


def _connect(seconds, **cluster):
    try:
        jax.distributed.initialize(initialization_timeout=max(1, int(seconds)), **cluster)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the processes do not find each other ({str(error).splitlines()[0]}): start the same "
            "command for each, and let the first one's port be reached"
        ) from None


def _auto(*options):
    if os.environ.get("TF_CONFIG"):
        return _multiworker(*options)
    return _mirrored()


STRATEGIES = {
    "auto": _auto,
    "one": _one,
    "mirrored": _mirrored,
    "multiworker": _multiworker,
    "tpu": _tpu,
}


def make_strategy(name="auto", tpu="local", wait_minutes=10.0):
    """The `Devices` of this name.

    - "one" is the first device: a TPU core, a GPU, or the CPU.
    - "mirrored", and "auto" too, takes all devices of this process.
    - "multiworker" takes those of several processes, see `cluster.find_cluster`; "auto" where
      TF_CONFIG is set. It waits until all of them are there.
    - "tpu" takes all cores of a TPU; on a pod each host runs the same command.

    Args:
        name: of `STRATEGIES`.
        tpu: "local".
        wait_minutes: for the other processes.

    Raises:
        UserError: an unknown name; no TPU; an environment that tells of no cluster; processes that
            are not there in time, or a port that is taken.
    """
    import tensorflow as tf

    # TensorFlow reads the data, and would claim the memory of the GPUs.
    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices([], "GPU")
    return lookup(STRATEGIES, name, "strategy")(tpu, 60 * wait_minutes)
