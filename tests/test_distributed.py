"""Cluster specification, rendezvous, and the parts of `ProcessGroup` that need no backend."""

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
    ClusterSpec,
    DistributedEmbedder,
    PeerLostError,
    ProcessGroup,
    expand_hostlist,
    rendezvous,
    resolve_cluster,
    unreachable,
    wait_for_peers,
)
from tf_mural.errors import UserError

# --- cluster specification ------------------------------------------------------------------------


def tf_config(job, index, **jobs):
    return {"TF_CONFIG": json.dumps({"cluster": jobs, "task": {"type": job, "index": index}})}


def test_tf_config_gives_addresses_and_rank():
    cluster = resolve_cluster(tf_config("worker", 1, worker=["a:1", "b:2"]))
    assert cluster.addresses == ("a:1", "b:2") and cluster.rank == 1
    # A chief has rank 0, and the workers have the ranks from 1.
    jobs = {"worker": ["a:1", "b:2"], "chief": ["c:3"]}
    assert resolve_cluster(tf_config("chief", 0, **jobs)).rank == 0
    cluster = resolve_cluster(tf_config("worker", 1, **jobs))
    assert cluster.addresses == ("c:3", "a:1", "b:2") and cluster.rank == 2


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
        (tf_config("worker", 0, worker=["a:1", "a:1"]), "a duplicate address"),
        (tf_config("worker", 0, worker=["a:1"], ps=["b:2"]), "has the job 'ps'"),
        (tf_config("evaluator", 0, worker=["a:1"]), "not understood .KeyError: 'evaluator'"),
    ],
)
def test_invalid_tf_config_is_refused(environment, message):
    with pytest.raises(UserError, match=message):
        resolve_cluster(environment)


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
def test_hostlist_is_expanded_in_its_own_order(text, hosts):
    assert expand_hostlist(text) == hosts


def slurm(rank, node, local_rank, **more):
    return {
        "SLURM_PROCID": str(rank),
        "SLURM_NODEID": str(node),
        "SLURM_LOCALID": str(local_rank),
        "SLURM_STEP_NODELIST": "node[9-10]",
        "SLURM_STEP_TASKS_PER_NODE": "2,1",
        "SLURM_JOB_ID": "4711",
        **more,
    }


def test_slurm_gives_addresses_and_rank():
    clusters = [resolve_cluster(slurm(*ids)) for ids in ((0, 0, 0), (1, 0, 1), (2, 1, 0))]
    assert [cluster.rank for cluster in clusters] == [0, 1, 2]
    assert len({cluster.addresses for cluster in clusters}) == 1
    hosts, ports = zip(*(a.split(":") for a in clusters[0].addresses), strict=True)
    # The hosts keep the order of the hostlist. In alphabetical order, node10 would come first.
    assert hosts == ("node9", "node9", "node10")
    first = int(ports[0])
    assert [int(port) for port in ports] == [first, first + 1, first]
    assert 1024 < first < 32768  # from 32768, Linux uses ports for outgoing connections
    other = resolve_cluster(slurm(0, 0, 0, SLURM_JOB_ID="4712"))
    assert other.addresses != clusters[0].addresses
    even = resolve_cluster(slurm(3, 1, 1, SLURM_STEP_TASKS_PER_NODE="2(x2)"))
    assert even.rank == 3 and len(even.addresses) == 4


@pytest.mark.parametrize(
    "environment, message",
    [
        (slurm(1, 1, 0), "process 1 has local rank 0 on machine 1 .*srun --distribution=block"),
        (slurm(0, 0, 0, SLURM_STEP_TASKS_PER_NODE="3"), "srun --distribution=block"),
        (slurm(0, 0, 0, SLURM_STEP_TASKS_PER_NODE="a"), "variables are not understood"),
        ({"SLURM_PROCID": "0"}, "not understood .KeyError: 'SLURM_STEP_NODELIST'"),
    ],
)
def test_invalid_slurm_variables_are_refused(environment, message):
    with pytest.raises(UserError, match=message):
        resolve_cluster(environment)


# --- rendezvous -----------------------------------------------------------------------------------


def free_addresses(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = tuple(f"127.0.0.1:{s.getsockname()[1]}" for s in sockets)
    for s in sockets:
        s.close()
    return addresses


def listen(address):
    """Listens at an address, as TensorFlow's server does after the rendezvous."""
    return socket.create_server(("127.0.0.1", int(address.split(":")[1])))


def test_no_process_continues_before_the_last_one_arrives():
    addresses, servers, arrivals = free_addresses(3), [], []

    def arrive(rank, delay):
        time.sleep(delay)
        wait_for_peers(ClusterSpec(addresses, rank), 20)
        servers.append(listen(addresses[rank]))
        arrivals.append(time.monotonic())

    start = time.monotonic()
    threads = [threading.Thread(target=arrive, args=(i, 0.4 * i)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for server in servers:
        server.close()
    assert len(arrivals) == 3 and min(arrivals) - start >= 0.8


def test_process_keeps_listening_inside_the_rendezvous_on_request():
    addresses = free_addresses(2)
    with listen(addresses[0]):
        with rendezvous(ClusterSpec(addresses, 1), 5):
            assert not unreachable([addresses[1]], 0.0)
        assert unreachable([addresses[1]], 0.0)
        with rendezvous(ClusterSpec(addresses, 1), 5, keep_listening=False):
            assert unreachable([addresses[1]], 0.0)


def test_missing_process_is_named():
    addresses = free_addresses(3)
    message = (
        "process 0 of 3 waited 0.005 minutes for processes that did not answer: "
        f"2 at {addresses[2]}. Start"
    )
    with listen(addresses[1]), pytest.raises(UserError, match=message):
        wait_for_peers(ClusterSpec(addresses, 0), 0.3)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_process_is_killed_if_a_peer_dies_before_it_connects(rank):
    addresses = free_addresses(2)
    environment = {**os.environ, **tf_config("worker", rank, worker=addresses)}
    code = (
        f"import sys; sys.path.insert(0, {ROOT!r})\nfrom tf_mural.backends import tensorflow\n"
        "tensorflow.make_strategy('multiworker', connect_timeout_minutes=0.1)"
    )
    own, peer = addresses[rank], addresses[1 - rank]
    with listen(peer) as listener:
        process = subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True
        )
        listener.accept()
        while process.poll() is None and unreachable([own], 1.0):
            pass
    error = process.communicate(timeout=120)[1]
    assert process.returncode == -signal.SIGKILL
    assert f"error: process {rank} of 2 reached all others, but one of them did not" in error


def test_two_processes_with_the_same_index_are_refused():
    addresses = free_addresses(2)
    message = f"process 0 cannot listen at {addresses[0]} .*in use.: .*same index"
    with listen(addresses[0]), pytest.raises(UserError, match=message):
        wait_for_peers(ClusterSpec(addresses, 0), 5)


@pytest.mark.parametrize("address", ["a", "a:b", ":1", "a:70000"])
def test_invalid_address_is_refused(address):
    with pytest.raises(UserError, match=f"invalid address '{address}': expected host:port"):
        wait_for_peers(ClusterSpec((address,), 0), 5)


# --- strategies -----------------------------------------------------------------------------------


def test_unreachable_remote_tpu_is_refused():
    (address,) = free_addresses(1)
    message = f"TPU 'grpc://{address}' is not available .*no answer from {address} in"
    with pytest.raises(UserError, match=message):
        tf_backend.make_strategy("tpu", f"grpc://{address}", connect_timeout_minutes=0.005)
    assert socket.getdefaulttimeout() is None


def test_missing_cluster_and_unknown_strategy_are_refused(monkeypatch):
    for name in ("TF_CONFIG", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="`strategy=multiworker`: expected TF_CONFIG"):
        tf_backend.make_strategy("multiworker")
    with pytest.raises(UserError, match="unknown strategy 'miror'"):
        tf_backend.make_strategy("miror")


# --- process group --------------------------------------------------------------------------------


def test_error_of_a_lost_peer_is_reported_without_the_position_in_the_graph():
    class Group(ProcessGroup):
        peer_errors = (OSError,)

    position = 'Graph execution error:\n\nDetected at node x:\n  File "a.py", line 3, in train\n\n'
    with pytest.raises(PeerLostError) as caught, Group(0, 2).detect_peer_failure():
        raise OSError(f"{position}Collective ops is aborted by: Connection reset\nmore")
    assert "(OSError: Collective ops is aborted by: Connection reset): stopped" in str(caught.value)
    with pytest.raises(OSError, match="Graph"), Group(0, 1).detect_peer_failure():
        raise OSError(position)


def test_inconsistent_values_are_named_with_the_value_of_each_process(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    own, peer = {"a": [1], "rate": 0.1}, {"a": [1], "rate": 0.2, "steps": 3}
    processes = ProcessGroup(0, 2)
    processes.all_gather_object = lambda value: json.loads(json.dumps([value, peer]))
    processes.check_consistent(peer, "")
    message = "the processes do not agree on rate: 0.1 in process 0, 0.2 in process 1; do something"
    with pytest.raises(UserError, match=message):
        processes.check_consistent(own, "do something")
    with pytest.raises(UserError, match="on steps: None in process 0, 3 in process 1; "):
        processes.check_consistent({**own, "rate": 0.2}, "do something")


def test_evaluation_error_of_one_process_ends_all_with_its_exit_code():
    failure = [None, "SIGTERM: stopped", 75]
    processes = types.SimpleNamespace(
        rank=0, world_size=2, all_gather_object=lambda value: [value, failure]
    )
    embed = types.SimpleNamespace(embed_texts=lambda texts: np.zeros((len(list(texts)), 2)))
    with pytest.raises(UserError, match="^in process 1: SIGTERM: stopped$") as caught:
        DistributedEmbedder(embed, processes).embed_texts(["a", "b"])
    assert caught.value.exit_code == 75
