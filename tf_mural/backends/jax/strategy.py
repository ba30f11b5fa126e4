"""Selects devices by the name of a strategy, groups their processes, and shards arrays."""

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

# Arrays with fewer elements are replicated, because sharding them would cost more in communication
# than it saves in memory and computation.
_MIN_SHARDED_SIZE = 1 << 14

_scopes = []


class Devices:
    """The devices of a run, as a mesh with one axis.

    This class has the role that `tf.distribute.Strategy` has on TensorFlow.

    Args:
        devices: list of the devices of all processes, in which the devices of a process are
            adjacent. If a step is compiled but not run, the devices may be those of a described
            topology instead of real devices.
    """

    def __init__(self, devices):
        self.mesh = Mesh(np.array(devices), (AXIS,))

    @property
    def num_replicas_in_sync(self):
        """Number of devices, which is the number of replicas."""
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
        """Returns the `PartitionSpec` that divides an array of a shape among the devices.

        The array is divided along the largest dimension that is a multiple of the number of
        devices. If there is no such dimension, or if the array is small, the `PartitionSpec` is
        empty: each device has the whole array.
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
        # JAX raises the same class for all errors that occur while a program runs. An error with
        # the status code RESOURCE_EXHAUSTED or INVALID_ARGUMENT was caused by this process.
        return not str(error).startswith(("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT"))

    def _all_gather(self, part):
        return np.asarray(multihost_utils.process_allgather(part))


def current_devices():
    """Returns the `Devices` whose scope is active; without a scope, the first local device."""
    return _scopes[-1] if _scopes else _one()


def _one(*_):
    return Devices(jax.local_devices()[:1])


def _mirrored(*_):
    return Devices(jax.local_devices())


def _all_devices():
    return Devices(sorted(jax.devices(), key=lambda d: (d.process_index, d.id)))


def _multiworker(_, seconds):
    cluster = resolve_cluster()
    # The first process must stop listening, because JAX's coordinator listens at the address of
    # this process. All other processes continue to listen, because no server is started at their
    # addresses, and peers may still be waiting for an answer.
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
            f"`tpu={name}`: the JAX backend runs on the TPU's own hosts; run the same command on "
            "each of these hosts, with `tpu=local`"
        )
    if os.environ.get("TPU_WORKER_HOSTNAMES", "").count(",") or os.environ.get(
        "MEGASCALE_SLICE_ID"
    ):
        # This machine is a host of a TPU pod, and JAX asks libtpu and the metadata server for the
        # other hosts.
        _connect(seconds)
    platform = jax.devices()[0].platform
    if platform != "tpu":
        raise UserError(
            f"no TPU is available: JAX has only {platform} devices. Run on a TPU VM with the "
            "packages of requirements-jax.txt, or choose another `strategy` "
            "(python tools/doctor.py shows which ones work)"
        )
    return _all_devices()


def _connect(seconds, **cluster):
    try:
        jax.distributed.initialize(initialization_timeout=max(1, int(seconds)), **cluster)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the processes cannot connect ({str(error).splitlines()[0]}): start the same command "
            "in each process, and make the port of the first process reachable"
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
    - "multiworker": the devices of several processes, see `distributed.resolve_cluster`. The
      function waits until all processes have started.
    - "tpu": all cores of a TPU; on a pod every host runs the same command.
    - "auto": "multiworker" if TF_CONFIG is set, else "mirrored".

    Args:
        name: a key of `STRATEGIES`.
        tpu: must be "local" for the strategy "tpu"; other strategies ignore this argument.
        connect_timeout_minutes: maximum time in minutes that the function waits for an answer of
            the other processes.

    Raises:
        UserError: the name is unknown, no TPU is available, the environment does not define a
            cluster, other processes did not answer in time, or a port is in use.
    """
    import tensorflow as tf

    make = lookup(STRATEGIES, name, "strategy")
    # GPUs are hidden from TensorFlow, which only reads the data here: by default, TensorFlow would
    # reserve the memory of the GPUs.
    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices([], "GPU")
    return make(tpu, 60 * connect_timeout_minutes)
