"""Signals, and the ends of steps at which several processes agree."""

import os
import signal
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pytest
from conftest import ROOT

from tf_mural.errors import UserError
from tf_mural.training import loop, preemption
from tf_mural.training.preemption import Boundaries, Signals, Stopped


@pytest.mark.parametrize(
    "number, code", [(signal.SIGTERM, 75), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_a_signal_is_noted_inside_and_ends_the_run_elsewhere(number, code):
    said, name = [], signal.Signals(number).name
    with Signals(say=said.append) as signals:
        # One that nothing was made of inside ends the run on the way out.
        with pytest.raises(Stopped, match=name), signals.noted():
            os.kill(os.getpid(), number)
            assert signals.received == number and "saving at the end of this step" in said[0]
            with pytest.raises(Stopped, match=name), signals.noted(False):
                raise AssertionError("it had come before")
        assert signal.getsignal(number) == signal.SIG_DFL  # so that a second one ends at once
    with Signals() as signals, pytest.raises(Stopped) as stopped:
        os.kill(os.getpid(), number)
    assert stopped.value.exit_code == code and signals.received == number
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_a_handler_that_another_library_sets_is_taken_back():
    with Signals() as signals:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signals.listen()
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
        signals.listen()  # a second signal still ends the process
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_closed_terminal_does_not_end_what_nohup_started():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals, signals.noted():
            signals.listen()
            os.kill(os.getpid(), signal.SIGHUP)
            assert not signals.received
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_in_the_middle_of_a_line_is_noted_all_the_same():
    # The line waits for a reader, and the handler cannot begin another one inside of it.
    code = (
        f"import sys; sys.path.insert(0, {ROOT!r})\n"
        "from tf_mural.training.preemption import Signals, Stopped\n"
        "with Signals(say=lambda line: print(line, flush=True)) as signals:\n"
        "    try:\n"
        "        with signals.noted():\n"
        "            print('ready', flush=True)\n"
        "            print('x' * 1000000, flush=True)\n"
        "    except Stopped as stopped:\n"
        "        sys.exit(stopped.exit_code)\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (75, b"")


def test_a_second_signal_ends_the_process_at_once():
    code = (
        f"import sys; sys.path.insert(0, {ROOT!r})\n"
        "from tf_mural.training.preemption import Signals\n"
        "import time\n"
        "with Signals(say=lambda line: print(line, flush=True)) as signals, signals.noted():\n"
        "    print('ready', flush=True)\n"
        "    for _ in range(600): time.sleep(0.1)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert "a second one ends the run at once" in process.stdout.readline()
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == -signal.SIGINT


class Together:
    """`Processes` of some threads."""

    def __init__(self, count):
        self.count, self.asked = count, 0
        self._barrier, self._rows = threading.Barrier(count, timeout=20), [None] * count

    def of(self, number):
        """What one of them holds."""
        own = Together.__new__(Together)
        own.count, own.number, own.all = self.count, number, self
        return own

    def gather(self, array):
        """As that of `Processes`."""
        shared = self.all
        shared._rows[self.number] = array
        shared._barrier.wait()
        rows = np.stack(shared._rows)
        if self.number == 0:
            shared.asked += 1
        shared._barrier.wait()
        return rows


def runs(count, minutes=0.0, signalled=(None, 0), seconds=0.001, steps=200, monkeypatch=None):
    """[(step, what was told)] of each process; one of them has a signal from some step on."""
    shared, found = Together(count), [[] for _ in range(count)]
    victim, at = signalled

    def run(number):
        signals = Signals()
        boundaries = Boundaries(shared.of(number), signals, minutes if number == 0 else 0)
        for step in range(2, steps + 1, 2):  # loops of two steps
            time.sleep(seconds * (1 + number))
            if number == victim and step >= at:
                signals.received = signal.SIGTERM
            stop, due = boundaries.look(2)
            if stop or due:
                found[number].append((step, stop, due))
                boundaries.saved()
            if stop:
                return

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found, shared.asked


@pytest.mark.parametrize("victim", [0, 2])
def test_a_signal_to_one_process_stops_all_at_the_same_step(victim, monkeypatch):
    monkeypatch.setattr(preemption, "_EVERY", 0.05)
    found, asked = runs(3, signalled=(victim, 30))
    assert found[0] == found[1] == found[2]
    ((step, stop, due),) = found[0]
    assert stop == signal.SIGTERM and not due and 30 <= step < 100
    assert asked < step / 4  # about 0.05 s between two questions, a loop takes 0.003 s or more


def test_a_signal_is_heard_where_processes_meet():
    shared, found = Together(2), [[], []]

    def run(number):
        signals = Signals()
        boundaries = Boundaries(shared.of(number), signals)
        for step in range(1, 11):
            signals.received = signal.SIGTERM if number and step > 4 else 0
            found[number].append(boundaries.look(1, meet=step % 4 == 0)[0])

    threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Steps take no time here: after the first ones, 5 s are more than all of them.
    assert found[0] == found[1] == [0] * 7 + [signal.SIGTERM] + [0] * 2


def test_the_clock_of_the_first_process_decides_when_to_save(monkeypatch):
    monkeypatch.setattr(preemption, "_EVERY", 0.02)
    found, _ = runs(2, minutes=0.1 / 60)
    assert found[0] == found[1] and 1 <= len(found[0]) <= 10
    assert all(due and not stop for _, stop, due in found[0])


def test_one_process_looks_at_the_end_of_every_step():
    found, asked = runs(1, signalled=(0, 6))
    assert found == [[(6, signal.SIGTERM, False)]] and asked == 0
    assert runs(1)[0] == [[]]
    found, _ = runs(1, minutes=0.02 / 60, seconds=0.005, steps=40)
    assert 2 <= len(found[0]) <= 10 and all(due for _, _, due in found[0])


@pytest.mark.parametrize("mine", [True, False])
def test_a_checkpoint_that_one_process_could_not_write_ends_them_all_alike(mine):
    told = []

    def write():
        if mine:
            error = UserError("the disk is gone")
            error.exit_code = 75
            raise error

    def exchange(value):
        told.append(value)
        return [["the disk is gone", 75], None]

    processes = types.SimpleNamespace(exchange=exchange)
    with pytest.raises(UserError, match="^the disk is gone$") as caught:
        loop._together(write, processes)
    assert caught.value.exit_code == 75
    assert told == ([["the disk is gone", 75]] if mine else [None])
