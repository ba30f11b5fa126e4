"""Injects faults into training processes (`make faults`, about 15 minutes).

The tests print a table of the injected and survived faults. If the environment variable FAULTS_JSON
names a file, the table is also written to this file.
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
from helpers.multiworker import Launcher

from tf_mural.data import records
from tf_mural.training.checkpoints import bundle

pytestmark = pytest.mark.faults

TRAIN = os.path.join(ROOT, "tools", "train.py")
CONFIG = os.path.join(ROOT, "tests", "faults_config.py")
STEPS, EPOCH, SEED = faults_config.STEPS, 12, 0
NUM_KILLS, NUM_FLIPS = 20, 10
SUMMARY = {}  # {fault: tuple (number of trials, number of survived trials, outcome)}


@pytest.fixture(scope="module", autouse=True)
def table():
    """Prints the table after all tests."""
    start_time = time.monotonic()
    yield
    minutes = (time.monotonic() - start_time) / 60
    lines = ["| fault | tried | survived | outcome |", "|---|---:|---:|---|"]
    lines += [f"| {fault} | {a} | {b} | {outcome} |" for fault, (a, b, outcome) in SUMMARY.items()]
    print("\n" + "\n".join(lines) + f"\n{minutes:.1f} minutes")
    if path := os.environ.get("FAULTS_JSON"):
        rows = [
            dict(fault=fault, tried=a, survived=b, outcome=outcome)
            for fault, (a, b, outcome) in SUMMARY.items()
        ]
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"minutes": round(minutes, 1), "faults": rows}, file, indent=1)


@pytest.fixture(scope="module")
def launcher():
    with Launcher() as launcher:
        yield launcher


@pytest.fixture(scope="module")
def damaged_data(data_dir, tmp_path_factory):
    """Returns a folder with the small scenes, in which one image does not decode."""
    folder = tmp_path_factory.mktemp("data")
    shutil.copytree(data_dir, folder, dirs_exist_ok=True)
    rows = list(records.RecordSet.open(data_dir / "scenes" / "train"))
    image = rows[40].images[0]
    rows[40] = records.Record(rows[40].id, (image[: len(image) // 2],), rows[40].texts)
    shutil.rmtree(folder / "scenes" / "train")
    records.write(folder / "scenes" / "train", rows, shards=2)
    return folder


class Runs:
    """Starts tools/train.py with small encoders, each time in a separate folder."""

    def __init__(self, launcher, data_dir):
        self._launcher, self._data_dir = launcher, data_dir

    def start(self, folder, *arguments, count=1, workdir="run", data_dir=None):
        arguments = (f"--data_dir={data_dir or self._data_dir}", f"--workdir={workdir}", *arguments)
        arguments = (TRAIN, "--stage=mural", f"--config={CONFIG}", *arguments)
        return self._launcher.start(folder, count, *arguments)

    def finish(self, folder, *arguments, **options):
        job = self.start(folder, *arguments, **options)
        codes = job.wait()
        assert codes == [0] * len(codes), (job.read("0.out"), job.read("0.err"))
        return job


@pytest.fixture(scope="module")
def runs(launcher, damaged_data):
    return Runs(launcher, damaged_data)


@pytest.fixture(scope="module")
def undisturbed(runs, tmp_path_factory):
    """Returns the folder of a run without faults."""
    folder = tmp_path_factory.mktemp("undisturbed")
    runs.finish(folder)
    # Only the record with the damaged image was skipped.
    (reasons,) = load_results(folder)["skipped_records"].values()
    assert sum(reasons.values()) > 1
    return folder


def load_results(folder):
    return json.loads((folder / "run" / "results.json").read_text(encoding="utf-8"))


def has_same_results(folder, expected):
    """Returns whether two runs ended with the same weights and scores, bit for bit."""
    with (
        np.load(folder / "run" / "weights.npz") as first,
        np.load(expected / "run" / "weights.npz") as second,
    ):
        assert first.files == second.files
        if not all(np.array_equal(first[name], second[name]) for name in first.files):
            return False
    return load_results(folder)["evaluation"] == load_results(expected)["evaluation"]


def last_step(job):
    """Returns the last printed step, or 0 if no step was printed."""
    steps = re.findall(r"^(?:step +|resuming at step )(\d+)", job.read("0.out"), re.MULTILINE)
    return int(steps[-1]) if steps else 0


def wait_for_step(job, step):
    """Waits until `step` or a later step is printed."""
    while last_step(job) < step:
        assert job.exit_codes() == [None], (job.read("0.out"), job.read("0.err"))
        time.sleep(0.002)


def end(job, number=signal.SIGKILL):
    """Sends a signal to a run of one process, and returns its exit code."""
    job.send_signal(0, number)
    return job.wait()[0]


def checkpoint_steps(folder):
    return bundle.complete_steps(str(folder / "run" / "checkpoints"))


# --- killed ---------------------------------------------------------------------------------------


def test_run_killed_at_random_times_ends_with_the_same_results(runs, undisturbed, tmp_path):
    rng, killed_at, resumed_at = random.Random(SEED), [], []
    for number in range(NUM_KILLS):
        job = runs.start(tmp_path)
        if number % 5 == 4:  # kills the run while it starts
            kill_time = time.monotonic() + rng.uniform(0.0, 8.0)
            previous = killed_at[-1]
            while time.monotonic() < kill_time and last_step(job) < previous + 10:
                time.sleep(0.002)
        else:
            while "step" not in job.read("0.out"):
                assert job.exit_codes() == [None], job.read("0.err")
                time.sleep(0.002)
            wait_for_step(job, min(last_step(job) + rng.randint(3, 14), STEPS - 1))
            time.sleep(rng.uniform(0.0, 0.05))
        assert end(job) == -signal.SIGKILL, job.read("0.err")
        killed_at.append(last_step(job) or killed_at[-1])
        if match := re.search(r"^resuming at step (\d+)$", job.read("0.out"), re.MULTILINE):
            resumed_at.append(int(match[1]))
    job = runs.finish(tmp_path)
    assert has_same_results(tmp_path, undisturbed)
    assert resumed_at == sorted(resumed_at) and len(set(resumed_at)) > NUM_KILLS / 3
    num_after_epoch = sum(step > EPOCH for step in killed_at)
    assert num_after_epoch >= 5
    SUMMARY["SIGKILL at a random time"] = (
        NUM_KILLS,
        NUM_KILLS,
        "resumed; final weights equal bit for bit "
        f"({num_after_epoch} kills after the first epoch, which has a bad image)",
    )


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_stopped_run_continues_with_the_next_step(runs, undisturbed, tmp_path, number, code):
    rng, step = random.Random(SEED + code), 0
    for _ in range(2):
        job = runs.start(tmp_path)
        wait_for_step(job, step + rng.randint(2, 20))
        assert end(job, number) == code
        step = int(re.search(r"saved at step (\d+)", job.read("0.err"))[1])
        assert last_step(job) == step and checkpoint_steps(tmp_path)[-1] == step
    job = runs.finish(tmp_path)
    assert f"resuming at step {step}\n" in job.read("0.out") and has_same_results(
        tmp_path, undisturbed
    )
    name = signal.Signals(number).name
    SUMMARY[name] = (2, 2, f"saved at the end of the step, exit code {code}, no step repeated")


# --- time to resume -------------------------------------------------------------------------------


def test_resume_at_step_5000_takes_as_long_as_at_50(runs, tmp_path):
    long = ("--config.steps=10000", "--config.evaluate_every=none", "--config.checkpoint_every=50")
    start = tmp_path / "start"
    job = runs.start(start, *long)
    wait_for_step(job, 70)  # the checkpoint of step 50 is written before step 70
    end(job)
    folder = str(start / "run" / "checkpoints")
    manifest = bundle.read_manifest(folder, 50)
    reader = tf.train.load_checkpoint(bundle.prefix(folder, 50))
    tensors = {name: tf.constant(reader.get_tensor(name)) for name in manifest["tensors"]}
    # `later` is the same state at step 5,000. Trainer and optimizer each contain the step.
    steps = {n: t for n, t in tensors.items() if t.shape.rank == 0 and float(t) == 50}
    assert len(steps) >= 2
    later = {**tensors, **{name: tf.cast(5000, t.dtype) for name, t in steps.items()}}
    metadata = {name: manifest[name] for name in ("vocabulary_hash", "data")}
    for name, state in (("50", tensors), ("5000", later)):
        target = tmp_path / name
        shutil.copytree(start, target)
        shutil.rmtree(target / "run" / "checkpoints")
        bundle.write(str(target / "run" / "checkpoints"), int(name), state, metadata)
    seconds = {"50": [], "5000": []}
    for _ in range(3):
        for name in seconds:
            start_time = time.monotonic()
            job = runs.start(tmp_path / name, *long)
            wait_for_step(job, int(name) + 1)
            seconds[name].append(time.monotonic() - start_time)
            assert f"resuming at step {name}\n" in job.read("0.out")
            end(job)
    early, late = (statistics.median(seconds[name]) for name in ("50", "5000"))
    print(f"seconds to the first step after a resume: at 50 {early:.2f}, at 5,000 {late:.2f}")
    assert late < 1.5 * early
    SUMMARY["resume at step 5,000 instead of 50"] = (
        3,
        3,
        f"{late / early:.2f} times the time to the next step ({late:.1f} s and {early:.1f} s)",
    )


# --- disks and flipped bits -----------------------------------------------------------------------


def test_file_size_limit_stops_the_run_with_a_message(runs, undisturbed, tmp_path):
    job = runs.start(tmp_path)
    wait_for_step(job, 20)
    _, hard = resource.prlimit(job.pids[0], resource.RLIMIT_FSIZE)
    resource.prlimit(job.pids[0], resource.RLIMIT_FSIZE, (50_000, hard))
    check_disk_full(job, runs, undisturbed, tmp_path, "too large")
    SUMMARY["file size limit (RLIMIT_FSIZE)"] = (1, 1, "one message, exit code 2; resumed")


def test_full_disk_stops_the_run_with_a_message(runs, undisturbed, tmp_path):
    (tmp_path / "run").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(tmp_path / "run")]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a disk is not permitted")
    try:
        job = runs.start(tmp_path)
        wait_for_step(job, 20)
        ballast = tmp_path / "run" / "ballast"
        with pytest.raises(OSError), open(ballast, "wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 14))
        check_disk_full(job, runs, undisturbed, tmp_path, "No space left", ballast)
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path / "run")], check=True)
    SUMMARY["full disk (a small one)"] = (1, 1, "one message, exit code 2; resumed")


def check_disk_full(job, runs, undisturbed, folder, reason, ballast=None):
    """Checks that a full disk stops a run with a message, and that the run then continues."""
    assert job.wait() == [2], job.read("0.out")
    error = job.read("0.err")
    assert error.count("\n") == 1 and reason in error and "Free some disk space" in error, error
    last = int(re.search(r"last intact checkpoint: step (\d+)", error)[1])
    assert checkpoint_steps(folder)[-1] == last >= 12
    if ballast:
        ballast.unlink()
    job = runs.finish(folder)
    assert f"resuming at step {last}\n" in job.read("0.out") and has_same_results(
        folder, undisturbed
    )


def flip_bit(path, rng):
    """Flips a random bit of a file."""
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def check_resumed(job, damaged):
    """Checks that a run reported the last damaged checkpoint and resumed from the one before.

    Args:
        job: `Job`.
        damaged: [(step of a damaged checkpoint, step of the checkpoint before it)].
    """
    if damaged:
        last, previous = damaged[-1]
        out = job.read("0.out")
        assert f"step-{last} is damaged (" in out and f"resuming at step {previous}\n" in out, out


def test_flipped_bits_in_checkpoints_are_detected(runs, undisturbed, tmp_path):
    rng, damaged = random.Random(SEED), []
    suffixes = ("data-00000-of-00001", "index", "json")
    for number in range(NUM_FLIPS):
        job = runs.start(tmp_path)
        # Waits for two checkpoints, the last of which was written by this job.
        wait_for_step(job, max([6, *(step + 4 for step, _ in damaged)]))
        while len(checkpoint_steps(tmp_path)) < 2:
            assert job.exit_codes() == [None], job.read("0.err")
            time.sleep(0.002)
        end(job)
        check_resumed(job, damaged)
        previous, last = checkpoint_steps(tmp_path)[-2:]
        flip_bit(tmp_path / "run" / "checkpoints" / f"step-{last}.{suffixes[number % 3]}", rng)
        damaged.append((last, previous))
    check_resumed(runs.finish(tmp_path), damaged)
    assert has_same_results(tmp_path, undisturbed)
    SUMMARY["flipped bit in a checkpoint"] = (
        NUM_FLIPS,
        NUM_FLIPS,
        "detected and reported, the previous checkpoint used; final weights equal",
    )


def test_flipped_bits_in_shards_are_counted_or_refused(runs, data_dir, tmp_path):
    rng = random.Random(SEED)
    outcomes = {"skipped and counted": 0, "refused": 0, "no effect": 0}
    short = ("--config.steps=24", "--config.evaluate_every=none", "--config.checkpoint_every=24")
    expected = tmp_path / "expected"
    runs.finish(expected, *short, data_dir=data_dir)
    for number in range(NUM_FLIPS):
        data, folder = tmp_path / f"data{number}", tmp_path / str(number)
        shutil.copytree(data_dir, data)
        shards = sorted(data.glob("scenes/[tb][ri]*/*.tfrecord"))
        flip_bit(shards[number % len(shards)], rng)
        job = runs.start(folder, *short, data_dir=data)
        (code,) = job.wait()
        out, error = job.read("0.out"), job.read("0.err")
        if code == 2:
            assert error.startswith("error: ") and error.count("\n") == 1, error
            outcomes["refused"] += 1
            continue
        assert code == 0, error
        skipped = [k for k, value in load_results(folder).items() if "skipped" in k and value]
        if skipped or "skipped" in out:
            outcomes["skipped and counted"] += 1
        else:  # the run did not read the flipped bit
            assert has_same_results(folder, expected), number
            outcomes["no effect"] += 1
    outcome = ", ".join(f"{count} {name}" for name, count in outcomes.items() if count)
    SUMMARY["flipped bit in a shard"] = (NUM_FLIPS, NUM_FLIPS, outcome)


# --- several processes ----------------------------------------------------------------------------


def test_second_process_on_a_workdir_is_refused(runs, undisturbed, tmp_path):
    workdir = tmp_path / "one" / "run"
    jobs = [runs.start(tmp_path / name, workdir=workdir) for name in ("one", "two")]
    codes = [job.wait()[0] for job in jobs]
    assert sorted(codes) == [0, 2]
    assert "is in use by process" in jobs[codes.index(2)].read("0.err")
    assert has_same_results(tmp_path / "one", undisturbed)
    SUMMARY["two processes on one workdir"] = (1, 1, "the second process is refused, exit code 2")


@pytest.fixture(scope="module")
def undisturbed_pair(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    runs.finish(folder, count=2)
    return folder


@pytest.mark.parametrize("victim", [0, 1])
def test_two_processes_continue_after_a_loss_and_a_signal(runs, undisturbed_pair, tmp_path, victim):
    job = runs.start(tmp_path, count=2)
    job.wait_for_output("step  10/")
    job.send_signal(victim)
    start_time = time.monotonic()
    codes = job.wait()
    seconds = time.monotonic() - start_time
    assert codes[victim] == -signal.SIGKILL and codes[1 - victim] == 75 and seconds < 60
    assert "has lost another one" in job.read(f"{1 - victim}.err")
    job = runs.start(tmp_path, count=2)
    job.wait_for_output("step  20/")
    job.send_signal(victim, signal.SIGTERM)
    assert job.wait() == [75, 75], (job.read("0.err"), job.read("1.err"))
    stops = [re.search(r"SIGTERM: saved at step (\d+)", job.read(f"{i}.err"))[1] for i in (0, 1)]
    assert stops[0] == stops[1]
    job = runs.finish(tmp_path, count=2)
    assert f"resuming at step {stops[0]}\n" in job.read("0.out")
    assert has_same_results(tmp_path, undisturbed_pair)
    tried = SUMMARY.get("one of two processes killed", (0,))[0] + 1
    outcome = "the other process stops within a minute, exit code 75; resumed, weights equal"
    SUMMARY["one of two processes killed"] = (tried, tried, outcome)
    outcome = "both processes save at the same step, exit code 75; resumed, weights equal"
    SUMMARY["SIGTERM to one of two processes"] = (tried, tried, outcome)
