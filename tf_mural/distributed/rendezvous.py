"""Whether others are there: looked at first, since TensorFlow waits for them without a limit."""

import contextlib
import os
import socket
import subprocess
import sys
import time

from tf_mural.errors import UserError

_PAUSE = 0.2  # seconds between two rounds
_PATIENCE = 5.0  # seconds for one answer
# Ends a process, as long as that is its parent, with a message on its stderr.
_GUARD = """
import os, signal, sys, time
parent, end, message = int(sys.argv[1]), time.monotonic() + float(sys.argv[2]), sys.argv[3]
while os.getppid() == parent:
    if time.monotonic() > end:
        print(message, file=sys.stderr, flush=True)
        os.kill(parent, signal.SIGKILL)
    time.sleep(0.2)
"""


def meet(cluster, seconds):
    """Returns once all processes of a cluster are there.

    Each listens at its own address until it has reached all others; TensorFlow's server, which
    follows at that address, answers those that have not got so far.

    Args:
        cluster: a `Cluster`.
        seconds: to wait for the others.

    Raises:
        UserError: this process's port is taken; or some did not answer in time, and which.
    """
    with meeting(cluster, seconds, answers=False):
        pass


@contextlib.contextmanager
def meeting(cluster, seconds, answers=True):
    """As `meet`; inside, this process goes on to listen if it `answers`.

    For those at whose address no server follows: others may not have got so far.
    """
    number, own = cluster.number, cluster.addresses[cluster.number]
    try:
        # TensorFlow's server would share a port that is taken, and get a part of the calls.
        listener = socket.create_server(("", _parts(own)[1]), backlog=len(cluster.addresses))
    except OSError as error:
        raise UserError(
            f"process {number} cannot listen at {own} ({os.strerror(error.errno)}): another process"
            " here was given the same index, or another program has the port; give each process an "
            "index and an address of its own"
        ) from None
    with listener:
        others = [address for i, address in enumerate(cluster.addresses) if i != number]
        missing = unanswered(others, seconds)
        if missing:
            told = ", ".join(f"{cluster.addresses.index(a)} at {a}" for a in missing)
            raise UserError(
                f"process {number} of {len(cluster.addresses)} waited {seconds / 60:g} minutes for "
                f"those that did not answer: {told}. Start the same command there, each with its "
                "own index, and let their ports be reached; --wait_minutes waits longer"
            )
        if not answers:
            listener.close()
        yield


@contextlib.contextmanager
def limited(cluster, seconds):
    """Inside, this process is killed after some seconds, with a message.

    For TensorFlow's connecting, which waits without a limit for a process that was lost after they
    met, in C++, where no signal, exception or thread of Python gets through to it.

    Args:
        cluster: a `Cluster`.
        seconds: likewise.
    """
    message = (
        f"error: process {cluster.number} of {len(cluster.addresses)} met all others, but one of "
        f"them did not connect within {seconds / 60:g} minutes: its output says why. Start all "
        "processes again, by the same command; --wait_minutes waits longer"
    )
    command = [sys.executable, "-c", _GUARD, str(os.getpid()), str(seconds), message]
    guard = subprocess.Popen(command)
    try:
        yield
    finally:
        guard.kill()
        guard.wait()


def unanswered(addresses, seconds):
    """Those of the addresses "host:port" at which nobody answers within some seconds."""
    end = time.monotonic() + seconds
    while True:
        addresses = [address for address in addresses if not _answers(address)]
        if not addresses or time.monotonic() >= end:
            return addresses
        time.sleep(_PAUSE)


def _answers(address):
    try:
        socket.create_connection(_parts(address), timeout=_PATIENCE).close()
    except OSError:
        return False
    return True


def _parts(address):
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65_535:
        raise UserError(f"the address {address!r} is none: expected host:port")
    return host.strip("[]"), int(port)
