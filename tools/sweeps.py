"""What tools/sweep.py reads, runs and writes, apart from its flags."""

import importlib.util
import json
import os
import re
import subprocess
import sys

import common  # noqa: F401  (a clone works without being installed)

from tf_mural.errors import UserError, lookup

TRAIN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "train.py")
NEEDED = ("TITLE", "RUNS", "SEEDS", "COLUMNS", "BASELINE")
KEYS = ("stage", "init", "overrides", "config")


def load(path):
    """The sweep of a file, as a module. Raises UserError for what is no sweep."""
    if not os.path.isfile(path):
        raise UserError(f"no sweep {path!r}; configs/sweeps/ has some")
    spec = importlib.util.spec_from_file_location("sweep_file", path)
    if spec is None:
        raise UserError(f"{path} is no Python file")
    sweep = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(sweep)
    except Exception as error:
        raise UserError(f"{path} cannot be read as a sweep: {error}") from error
    missing = [name for name in NEEDED if not hasattr(sweep, name)]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; configs/sweeps/__init__.py tells more")
    for name in ("RUNS", "SEEDS", "COLUMNS"):
        if not isinstance(getattr(sweep, name), dict | tuple | list) or not getattr(sweep, name):
            raise UserError(f"{path}: {name} is {getattr(sweep, name)!r}, expected some")
    if empty := [column for column, languages in sweep.COLUMNS.items() if not languages]:
        raise UserError(f"{path}: the column {empty[0]!r} names no language")
    before, folders = {}, {}
    for row, run in sweep.RUNS.items():
        folder = workdir_of("", row, 0)
        if folder in folders:
            raise UserError(
                f"{path}: the rows {folders[folder]!r} and {row!r} would share the folder "
                f"{folder}; name one of them otherwise, in letters a to z and digits"
            )
        folders[folder] = row
        for key in run:
            lookup(dict.fromkeys(KEYS), key, f"key (of the row {row!r})")
        if "stage" not in run:
            raise UserError(f"{path}: the row {row!r} names no stage")
        if "init" in run:
            lookup(before, run["init"], f"row to start from (of the row {row!r}), before it")
        before[row] = run
    if sweep.BASELINE is not None:
        lookup(sweep.RUNS, sweep.BASELINE, "baseline")
    return sweep


def workdir_of(out_dir, row, seed):
    """Folder of a run: the row's name in letters that any file system takes."""
    return os.path.join(out_dir, f"{re.sub(r'[^a-z0-9]+', '-', row.lower()).strip('-')}-s{seed}")


def train(run, workdir, seed, init, size, data_dir):
    """Trains one run in a process of its own, or finds it finished."""
    flags_ = {
        "stage": run["stage"],
        "size": size,
        "seed": seed,
        "workdir": workdir,
        "data_dir": data_dir,
        "init": init,
        "config": run.get("config"),
        "config.report.beside": (),  # the table does that
        "config.report.control": "",
        **{f"config.{key}": value for key, value in run.get("overrides", {}).items()},
    }
    command = [sys.executable, TRAIN]
    command += [f"--{key}={_text(value)}" for key, value in flags_.items() if value is not None]
    code = subprocess.run(command).returncode
    if code:
        raise UserError(
            f"the run in {workdir} ended with code {code}; mended, the same command goes on with it"
        )


def _text(value):
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def recalls(workdir):
    """{language: average recall} of a finished run."""
    with open(os.path.join(workdir, "results.json"), encoding="utf-8") as file:
        evaluation = json.load(file)["evaluation"]
    if "retrieval" not in evaluation:
        raise UserError(f"{workdir} was not evaluated by retrieval, which a sweep compares")
    values = evaluation["retrieval"]["values"]
    return {language: value["average_recall"] for language, value in values.items()}


def cells(sweep, results):
    """{row: {column: [value of each seed]}}, of rows and seeds that are there."""
    found = {}
    for row, by_seed in results.items():
        found[row] = {}
        for column, languages in sweep.COLUMNS.items():
            for recall in by_seed.values():
                for code in languages:
                    lookup(recall, code, f"language (of the column {column!r})")
            found[row][column] = [
                sum(recall[code] for code in languages) / len(languages)
                for recall in by_seed.values()
            ]
    return found


def write(out_dir, sweep, results):
    """Prints the table so far, and writes it with its numbers."""
    from tf_mural import reports
    from tf_mural.training import checkpoints

    found = cells(sweep, results)
    base = found.get(sweep.BASELINE)
    rows = []
    for row, columns in found.items():
        line = [row]
        for column, values in columns.items():
            line.append(_shown(values))
            if base is not None:
                gains = [a - b for a, b in zip(values, base[column], strict=True)]
                line.append("" if row == sweep.BASELINE else f"{_mean(gains):+.1f}")
        rows.append(line)
    heads = ["run"]
    for column in sweep.COLUMNS:
        heads += [column] + (["gain"] if base is not None else [])
    seeds = sorted({seed for by_seed in results.values() for seed in by_seed})
    note = "Average recall in percent, "
    if len(seeds) > 1:
        note += f"mean over the seeds {', '.join(map(str, seeds))}, least to most in brackets."
    else:
        note += f"seed {seeds[0]}."
    if base is not None:
        note += f" Gains over {sweep.BASELINE}."
    print(f"\n{sweep.TITLE}\n{reports.table(rows, heads)}\n{note}\n", flush=True)
    with open(os.path.join(out_dir, "table.md"), "w", encoding="utf-8") as file:
        file.write(f"{sweep.TITLE}\n\n{reports.table(rows, heads, markdown=True)}\n\n{note}\n")
    runs = {row: {"run": sweep.RUNS[row], "recall": results[row]} for row in results}
    checkpoints.write_json(
        os.path.join(out_dir, "sweep.json"),
        {"title": sweep.TITLE, "baseline": sweep.BASELINE, "runs": runs, "columns": found},
    )


def _mean(values):
    return sum(values) / len(values)


def _shown(values):
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{_mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"
