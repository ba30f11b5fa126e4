"""The command that runs all benchmarks: parts that run, are skipped, or fail."""

import json

import pytest

from benchmarks import run_all

START = {"start": [12.0, 14.0, 13.0], "microbatches": {}}
GRADCACHE = {"tiny": {"microbatch": 128, "seconds": {"plain": [2.0], "microbatches": [3.0]}}}


@pytest.fixture
def scripts(tmp_path):
    """Returns a folder of fake benchmarks: overheads.py writes results, and memory.py fails."""
    results = {"gradcache": {"start": [], "microbatches": GRADCACHE}, "start": START}
    (tmp_path / "overheads.py").write_text(
        "import json, sys\n"
        f"results = {results!r}\n"
        "path = [a for a in sys.argv if a.startswith('--json=')][0][7:]\n"
        "name = 'start' if '--cases=' in sys.argv else 'gradcache'\n"
        "json.dump(results[name], open(path, 'w'))\n"
    )
    (tmp_path / "memory.py").write_text("raise SystemExit('no memory is left')\n")
    return str(tmp_path)


def test_the_results_of_all_parts_are_in_one_table(scripts, tmp_path, capfd):
    path = tmp_path / "all.json"
    arguments = ["--quick", "--parts=start,gradcache,input", f"--json={path}"]
    assert run_all.main(arguments, scripts) == 0
    out = capfd.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert ["command", "to", "first", "step,", "seconds", "13"] in lines
    row = [line for line in lines if line[:3] == ["step", "with", "micro-batches"]][0]
    assert row[-5:] == ["3", "2", "1.5", "plain", "step"]
    assert "input: skipped, needs --photos=FOLDER of JPEG files" in out
    content = json.loads(path.read_text())
    assert {"machine", "options", "rows", "parts"} == set(content)
    assert content["parts"]["start"]["results"] == START
    assert content["parts"]["gradcache tiny"]["command"].startswith("overheads.py --cases=tiny")


def test_a_part_that_fails_does_not_stop_the_others(scripts, capfd):
    assert run_all.main(["--quick", "--parts=memory,start"], scripts) == 1
    out = capfd.readouterr().out
    assert "memory: failed, exit code 1: no memory is left" in out
    assert "command to first step, seconds" in out


def test_invalid_flags_are_refused(capsys):
    for argument, message in (
        ("--parts=speed", "--parts: unknown speed; known: step, input"),
        ("--cases=b9", "--cases: unknown b9; known: b7, b0, tiny"),
        ("--photos=nowhere", "--photos: the folder nowhere does not exist"),
    ):
        with pytest.raises(SystemExit):
            run_all.parse([argument])
        assert message in capsys.readouterr().err
