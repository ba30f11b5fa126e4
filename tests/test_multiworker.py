"""Runs of several processes: gradients, embedding, reading, training, and a lost process."""

import contextlib
import glob
import json
import os
import re
import shutil
import signal
import time

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from helpers.color_records import write_color_records
from helpers.comparison import assert_weights_close, largest_error, select_prefix
from helpers.multiworker import Launcher
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tf_mural.data import input_pipeline, sampling, tokenizers
from tf_mural.data.preprocessing import Preprocessing

STEPS = {"mural": 4, "etcl": 6}
TRAIN = os.path.join(ROOT, "tools", "train.py")
CONFIG = os.path.join(ROOT, "tests", "small_config.py")
WORLD_SIZES = [2, pytest.param(4, marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def launcher():
    with Launcher() as launcher:
        yield launcher


def wait_for_success(job):
    codes = job.wait()
    assert codes == [0] * len(codes), [job.read(f"{i}.err") for i in range(len(codes))]


# --- one step, communication and embedding --------------------------------------------------------


@pytest.fixture(scope="module")
def script_results(launcher, tmp_path_factory):
    """Returns {(world size, stage): list of the results of multiworker_script.py by rank}."""
    return ScriptResults(launcher, tmp_path_factory)


class ScriptResults(dict):
    """Dict that runs multiworker_script.py when a key is read for the first time."""

    def __init__(self, launcher, folders):
        self._launcher, self._folders = launcher, folders

    def __missing__(self, key):
        world_size, stage = key
        folder = self._folders.mktemp(f"script{world_size}")
        script = os.path.join(ROOT, "tests", "multiworker_script.py")
        job = self._launcher.start(folder, world_size, script, folder, stage)
        wait_for_success(job)
        self[key] = []
        for i in range(world_size):
            with np.load(folder / f"{i}.npz") as file:
                self[key].append({name: file[name] for name in file.files})
        return self[key]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["etcl", pytest.param("mural", marks=pytest.mark.slow)])
@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_gradients_equal_those_of_one_process(script_results, world_size, stage):
    (single,) = script_results[1, stage]
    expected = select_prefix(single, "gradient/")
    assert any("temperature" in name for name in expected) and len(expected) > 50
    for results in script_results[world_size, stage]:
        assert largest_error(expected, select_prefix(results, "gradient/"))[0] < 1e-10
        logs = select_prefix(results, "log/")
        assert "loss" in logs
        for name, value in select_prefix(single, "log/").items():
            np.testing.assert_allclose(logs[name], value, rtol=1e-6, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_loops_with_micro_batches_give_the_weights_of_one_process(script_results, world_size):
    (single,) = script_results[1, "etcl"]
    expected = select_prefix(single, "loops/")
    assert any("moving_mean" in name for name in expected)
    for results in script_results[world_size, "etcl"]:
        weights = select_prefix(results, "loops/")
        assert expected.keys() == weights.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(weights[name], value, rtol=1e-8, atol=1e-9, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_collective_operations_give_the_values_of_all_processes(script_results, world_size):
    for rank, results in enumerate(script_results[world_size, "etcl"]):
        assert results["rank and world size"].tolist() == [rank, world_size]
        assert results["all_gather_object"].tolist() == ["é" * i for i in range(world_size)]
        expected = [np.arange(6).reshape(3, 2) + 10 * i for i in range(world_size)]
        np.testing.assert_array_equal(results["all_gather"], expected)
        listed = ", ".join(f"{4 + i} in process {i}" for i in range(world_size))
        message = f"the processes do not agree on the step: {listed}; do something"
        assert results["check_consistent"] == message
    assert script_results[1, "etcl"][0]["check_consistent"] == ""


@pytest.mark.slow
@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_each_process_embeds_its_share_and_gets_all_rows(script_results, world_size):
    all_results = script_results[world_size, "etcl"]
    for count in (0, 1, 7):
        expected = [[i + 1, 0, 1] for i in range(count)]
        for results in all_results:
            rows = results[f"rows/{count}"]
            np.testing.assert_array_equal(rows, np.array(expected).reshape(-1, 3))
            assert rows.dtype == np.float32
    own_lengths = [results["own lengths"].tolist() for results in all_results]
    assert sorted(sum(own_lengths, [])) == [1, *range(1, 8)]
    assert max(map(len, own_lengths)) == 1 + -(-7 // world_size)
    # The item at position 5 cannot be embedded. All processes report the error of the process that
    # embeds this item.
    owner = 5 % world_size
    for rank, results in enumerate(all_results):
        message, position = results["embedder error"]
        assert position == "5" and "image at position 5 cannot be read (empty)" in message
        assert message.startswith(f"in process {owner}: ") == (rank != owner)


# --- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_workers_together_read_each_epoch_once(tmp_path, num_workers, monkeypatch):
    record_set = write_color_records(str(tmp_path / "colors"))
    sampler = sampling.IndexSampler([record_set], 1, ["en"], seed=3)
    source = input_pipeline.Source(sampler, {"image": "image", "caption": "text"})
    words = [*tokenizers.SPECIAL_TOKENS, *(f"w{i}" for i in range(16))]
    indices_read, records_of_batch = [], {}
    read = record_set.read

    def record_indices(indices, **options):
        indices_read[-1].extend(indices.tolist())
        return read(indices, **options)

    monkeypatch.setattr(record_set, "read", record_indices)
    for worker in range(num_workers):
        indices_read.append([])
        dataset = input_pipeline.training_dataset(
            [source],
            tokenizers.Tokenizer(words, 6),
            Preprocessing(36, 32),
            ("en",),
            8,
            workers=(worker, num_workers),
            start_step=10**9,  # the dataset does not read the steps before start_step
        )
        # An epoch of the 16 records takes two steps of 8 rows.
        for step, batch in enumerate(dataset.take(6)):
            tokens = batch["caption"]["tokens"].numpy()[:, 1] - len(tokenizers.SPECIAL_TOKENS)
            records_of_batch[step, worker] = tokens.tolist()
        prefetched = 8 // num_workers * 40  # maximum number of prefetched rows
        assert 0 <= len(indices_read[-1]) - 6 * 8 // num_workers <= prefetched
    for step in (0, 2, 4):
        epoch = [
            records_of_batch[s, worker] for s in (step, step + 1) for worker in range(num_workers)
        ]
        assert all(len(batch) == 8 // num_workers for batch in epoch)
        assert sorted(sum(epoch, [])) == list(range(16))
    if num_workers > 1:
        own = [record for step in range(2) for record in records_of_batch[step, 0]]
        assert set(own) <= set(indices_read[0]) and indices_read[0] != indices_read[1]


# --- training -------------------------------------------------------------------------------------


class Runs(dict):
    """Dict {world size: folder} that runs MURAL and ETCL when a key is read for the first time."""

    def __init__(self, launcher, folders, data_dir):
        self._launcher, self._folders, self._data_dir = launcher, folders, data_dir

    def start(self, world_size, folder, *arguments):
        """Starts tools/train.py and returns the `Job`."""
        arguments = (f"--config={CONFIG}", f"--data_dir={self._data_dir}", *arguments)
        return self._launcher.start(folder, world_size, TRAIN, "--stage=etcl", *arguments)

    def __missing__(self, world_size):
        folder = self._folders.mktemp(f"runs{world_size}")
        wait_for_success(self.start(world_size, folder))
        self[world_size] = folder
        return folder


@pytest.fixture(scope="module")
def runs(launcher, tmp_path_factory, data_dir):
    return Runs(launcher, tmp_path_factory, data_dir)


def workdir_of(folder, stage="etcl"):
    return folder / "runs" / "tiny" / f"{stage}-s0"


def load_weights(folder, stage="etcl"):
    with np.load(workdir_of(folder, stage) / "weights.npz") as file:
        weights = {name: file[name] for name in file.files}
    assert any("moving_mean" in name for name in weights)
    return weights


def load_results(folder, stage):
    return json.loads((workdir_of(folder, stage) / "results.json").read_text(encoding="utf-8"))


def load_scalars(folder, stage):
    """Returns {tag: {step: value}}, and checks that no step has several values of a tag."""
    events = str(workdir_of(folder, stage) / "tensorboard")
    accumulator = EventAccumulator(events, size_guidance={"tensors": 0}).Reload()
    scalars = {}
    for tag in accumulator.Tags()["tensors"]:
        values = [(e.step, tf.make_ndarray(e.tensor_proto)) for e in accumulator.Tensors(tag)]
        if values and values[0][1].dtype == np.float32 and not tag.startswith("_hparams_"):
            scalars[tag] = {step: float(value) for step, value in values}
            assert len(scalars[tag]) == len(values), tag
    return scalars


@pytest.mark.slow
@pytest.mark.parametrize("stage", STEPS)
@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_training_ends_with_the_weights_of_one_process(runs, world_size, stage):
    assert_weights_close(load_weights(runs[1], stage), load_weights(runs[world_size], stage))


@pytest.mark.slow
@pytest.mark.parametrize("stage", STEPS)
@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_logs_and_scores_equal_those_of_one_process(runs, world_size, stage):
    expected, scalars = load_scalars(runs[1], stage), load_scalars(runs[world_size], stage)
    assert expected.keys() == scalars.keys()
    for tag in set(expected) - {"examples_per_second"}:
        assert expected[tag].keys() == scalars[tag].keys(), tag
        values = list(scalars[tag].values())
        np.testing.assert_allclose(values, list(expected[tag].values()), rtol=1e-3, err_msg=tag)
    assert list(expected["loss"]) == list(range(1, STEPS[stage] + 1))
    results = [load_results(runs[k], stage)["evaluation"]["retrieval"] for k in (1, world_size)]
    assert results[0]["counts"] == results[1]["counts"]
    recalls = [result["values"]["en"]["average_recall"] for result in results]
    # The average of six recalls over 12 images may differ by one hit of one recall.
    assert recalls[0] == pytest.approx(recalls[1], abs=100 / 12 / 6 + 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_only_the_primary_process_prints_and_writes(runs, world_size):
    folder = runs[world_size]
    for rank in range(world_size):
        assert (folder / f"{rank}.err").read_text() == ""
        assert bool((folder / f"{rank}.out").read_text()) == (rank == 0)
    lines = re.findall(r"^step (\d)/6", (folder / "0.out").read_text(), re.MULTILINE)
    assert lines == list("123456")
    assert set(os.listdir(workdir_of(folder))) == set(os.listdir(workdir_of(runs[1])))
    assert len(glob.glob(str(workdir_of(folder) / "tensorboard" / "*"))) == 1


@pytest.mark.slow
def test_training_in_loops_with_micro_batches_ends_with_the_same_weights(runs, tmp_path):
    shutil.copytree(workdir_of(runs[1], "mural"), workdir_of(tmp_path, "mural"))
    loops = [f"--config.{name}=3" for name in ("steps_per_loop", "log_every", "checkpoint_every")]
    job = runs.start(2, tmp_path, *loops, "--config.microbatch=2", "--config.loss_chunk=2")
    wait_for_success(job)
    assert list(load_scalars(tmp_path, "etcl")["loss"]) == [1, 3, 6]
    assert_weights_close(load_weights(runs[1]), load_weights(tmp_path))


# --- lost processes -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "victim, signal_number, new_world_size",
    # After SIGKILL the process is dead; after SIGSTOP it hangs.
    [(0, signal.SIGKILL, 2), (1, signal.SIGKILL, 2), (1, signal.SIGSTOP, 1)],
)
def test_run_continues_after_the_loss_of_a_process(
    runs, tmp_path, victim, signal_number, new_world_size
):
    shutil.copytree(workdir_of(runs[2], "mural"), workdir_of(tmp_path, "mural"))
    job, survivor = runs.start(2, tmp_path), 1 - victim
    job.wait_for_output("step 3/6")
    job.send_signal(victim, signal_number)
    start_time = time.monotonic()
    while job.exit_codes()[survivor] is None:
        assert time.monotonic() - start_time < 60
        time.sleep(0.1)
    with contextlib.suppress(ProcessLookupError):  # the victim may have ended
        job.send_signal(victim)
    codes = job.wait()
    assert codes[survivor] == 75
    assert codes[victim] == -signal.SIGKILL or signal_number == signal.SIGSTOP
    lost = f"error: process {survivor} of 2 has lost another one"
    assert lost in job.read(f"{survivor}.err")
    job = runs.start(new_world_size, tmp_path)
    wait_for_success(job)
    assert re.search(r"^resuming at step [24]$", job.read("0.out"), re.MULTILINE)
    expected, weights = load_weights(runs[2]), load_weights(tmp_path)
    assert_weights_close(expected, weights)
    if new_world_size == 2:
        for name, value in expected.items():
            np.testing.assert_array_equal(weights[name], value, err_msg=name)
