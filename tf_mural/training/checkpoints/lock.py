"""Lock of a workdir: only one process at a time trains in a workdir."""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
import uuid

from tf_mural import file_io
from tf_mural.errors import StorageError, UserError

NAME = "lock.json"
_KERNEL_LOCK = "lock"  # file in the workdir that the kernel locks
_HEARTBEAT_SECONDS = 20.0
_EXPIRY_SECONDS = 120.0  # time without a heartbeat after which a lock expires


def _terminate(reason):
    """Sends SIGTERM to this process, which saves its state and exits; the run can be restarted."""
    print(reason, file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)


class WorkdirLocked(UserError):
    """A process of another machine holds the lock, which expires if that process is dead."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again


class Lock:
    """Locks a workdir: `with Lock(workdir): ...`.

    On one machine, the kernel locks the file `lock` (`filelock.FileLock`), and releases this lock
    when the process ends for any reason. Between machines, or if the file system has no locks, the
    content of lock.json decides: the host, the process and the time of its last heartbeat. The
    process writes a heartbeat every 20 s. A lock expires after 120 s without a heartbeat. A lock
    expires immediately if its process started on this machine since the last boot and has ended.

    On a remote file system, two processes that start at the same moment may both acquire the lock.
    At its next heartbeat, the process that is not named in lock.json stops. A process whose lock
    has expired, and was then acquired by another process, also stops at its next heartbeat.

    Args:
        workdir: folder of a run, which is created if it is missing.
        heartbeat_seconds: interval between two heartbeats.
        expiry_seconds: time without a heartbeat after which the lock of another machine expires.
        on_lost: callable that takes a message. `on_lost` is called in a background thread after
            another process has acquired the lock.

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
        self._kernel_lock, self._closed = None, threading.Event()
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
            is_granted = self._acquire_kernel_lock()
            holder = self._read_holder()
            if is_granted is False:
                raise self._refusal(holder)
            if holder and not (is_granted and holder["host"] == self._owner["host"]):
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
        # An error such as a full disk is ignored, because other writes raise the same error.
        with contextlib.suppress(Exception):
            if not self._is_lost:
                self._write({})
        self._release()

    def _release(self):
        if self._kernel_lock:
            self._kernel_lock.release()
            self._kernel_lock = None

    def _acquire_kernel_lock(self):
        """Returns whether the kernel granted the lock, or None if the file system has no locks."""
        import filelock

        if file_io.is_remote(self._path):
            return None
        # A soft lock of filelock would remain after a killed process.
        path = os.path.join(self._workdir, _KERNEL_LOCK)
        lock = filelock.FileLock(path, fallback_to_soft=False, thread_local=False)
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            return False
        except PermissionError:
            raise
        except OSError:
            return None
        self._kernel_lock = lock
        return True

    def _read_holder(self):
        """Returns the contents of lock.json, or None if the file names no process."""
        try:
            holder = json.loads(file_io.read_bytes(self._path))
            required = {"host", "process", "acquired", "heartbeat"}
            return holder if required <= set(holder) else None
        except StorageError:
            raise
        except (OSError, ValueError, TypeError):
            return None

    def _check_expired(self, holder):
        """Raises an error unless the lock of `holder` has expired."""
        if holder.get("process_namespace") == self._owner["process_namespace"]:
            # Another process may have the same id, so the start time is compared as well.
            if holder.get("start_time") != _start_time(holder["process"]):
                return
            raise self._refusal(holder)
        age = time.time() - holder["heartbeat"]
        if age < self._expiry_seconds:
            raise WorkdirLocked(
                f"{self._describe(holder)}, last heartbeat {age:.0f} s ago: one process at a time "
                f"trains there. If that process is dead, wait for "
                f"{self._expiry_seconds - age:.0f} s or remove {self._path}"
            )

    def _refusal(self, holder):
        description = (
            self._describe(holder) if holder else f"{self._workdir} is in use by another process"
        )
        return UserError(
            f"{description}: one process at a time trains there; wait until that process ends, or "
            "stop it, or choose another `workdir`"
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
                holder = None if self._kernel_lock else self._read_holder()
                if holder and any(holder.get(key) != value for key, value in self._owner.items()):
                    self._is_lost = True
                    break
                self._write()
        if self._is_lost:
            self._on_lost(f"{self._describe(holder)}: this process stops")

    def _write(self, content=None):
        if content is None:
            content = {**self._owner, "heartbeat": time.time()}
        with file_io.atomic_write(self._path, sync=False) as temporary:
            with file_io.open_file(temporary, "wb") as file:
                file.write(json.dumps(content).encode())


def _process_namespace():
    """Returns an id of this boot and container, within which process ids are unique.

    If /proc is not available, the id is random.
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
