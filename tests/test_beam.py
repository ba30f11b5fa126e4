import contextlib
import inspect
import os
import subprocess
import sys
import time
import zipfile

import pytest
from conftest import ROOT

pytest.importorskip("apache_beam", reason="needs Apache Beam: make test-beam")
import beam_jobs

from tf_mural import conversion
from tf_mural.conversion import beam
from tf_mural.conversion.executors import ENGINES, run_on_beam
from tf_mural.conversion.process_pool import WorkerEnded
from tf_mural.datasets import opus, scenes
from tf_mural.errors import UserError

PROCESSES = "--direct_running_mode=multi_processing,--direct_num_workers=2"
TESTS = os.path.dirname(os.path.abspath(__file__))


@pytest.fixture(scope="session")
def dask(tmp_path_factory):
    """Beam's flags for a scheduler and two worker processes on loopback."""
    pytest.importorskip("distributed", reason="needs apache-beam[dask]: make test-beam")
    folder = tmp_path_factory.mktemp("dask")
    scheduler = folder / "scheduler.json"
    paths = os.pathsep.join([ROOT, TESTS])
    env = {**os.environ, "PYTHONPATH": paths, "DASK_TEMPORARY_DIRECTORY": str(folder)}

    def start(log, module, *arguments):
        command = [sys.executable, "-m", f"distributed.cli.{module}", "--no-dashboard"]
        command += ["--host=127.0.0.1", f"--scheduler-file={scheduler}", *arguments]
        with open(folder / log, "w") as file:
            started.append(subprocess.Popen(command, env=env, stdout=file, stderr=file))

    started = []
    try:
        start("scheduler.log", "dask_scheduler", "--port=0")
        for number in range(2):
            start(f"worker-{number}.log", "dask_worker", "--nthreads=1")
        wait_for(lambda: scheduler.exists() and workers_of(scheduler) == 2)
        yield f"--runner=DaskRunner,--dask_scheduler_file={scheduler}"
    finally:
        with contextlib.suppress(Exception):
            from distributed import Client

            Client(scheduler_file=str(scheduler), timeout=5).shutdown()
        for process in started:
            process.terminate()
        for process in started:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def workers_of(scheduler):
    from distributed import Client

    with contextlib.suppress(ValueError, OSError), Client(scheduler_file=str(scheduler)) as client:
        return len(client.scheduler_info()["workers"])


def wait_for(there, seconds=30):
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.1)


@pytest.fixture(params=["", PROCESSES, "dask"], ids=["direct", "processes", "dask"])
def flags(request):
    if request.param == "dask":
        return [request.getfixturevalue("dask")]
    return [request.param]


def results(function, *firsts, flags=(), folder=None, jobs=6):
    jobs = [(*firsts, number) for number in range(jobs)]
    return dict(run_on_beam(function, jobs, flags=flags, folder=folder))


# --- the engine -----------------------------------------------------------------------------------


def test_each_job_has_its_result(flags, tmp_path):
    found = results(beam_jobs.square, flags=flags, folder=str(tmp_path))
    assert found == {0: 0, 1: 1, 2: 4, 3: 9, 4: 16, 5: 25}
    assert list(tmp_path.iterdir()) == []


def test_jobs_share_two_processes(request, tmp_path):
    for name, flag in (("mp", PROCESSES), ("dask", request.getfixturevalue("dask"))):
        (tmp_path / name).mkdir()
        found = results(beam_jobs.process_of, str(tmp_path / name), flags=[flag])
        assert len(set(found.values())) == 2 and os.getpid() not in found.values(), name


def test_user_error_comes_as_it_is(flags, capfd):
    with pytest.raises(UserError, match="^row 2 is bad$"):
        results(beam_jobs.refuse, flags=flags)
    assert capfd.readouterr() == ("", "")


def test_bug_comes_with_its_traceback(flags):
    with pytest.raises(KeyError) as caught:
        results(beam_jobs.bug, flags=flags)
    assert "in bug\n    raise KeyError(number)" in caught.value.__notes__[0]


def test_failure_gives_the_other_jobs_up(tmp_path):
    with pytest.raises(UserError, match="the first fails"):
        results(beam_jobs.count_then_refuse, str(tmp_path), jobs=30)
    time.sleep(0.5)
    assert len(list(tmp_path.iterdir())) < 30


def test_killed_worker_is_told(request, capfd):
    for flag in (PROCESSES, request.getfixturevalue("dask")):
        began = time.monotonic()
        with pytest.raises(WorkerEnded, match="a Beam worker ended before its time"):
            results(beam_jobs.killed, flags=[flag])
        assert time.monotonic() - began < 40
    assert capfd.readouterr() == ("", "")


def test_runner_that_tries_again_does_no_harm(dask, tmp_path):
    found = results(beam_jobs.killed_once, str(tmp_path), flags=[dask])
    assert found == {number: number for number in range(6)}


def test_no_jobs():
    assert list(run_on_beam(beam_jobs.square, [], flags=["--runner=Nope"])) == []


@pytest.mark.parametrize("flags", ["", PROCESSES])
def test_workers_import_nothing_heavy(flags):
    code = (
        f"import sys; sys.path[:0] = {[ROOT, TESTS]!r}\n"
        "import beam_jobs\n"
        "from tf_mural.conversion.executors import run_on_beam\n"
        f"print(list(run_on_beam(beam_jobs.heavy_modules, [(0,)], flags=[{flags!r}])))"
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
def test_flags_that_beam_does_not_know(flag, message, capfd):
    with pytest.raises(UserError, match=message):
        results(beam_jobs.square, flags=[flag])
    assert capfd.readouterr() == ("", "")


def test_processes_are_the_pools():
    with pytest.raises(UserError, match="--processes is for the process pool"):
        list(run_on_beam(beam_jobs.square, [(1,)], processes=2))


def test_commas_in_values_stay():
    given = ["--experiments=a,b,--direct_num_workers=3", '--environment_config={"a":"b","c":1}']
    _, options, _ = beam.runner_and_options(given)
    found = options.get_all_options()
    assert (found["experiments"], found["direct_num_workers"]) == (["a", "b"], 3)
    assert found["environment_config"] == '{"a":"b","c":1}'


def test_folder_that_is_not_shared(tmp_path, monkeypatch):
    monkeypatch.setattr(beam, "_call", beam_jobs.square_of_first)
    with pytest.raises(UserError, match="6 results are not in .*does every worker see this folder"):
        results(beam_jobs.square, folder=str(tmp_path))


# --- conversions ----------------------------------------------------------------------------------


def raw_opus(folder):
    folder.mkdir()
    for a, b in (("de", "en"), ("en", "fr"), ("en", "ja")):
        with zipfile.ZipFile(folder / f"{a}-{b}.txt.zip", "w") as archive:
            for code in (a, b):
                lines = "".join(f"{code} {number}\n" for number in range(20))
                archive.writestr(f"CCMatrix.{a}-{b}.{code}", lines)
    return folder


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.skipif(
    "engine" not in inspect.signature(conversion.convert).parameters,
    reason="convert() knows no engines",
)
@pytest.mark.parametrize("name", ["scenes", "opus"])
def test_record_sets_are_those_of_the_pool(name, flags, tmp_path, monkeypatch):
    monkeypatch.setattr(opus, "_BYTES_PER_UNIT", (110, 110))  # or all three zips share one
    raw = raw_opus(tmp_path / "raw") if name == "opus" else None
    dataset, options = (opus, {}) if name == "opus" else (scenes, {"count": 12, "units": 3})
    arguments = dict(options=options, progress=str)
    conversion.convert(dataset, name, raw, tmp_path / "pool", "train", processes=2, **arguments)
    conversion.convert(
        dataset, name, raw, tmp_path / "beam", "train", engine="beam", flags=flags, **arguments
    )
    pool, found = files_of(tmp_path / "pool/train"), files_of(tmp_path / "beam/train")
    assert found == pool and "manifest.json" in pool and len(pool) == 7  # 3 shards and indexes
    left = [path.name for path in (tmp_path / "beam").iterdir() if path.suffix != ".lock"]
    assert left == ["train"]


def test_engines():
    assert ENGINES["beam"] is run_on_beam
    assert list(ENGINES["processes"](beam_jobs.square, [(3,)])) == [(0, 9)]


def test_tool_says_no_more_than_with_the_pool(tmp_path):
    command = [sys.executable, os.path.join(ROOT, "tools", "convert.py"), "--dataset=scenes"]
    command += ["--scenes.count=12", "--scenes.units=3", "--split=train", "--engine=beam"]
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
