"""Creates a `tf.distribute.Strategy` by name, and the process group of a strategy."""

import contextlib
import functools
import os
import re
import socket

import tensorflow as tf

from tf_mural import distributed
from tf_mural.distributed import kill_after, resolve_cluster, unreachable, wait_for_peers
from tf_mural.errors import UserError, lookup


class ProcessGroup(distributed.ProcessGroup):
    """The processes of a `tf.distribute.Strategy`.

    The strategy "multiworker" has several processes, every other strategy has one.

    Args:
        strategy: a `tf.distribute.Strategy`.
    """

    peer_errors = (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
        tf.errors.FailedPreconditionError,
        tf.errors.InternalError,
    )

    def __init__(self, strategy):
        self._strategy, rank, world_size = strategy, 0, 1
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            resolver = strategy.cluster_resolver
            rank, world_size = resolver.task_id, resolver.cluster_spec().num_tasks("worker")
        super().__init__(rank, world_size)

    def _all_gather(self, part):
        gathered = self._gather_function(tf.constant(part))
        rows = self._strategy.experimental_local_results(gathered)[0].numpy()
        # All replicas of a process contribute the same rows.
        return rows.reshape(self.world_size, -1, *part.shape)[:, 0]

    @functools.cached_property
    def _gather_function(self):
        def gather_on_replica(x):
            # `tf.identity` copies x to the device of the replica; the argument of `run` is not
            # placed on a device.
            return tf.distribute.get_replica_context().all_gather(tf.identity(x), axis=0)

        def gather(x):
            return self._strategy.run(gather_on_replica, args=(x,))

        return tf.function(gather, autograph=False, reduce_retracing=True)


def _one(*_):
    return tf.distribute.get_strategy()


def _mirrored(*_):
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def _multiworker(_, seconds):
    cluster = resolve_cluster()
    wait_for_peers(cluster, seconds)
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(cluster.addresses)}),
        task_type="worker",
        task_id=cluster.rank,
        rpc_layer="grpc",
    )
    with kill_after(cluster, seconds):
        return tf.distribute.MultiWorkerMirroredStrategy(resolver)


def _tpu(name, seconds):
    try:
        resolver = _resolve_tpu(name, seconds)
        if name != "local":
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        strategy = tf.distribute.TPUStrategy(resolver)
    except (ValueError, RuntimeError, OSError, ImportError, tf.errors.OpError) as error:
        raise UserError(
            f"TPU {name!r} is not available ({_reason(error)}): run on a TPU VM with the packages "
            "of requirements-tpu.txt, or choose another `strategy` "
            "(python tools/doctor.py shows which ones work)"
        ) from None
    if strategy.extended.num_hosts > 1:
        raise UserError(
            f"TPU {name!r} has {strategy.extended.num_hosts} hosts, but only the host that runs "
            "this command reads records; use a slice with one host, such as v5litepod-8"
        )
    return strategy


def _reason(error):
    """Returns the sentence of an error message that states the reason of the error."""
    text = str(error)
    if match := re.search(r"TPUs not found[^.\n]*", text):
        return match[0]
    # The message of an error in a graph starts with the node and ends with the reason.
    lines = [line for line in text.splitlines() if line.strip() and "{{node" not in line]
    return lines[-1].strip().split(". ")[0] if lines else type(error).__name__


def _resolve_tpu(name, seconds):
    """Returns the cluster resolver of a TPU; waits for an answer of a TPU on another machine."""
    with _network_timeout(seconds):
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        addresses = [] if name == "local" else resolver.cluster_spec().job_tasks("worker")
    missing = unreachable(addresses, seconds)
    if missing:
        raise TimeoutError(f"no answer from {', '.join(missing)} in {seconds / 60:g} minutes")
    return resolver


@contextlib.contextmanager
def _network_timeout(seconds):
    """Context manager: sets a time limit for Python's network calls, which have none by default."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _auto(*options):
    # TF_CONFIG is checked before the devices are listed, because listing devices initializes
    # TensorFlow without the other processes of the cluster.
    if os.environ.get("TF_CONFIG"):
        return _multiworker(*options)
    return _mirrored() if len(tf.config.list_logical_devices("GPU")) > 1 else _one()


STRATEGIES = {
    "auto": _auto,
    "one": _one,
    "mirrored": _mirrored,
    "multiworker": _multiworker,
    "tpu": _tpu,
}


def make_strategy(name="auto", tpu="local", connect_timeout_minutes=10.0):
    """Creates a `tf.distribute.Strategy`.

    - "one": TensorFlow's default, the first GPU or the CPU.
    - "mirrored": all GPUs of this process; without GPUs, all its logical CPUs.
    - "multiworker": the devices of several processes, see `distributed.resolve_cluster`. The
      function waits until all processes have started. This strategy must be created before any
      operation of TensorFlow runs.
    - "tpu": all cores of a TPU host.
    - "auto": "multiworker" if TF_CONFIG is set, else "mirrored" with two or more GPUs, else "one".

    Create only one strategy per process: TensorFlow aborts the process if a second MirroredStrategy
    has another number of devices.

    Args:
        name: a key of `STRATEGIES`.
        tpu: the TPU for the strategy "tpu": "local" (the TPU of this machine) or the name of a TPU.
        connect_timeout_minutes: maximum time in minutes that the function waits for an answer of
            the other processes or of a TPU on another machine.

    Raises:
        UserError: the name is unknown, the TPU is not available, the environment does not define a
            cluster, other processes did not answer in time, or a port is in use.
    """
    return lookup(STRATEGIES, name, "strategy")(tpu, 60 * connect_timeout_minutes)
