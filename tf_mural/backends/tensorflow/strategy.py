"""Strategies by name."""

import contextlib
import os
import re
import socket

import tensorflow as tf

from tf_mural.distributed import find_cluster, limited, meet, unanswered
from tf_mural.errors import UserError, lookup


def _one(*_):
    return tf.distribute.get_strategy()


def _mirrored(*_):
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def _multiworker(_, seconds):
    cluster = find_cluster()
    meet(cluster, seconds)
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(cluster.addresses)}),
        task_type="worker",
        task_id=cluster.number,
        rpc_layer="grpc",
    )
    with limited(cluster, seconds):
        return tf.distribute.MultiWorkerMirroredStrategy(resolver)


def _tpu(name, seconds):
    try:
        resolver = _tpu_resolver(name, seconds)
        if name != "local":
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        strategy = tf.distribute.TPUStrategy(resolver)
    except (ValueError, RuntimeError, OSError, ImportError, tf.errors.OpError) as error:
        raise UserError(
            f"no TPU {name!r} is to be had ({_reason(error)}): run on a TPU VM with the packages "
            "of requirements-tpu.txt, or choose another --strategy "
            "(python tools/doctor.py says which work)"
        ) from None
    if strategy.extended.num_hosts > 1:
        raise UserError(
            f"the TPU {name!r} has {strategy.extended.num_hosts} hosts: records are read by Python "
            "on the host that runs this command, and the others have none; take a slice of one "
            "host, such as v5litepod-8"
        )
    return strategy


def _reason(error):
    """The sentence of an error that says what, wherever it stands."""
    text = str(error)
    if found := re.search(r"TPUs not found[^.\n]*", text):
        return found[0]
    # Of an error in a graph the first lines say where, the last one what.
    lines = [line for line in text.splitlines() if line.strip() and "{{node" not in line]
    return lines[-1].strip().split(". ")[0] if lines else type(error).__name__


def _tpu_resolver(name, seconds):
    """Who has the TPU; of another machine's, once that answers."""
    with _time_limit(seconds):
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        addresses = [] if name == "local" else resolver.cluster_spec().job_tasks("worker")
    missing = unanswered(addresses, seconds)
    if missing:
        raise TimeoutError(f"no answer from {', '.join(missing)} in {seconds / 60:g} minutes")
    return resolver


@contextlib.contextmanager
def _time_limit(seconds):
    """Inside, whatever asks the network by Python gives up then; by default it never does."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _auto(*options):
    # First: whoever asks for devices has TensorFlow set up without the other processes.
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


def make_strategy(name="auto", tpu="local", wait_minutes=10.0):
    """The `tf.distribute.Strategy` of this name.

    - "one" is TensorFlow's default: the first GPU, or the CPU.
    - "mirrored" takes all GPUs (without any, all logical CPUs) of this process.
    - "multiworker" takes those of several processes, see `cluster.find_cluster`. It waits until
      all of them are there, and must be made before TensorFlow has done anything else.
    - "tpu" takes all cores of a TPU host: "local", the one this runs on, or a name.
    - "auto" is "multiworker" where TF_CONFIG is set, "mirrored" with two or more GPUs, else "one".

    Make one a process: a second MirroredStrategy of another size aborts TensorFlow.

    Args:
        name: of `STRATEGIES`.
        tpu: which TPU "tpu" takes.
        wait_minutes: for the other processes, or a TPU of another machine, to answer.

    Raises:
        UserError: an unknown name; no such TPU; an environment that tells of no cluster; processes
            that are not there in time, or a port that is taken.
    """
    return lookup(STRATEGIES, name, "strategy")(tpu, 60 * wait_minutes)
