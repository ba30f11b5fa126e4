"""Devices by the name of a strategy, their processes, and the sharding of arrays over them."""

import contextlib
import os

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tf_mural import distributed
from tf_mural.backends.jax.collectives import AXIS
from tf_mural.distributed import rendezvous, resolve_cluster
from tf_mural.errors import UserError, lookup

# Arrays with fewer values are replicated: communication would cost more than it saves.
_MIN_SHARDED_SIZE = 1 << 14

_scopes = []


class Devices:
    """The devices of a run, as a mesh with one axis; what a strategy is on TensorFlow.

    Args:
        devices: the devices of all processes, with those of a process next to each other. Devices
            of a topology that is only described are enough for compilation.
    """

    def __init__(self, devices):
        self.mesh = Mesh(np.array(devices), (AXIS,))

    @property
    def num_replicas_in_sync(self):
        """Number of devices; each is a replica."""
        return self.mesh.size

    @contextlib.contextmanager
    def scope(self):
        """Context manager in which `current_devices` returns these devices."""
        _scopes.append(self)
        try:
            yield
        finally:
            _scopes.pop()

    def sharding(self, spec):
        """The `NamedSharding` of a `PartitionSpec` over these devices."""
        return NamedSharding(self.mesh, spec)

    def partition_spec(self, shape):
        """Divides an array along its largest dimension that is a multiple of the device count.

        Returns:
            `PartitionSpec`. It is empty (each device has the whole array) if there is no such
            dimension, or if the array is small.
        """
        divisible = [d for d in range(len(shape)) if shape[d] and shape[d] % self.mesh.size == 0]
        if not divisible or np.prod(shape) < _MIN_SHARDED_SIZE or self.mesh.size == 1:
            return P()
        axis = max(divisible, key=lambda d: shape[d])
        return P(*[None] * axis, AXIS)


class ProcessGroup(distributed.ProcessGroup):
    """The processes of a run on JAX.

    Args:
        strategy: `Devices`.
    """

    peer_errors = (jax.errors.JaxRuntimeError,)

    def __init__(self, strategy):
        owners = {device.process_index for device in strategy.mesh.devices.flat}
        rank = jax.process_index() if len(owners) > 1 else 0
        super().__init__(rank, len(owners))

    def _is_peer_failure(self, error):
        # JAX has one class for all errors that occur while a program runs.
        return not str(error).startswith(("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT"))

    def _all_gather(self, part):
        return np.asarray(multihost_utils.process_allgather(part))


def current_devices():
    """The `Devices` whose scope is active, else the first device."""
    return _scopes[-1] if _scopes else _one()


def _one(*_):
    return Devices(jax.local_devices()[:1])


def _mirrored(*_):
    return Devices(jax.local_devices())


def _all_devices():
    return Devices(sorted(jax.devices(), key=lambda d: (d.process_index, d.id)))


def _multiworker(_, seconds):
    cluster = resolve_cluster()
    # JAX's coordinator uses the address of the first process from then on; nothing uses the others.
    with rendezvous(cluster, seconds, keep_listening=cluster.rank > 0):
        _connect(
            seconds,
            coordinator_address=cluster.addresses[0],
            num_processes=len(cluster.addresses),
            process_id=cluster.rank,
        )
    return _all_devices()


def _tpu(name, seconds):
    if name != "local":
        raise UserError(
            f"--tpu={name}: the JAX backend runs on the TPU's own hosts; run the same command on "
            "each of them, with --tpu=local"
        )
    if os.environ.get("TPU_WORKER_HOSTNAMES", "").count(",") or os.environ.get(
        "MEGASCALE_SLICE_ID"
    ):
        _connect(seconds)  # a pod: libtpu and the metadata server know the other hosts
    platform = jax.devices()[0].platform
    if platform != "tpu":
        raise UserError(
            f"no TPU is available: JAX has only {platform} devices. Run on a TPU VM with the "
            "packages of requirements-jax.txt, or choose another --strategy "
            "(python tools/doctor.py shows which ones work)"
        )
    return _all_devices()


def _connect(seconds, **cluster):
    try:
        jax.distributed.initialize(initialization_timeout=max(1, int(seconds)), **cluster)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the processes cannot connect ({str(error).splitlines()[0]}): start the same command "
            "for each of them, and make the port of the first one reachable"
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


def make_strategy(name="auto", tpu="local", connect_timeout_minutes=10.0):
    """Selects the `Devices` of a run.

    - "one": the first device, which is a TPU core, a GPU or the CPU.
    - "mirrored": all devices of this process.
    - "multiworker": the devices of several processes, see `distributed.resolve_cluster`. It waits
      until all processes have started.
    - "tpu": all cores of a TPU; on a pod every host runs the same command.
    - "auto": "multiworker" if TF_CONFIG is set, else "mirrored".

    Args:
        name: a key of `STRATEGIES`.
        tpu: "local".
        connect_timeout_minutes: time limit for the other processes to answer.

    Raises:
        UserError: unknown name; no TPU is available; the environment does not define a cluster;
            processes did not answer in time, or a port is taken.
    """
    import tensorflow as tf

    make = lookup(STRATEGIES, name, "strategy")
    # TensorFlow only reads the data; by default it would reserve the memory of the GPUs.
    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices([], "GPU")
    return make(tpu, 60 * connect_timeout_minutes)
