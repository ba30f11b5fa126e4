"""One process at a time trains in a workdir."""

import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import sys
import threading
import time
import uuid

from tf_mural import file_io
from tf_mural.errors import UserError

NAME = "lock.json"
_BEAT = 20.0  # seconds between two signs of life
_SILENT = 120.0  # seconds without one after which another machine's process counts as gone


def _stop(reason):
    """Ends the process as SIGTERM does: saved, and to be started again."""
    print(reason, file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)


class Held(UserError):
    """A process of another machine may be at work: later it is known."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again


class Lock:
    """Holds a workdir: `with Lock(workdir): ...`.

    On this machine the kernel decides (flock), and lets go when the process ends, however it does.
    Of a process on another machine, or where there is no flock, the file tells: host, process, and
    when it last gave a sign of life, which it does every 20 s. After 120 s without one it counts as
    gone; at once, if this machine has run since it was started and knows no such process. On a
    remote file system two processes that start within the same moment may both pass: that whose
    name is not in the file stops at its next sign of life, as does one that was silent for so long
    that another has taken its place.

    Args:
        workdir: made where it is missing.
        beat, silent: these seconds.
        lost: called, from a thread, with what to say when another process has the workdir.

    Raises:
        UserError: the workdir is in use; names host, process and time.
    """

    def __init__(self, workdir, beat=_BEAT, silent=_SILENT, lost=_stop):
        self._workdir, self._path = workdir, os.path.join(workdir, NAME)
        self._beat, self._silent = beat, silent
        self._file, self._over, self._lost, self._is_lost = None, threading.Event(), lost, False
        self._own = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "since": time.time(),
            "machine": _machine(),
            "born": _born(os.getpid()),
        }

    def __enter__(self):
        file_io.make_folder(self._workdir)
        try:
            kernel = self._flock()
            holder = self._holder()
            if kernel is False:
                raise self._refusal(holder)
            if holder and not (kernel and holder["host"] == self._own["host"]):
                self._look_at(holder)
            self._write()
        except BaseException:
            self._let_go()
            raise
        self._thread = threading.Thread(target=self._beats, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()
        # Not the file itself: a process that waits for it would hold one that no other sees.
        with contextlib.suppress(Exception):  # a full disk shows elsewhere
            if not self._is_lost:
                self._write({})
        self._let_go()

    def _let_go(self):
        if self._file:
            self._file.close()
            self._file = None

    def _flock(self):
        """Whether the kernel gave the lock; None where it has none to give."""
        if file_io.is_remote(self._path):
            return None
        self._file = open(self._path, "a+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
        return True

    def _holder(self):
        """What the file tells of a process, or None."""
        try:
            told = json.loads(file_io.read_bytes(self._path))
            return told if {"host", "process", "since", "alive"} <= set(told) else None
        except (OSError, ValueError, TypeError):
            return None

    def _look_at(self, holder):
        """Refuses where the process that the file tells of may be at work."""
        if holder.get("machine") == self._own["machine"]:
            # Its number alone may be that of another process by now.
            if holder.get("born") != _born(holder["process"]):
                return
            raise self._refusal(holder)
        silent = time.time() - holder["alive"]
        if silent < self._silent:
            raise Held(
                f"{self._told(holder)}, {silent:.0f} s ago: one process at a time trains there. If "
                f"it is gone, wait for {self._silent - silent:.0f} s or remove {self._path}"
            )

    def _refusal(self, holder):
        told = self._told(holder) if holder else f"{self._workdir} is in use by another process"
        return UserError(
            f"{told}: one process at a time trains there; wait for it, end it, or choose another "
            "--workdir"
        )

    def _told(self, holder):
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["since"]))
        return (
            f"{self._workdir} is in use by process {holder['process']} of {holder['host']}, which "
            f"took it at {since}"
        )

    def _beats(self):
        while not self._over.wait(self._beat):
            with contextlib.suppress(Exception):
                holder = None if self._file else self._holder()
                if holder and any(holder.get(name) != value for name, value in self._own.items()):
                    self._is_lost = True
                    break
                self._write()
        if self._is_lost:
            self._lost(f"{self._told(holder)}: this one stops")

    def _write(self, told=None):
        data = json.dumps({**self._own, "alive": time.time()} if told is None else told)
        if self._file is None:
            with file_io.replacing(self._path) as path, file_io.open_file(path, "wb") as file:
                file.write(data.encode())
            return
        self._file.seek(0)
        self._file.truncate()
        self._file.write(data.encode())


def _machine():
    """Names what knows a process by its number: a machine, from one start of it to the next, and
    the container's share of its processes. Where that cannot be told, it is no other's name."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return uuid.uuid4().hex


def _born(process):
    """When a process was started, in ticks; None where there is none."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
