"""Which processes a run has: TF_CONFIG and SLURM, by hand; who is not there; no such strategy."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pytest
from conftest import ROOT

from tf_mural.backends import tensorflow as tf_backend
from tf_mural.distributed import (
    Cluster,
    Processes,
    SharedEmbedder,
    WorkerLost,
    expand_hosts,
    find_cluster,
    meet,
    rendezvous,
    unanswered,
)
from tf_mural.errors import UserError


def test_an_evaluation_that_ends_in_one_process_ends_in_all_with_its_code():
    stopped = [None, "SIGTERM: stopped", 75]
    processes = types.SimpleNamespace(number=0, count=2, exchange=lambda told: [told, stopped])
    embed = types.SimpleNamespace(texts=lambda texts: np.zeros((len(list(texts)), 2)))
    with pytest.raises(UserError, match="^in process 1: SIGTERM: stopped$") as caught:
        SharedEmbedder(embed, processes).texts(["a", "b"])
    assert caught.value.exit_code == 75


def tf_config(kind, index, **jobs):
    return {"TF_CONFIG": json.dumps({"cluster": jobs, "task": {"type": kind, "index": index}})}


def test_tf_config():
    cluster = find_cluster(tf_config("worker", 1, worker=["a:1", "b:2"]))
    assert cluster.addresses == ("a:1", "b:2") and cluster.number == 1
    # A chief is the first process, and its index is not that of a worker.
    jobs = {"worker": ["a:1", "b:2"], "chief": ["c:3"]}
    assert find_cluster(tf_config("chief", 0, **jobs)).number == 0
    cluster = find_cluster(tf_config("worker", 1, **jobs))
    assert cluster.addresses == ("c:3", "a:1", "b:2") and cluster.number == 2


@pytest.mark.parametrize(
    "environment, message",
    [
        ({}, "expected TF_CONFIG in the environment of each process"),
        ({"TF_CONFIG": ""}, "expected TF_CONFIG in the environment of each process"),
        ({"TF_CONFIG": "{"}, "TF_CONFIG is not understood"),
        ({"TF_CONFIG": "[]"}, "TF_CONFIG is not understood"),
        ({"TF_CONFIG": '{"cluster": {"worker": ["a:1"]}}'}, "not understood .KeyError: 'task'"),
        (tf_config("worker", 2, worker=["a:1", "b:2"]), "not understood .IndexError"),
        (tf_config("worker", -1, worker=["a:1", "b:2"]), "an index below 0"),
        (tf_config("worker", 0, worker=["a:1", "a:1"]), "an address twice"),
        (tf_config("worker", 0, worker=["a:1"], ps=["b:2"]), "has the job 'ps'"),
        (tf_config("evaluator", 0, worker=["a:1"]), "not understood .KeyError: 'evaluator'"),
    ],
)
def test_a_tf_config_that_cannot_be(environment, message):
    with pytest.raises(UserError, match=message):
        find_cluster(environment)


@pytest.mark.parametrize(
    "text, hosts",
    [
        ("node1", ["node1"]),
        ("127.0.0.1", ["127.0.0.1"]),
        ("b,a", ["b", "a"]),
        ("node[9-11]", ["node9", "node10", "node11"]),
        ("n[08-10,12]x,m3", ["n08x", "n09x", "n10x", "n12x", "m3"]),
    ],
)
def test_lists_of_hosts(text, hosts):
    assert expand_hosts(text) == hosts


def slurm(number, node, local, **more):
    return {
        "SLURM_PROCID": str(number),
        "SLURM_NODEID": str(node),
        "SLURM_LOCALID": str(local),
        "SLURM_STEP_NODELIST": "node[9-10]",
        "SLURM_STEP_TASKS_PER_NODE": "2,1",
        "SLURM_JOB_ID": "4711",
        **more,
    }


def test_slurm():
    places = [(0, 0, 0), (1, 0, 1), (2, 1, 0)]
    clusters = [find_cluster(slurm(*place)) for place in places]
    assert [cluster.number for cluster in clusters] == [0, 1, 2]
    assert len({cluster.addresses for cluster in clusters}) == 1
    hosts, ports = zip(*(a.split(":") for a in clusters[0].addresses), strict=True)
    # In the order of the list: node10 would come first in the alphabet.
    assert hosts == ("node9", "node9", "node10")
    first = int(ports[0])
    assert [int(port) for port in ports] == [first, first + 1, first]
    assert 1024 < first < 32768  # below the ports that the system hands out
    other = find_cluster(slurm(0, 0, 0, SLURM_JOB_ID="4712"))
    assert other.addresses != clusters[0].addresses
    even = find_cluster(slurm(3, 1, 1, SLURM_STEP_TASKS_PER_NODE="2(x2)"))
    assert even.number == 3 and len(even.addresses) == 4


@pytest.mark.parametrize(
    "environment, message",
    [
        (slurm(1, 1, 0), "process 1 is number 0 of machine 1 .*srun --distribution=block"),
        (slurm(0, 0, 0, SLURM_STEP_TASKS_PER_NODE="3"), "srun --distribution=block"),
        (slurm(0, 0, 0, SLURM_STEP_TASKS_PER_NODE="a"), "variables are not understood"),
        ({"SLURM_PROCID": "0"}, "not understood .KeyError: 'SLURM_STEP_NODELIST'"),
    ],
)
def test_variables_of_slurm_that_cannot_be(environment, message):
    with pytest.raises(UserError, match=message):
        find_cluster(environment)


# --- are all of them there? -----------------------------------------------------------------------


def free_addresses(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = tuple(f"127.0.0.1:{one.getsockname()[1]}" for one in sockets)
    for one in sockets:
        one.close()
    return addresses


def listening(address):
    """What TensorFlow's server is to the others once a process is past its meeting."""
    return socket.create_server(("127.0.0.1", int(address.split(":")[1])))


def test_processes_meet_whenever_they_come():
    addresses, servers, met = free_addresses(3), [], []

    def arrive(number, after):
        time.sleep(after)
        meet(Cluster(addresses, number), 20)
        servers.append(listening(addresses[number]))
        met.append(time.monotonic())

    began = time.monotonic()
    threads = [threading.Thread(target=arrive, args=(i, 0.4 * i)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for server in servers:
        server.close()
    # Nobody goes on before the last one has come.
    assert len(met) == 3 and min(met) - began >= 0.8


def test_one_that_answers_on_is_there_for_those_that_look_late():
    addresses = free_addresses(2)
    with listening(addresses[0]):
        with rendezvous(Cluster(addresses, 1), 5):
            assert not unanswered([addresses[1]], 0.0)
        assert unanswered([addresses[1]], 0.0)
        with rendezvous(Cluster(addresses, 1), 5, answers=False):
            assert unanswered([addresses[1]], 0.0)


def test_a_process_that_never_comes_is_named():
    addresses = free_addresses(3)
    with (
        listening(addresses[1]),
        pytest.raises(
            UserError,
            match=f"process 0 of 3 waited 0.005 minutes .* not answer: 2 at {addresses[2]}. Start",
        ),
    ):
        meet(Cluster(addresses, 0), 0.3)


@pytest.mark.parametrize("number", [0, 1])
def test_a_process_that_is_lost_before_it_connects_is_told(number):
    addresses = free_addresses(2)
    environment = {**os.environ, **tf_config("worker", number, worker=addresses)}
    code = (
        f"import sys; sys.path.insert(0, {ROOT!r})\nfrom tf_mural.backends import tensorflow\n"
        "tensorflow.make_strategy('multiworker', wait_minutes=0.1)"
    )
    own, other = addresses[number], addresses[1 - number]
    with listening(other) as listener:
        process = subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True
        )
        listener.accept()
        while unanswered([own], 1.0):
            pass
    error = process.communicate(timeout=120)[1]
    assert process.returncode == -signal.SIGKILL
    assert f"error: process {number} of 2 met all others, but one of them did not connect" in error


def test_two_processes_of_one_index():
    addresses = free_addresses(2)
    with (
        listening(addresses[0]),
        pytest.raises(
            UserError, match=f"process 0 cannot listen at {addresses[0]} .*in use.: .*same index"
        ),
    ):
        meet(Cluster(addresses, 0), 5)


@pytest.mark.parametrize("address", ["a", "a:b", ":1", "a:70000"])
def test_an_address_that_is_none(address):
    with pytest.raises(UserError, match=f"address '{address}' is none: expected host:port"):
        meet(Cluster((address,), 0), 5)


def test_a_remote_tpu_that_does_not_answer():
    (address,) = free_addresses(1)
    with pytest.raises(UserError, match=f"no TPU 'grpc://{address}' .*no answer from {address} in"):
        tf_backend.make_strategy("tpu", f"grpc://{address}", wait_minutes=0.005)
    assert socket.getdefaulttimeout() is None


def test_no_cluster_and_no_tpu(monkeypatch):
    for name in ("TF_CONFIG", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="--strategy=multiworker: expected TF_CONFIG"):
        tf_backend.make_strategy("multiworker")
    with pytest.raises(UserError, match="unknown strategy 'miror'"):
        tf_backend.make_strategy("miror")


def test_the_error_of_a_lost_process_is_told_without_where_it_was_made():
    class Two(Processes):
        lost = (OSError,)

    made = 'Graph execution error:\n\nDetected at node x:\n  File "a.py", line 3, in train\n\n'
    with pytest.raises(WorkerLost) as caught, Two(0, 2).watched():
        raise OSError(f"{made}Collective ops is aborted by: Connection reset\nmore")
    assert "(OSError: Collective ops is aborted by: Connection reset): stopped" in str(caught.value)
    with pytest.raises(OSError, match="Graph"), Two(0, 1).watched():
        raise OSError(made)


def test_what_processes_do_not_agree_on_is_named_with_the_value_of_each(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    ours, theirs = {"a": [1], "rate": 0.1}, {"a": [1], "rate": 0.2, "steps": 3}
    processes = Processes(0, 2)
    processes.exchange = lambda value: json.loads(json.dumps([value, theirs]))
    processes.agree(theirs, "")
    told = "the processes do not agree on rate: 0.1 in process 0, 0.2 in process 1; do something"
    with pytest.raises(UserError, match=told):
        processes.agree(ours, "do something")
    with pytest.raises(UserError, match="on steps: None in process 0, 3 in process 1; "):
        processes.agree({**ours, "rate": 0.2}, "do something")
