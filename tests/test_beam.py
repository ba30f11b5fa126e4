"""Conversion on Apache Beam with the direct runner, its multi-process mode, and Dask."""

import contextlib
import os
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from helpers.archives import zip_bytes
from helpers.corpus import read_files, visible_names

pytest.importorskip("apache_beam", reason="needs Apache Beam: make test-beam")
from helpers import executor_jobs

from tf_mural import conversion
from tf_mural.conversion import beam
from tf_mural.conversion.executors import EXECUTORS, WorkerDiedError, run_on_beam
from tf_mural.datasets import opus, scenes
from tf_mural.errors import UserError

pytestmark = pytest.mark.slow

PROCESSES = "--direct_running_mode=multi_processing,--direct_num_workers=2"
TESTS = os.path.dirname(os.path.abspath(__file__))


@pytest.fixture(scope="session")
def dask(tmp_path_factory):
    """Beam's flags for a Dask scheduler with two worker processes on this machine."""
    pytest.importorskip("distributed", reason="needs apache-beam[dask]: make test-beam")
    folder = tmp_path_factory.mktemp("dask")
    scheduler = folder / "scheduler.json"
    paths = os.pathsep.join([ROOT, TESTS])
    env = {**os.environ, "PYTHONPATH": paths, "DASK_TEMPORARY_DIRECTORY": str(folder)}
    processes = []

    def start(log, module, *arguments):
        command = [sys.executable, "-m", f"distributed.cli.{module}", "--no-dashboard"]
        command += ["--host=127.0.0.1", f"--scheduler-file={scheduler}", *arguments]
        with open(folder / log, "w") as file:
            processes.append(subprocess.Popen(command, env=env, stdout=file, stderr=file))

    try:
        start("scheduler.log", "dask_scheduler", "--port=0")
        for number in range(2):
            start(f"worker-{number}.log", "dask_worker", "--nthreads=1")
        wait_until(lambda: scheduler.exists() and count_workers(scheduler) == 2)
        yield f"--runner=DaskRunner,--dask_scheduler_file={scheduler}"
    finally:
        with contextlib.suppress(Exception):
            from distributed import Client

            Client(scheduler_file=str(scheduler), timeout=5).shutdown()
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def count_workers(scheduler):
    from distributed import Client

    with contextlib.suppress(ValueError, OSError), Client(scheduler_file=str(scheduler)) as client:
        return len(client.scheduler_info()["workers"])


def wait_until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not true after {seconds} s"
        time.sleep(0.1)


@pytest.fixture(params=["", PROCESSES, "dask"], ids=["direct", "processes", "dask"])
def flags(request):
    """Beam's flags for each of the three runners."""
    if request.param == "dask":
        return [request.getfixturevalue("dask")]
    return [request.param]


def run_jobs(function, *arguments, flags=(), folder=None, jobs=6):
    """Returns {number: result} of function(*arguments, number) for each job."""
    jobs = [(*arguments, number) for number in range(jobs)]
    return dict(run_on_beam(function, jobs, flags=flags, folder=folder))


# --- the executor ---------------------------------------------------------------------------------


def test_each_job_returns_its_result(flags, tmp_path):
    results = run_jobs(executor_jobs.square, flags=flags, folder=str(tmp_path))
    assert results == {0: 0, 1: 1, 2: 4, 3: 9, 4: 16, 5: 25}
    assert list(tmp_path.iterdir()) == []


def test_jobs_run_in_two_worker_processes(request, tmp_path):
    for name, flag in (("mp", PROCESSES), ("dask", request.getfixturevalue("dask"))):
        (tmp_path / name).mkdir()
        results = run_jobs(executor_jobs.process_id, str(tmp_path / name), flags=[flag])
        assert len(set(results.values())) == 2 and os.getpid() not in results.values(), name


def test_a_user_error_is_raised_unchanged(flags, capfd):
    with pytest.raises(UserError, match="^row 2 is bad$"):
        run_jobs(executor_jobs.raise_user_error, flags=flags)
    assert capfd.readouterr() == ("", "")


def test_a_bug_is_raised_with_its_traceback(flags):
    with pytest.raises(KeyError) as caught:
        run_jobs(executor_jobs.raise_key_error, flags=flags)
    assert "in raise_key_error\n    raise KeyError(number)" in caught.value.__notes__[0]


def test_a_failure_cancels_the_other_jobs(tmp_path):
    with pytest.raises(UserError, match="the first fails"):
        run_jobs(executor_jobs.leave_file_and_fail, str(tmp_path), jobs=30)
    time.sleep(0.5)
    assert len(list(tmp_path.iterdir())) < 30


def test_a_killed_worker_raises_worker_died_error(request, capfd):
    for flag in (PROCESSES, request.getfixturevalue("dask")):
        start = time.monotonic()
        with pytest.raises(WorkerDiedError, match="a Beam worker ended early"):
            run_jobs(executor_jobs.kill_worker, flags=[flag])
        assert time.monotonic() - start < 40
    assert capfd.readouterr() == ("", "")


def test_a_runner_may_retry_jobs(dask, tmp_path):
    results = run_jobs(executor_jobs.kill_worker_once, str(tmp_path), flags=[dask])
    assert results == {number: number for number in range(6)}


def test_no_jobs_start_no_pipeline():
    assert list(run_on_beam(executor_jobs.square, [], flags=["--runner=Nope"])) == []


@pytest.mark.parametrize("flags", ["", PROCESSES])
def test_workers_import_no_large_framework(flags):
    code = (
        f"import sys; sys.path[:0] = {[ROOT, TESTS]!r}\n"
        "from helpers.executor_jobs import imported_frameworks\n"
        "from tf_mural.conversion.executors import run_on_beam\n"
        f"print(list(run_on_beam(imported_frameworks, [(0,)], flags=[{flags!r}])))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[(0, [])]\n", "")


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--direct_num_worker=2", "no flag --direct_num_worker; did you mean 'direct_num_workers'"),
        ("--direct_num_workers=x", "argument --direct_num_workers: invalid int value: 'x'"),
        ("--runner=Nope", "Beam has no runner 'Nope' here"),
        ("--runner=DaskRunner,--dask_scheduler=x", "Beam knows no flag --dask_scheduler;"),
    ],
)
def test_flags_that_beam_does_not_know_are_refused(flag, message, capfd):
    with pytest.raises(UserError, match=message):
        run_jobs(executor_jobs.square, flags=[flag])
    assert capfd.readouterr() == ("", "")


def test_processes_are_a_flag_of_the_process_pool():
    with pytest.raises(UserError, match="`processes` is for the process pool"):
        list(run_on_beam(executor_jobs.square, [(1,)], processes=2))


def test_values_of_flags_may_contain_commas():
    given = ["--experiments=a,b,--direct_num_workers=3", '--environment_config={"a":"b","c":1}']
    _, options, _ = beam.runner_and_options(given)
    values = options.get_all_options()
    assert (values["experiments"], values["direct_num_workers"]) == (["a", "b"], 3)
    assert values["environment_config"] == '{"a":"b","c":1}'


def test_missing_results_are_a_user_error(tmp_path, monkeypatch):
    monkeypatch.setattr(beam, "_call", executor_jobs.discard_result)
    with pytest.raises(UserError, match="6 results are not in .*does every worker see this folder"):
        run_jobs(executor_jobs.square, folder=str(tmp_path))


# --- conversions ----------------------------------------------------------------------------------


def write_opus_zips(folder):
    folder.mkdir()
    for a, b in (("de", "en"), ("en", "fr"), ("en", "ja")):
        lines = {code: "".join(f"{code} {number}\n" for number in range(20)) for code in (a, b)}
        members = {f"CCMatrix.{a}-{b}.{code}": text for code, text in lines.items()}
        (folder / f"{a}-{b}.txt.zip").write_bytes(zip_bytes(members))
    return folder


@pytest.mark.parametrize("name", ["scenes", "opus"])
def test_record_sets_equal_those_of_the_process_pool(name, flags, tmp_path, monkeypatch):
    monkeypatch.setattr(opus, "_BYTES_PER_UNIT", (110, 110))  # each zip becomes one unit
    raw = write_opus_zips(tmp_path / "raw") if name == "opus" else None
    dataset, options = (opus, {}) if name == "opus" else (scenes, {"count": 12, "units": 3})
    arguments = dict(options=options, progress=str)
    conversion.convert(dataset, name, raw, tmp_path / "pool", "train", processes=2, **arguments)
    conversion.convert(
        dataset, name, raw, tmp_path / "beam", "train", executor="beam", flags=flags, **arguments
    )
    by_pool, by_beam = read_files(tmp_path / "pool/train"), read_files(tmp_path / "beam/train")
    assert by_beam == by_pool
    assert "manifest.json" in by_pool and len(by_pool) == 8  # 3 shards with indexes, 2 others
    assert visible_names(tmp_path / "beam") == ["train"]
    remaining = [path.name for path in (tmp_path / "beam").iterdir() if path.suffix != ".lock"]
    assert remaining == ["train"]


def test_executors_are_found_by_name():
    assert EXECUTORS["beam"] is run_on_beam
    assert list(EXECUTORS["processes"](executor_jobs.square, [(3,)])) == [(0, 9)]


def test_command_prints_the_same_as_with_the_process_pool(tmp_path):
    command = [sys.executable, os.path.join(ROOT, "tools", "convert.py"), "--dataset=scenes"]
    command += ["--scenes.count=12", "--scenes.units=3", "--split=train", "--executor=beam"]
    done = subprocess.run(
        [*command, f"--beam={PROCESSES}"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "scenes/train: 3 of 3" in done.stdout and "Beam" not in done.stdout
    done = subprocess.run(
        [*command, "--overwrite", "--beam=--runner=Nope"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stderr.startswith("error: Beam has no runner 'Nope'")
    assert done.stderr.count("\n") == 1
