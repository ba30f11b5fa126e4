"""Sweeps: what a file must hold, which commands are run, and what the table says."""

import glob
import importlib.util
import json
import os
import subprocess
import sys
import types

import options
import pytest
import sweeps
from conftest import ROOT

from tf_mural import experiment
from tf_mural.errors import UserError

SWEEPS = sorted(set(glob.glob(os.path.join(ROOT, "configs/sweeps/*.py"))))
SWEEPS = [path for path in SWEEPS if "__init__" not in path and "own_" not in path]
GOOD = """
TITLE, SEEDS, BASELINE = "what", (0,), "a"
RUNS = {"a": {"stage": "mural"}, "b": {"stage": "etcl", "init": "a"}}
COLUMNS = {"both": ("de", "fr")}
"""


@pytest.mark.parametrize("path", SWEEPS)
def test_every_run_of_the_package_s_sweeps_can_be_built(path, monkeypatch):
    """The commands, taken apart again as tools/train.py does it."""
    commands = []
    monkeypatch.setattr(
        sweeps.subprocess,
        "run",
        lambda c: commands.append(c) or types.SimpleNamespace(returncode=0),
    )
    loaded = sweeps.load(path)
    for row, run in loaded.RUNS.items():
        sweeps.train(run, sweeps.workdir_of("out", row, 3), 3, run.get("init"), "tiny", "data")
    assert len(commands) == len(loaded.RUNS) > 2
    for command in commands:
        flags = dict(flag[2:].split("=", 1) for flag in command[2:])
        path = flags.get("config") and os.path.join(ROOT, flags["config"])
        config = options.load_config(flags["stage"], flags["size"], path)
        given = [f"--{k}={v}" for k, v in flags.items() if k.startswith("config.")]
        options.override(config, given)
        experiment.check(config, replicas=1)
        assert tuple(config.report.beside) == () and flags["seed"] == "3"


@pytest.mark.parametrize(
    "change, message",
    [
        (("COLUMNS", "OTHER"), "lacks COLUMNS"),
        (('"init": "a"', '"init": "c"'), "unknown row to start from .of the row 'b'"),
        (('"stage": "mural"', '"stag": "mural"'), "unknown key .of the row 'a'"),
        (('{"stage": "mural"}', "{}"), "the row 'a' names no stage"),
        (('"a"\nRUNS', '"z"\nRUNS'), "unknown baseline 'z'"),
        (('"b": {"stage"', '"+ A": {"stage"'), "rows 'a' and '. A' would share the folder a-s0"),
        (("(0,)", "()"), r"SEEDS is \(\), expected some"),
        (("(0,)", "0"), "SEEDS is 0, expected some"),
        (('("de", "fr")', "()"), "the column 'both' names no language"),
        (("TITLE", "1 +"), "cannot be read as a sweep"),
    ],
)
def test_what_is_no_sweep(tmp_path, change, message):
    path = tmp_path / "mine.py"
    path.write_text(GOOD.replace(*change, 1))
    with pytest.raises(UserError, match=message):
        sweeps.load(str(path))
    with pytest.raises(UserError, match="no sweep"):
        sweeps.load(str(tmp_path / "other.py"))


def test_the_table_is_of_means_and_gains(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(GOOD)
    results = {
        "a": {0: {"de": 10.0, "fr": 20.0}, 1: {"de": 30.0, "fr": 40.0}},
        "b": {0: {"de": 20.0, "fr": 20.0}, 1: {"de": 40.0, "fr": 44.0}},
    }
    sweeps.write(str(tmp_path), sweeps.load(str(path)), results)
    table = (tmp_path / "table.md").read_text()
    assert "25.0 (15.0 to 35.0)" in table and "31.0 (20.0 to 42.0)" in table and "+6.0" in table
    assert "seeds 0, 1" in table and "25.0 (15.0 to 35.0)" in capsys.readouterr().out
    columns = json.loads((tmp_path / "sweep.json").read_text())["columns"]
    assert columns["b"]["both"] == [20.0, 42.0]


def test_a_run_that_fails_is_told(monkeypatch):
    monkeypatch.setattr(sweeps.subprocess, "run", lambda c: types.SimpleNamespace(returncode=7))
    with pytest.raises(UserError, match="the run in x ended with code 7"):
        sweeps.train({"stage": "mural"}, "x", 0, None, "tiny", "data")


def test_one_language_is_that_of_the_flag():
    config = options.load_config("one_language", "tiny")
    options.override(config, ["--config.language=ja"])
    assert tuple(config.to_dict()["sources"]["captions"]["languages"]) == ("ja",)
    assert importlib.util.find_spec("configs.one_language")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "say which sweep"),
        (["nosuch.py"], "no sweep 'nosuch.py'"),
        (["--sweep=nosuch.py"], "no sweep 'nosuch.py'"),
        (["a.py", "b.py"], "unexpected argument 'a.py'"),
        (["a.py", "--sweep=b.py"], "unexpected argument 'a.py'"),
    ],
)
def test_the_sweep_may_be_given_without_its_flag(arguments, message):
    command = [sys.executable, os.path.join(ROOT, "tools", "sweep.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and message in done.stderr, done.stderr
