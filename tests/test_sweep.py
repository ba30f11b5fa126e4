"""Sweeps: their files, the commands that train their runs, and the table."""

import glob
import importlib.util
import json
import os
import subprocess
import types

import pytest
from conftest import ROOT
from PIL import Image

from tf_mural import experiment
from tf_mural.cli import sweep as sweep_command
from tf_mural.errors import UserError
from tf_mural.experiment import config_loading, sweep_spread
from tf_mural.experiment import sweep as sweeps

SWEEPS = sorted(set(glob.glob(os.path.join(ROOT, "configs/sweeps/*.py"))))
CONFIGS = ("__init__.py", "own_temperatures.py", "sigmoid.py")  # these files define no sweep
SWEEPS = [path for path in SWEEPS if os.path.basename(path) not in CONFIGS]
VALID = """
TITLE, SEEDS, BASELINE = "title", (0,), "a"
RUNS = {"a": {"stage": "mural"}, "b": {"stage": "etcl", "init": "a"}}
COLUMNS = {"both": ("de", "fr")}
"""


@pytest.mark.parametrize("path", SWEEPS)
def test_every_run_of_a_sweep_has_a_valid_config(path, monkeypatch):
    """Parses the flags of each command in the same way as tools/train.py."""
    commands, done = [], types.SimpleNamespace(returncode=0)
    sweep = sweeps.load_sweep(path)
    with monkeypatch.context() as patch:
        patch.setattr(sweeps.subprocess, "run", lambda c: commands.append(c) or done)
        for row, run in sweep.RUNS.items():
            workdir = sweeps.run_workdir("out", row, 3)
            sweeps.train_run(["train"], run, workdir, 3, run.get("init"), "tiny", "data")
    assert len(commands) == len(sweep.RUNS) > 1
    for command in commands:
        flags = dict(flag[2:].split("=", 1) for flag in command[1:])
        path = flags.get("config") and os.path.join(ROOT, flags["config"])
        config = config_loading.load_config(flags["stage"], flags["size"], path)
        overrides = [f"--{k}={v}" for k, v in flags.items() if k.startswith("config.")]
        config_loading.apply_overrides(config, overrides)
        experiment.check_config(config, replicas=1)
        assert tuple(config.report.compare_with) == () and config.report.control is None
        assert flags["seed"] == "3"


def test_the_vectors_of_a_row_come_from_its_initial_run(tmp_path, monkeypatch, capsys):
    path, commands, done = tmp_path / "mine.py", [], types.SimpleNamespace(returncode=0)
    vectors = '{"records": ("scenes/train",), "name": "t", "of": "texts", "drop_images": True}'
    row = f'"init": "a", "vectors": {vectors}, "overrides": {{"x": ("{{vectors}}/train",)}}'
    path.write_text(VALID.replace('"init": "a"', row))
    monkeypatch.setattr(sweeps.subprocess, "run", lambda c: commands.append(c) or done)
    monkeypatch.setattr(sweeps, "average_recalls", lambda d: {"de": 1.0, "fr": 2.0})
    out = tmp_path / "out"
    out.mkdir()
    arguments = [str(path), f"--out_dir={out}", "--data_dir=d"]
    sweep_command.main(arguments)
    folder = f"{out}/a-s0/vectors/t"
    flags = [flag for flag in commands[1] if flag.startswith("--")]
    assert sorted(flags) == sorted(
        [f"--model={out}/a-s0", "--records=d/scenes/train", f"--out_dir={folder}", "--name=t"]
        + ["--of=texts", "--drop_images=True"]
    )
    assert "tf_mural.cli.extract" in commands[1][2] and len(commands) == 3
    assert f"--config.x={folder}/train" in commands[2]
    # The command is run again, because it refuses a folder with vectors of other options.
    sweep_command.main(arguments)
    assert len(commands) == 6 and commands[4] == commands[1]


@pytest.mark.parametrize(
    "change, message",
    [
        (('"init": "a"', '"vectors": {}'), "the row 'b' has vectors, but no init that computes"),
        (("COLUMNS", "OTHER"), "lacks COLUMNS"),
        (('"init": "a"', '"init": "c"'), "unknown initial row .of the row 'b'"),
        (('"stage": "mural"', '"stag": "mural"'), "unknown key .of the row 'a'"),
        (('{"stage": "mural"}', "{}"), "the row 'a' names no stage"),
        (('"a"\nRUNS', '"z"\nRUNS'), "unknown baseline 'z'"),
        (('"b": {"stage"', '"+ A": {"stage"'), "rows 'a' and '. A' would share the folder a-s0"),
        (("(0,)", "()"), r"SEEDS is \(\), expected at least one"),
        (("(0,)", "0"), "SEEDS is 0, expected at least one"),
        (('("de", "fr")', "()"), "the column 'both' names no language"),
        (("TITLE", 'DIFFERENCES = {"x": ("b", "c")}\nTITLE'), "row .of the difference 'x'"),
        (('"init": "a"', '"init": "a", "vectors": {"name": "t"}'), "row 'b' lack 'records'"),
        (('"init": "a"', '"overrides": {"x": ("{vectors}/train",)}'), "'b' uses {vectors}, but"),
        (("TITLE", 'DIFFERENCES = {"x": "ab"}\nTITLE'), "difference 'x' is 'ab', expected two"),
        (("TITLE", 'CHART = {"rows": ("a",)}\nTITLE'), "CHART lacks 'groups'"),
        (
            ("TITLE", 'CHART = {"rows": ("c",), "groups": {"x": ("de",)}}\nTITLE'),
            "unknown row .of the chart.",
        ),
        (("TITLE", "1 +"), "cannot be read as a sweep"),
        (
            ('"init": "a"', '"overrides": {"evaluation.retrieval.captions_per_image": 1}'),
            "row 'b' sets evaluation.retrieval.captions_per_image to 1, and 'a' to None: numbers",
        ),
    ],
)
def test_error_of_an_invalid_sweep_names_the_problem(tmp_path, change, message):
    path = tmp_path / "mine.py"
    path.write_text(VALID.replace(*change, 1))
    with pytest.raises(UserError, match=message):
        sweeps.load_sweep(str(path))
    with pytest.raises(UserError, match="no sweep"):
        sweeps.load_sweep(str(tmp_path / "other.py"))


def test_table_shows_means_ranges_and_gains(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(VALID)
    recalls = {
        "a": {0: {"de": 10.0, "fr": 20.0}, 1: {"de": 30.0, "fr": 40.0}},
        "b": {0: {"de": 20.0, "fr": 20.0}, 1: {"de": 40.0, "fr": 44.0}},
    }
    sweeps.write_table(str(tmp_path), sweeps.load_sweep(str(path)), recalls)
    table = (tmp_path / "table.md").read_text()
    assert "25.0 (15.0 to 35.0)" in table and "31.0 (20.0 to 42.0)" in table and "+6.0" in table
    assert "seeds 0, 1" in table and "25.0 (15.0 to 35.0)" in capsys.readouterr().out
    columns = json.loads((tmp_path / "sweep.json").read_text())["columns"]
    assert columns["b"]["both"] == [20.0, 42.0]


def test_differences_have_paired_intervals_and_a_chart_is_drawn(tmp_path):
    """The rows differ more between the seeds than from each other."""
    path = tmp_path / "mine.py"
    chart = {"rows": ("a", "b"), "groups": {"first": ("de",), "second": ("fr",)}}
    path.write_text(VALID + f'DIFFERENCES = {{"b - a": ("b", "a")}}\nCHART = {chart}\n')
    a, gains = [10.0, 30.0, 50.0, 70.0, 90.0], [1.0, 2.0, 3.0, 4.0, 5.0]
    recalls = {
        "a": {seed: {"de": value, "fr": value} for seed, value in enumerate(a)},
        "b": {
            seed: {"de": a[seed] + gain, "fr": a[seed] + gain} for seed, gain in enumerate(gains)
        },
    }
    sweeps.write_table(str(tmp_path), sweeps.load_sweep(str(path)), recalls)
    assert "+3.0 (+1.0 to +5.0)" in (tmp_path / "table.md").read_text()
    stored = json.loads((tmp_path / "sweep.json").read_text())["differences"]["b - a"]["both"]
    assert stored["by_seed"] == gains and stored["mean"] == 3
    with Image.open(tmp_path / "average_recall.png") as image:
        assert image.width > 1000
    recalls = {row: {0: values[0]} for row, values in recalls.items()}  # one seed, no interval
    sweeps.write_table(str(tmp_path), sweeps.load_sweep(str(path)), recalls)
    table = (tmp_path / "table.md").read_text()
    assert table.count("+1.0") == 2 and "+1.0 (" not in table and "interval" not in table
    sweep = sweeps.load_sweep(str(path))
    sweep.CHART = {"rows": ("a",), "groups": {"first": ("de", "xx")}}
    with pytest.raises(UserError, match="unknown language .of the chart. 'xx'; known: de, fr"):
        sweeps.write_table(str(tmp_path), sweep, recalls)
    sweep.CHART["groups"] = {"first": ("de",)}
    sweeps.write_table(str(tmp_path), sweep, recalls)  # a chart of a single row


def test_the_spread_of_seeds_is_separate_from_that_of_the_images(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(VALID)
    sweep, recalls = sweeps.load_sweep(str(path)), {"a": {}, "b": {}}
    for row, values in (("a", (10.0, 14.0)), ("b", (20.0, 20.0))):
        for seed, value in enumerate(values):
            workdir = tmp_path / f"{row}-s{seed}"
            workdir.mkdir()
            by_language = {code: {"average_recall": value} for code in ("de", "fr")}
            bounds = {"de": [value - 2, value + 4], "fr": [value - 1, value + 1]}
            intervals = {code: {"average_recall": pair} for code, pair in bounds.items()}
            retrieval = {"values": by_language, "intervals": intervals}
            (workdir / "results.json").write_text(
                json.dumps({"evaluation": {"retrieval": retrieval}})
            )
            recalls[row][seed] = sweeps.average_recalls(str(workdir))
    widths = sweep_spread.recall_half_widths(str(tmp_path / "a-s0"))
    assert widths == {"de": 3.0, "fr": 1.0}
    sweeps.write_table(str(tmp_path), sweep, recalls)
    stored = json.loads((tmp_path / "sweep.json").read_text())["spread"]
    assert stored["a"]["both"] == {"seeds": pytest.approx(8**0.5), "images": 2.0}
    assert stored["b"]["both"] == {"seeds": 0.0, "images": 2.0}
    table = (tmp_path / "table.md").read_text()
    assert "Standard deviation between seeds: 1.4 points. Choice of the images: +-2.0" in table
    assert sweep_spread.recall_half_widths(str(tmp_path / "gone")) == {}


def test_failed_run_stops_the_sweep(monkeypatch):
    monkeypatch.setattr(sweeps.subprocess, "run", lambda c: types.SimpleNamespace(returncode=7))
    with pytest.raises(UserError, match="the run in x ended with exit code 7"):
        sweeps.train_run(["train"], {"stage": "mural"}, "x", 0, None, "tiny", "data")


def test_override_of_the_language_selects_the_captions():
    config = config_loading.load_config("one_language", "tiny")
    config_loading.apply_overrides(config, ["--config.language=ja"])
    assert tuple(config.to_dict()["sources"]["captions"]["languages"]) == ("ja",)
    assert importlib.util.find_spec("configs.one_language")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "name the sweep"),
        (["nosuch.py"], "no sweep 'nosuch.py'"),
        (["--sweep=nosuch.py"], "no sweep 'nosuch.py'"),
        (["a.py", "b.py"], "unexpected argument 'a.py'"),
        (["a.py", "--sweep=b.py"], "unexpected argument 'a.py'"),
    ],
)
def test_sweep_may_be_given_without_its_flag(arguments, message):
    with pytest.raises(UserError, match=message):
        sweep_command.main(arguments)


def test_command_trains_each_row_and_writes_the_table(tmp_path, monkeypatch, capsys):
    """Replaces the training processes by a function that records their commands.

    At the end, the test runs the real training command with --help.
    """
    path = tmp_path / "mine.py"
    path.write_text(VALID)
    commands, done = [], types.SimpleNamespace(returncode=0)
    monkeypatch.setattr(sweeps.subprocess, "run", lambda c: commands.append(c) or done)
    recalls = {"a-s0": {"de": 10.0, "fr": 20.0}, "b-s0": {"de": 20.0, "fr": 20.0}}
    monkeypatch.setattr(sweeps, "average_recalls", lambda d: recalls[os.path.basename(d)])
    (tmp_path / "out").mkdir()
    sweep_command.main([str(path), f"--out_dir={tmp_path / 'out'}"])
    assert "[2/2] b, seed 0" in capsys.readouterr().out
    assert "+5.0" in (tmp_path / "out" / "table.md").read_text()
    first, second = commands
    assert f"--init={tmp_path / 'out' / 'a-s0'}" in second and "--stage=mural" in first
    monkeypatch.undo()
    help_command = [*sweep_command.TRAIN_COMMAND, "--help"]
    shown = subprocess.run(help_command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert shown.returncode == 0 and shown.stdout.startswith("Trains a stage")
