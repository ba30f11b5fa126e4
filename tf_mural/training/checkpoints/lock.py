"""Lock of a workdir: one process at a time trains in it."""

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
_HEARTBEAT_SECONDS = 20.0
_EXPIRY_SECONDS = 120.0  # without a heartbeat, a process of another machine counts as dead


def _terminate(reason):
    """Ends this process as SIGTERM does: the state is saved, and the run can be restarted."""
    print(reason, file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)


class WorkdirLocked(UserError):
    """A process of another machine may use the workdir; its lock may expire later."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again


class Lock:
    """Locks a workdir: `with Lock(workdir): ...`.

    On one machine the lock is held by the kernel (flock), which releases it when the process ends
    in any way. Between machines, and where flock is not available, the lock file decides. It
    contains the host, the process and the time of the last heartbeat, which is written every 20 s.
    A lock expires after 120 s without a heartbeat; or at once, if it was taken on this machine
    since its last boot by a process that no longer exists.

    On a remote file system, two processes that start at the same moment may both acquire the lock.
    The process whose name is not in the file stops at its next heartbeat; so does a process whose
    lock expired and was taken by another one.

    Args:
        workdir: folder; created if it is missing.
        heartbeat_seconds: interval between two heartbeats.
        expiry_seconds: time without a heartbeat after which the lock of another machine expires.
        on_lost: callable that takes a message, called in a thread when another process has taken
            the lock.

    Raises:
        UserError: the workdir is in use; the message gives host, process and time.
    """

    def __init__(
        self,
        workdir,
        heartbeat_seconds=_HEARTBEAT_SECONDS,
        expiry_seconds=_EXPIRY_SECONDS,
        on_lost=_terminate,
    ):
        self._workdir, self._path = workdir, os.path.join(workdir, NAME)
        self._heartbeat_seconds, self._expiry_seconds = heartbeat_seconds, expiry_seconds
        self._file, self._closed = None, threading.Event()
        self._on_lost, self._is_lost = on_lost, False
        self._owner = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "acquired": time.time(),
            "process_namespace": _process_namespace(),
            "start_time": _start_time(os.getpid()),
        }

    def __enter__(self):
        file_io.makedirs(self._workdir)
        try:
            has_flock = self._flock()
            holder = self._read_holder()
            if has_flock is False:
                raise self._refusal(holder)
            if holder and not (has_flock and holder["host"] == self._owner["host"]):
                self._check_expired(holder)
            self._write()
        except BaseException:
            self._release()
            raise
        self._thread = threading.Thread(target=self._heartbeat, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._closed.set()
        self._thread.join()
        # The file is not removed: a process that waits for it would lock a file that nobody sees.
        with contextlib.suppress(Exception):  # a full disk is reported elsewhere
            if not self._is_lost:
                self._write({})
        self._release()

    def _release(self):
        if self._file:
            self._file.close()
            self._file = None

    def _flock(self):
        """Whether the kernel granted the lock; None if flock is not available."""
        if file_io.is_remote(self._path):
            return None
        self._file = open(self._path, "a+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
        return True

    def _read_holder(self):
        """Returns the contents of the lock file, or None if it names no process."""
        try:
            holder = json.loads(file_io.read_bytes(self._path))
            required = {"host", "process", "acquired", "heartbeat"}
            return holder if required <= set(holder) else None
        except (OSError, ValueError, TypeError):
            return None

    def _check_expired(self, holder):
        """Raises an error unless the lock of `holder` has expired."""
        if holder.get("process_namespace") == self._owner["process_namespace"]:
            # The process id may have been reused, so the start time is compared as well.
            if holder.get("start_time") != _start_time(holder["process"]):
                return
            raise self._refusal(holder)
        age = time.time() - holder["heartbeat"]
        if age < self._expiry_seconds:
            raise WorkdirLocked(
                f"{self._describe(holder)}, last heartbeat {age:.0f} s ago: one process at a time "
                f"trains there. If it is dead, wait for {self._expiry_seconds - age:.0f} s or "
                f"remove {self._path}"
            )

    def _refusal(self, holder):
        description = (
            self._describe(holder) if holder else f"{self._workdir} is in use by another process"
        )
        return UserError(
            f"{description}: one process at a time trains there; wait for it, end it, or choose "
            "another --workdir"
        )

    def _describe(self, holder):
        acquired = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["acquired"]))
        return (
            f"{self._workdir} is in use by process {holder['process']} of {holder['host']} since "
            f"{acquired}"
        )

    def _heartbeat(self):
        while not self._closed.wait(self._heartbeat_seconds):
            with contextlib.suppress(Exception):
                holder = None if self._file else self._read_holder()
                if holder and any(holder.get(key) != value for key, value in self._owner.items()):
                    self._is_lost = True
                    break
                self._write()
        if self._is_lost:
            self._on_lost(f"{self._describe(holder)}: this process stops")

    def _write(self, content=None):
        if content is None:
            content = {**self._owner, "heartbeat": time.time()}
        data = json.dumps(content).encode()
        if self._file is None:
            with file_io.atomic_write(self._path) as path, file_io.open_file(path, "wb") as file:
                file.write(data)
            return
        self._file.seek(0)
        self._file.truncate()
        self._file.write(data)


def _process_namespace():
    """Identifies the boot of a machine and the container in which process ids are unique.

    Returns a random id if /proc is not available.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return uuid.uuid4().hex


def _start_time(process):
    """Returns the start time of a process in clock ticks, or None if there is no such process."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
