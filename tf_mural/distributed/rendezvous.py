"""Rendezvous of the processes of a run with a time limit, which TensorFlow does not have."""

import contextlib
import os
import socket
import subprocess
import sys
import time

from tf_mural.errors import UserError

_POLL_INTERVAL = 0.2  # seconds between two rounds of connection attempts
_CONNECT_TIMEOUT = 5.0  # seconds per connection attempt
# Kills the parent process with a message on stderr when the deadline has passed.
_WATCHDOG = """
import os, signal, sys, time
parent, end, message = int(sys.argv[1]), time.monotonic() + float(sys.argv[2]), sys.argv[3]
while os.getppid() == parent:
    if time.monotonic() > end:
        print(message, file=sys.stderr, flush=True)
        os.kill(parent, signal.SIGKILL)
    time.sleep(0.2)
"""


def wait_for_peers(cluster, seconds):
    """Waits until this process has reached all other processes of a cluster.

    Each process listens at its own address until it has reached all others. TensorFlow's server,
    which is started at the same address afterwards, answers the processes that are still waiting.

    Args:
        cluster: `ClusterSpec`.
        seconds: time limit in seconds.

    Raises:
        UserError: the port of this process is in use, or some processes did not answer in time;
            the message lists them.
    """
    with rendezvous(cluster, seconds, keep_listening=False):
        pass


@contextlib.contextmanager
def rendezvous(cluster, seconds, keep_listening=True):
    """Context manager version of `wait_for_peers`.

    Args:
        cluster, seconds: see `wait_for_peers`.
        keep_listening: whether this process listens until the end of the context. True is needed if
            no server is started at the address of this process, because peers may still try to
            reach this process.
    """
    rank, own_address = cluster.rank, cluster.addresses[cluster.rank]
    try:
        # `create_server` raises an error if the port is in use. TensorFlow's server would raise no
        # error: it would share the port, and receive only some of the connections.
        listener = socket.create_server(
            ("", _parse(own_address)[1]), backlog=len(cluster.addresses)
        )
    except OSError as error:
        raise UserError(
            f"process {rank} cannot listen at {own_address} ({os.strerror(error.errno)}): another "
            "process on this machine has the same index, or another program uses the port; give "
            "each process its own index and address"
        ) from None
    with listener:
        peers = [address for i, address in enumerate(cluster.addresses) if i != rank]
        missing = unreachable(peers, seconds)
        if missing:
            listed = ", ".join(f"{cluster.addresses.index(a)} at {a}" for a in missing)
            raise UserError(
                f"process {rank} of {len(cluster.addresses)} waited {seconds / 60:g} minutes for "
                f"processes that did not answer: {listed}. Start the same command there, each with "
                "its own index, and open their ports, or increase "
                "`connect_timeout_minutes`"
            )
        if not keep_listening:
            listener.close()
        yield


@contextlib.contextmanager
def kill_after(cluster, seconds):
    """Context manager: kills this process with a message if the body exceeds the time limit.

    TensorFlow waits without a limit for a process that is lost between rendezvous and connection.
    TensorFlow waits in C++ code, which no signal, exception or Python thread can interrupt.

    Args:
        cluster: `ClusterSpec`.
        seconds: time limit in seconds.
    """
    message = (
        f"error: process {cluster.rank} of {len(cluster.addresses)} reached all others, but one of "
        f"them did not connect within {seconds / 60:g} minutes: see the output of that process. "
        "Start all processes again, by the same command, or increase connect_timeout_minutes"
    )
    command = [sys.executable, "-c", _WATCHDOG, str(os.getpid()), str(seconds), message]
    watchdog = subprocess.Popen(command)
    try:
        yield
    finally:
        watchdog.kill()
        watchdog.wait()


def unreachable(addresses, seconds):
    """Returns the addresses "host:port" at which no process answers within the time limit."""
    end = time.monotonic() + seconds
    while True:
        addresses = [address for address in addresses if not _answers(address)]
        if not addresses or time.monotonic() >= end:
            return addresses
        time.sleep(_POLL_INTERVAL)


def _answers(address):
    try:
        socket.create_connection(_parse(address), timeout=_CONNECT_TIMEOUT).close()
    except OSError:
        return False
    return True


def _parse(address):
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65_535:
        raise UserError(f"invalid address {address!r}: expected host:port")
    return host.strip("[]"), int(port)
