"""All benchmarks by one command: what is run, skipped, and told of what fails."""

import json

import pytest

from benchmarks import run_all

START = {"start": [12.0, 14.0, 13.0], "microbatches": {}}
CACHED = {"tiny": {"microbatch": 128, "seconds": {"plain": [2.0], "microbatches": [3.0]}}}


@pytest.fixture
def scripts(tmp_path):
    """Scripts of the names of the benchmarks: the first writes numbers, the second fails."""
    found = {"cached": {"start": [], "microbatches": CACHED}, "start": START}
    (tmp_path / "overheads.py").write_text(
        "import json, sys\n"
        f"found = {found!r}\n"
        "path = [a for a in sys.argv if a.startswith('--json=')][0][7:]\n"
        "name = 'start' if '--cases=' in sys.argv else 'cached'\n"
        "json.dump(found[name], open(path, 'w'))\n"
    )
    (tmp_path / "memory.py").write_text("raise SystemExit('no memory is left')\n")
    return str(tmp_path)


def test_parts_side_by_side(scripts, tmp_path, capfd):
    path = tmp_path / "all.json"
    arguments = ["--quick", "--parts=start,gradcache,input", f"--json={path}"]
    assert run_all.main(arguments, scripts) == 0
    out = capfd.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert ["command", "to", "first", "step,", "seconds", "13"] in lines
    row = [line for line in lines if line[:3] == ["step", "in", "micro-batches"]][0]
    assert row[-6:] == ["3", "2", "1.5", "the", "plain", "step"]
    assert "input: skipped, needs --photos=FOLDER of JPEG files" in out
    written = json.loads(path.read_text())
    assert {"machine", "options", "rows", "parts"} == set(written)
    assert written["parts"]["start"]["found"] == START
    assert written["parts"]["gradcache tiny"]["command"].startswith("overheads.py --cases=tiny")


def test_a_part_that_fails_does_not_stop_the_others(scripts, capfd):
    assert run_all.main(["--quick", "--parts=memory,start"], scripts) == 1
    out = capfd.readouterr().out
    assert "memory: failed, exit code 1: no memory is left" in out
    assert "command to first step, seconds" in out


def test_what_cannot_be_is_refused(capsys):
    for argument, message in (
        ("--parts=speed", "--parts: unknown speed; known: step, input"),
        ("--cases=b9", "--cases: unknown b9; known: b7, b0, tiny"),
        ("--photos=nowhere", "--photos: there is no folder nowhere"),
    ):
        with pytest.raises(SystemExit):
            run_all.parse([argument])
        assert message in capsys.readouterr().err
