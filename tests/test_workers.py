"""Several processes on this machine: both stages, evaluation, reading, and one that is lost."""

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
import replicas
import tensorflow as tf
from conftest import ROOT
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_distribute import part, worst
from workers import Workers

from tf_mural.data import input_pipeline, sampling, tokenizers

STEPS = {"mural": 4, "etcl": 6}
TRAIN = os.path.join(ROOT, "tools", "train.py")
CONFIG = os.path.join(ROOT, "tests", "workers_config.py")


@pytest.fixture(scope="module")
def workers():
    with Workers() as workers:
        yield workers


# --- gradients, and what processes tell each other ------------------------------------------------


@pytest.fixture(scope="module")
def steps(workers, tmp_path_factory):
    """{(number of processes, stage): [what each of them wrote]}"""
    return Steps(workers, tmp_path_factory)


class Steps(dict):
    def __init__(self, workers, folders):
        self._workers, self._folders = workers, folders

    def __missing__(self, key):
        count, stage = key
        folder = self._folders.mktemp(f"steps{count}")
        script = os.path.join(ROOT, "tests", "workers_steps.py")
        job = self._workers.start(folder, count, script, folder, stage)
        assert job.wait() == [0] * count, [job.read(f"{i}.err") for i in range(count)]
        self[key] = []
        for i in range(count):
            with np.load(folder / f"{i}.npz") as file:
                self[key].append({name: file[name] for name in file.files})
        return self[key]


COUNTS = [2, pytest.param(4, marks=pytest.mark.slow)]


@pytest.mark.parametrize("stage", ["etcl", pytest.param("mural", marks=pytest.mark.slow)])
@pytest.mark.parametrize("count", COUNTS)
def test_gradients_of_processes_equal_those_of_one(steps, count, stage):
    (alone,) = steps[1, stage]
    one = part(alone, "gradient/")
    assert any("temperature" in name for name in one) and len(one) > 50
    for found in steps[count, stage]:
        assert worst(one, part(found, "gradient/"))[0] < 1e-10
        logs = part(found, "log/")
        assert "loss" in logs
        for name, value in part(alone, "log/").items():
            np.testing.assert_allclose(logs[name], value, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("count", COUNTS)
def test_processes_take_steps_in_loops_and_in_micro_batches(steps, count):
    (alone,) = steps[1, "etcl"]
    one = part(alone, "loops/")
    assert any("moving_mean" in name for name in one)
    for found in steps[count, "etcl"]:
        more = part(found, "loops/")
        assert one.keys() == more.keys()
        for name in one:
            np.testing.assert_allclose(more[name], one[name], rtol=1e-8, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("count", COUNTS)
def test_what_processes_tell_each_other(steps, count):
    for number, found in enumerate(steps[count, "etcl"]):
        assert found["number"].tolist() == [number, count]
        assert found["exchange"].tolist() == ["é" * i for i in range(count)]
        expected = [np.arange(6).reshape(3, 2) + 10 * i for i in range(count)]
        np.testing.assert_array_equal(found["gather"], expected)
        told = ", ".join(f"{4 + i} in process {i}" for i in range(count))
        message = f"the processes do not agree on the step: {told}; do something"
        assert found["failure of agreement"] == message
    assert steps[1, "etcl"][0]["failure of agreement"] == ""


@pytest.mark.parametrize("count", COUNTS)
def test_each_process_embeds_its_share_and_has_all_rows(steps, count):
    for items in (0, 1, 7):
        expected = [[i + 1, 0, 1] for i in range(items)]
        for found in steps[count, "etcl"]:
            rows = found[f"rows/{items}"]
            np.testing.assert_array_equal(rows, np.array(expected).reshape(-1, 3))
            assert rows.dtype == np.float32
    seen = [found["seen"].tolist() for found in steps[count, "etcl"]]
    assert sorted(sum(seen, [])) == [1, *range(1, 8)]
    assert max(map(len, seen)) == 1 + -(-7 // count)
    # The sixth item has no embedding: its process says so, and the others say the same of it.
    owner = 5 % count
    for number, found in enumerate(steps[count, "etcl"]):
        message, position = found["failure"]
        assert position == "5" and "image at position 5 cannot be read (empty)" in message
        assert message.startswith(f"in process {owner}: ") == (number != owner)


# --- what each process reads ----------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 4])
def test_an_epoch_is_read_once_by_all_processes_together(tmp_path, count, monkeypatch):
    record_set = replicas.records_of_colours(str(tmp_path / "colours"))
    stream = sampling.Stream([record_set], 1, ["en"], seed=3)
    source = input_pipeline.Source(stream, {"image": "image", "caption": "text"})
    words = [*tokenizers.SPECIAL_TOKENS, *(f"w{i}" for i in range(16))]
    read, rows = [], {}
    original = record_set.read

    def noted(indices, **options):
        read[-1].extend(indices.tolist())
        return original(indices, **options)

    monkeypatch.setattr(record_set, "read", noted)
    for number in range(count):
        read.append([])
        data = input_pipeline.training_dataset(
            [source],
            tokenizers.Tokenizer(words, 6),
            input_pipeline.Sizes(36, 32),
            ("en",),
            8,
            workers=(number, count),
            start_step=10**9,  # as many steps ago cost nothing
        )
        # Two steps of 8 are an epoch of the 16 records.
        for step, batch in enumerate(data.take(6)):
            tokens = batch["caption"]["tokens"].numpy()[:, 1] - len(tokenizers.SPECIAL_TOKENS)
            rows[step, number] = tokens.tolist()
        ahead = 8 // count * 40  # at most, and of its own rows
        assert 6 * 8 // count <= len(read[-1]) <= 6 * 8 // count + ahead
    for step in (0, 2, 4):
        epoch = [rows[s, number] for s in (step, step + 1) for number in range(count)]
        assert all(len(part) == 8 // count for part in epoch)
        assert sorted(sum(epoch, [])) == list(range(16))
    if count > 1:
        mine = [r for s in range(2) for r in rows[s, 0]]
        assert set(mine) <= set(read[0]) and read[0] != read[1]


# --- tools/train.py -------------------------------------------------------------------------------


class Runs(dict):
    """{number of processes: folder} of runs of MURAL and ETCL."""

    def __init__(self, workers, folders, data_dir):
        self._workers, self._folders, self._data_dir = workers, folders, data_dir

    def start(self, count, folder, *arguments):
        arguments = (f"--config={CONFIG}", f"--data_dir={self._data_dir}", *arguments)
        return self._workers.start(folder, count, TRAIN, "--stage=etcl", *arguments)

    def __missing__(self, count):
        folder = self._folders.mktemp(f"runs{count}")
        job = self.start(count, folder)
        assert job.wait() == [0] * count, [job.read(f"{i}.err") for i in range(count)]
        self[count] = folder
        return folder


@pytest.fixture(scope="module")
def runs(workers, tmp_path_factory, data_dir):
    return Runs(workers, tmp_path_factory, data_dir)


def weights(folder, stage="etcl"):
    with np.load(folder / "runs" / "tiny" / f"{stage}-s0" / "weights.npz") as file:
        return {name: file[name] for name in file.files}


def assert_close(one, more):
    """That the weights of two runs differ by the rounding of their sums alone."""
    assert one.keys() == more.keys() and any("moving_mean" in name for name in one)
    for name in one:
        error = np.linalg.norm(one[name] - more[name]) / max(np.linalg.norm(one[name]), 1e-1)
        assert error < 1e-3, (name, error)


def results(folder, stage):
    path = folder / "runs" / "tiny" / f"{stage}-s0" / "results.json"
    return json.loads(path.read_text(encoding="utf-8"))


def scalars(folder, stage):
    """{tag: {step: value}}; a tag of a step comes once."""
    events = str(folder / "runs" / "tiny" / f"{stage}-s0" / "tensorboard")
    loaded = EventAccumulator(events, size_guidance={"tensors": 0}).Reload()
    found = {}
    for tag in loaded.Tags()["tensors"]:
        values = [(e.step, tf.make_ndarray(e.tensor_proto)) for e in loaded.Tensors(tag)]
        if values and values[0][1].dtype == np.float32 and not tag.startswith("_hparams_"):
            found[tag] = {step: float(value) for step, value in values}
            assert len(found[tag]) == len(values), tag
    return found


@pytest.mark.parametrize("stage", STEPS)
@pytest.mark.parametrize("count", COUNTS)
def test_processes_end_in_the_weights_of_one(runs, count, stage):
    assert_close(weights(runs[1], stage), weights(runs[count], stage))


@pytest.mark.parametrize("stage", STEPS)
@pytest.mark.parametrize("count", COUNTS)
def test_logs_and_scores_are_those_of_one_process(runs, count, stage):
    one, more = scalars(runs[1], stage), scalars(runs[count], stage)
    assert one.keys() == more.keys()
    for tag in set(one) - {"examples_per_second"}:
        assert one[tag].keys() == more[tag].keys(), tag
        expected = list(one[tag].values())
        np.testing.assert_allclose(list(more[tag].values()), expected, rtol=1e-3, err_msg=tag)
    assert list(one["loss"]) == list(range(1, STEPS[stage] + 1))
    scores = [results(runs[k], stage)["evaluation"]["retrieval"] for k in (1, count)]
    assert scores[0]["counts"] == scores[1]["counts"]
    ours, theirs = (s["values"]["en"]["average_recall"] for s in scores)
    # One image of twelve may find its text a place earlier, in one of six recalls.
    assert ours == pytest.approx(theirs, abs=100 / 12 / 6 + 1e-6)


@pytest.mark.parametrize("count", COUNTS)
def test_the_first_process_alone_speaks_and_writes(runs, count):
    folder = runs[count]
    for number in range(count):
        assert (folder / f"{number}.err").read_text() == ""
        assert bool((folder / f"{number}.out").read_text()) == (number == 0)
    lines = re.findall(r"^step (\d)/6", (folder / "0.out").read_text(), re.MULTILINE)
    assert lines == list("123456")
    names = {os.path.basename(p) for p in glob.glob(str(folder / "runs/tiny/etcl-s0/*"))}
    one = {os.path.basename(p) for p in glob.glob(str(runs[1] / "runs/tiny/etcl-s0/*"))}
    assert names == one
    events = glob.glob(str(folder / "runs/tiny/etcl-s0/tensorboard/*"))
    assert len(events) == 1


@pytest.mark.slow
def test_processes_train_in_loops_and_in_micro_batches(runs, tmp_path):
    stage = os.path.join("runs", "tiny", "mural-s0")
    shutil.copytree(runs[1] / stage, tmp_path / stage)
    loops = [f"--config.{name}=3" for name in ("steps_per_loop", "log_every", "checkpoint_every")]
    job = runs.start(2, tmp_path, *loops, "--config.microbatch=2", "--config.loss_chunk=2")
    assert job.wait() == [0, 0], [job.read(f"{i}.err") for i in range(2)]
    assert list(scalars(tmp_path, "etcl")["loss"]) == [1, 3, 6]
    assert_close(weights(runs[1]), weights(tmp_path))


# --- one that is lost -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "victim, how, left",
    [(0, signal.SIGKILL, 2), (1, signal.SIGKILL, 2), (1, signal.SIGSTOP, 1)],  # killed, or hung
)
def test_a_process_is_lost_and_the_run_goes_on(runs, tmp_path, victim, how, left):
    stage = os.path.join("runs", "tiny", "mural-s0")
    shutil.copytree(runs[2] / stage, tmp_path / stage)
    job = runs.start(2, tmp_path)
    job.wait_for("step 3/6")
    job.end(victim, how)
    began = time.monotonic()
    while job.codes()[1 - victim] is None:
        assert time.monotonic() - began < 60
        time.sleep(0.1)
    with contextlib.suppress(ProcessLookupError):  # gone, as it is to be
        job.end(victim)
    codes = job.wait()
    assert codes[1 - victim] == 75 and (codes[victim] == -9 or how == signal.SIGSTOP)
    assert f"error: process {1 - victim} of 2 has lost another one" in job.read(f"{1 - victim}.err")
    again = runs.start(left, tmp_path)  # as many as before, or those that are left
    assert again.wait() == [0] * left, again.read("0.err")
    assert re.search(r"^resuming at step [24]$", again.read("0.out"), re.MULTILINE)
    whole, parts = weights(runs[2]), weights(tmp_path)
    assert_close(whole, parts)
    for name in whole if left == 2 else ():
        np.testing.assert_array_equal(parts[name], whole[name], err_msg=name)
