"""Preemption: signals, and the step boundary at which several processes stop or save together."""

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
from tf_mural.training.preemption import Preempted, SignalHandler, StopPoll


@pytest.mark.parametrize(
    "number, code", [(signal.SIGTERM, 75), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_signal_is_recorded_inside_deferred_and_raised_outside(number, code):
    lines, name = [], signal.Signals(number).name
    with SignalHandler(print_fn=lines.append) as signals:
        # If the body does not handle a signal, `deferred` raises `Preempted` after the body.
        with pytest.raises(Preempted, match=name), signals.deferred():
            os.kill(os.getpid(), number)
            assert signals.received == number
            assert "saving at the end of this step" in lines[0]
            with pytest.raises(Preempted, match=name), signals.deferred(False):
                raise AssertionError("the recorded signal was not raised")
        # The default handler is set again, so a second signal kills the process.
        assert signal.getsignal(number) == signal.SIG_DFL
    with SignalHandler() as signals, pytest.raises(Preempted) as caught:
        os.kill(os.getpid(), number)
    assert caught.value.exit_code == code and signals.received == number
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_install_replaces_the_handler_of_another_library():
    with SignalHandler() as signals:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signals.install()
        with pytest.raises(Preempted):
            os.kill(os.getpid(), signal.SIGTERM)
        signals.install()  # keeps the default handler, because a signal was received
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_sighup_stays_ignored_under_nohup():
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with SignalHandler() as signals, signals.deferred():
            signals.install()
            os.kill(os.getpid(), signal.SIGHUP)
            assert not signals.received
    finally:
        signal.signal(signal.SIGHUP, previous)


def test_signal_during_a_print_is_recorded():
    # The process prints 1 MB and waits for the reader of the pipe. A signal interrupts the print,
    # and Python does not allow the handler to print at that time.
    code = (
        f"import sys; sys.path.insert(0, {ROOT!r})\n"
        "from tf_mural.training.preemption import Preempted, SignalHandler\n"
        "with SignalHandler(print_fn=lambda line: print(line, flush=True)) as signals:\n"
        "    try:\n"
        "        with signals.deferred():\n"
        "            print('ready', flush=True)\n"
        "            print('x' * 1000000, flush=True)\n"
        "    except Preempted as preempted:\n"
        "        sys.exit(preempted.exit_code)\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (75, b"")


def test_second_signal_kills_the_process():
    code = (
        f"import sys, time; sys.path.insert(0, {ROOT!r})\n"
        "from tf_mural.training.preemption import SignalHandler\n"
        "signals = SignalHandler(print_fn=lambda line: print(line, flush=True))\n"
        "with signals, signals.deferred():\n"
        "    print('ready', flush=True)\n"
        "    for _ in range(600): time.sleep(0.1)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert "a second signal ends the run at once" in process.stdout.readline()
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == -signal.SIGINT


class ThreadGroup:
    """A group of threads, one per rank, instead of processes; counts the calls of `all_gather`."""

    def __init__(self, world_size):
        self.world_size, self.num_gathers = world_size, 0
        self._barrier = threading.Barrier(world_size, timeout=20)
        self._rows = [None] * world_size

    def process_group(self, rank):
        """Returns the `ProcessGroup` of a rank."""

        def all_gather(array):
            self._rows[rank] = array
            self._barrier.wait()
            rows = np.stack(self._rows)
            if rank == 0:
                self.num_gathers += 1
            self._barrier.wait()
            return rows

        return types.SimpleNamespace(rank=rank, world_size=self.world_size, all_gather=all_gather)


def run_threads(target, count):
    threads = [threading.Thread(target=target, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def poll_steps(world_size, minutes=0.0, signal_at=(None, 0), seconds=0.001, steps=200):
    """Polls in all ranks after the steps 2, 4, 6, ..., until a signal or the last step.

    Args:
        world_size: number of ranks.
        minutes: minutes between two checkpoints by the clock of rank 0.
        signal_at: (rank that receives SIGTERM, number of the step at which SIGTERM arrives).
        seconds: duration of two steps in rank 0, in seconds; in rank r, two steps take r + 1 times
        as long.
        steps: number of the last step.

    Returns:
        (for each rank a list of (step, received signal, whether a save is due); number of calls of
        `all_gather`).
    """
    group, events = ThreadGroup(world_size), [[] for _ in range(world_size)]
    signalled_rank, signal_step = signal_at

    def run(rank):
        signals = SignalHandler()
        stop_poll = StopPoll(group.process_group(rank), signals, minutes if rank == 0 else 0)
        for step in range(2, steps + 1, 2):  # the ranks poll at even step numbers
            time.sleep(seconds * (1 + rank))
            if rank == signalled_rank and step >= signal_step:
                signals.received = signal.SIGTERM
            stop, save_due = stop_poll.poll(2)
            if stop or save_due:
                events[rank].append((step, stop, save_due))
                stop_poll.reset_save_timer()
            if stop:
                return

    run_threads(run, world_size)
    return events, group.num_gathers


@pytest.mark.parametrize("signalled_rank", [0, 2])
def test_signal_to_one_process_stops_all_at_the_same_step(signalled_rank, monkeypatch):
    monkeypatch.setattr(preemption, "_SYNC_INTERVAL", 0.05)
    events, num_gathers = poll_steps(3, signal_at=(signalled_rank, 30))
    assert events[0] == events[1] == events[2]
    ((step, stop, save_due),) = events[0]
    assert stop == signal.SIGTERM and not save_due and 30 <= step < 100
    assert num_gathers < step / 4  # one exchange per 0.05 s; two steps take 0.003 s or more


def test_signal_is_detected_where_processes_synchronize():
    group, received = ThreadGroup(2), [[], []]

    def run(rank):
        signals = SignalHandler()
        stop_poll = StopPoll(group.process_group(rank), signals)
        for step in range(1, 11):
            signals.received = signal.SIGTERM if rank and step > 4 else 0
            received[rank].append(stop_poll.poll(1, sync=step % 4 == 0)[0])

    run_threads(run, 2)
    # All ten steps together take less than the exchange interval of 5 s. The processes therefore
    # exchange signals only at steps with `sync`.
    assert received[0] == received[1] == [0] * 7 + [signal.SIGTERM] + [0] * 2


def test_clock_of_the_primary_process_decides_when_to_save(monkeypatch):
    monkeypatch.setattr(preemption, "_SYNC_INTERVAL", 0.02)
    events, _ = poll_steps(2, minutes=0.1 / 60)
    assert events[0] == events[1] and 1 <= len(events[0]) <= 10
    assert all(save_due and not stop for _, stop, save_due in events[0])


def test_single_process_polls_after_every_step():
    events, num_gathers = poll_steps(1, signal_at=(0, 6))
    assert events == [[(6, signal.SIGTERM, False)]] and num_gathers == 0
    assert poll_steps(1)[0] == [[]]
    events, _ = poll_steps(1, minutes=0.02 / 60, seconds=0.005, steps=40)
    assert 2 <= len(events[0]) <= 10 and all(save_due for _, _, save_due in events[0])


@pytest.mark.parametrize("fails_here", [True, False])
def test_all_processes_raise_the_write_error_of_one(fails_here):
    sent = []

    def write():
        if fails_here:
            error = UserError("the disk is gone")
            error.exit_code = 75
            raise error

    def all_gather_object(value):
        sent.append(value)
        return [["the disk is gone", 75], None]

    processes = types.SimpleNamespace(all_gather_object=all_gather_object)
    with pytest.raises(UserError, match="^the disk is gone$") as caught:
        loop._run_on_all(write, processes)
    assert caught.value.exit_code == 75
    assert sent == ([["the disk is gone", 75]] if fails_here else [None])
