"""One process at a time in a workdir."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from conftest import ROOT

from tf_mural import file_io
from tf_mural.errors import UserError
from tf_mural.training.checkpoints.lock import Held, Lock, _born, _machine
from tf_mural.training.preemption import Signals, Stopped

HOLDER = """
import sys, time
sys.path.insert(0, {root!r})
from tf_mural.checkpoints.lock import Lock
with Lock({workdir!r}):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder."""
    code = HOLDER.format(root=ROOT, workdir=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_refused_until_the_first_one_dies(holder, tmp_path):
    refused = f"is in use by process {holder.pid} of {socket.gethostname()}, which took it at 20"
    with pytest.raises(UserError, match=refused) as told, Lock(str(tmp_path)):
        pass
    assert "one process at a time" in str(told.value) and getattr(told.value, "exit_code", 2) == 2
    content = (tmp_path / "lock.json").read_bytes()
    (tmp_path / "lock.json").write_bytes(b"")  # the kernel decides, whatever the file says
    with pytest.raises(UserError, match="is in use by another process: one"):
        Lock(str(tmp_path)).__enter__()
    (tmp_path / "lock.json").write_bytes(content)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with Lock(str(tmp_path)):
        assert json.loads((tmp_path / "lock.json").read_text())["process"] == os.getpid()
    with Lock(str(tmp_path)):
        pass


def test_a_lock_is_given_back_on_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), Lock(str(tmp_path)):
        raise ZeroDivisionError
    with Lock(str(tmp_path)):
        pass


def told(host, process, alive, **more):
    return json.dumps({"host": host, "process": process, "since": 1e9, "alive": alive, **more})


def says(path, text):
    with file_io.replacing(path) as there, file_io.open_file(there, "wb") as file:
        file.write(text.encode())


def ended():
    """(number, birth) of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    born = _born(process.pid)
    process.communicate(b"\n")
    return process.pid, born


@pytest.mark.parametrize("folder", ["", "ram://"])
def test_another_machine_counts_as_gone_when_it_is_silent(tmp_path, folder):
    workdir = folder + str(tmp_path).lstrip("/") if folder else str(tmp_path)
    file_io.make_folder(workdir)
    path = os.path.join(workdir, "lock.json")
    says(path, told("elsewhere", 12, time.time() - 30))
    with pytest.raises(Held, match=r"by process 12 of elsewhere.*3\d s ago.* wait for \d+ s") as it:
        Lock(workdir).__enter__()
    assert it.value.exit_code == 75 and f"or remove {path}" in str(it.value)
    says(path, told("elsewhere", 12, time.time() - 130))
    with Lock(workdir, beat=0.05) as lock:
        first = lock._holder()
        assert first["process"] == os.getpid()
        time.sleep(0.5)
        assert lock._holder()["alive"] > first["alive"]
    assert lock._holder() is None
    for unread in ("", "{", "[]"):
        says(path, unread)
        with Lock(workdir):
            pass


def test_where_the_kernel_does_not_decide_the_file_does(tmp_path):
    workdir = "ram://lock/" + tmp_path.name
    file_io.make_folder(workdir)
    path = os.path.join(workdir, "lock.json")
    with Lock(workdir), pytest.raises(UserError, match=f"by process {os.getpid()} of"):
        Lock(workdir).__enter__()
    parent = os.getppid()
    for process, born, refused in (
        (parent, _born(parent), True),
        (parent, _born(parent) - 1, False),  # its number was another's
        (*ended(), False),
    ):
        of_here = dict(machine=_machine(), born=born)
        says(path, told(socket.gethostname(), process, time.time(), **of_here))
        if refused:
            with pytest.raises(UserError, match=f"by process {process} of") as error:
                Lock(workdir).__enter__()
            assert not isinstance(error.value, Held)
        else:
            with Lock(workdir):
                pass


@pytest.mark.parametrize("process", [1, "own", 4_000_000])
def test_a_host_name_alone_says_nothing_of_a_process(tmp_path, process):
    process = os.getpid() if process == "own" else process
    # Containers bear one name again and again, and number their processes alike.
    workdir = "ram://lock/" + tmp_path.name
    file_io.make_folder(workdir)
    path = os.path.join(workdir, "lock.json")
    elsewhere = dict(machine="another start", born=_born(process) or 7)
    says(path, told(socket.gethostname(), process, time.time() - 10, **elsewhere))
    with pytest.raises(Held, match="wait for"):
        Lock(workdir).__enter__()
    says(path, told(socket.gethostname(), process, time.time() - 130, **elsewhere))
    with Lock(workdir):
        pass


def test_who_was_silent_for_too_long_stops_and_leaves_the_other_its_lock(tmp_path):
    workdir, lost = "ram://lock/" + tmp_path.name, []
    path = os.path.join(workdir, "lock.json")
    with Lock(workdir, beat=0.05, lost=lost.append) as lock:
        says(path, told("elsewhere", 12, time.time()))
        lock._thread.join(10)
        assert lost[0].startswith(f"{workdir} is in use by process 12 of elsewhere")
    assert json.loads(file_io.read_bytes(path))["host"] == "elsewhere"
    with Signals(), pytest.raises(Stopped):
        with Lock(workdir, beat=0.05, silent=0) as lock:
            says(path, told("elsewhere", 13, time.time()))
            time.sleep(10)
