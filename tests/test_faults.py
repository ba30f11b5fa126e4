"""Everything that can happen to a run, in real processes: make faults, about 15 minutes.

Prints a table of the faults that were tried and survived; FAULTS_JSON names a file for it.
"""

import json
import os
import random
import re
import resource
import shutil
import signal
import statistics
import subprocess
import time

import faults_config
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from workers import Workers

from tf_mural.data import records
from tf_mural.training.checkpoints import bundle

pytestmark = pytest.mark.faults

TRAIN = os.path.join(ROOT, "tools", "train.py")
CONFIG = os.path.join(ROOT, "tests", "faults_config.py")
STEPS, EPOCH, SEED = faults_config.STEPS, 12, 0
KILLS, FLIPS = 20, 10
TOLD = {}  # {fault: (tried, survived, what it ended in)}


@pytest.fixture(scope="module", autouse=True)
def table():
    """Prints what was tried, in the end."""
    began = time.monotonic()
    yield
    minutes = (time.monotonic() - began) / 60
    lines = ["| fault | tried | survived | how |", "|---|---:|---:|---|"]
    lines += [f"| {fault} | {a} | {b} | {how} |" for fault, (a, b, how) in TOLD.items()]
    print("\n" + "\n".join(lines) + f"\n{minutes:.1f} minutes")
    if path := os.environ.get("FAULTS_JSON"):
        rows = [dict(fault=f, tried=a, survived=b, how=how) for f, (a, b, how) in TOLD.items()]
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"minutes": round(minutes, 1), "faults": rows}, file, indent=1)


@pytest.fixture(scope="module")
def workers():
    with Workers() as workers:
        yield workers


@pytest.fixture(scope="module")
def damaged_data(data_dir, tmp_path_factory):
    """The small scenes with one image in the middle that does not decode."""
    folder = tmp_path_factory.mktemp("data")
    shutil.copytree(data_dir, folder, dirs_exist_ok=True)
    rows = list(records.RecordSet.open(data_dir / "scenes" / "train"))
    bad = rows[40]
    rows[40] = records.Record(bad.id, (bad.images[0][: len(bad.images[0]) // 2],), bad.texts)
    shutil.rmtree(folder / "scenes" / "train")
    records.write(folder / "scenes" / "train", rows, shards=2)
    return folder


class Runs:
    """Runs of tools/train.py on small towers, each in a folder of its own."""

    def __init__(self, workers, data):
        self._workers, self._data = workers, data

    def start(self, folder, *arguments, count=1, workdir="run", data=None):
        arguments = (f"--data_dir={data or self._data}", f"--workdir={workdir}", *arguments)
        arguments = (TRAIN, "--stage=mural", f"--config={CONFIG}", *arguments)
        return self._workers.start(folder, count, *arguments)

    def finish(self, folder, *arguments, **how):
        job = self.start(folder, *arguments, **how)
        codes = job.wait()
        assert codes == [0] * len(codes), (job.read("0.out"), job.read("0.err"))
        return job


@pytest.fixture(scope="module")
def runs(workers, damaged_data):
    return Runs(workers, damaged_data)


@pytest.fixture(scope="module")
def whole(runs, tmp_path_factory):
    """The folder of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    runs.finish(folder)
    (reasons,) = results(folder)["skipped_records"].values()  # of the one image that is damaged
    assert sum(reasons.values()) > 1
    return folder


def results(folder):
    return json.loads((folder / "run" / "results.json").read_text(encoding="utf-8"))


def same(folder, whole):
    """Whether two runs ended in the same weights and scores, bit for bit."""
    with (
        np.load(folder / "run" / "weights.npz") as one,
        np.load(whole / "run" / "weights.npz") as other,
    ):
        assert one.files == other.files
        if not all(np.array_equal(one[name], other[name]) for name in one.files):
            return False
    return results(folder)["evaluation"] == results(whole)["evaluation"]


def last_step(job):
    """The last step that was told of, and 0 before the first."""
    found = re.findall(r"^(?:step +|resuming at step )(\d+)", job.read("0.out"), re.MULTILINE)
    return int(found[-1]) if found else 0


def reach(job, step):
    """Waits until a step was told of."""
    while last_step(job) < step:
        assert job.codes() == [None], (job.read("0.out"), job.read("0.err"))
        time.sleep(0.002)


def end(job, how=signal.SIGKILL):
    job.end(0, how)
    return job.wait()[0]


def finished_steps(folder):
    return bundle.finished(str(folder / "run" / "checkpoints"))


# --- killed ---------------------------------------------------------------------------------------


def test_killed_at_random_times(runs, whole, tmp_path):
    draw, stood, resumed_at = random.Random(SEED), [], []
    for number in range(KILLS):
        job = runs.start(tmp_path)
        if number % 5 == 4:  # at any time of a start
            until = time.monotonic() + draw.uniform(0.0, 8.0)
            before = stood[-1]
            while time.monotonic() < until and last_step(job) < before + 10:
                time.sleep(0.002)
        else:
            while "step" not in job.read("0.out"):
                assert job.codes() == [None], job.read("0.err")
                time.sleep(0.002)
            reach(job, min(last_step(job) + draw.randint(3, 14), STEPS - 1))
            time.sleep(draw.uniform(0.0, 0.05))
        assert end(job) == -signal.SIGKILL, job.read("0.err")
        stood.append(last_step(job) or stood[-1])
        if found := re.search(r"^resuming at step (\d+)$", job.read("0.out"), re.MULTILINE):
            resumed_at.append(int(found[1]))
    job = runs.finish(tmp_path)
    assert same(tmp_path, whole)
    assert resumed_at == sorted(resumed_at) and len(set(resumed_at)) > KILLS / 3
    past = sum(step > EPOCH for step in stood)
    assert past >= 5
    TOLD["SIGKILL at a random time"] = (
        KILLS,
        KILLS,
        f"resumed; end weights equal bit for bit ({past} past an epoch's end, a bad image in it)",
    )


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_asked_to_stop(runs, whole, tmp_path, number, code):
    draw, at = random.Random(SEED + code), 0
    for _ in range(2):
        job = runs.start(tmp_path)
        reach(job, at + draw.randint(2, 20))
        assert end(job, number) == code
        at = int(re.search(r"saved at step (\d+)", job.read("0.err"))[1])
        assert last_step(job) == at and finished_steps(tmp_path)[-1] == at
    job = runs.finish(tmp_path)
    assert f"resuming at step {at}\n" in job.read("0.out") and same(tmp_path, whole)
    name = signal.Signals(number).name
    TOLD[name] = (2, 2, f"saved at the end of the step, exit code {code}, nothing done twice")


# --- time to resume -------------------------------------------------------------------------------


def test_a_resume_takes_as_long_at_step_5000_as_at_50(runs, tmp_path):
    long = ("--config.steps=10000", "--config.evaluate_every=0", "--config.checkpoint_every=50")
    start = tmp_path / "start"
    job = runs.start(start, *long)
    reach(job, 70)  # the checkpoint of step 50 is written by then
    end(job)
    folder = str(start / "run" / "checkpoints")
    manifest = bundle.manifest(folder, 50)
    reader = tf.train.load_checkpoint(bundle.prefix(folder, 50))
    tensors = {name: tf.constant(reader.get_tensor(name)) for name in manifest["tensors"]}
    # The same state, but for the step: its own and the optimizer's.
    steps = {n: t for n, t in tensors.items() if t.shape.rank == 0 and float(t) == 50}
    assert len(steps) >= 2
    later = {**tensors, **{name: tf.cast(5000, t.dtype) for name, t in steps.items()}}
    about = {name: manifest[name] for name in ("vocabulary_hash", "data")}
    for name, state in (("50", tensors), ("5000", later)):
        target = tmp_path / name
        shutil.copytree(start, target)
        shutil.rmtree(target / "run" / "checkpoints")
        bundle.write(str(target / "run" / "checkpoints"), int(name), state, about)
    seconds = {"50": [], "5000": []}
    for _ in range(3):
        for name in seconds:
            began = time.monotonic()
            job = runs.start(tmp_path / name, *long)
            reach(job, int(name) + 1)
            seconds[name].append(time.monotonic() - began)
            assert f"resuming at step {name}\n" in job.read("0.out")
            end(job)
    early, late = (statistics.median(seconds[name]) for name in ("50", "5000"))
    print(f"seconds to the first step after a resume: at 50 {early:.2f}, at 5,000 {late:.2f}")
    assert late < 1.5 * early
    TOLD["resume at step 5,000 instead of 50"] = (
        3,
        3,
        f"{late / early:.2f} times as long to the next step ({late:.1f} s against {early:.1f} s)",
    )


# --- disks and bits -------------------------------------------------------------------------------


def test_a_file_that_may_not_grow(runs, whole, tmp_path):
    job = runs.start(tmp_path)
    reach(job, 20)
    _, hard = resource.prlimit(job.pids[0], resource.RLIMIT_FSIZE)
    resource.prlimit(job.pids[0], resource.RLIMIT_FSIZE, (50_000, hard))
    check_full(job, runs, whole, tmp_path, "too large")
    TOLD["no room for a file (RLIMIT_FSIZE)"] = (1, 1, "one message, exit code 2; resumed")


def test_a_full_disk(runs, whole, tmp_path):
    (tmp_path / "run").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(tmp_path / "run")]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a disk is not permitted")
    try:
        job = runs.start(tmp_path)
        reach(job, 20)
        ballast = tmp_path / "run" / "ballast"
        with pytest.raises(OSError), open(ballast, "wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 14))
        check_full(job, runs, whole, tmp_path, "No space left", ballast)
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path / "run")], check=True)
    TOLD["full disk (a small one, filled)"] = (1, 1, "one message, exit code 2; resumed")


def check_full(job, runs, whole, folder, reason, ballast=None):
    """The run stops, says so in a line, and goes on once there is room."""
    assert job.wait() == [2], job.read("0.out")
    error = job.read("0.err")
    assert error.count("\n") == 1 and reason in error and "Make room" in error, error
    last = int(re.search(r"the last whole one is that of step (\d+)", error)[1])
    assert finished_steps(folder)[-1] == last >= 12
    if ballast:
        ballast.unlink()
    job = runs.finish(folder)
    assert f"resuming at step {last}\n" in job.read("0.out") and same(folder, whole)


def flip(path, draw):
    """Turns one bit of a file."""
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def check_resumed(job, expected):
    """The checkpoint that was damaged last is named, and the one before it was taken."""
    if expected:
        last, before = expected[-1]
        out = job.read("0.out")
        assert f"step-{last} is damaged (" in out and f"resuming at step {before}\n" in out, out


def test_flipped_bits_in_checkpoints(runs, whole, tmp_path):
    draw, ends, expected = random.Random(SEED), ("data-00000-of-00001", "index", "json"), []
    for number in range(FLIPS):
        job = runs.start(tmp_path)
        # Two checkpoints, of which the last one is new.
        reach(job, max([6, *(step + 4 for step, _ in expected)]))
        while len(finished_steps(tmp_path)) < 2:
            assert job.codes() == [None], job.read("0.err")
            time.sleep(0.002)
        end(job)
        check_resumed(job, expected)
        before, last = finished_steps(tmp_path)[-2:]
        flip(tmp_path / "run" / "checkpoints" / f"step-{last}.{ends[number % 3]}", draw)
        expected.append((last, before))
    check_resumed(runs.finish(tmp_path), expected)
    assert same(tmp_path, whole)
    TOLD["flipped bit in a checkpoint"] = (
        FLIPS,
        FLIPS,
        "noticed and named, the one before it used; end weights equal",
    )


def test_flipped_bits_in_shards(runs, data_dir, tmp_path):
    draw, ways = random.Random(SEED), {"skipped and counted": 0, "refused": 0, "no effect": 0}
    short = ("--config.steps=24", "--config.evaluate_every=0", "--config.checkpoint_every=24")
    whole = tmp_path / "whole"
    runs.finish(whole, *short, data=data_dir)
    for number in range(FLIPS):
        data, folder = tmp_path / f"data{number}", tmp_path / str(number)
        shutil.copytree(data_dir, data)
        shards = sorted(data.glob("scenes/[tb][ri]*/*.tfrecord"))
        flip(shards[number % len(shards)], draw)
        job = runs.start(folder, *short, data=data)
        (code,) = job.wait()
        out, error = job.read("0.out"), job.read("0.err")
        if code == 2:
            assert error.startswith("error: ") and error.count("\n") == 1, error
            ways["refused"] += 1
            continue
        assert code == 0, error
        told = [key for key, value in results(folder).items() if "skipped" in key and value]
        if told or "skipped" in out:
            ways["skipped and counted"] += 1
        else:  # a bit that nobody reads
            assert same(folder, whole), number
            ways["no effect"] += 1
    how = ", ".join(f"{count} {way}" for way, count in ways.items() if count)
    TOLD["flipped bit in a shard"] = (FLIPS, FLIPS, how)


# --- several processes ----------------------------------------------------------------------------


def test_two_processes_on_a_workdir(runs, whole, tmp_path):
    workdir = tmp_path / "one" / "run"
    jobs = [runs.start(tmp_path / name, workdir=workdir) for name in ("one", "two")]
    codes = [job.wait()[0] for job in jobs]
    assert sorted(codes) == [0, 2]
    assert "is in use by process" in jobs[codes.index(2)].read("0.err")
    assert same(tmp_path / "one", whole)
    TOLD["two processes on one workdir"] = (1, 1, "the second one refused, exit code 2")


@pytest.fixture(scope="module")
def whole_of_two(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    runs.finish(folder, count=2)
    return folder


@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_is_lost_or_asked_to_stop(runs, whole_of_two, tmp_path, victim):
    job = runs.start(tmp_path, count=2)
    job.wait_for("step  10/")
    job.end(victim)
    began = time.monotonic()
    codes = job.wait()
    seconds = time.monotonic() - began
    assert codes[victim] == -signal.SIGKILL and codes[1 - victim] == 75 and seconds < 60
    assert "has lost another one" in job.read(f"{1 - victim}.err")
    job = runs.start(tmp_path, count=2)
    job.wait_for("step  20/")
    job.end(victim, signal.SIGTERM)
    assert job.wait() == [75, 75], (job.read("0.err"), job.read("1.err"))
    stops = [re.search(r"SIGTERM: saved at step (\d+)", job.read(f"{i}.err"))[1] for i in (0, 1)]
    assert stops[0] == stops[1]
    job = runs.finish(tmp_path, count=2)
    assert f"resuming at step {stops[0]}\n" in job.read("0.out")
    assert same(tmp_path, whole_of_two)
    tried = TOLD.get("one of two processes killed", (0,))[0] + 1
    how = "the other one stops within a minute, exit code 75; resumed, weights equal"
    TOLD["one of two processes killed"] = (tried, tried, how)
    how = "both save at the same step, exit code 75; resumed, weights equal"
    TOLD["SIGTERM to one of two processes"] = (tried, tried, how)
