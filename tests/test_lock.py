"""Lock of a workdir: only one process at a time trains in a workdir."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time

import filelock
import pytest
from conftest import ROOT

from tf_mural import file_io
from tf_mural.errors import UserError
from tf_mural.training.checkpoints.lock import (
    Lock,
    WorkdirLocked,
    _process_namespace,
    _start_time,
)
from tf_mural.training.preemption import Preempted, SignalHandler

HOLDER = """
import sys, time
sys.path.insert(0, {root!r})
from tf_mural.training.checkpoints.lock import Lock
with Lock({workdir!r}):
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Starts another process that holds the lock of `tmp_path`."""
    code = HOLDER.format(root=ROOT, workdir=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def remote_workdir(tmp_path):
    """A workdir on a file system without locks."""
    workdir = "ram://lock/" + tmp_path.name
    file_io.makedirs(workdir)
    return workdir


def lock_content(host, process, heartbeat, **more):
    """Returns the content of a lock file that another process wrote."""
    return {"host": host, "process": process, "acquired": 1e9, "heartbeat": heartbeat, **more}


def write_lock(workdir, content):
    """Writes a lock file; `content` is a dict, or the text of the file."""
    text = content if isinstance(content, str) else json.dumps(content)
    path = os.path.join(workdir, "lock.json")
    with file_io.atomic_write(path) as temporary, file_io.open_file(temporary, "wb") as file:
        file.write(text.encode())


def ended_process():
    """Returns (id, start time) of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start_time = _start_time(process.pid)
    process.communicate(b"\n")
    return process.pid, start_time


def test_second_process_is_refused_until_the_first_dies(holder, tmp_path):
    refused = f"is in use by process {holder.pid} of {socket.gethostname()} since 20"
    with pytest.raises(UserError, match=refused) as caught, Lock(str(tmp_path)):
        pass
    assert "one process at a time" in str(caught.value)
    assert getattr(caught.value, "exit_code", 2) == 2
    content = (tmp_path / "lock.json").read_bytes()
    (tmp_path / "lock.json").write_bytes(b"")  # the kernel still refuses the lock
    with pytest.raises(UserError, match="is in use by another process: one"):
        Lock(str(tmp_path)).__enter__()
    (tmp_path / "lock.json").write_bytes(content)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with Lock(str(tmp_path)):
        assert json.loads((tmp_path / "lock.json").read_text())["process"] == os.getpid()
    with Lock(str(tmp_path)):
        pass


def test_lock_is_released_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), Lock(str(tmp_path)):
        raise ZeroDivisionError
    with Lock(str(tmp_path)):
        pass


@pytest.mark.parametrize("is_remote", [False, True])
def test_lock_of_another_machine_expires_without_heartbeat(tmp_path, remote_workdir, is_remote):
    workdir = remote_workdir if is_remote else str(tmp_path)
    path = os.path.join(workdir, "lock.json")
    write_lock(workdir, lock_content("elsewhere", 12, time.time() - 30))
    refused = r"by process 12 of elsewhere.*3\d s ago.* wait for \d+ s"
    with pytest.raises(WorkdirLocked, match=refused) as caught:
        Lock(workdir).__enter__()
    assert caught.value.exit_code == 75 and f"or remove {path}" in str(caught.value)
    write_lock(workdir, lock_content("elsewhere", 12, time.time() - 130))
    with Lock(workdir, heartbeat_seconds=0.05) as lock:
        first = lock._read_holder()
        assert first["process"] == os.getpid()
        time.sleep(0.5)
        assert lock._read_holder()["heartbeat"] > first["heartbeat"]
    assert lock._read_holder() is None
    for unreadable in ("", "{", "[]"):
        write_lock(workdir, unreadable)
        with Lock(workdir):
            pass


def test_without_a_kernel_lock_the_file_decides(remote_workdir):
    with Lock(remote_workdir), pytest.raises(UserError, match=f"by process {os.getpid()} of"):
        Lock(remote_workdir).__enter__()
    parent = os.getppid()
    for process, start_time, is_refused in (
        (parent, _start_time(parent), True),
        (parent, _start_time(parent) - 1, False),  # the holder has ended, and its id was reused
        (*ended_process(), False),
    ):
        here = dict(process_namespace=_process_namespace(), start_time=start_time)
        content = lock_content(socket.gethostname(), process, time.time(), **here)
        write_lock(remote_workdir, content)
        if is_refused:
            with pytest.raises(UserError, match=f"by process {process} of") as caught:
                Lock(remote_workdir).__enter__()
            assert not isinstance(caught.value, WorkdirLocked)
        else:
            with Lock(remote_workdir):
                pass


def test_the_file_also_decides_on_a_local_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with Lock(str(tmp_path)), pytest.raises(UserError, match=f"by process {os.getpid()} of"):
        Lock(str(tmp_path)).__enter__()
    with Lock(str(tmp_path)):
        pass


def test_a_lock_file_that_may_not_be_opened_is_an_error(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "lock")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with pytest.raises(PermissionError):
        Lock(str(tmp_path)).__enter__()
    assert not (tmp_path / "lock.json").exists()


@pytest.mark.parametrize("process", [1, "own", 4_000_000])
def test_host_name_does_not_identify_a_process(remote_workdir, process):
    process = os.getpid() if process == "own" else process
    # Different containers often have the same host name and the same process ids.
    elsewhere = dict(process_namespace="another boot", start_time=_start_time(process) or 7)
    host = socket.gethostname()
    write_lock(remote_workdir, lock_content(host, process, time.time() - 10, **elsewhere))
    with pytest.raises(WorkdirLocked, match="wait for"):
        Lock(remote_workdir).__enter__()
    write_lock(remote_workdir, lock_content(host, process, time.time() - 130, **elsewhere))
    with Lock(remote_workdir):
        pass


def test_process_that_lost_its_lock_stops_and_keeps_the_new_lock(remote_workdir):
    messages, path = [], os.path.join(remote_workdir, "lock.json")
    with Lock(remote_workdir, heartbeat_seconds=0.05, on_lost=messages.append) as lock:
        write_lock(remote_workdir, lock_content("elsewhere", 12, time.time()))
        lock._thread.join(10)
        in_use = f"{remote_workdir} is in use by process 12 of elsewhere"
        assert messages[0].startswith(in_use)
    assert json.loads(file_io.read_bytes(path))["host"] == "elsewhere"
    with SignalHandler(), pytest.raises(Preempted):
        with Lock(remote_workdir, heartbeat_seconds=0.05, expiry_seconds=0) as lock:
            write_lock(remote_workdir, lock_content("elsewhere", 13, time.time()))
            time.sleep(10)
