"""Trains a list of runs, one after another, and sets them in one table.

    python tools/sweep.py --sweep=configs/sweeps/table5.py
    python tools/sweep.py --sweep=configs/sweeps/table7.py --seeds=0,1

A sweep is a file of plain data: what it holds is told in configs/sweeps/__init__.py. Each run goes
through tools/train.py in a process of its own, in runs/sweeps/<sweep>/<row>-s<seed>; what is
finished is not done again, so the same command goes on where it was stopped. The table is printed
after every seed, and written to table.md and sweep.json in the sweep's folder.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import time

import common
from absl import flags

from tf_mural.base import UserError, pick

_SWEEP = flags.DEFINE_string("sweep", None, "The file of the sweep. Required.")
_SEEDS = flags.DEFINE_list("seeds", None, "Seeds, parted by commas. Default: those of the sweep.")
_SIZE = flags.DEFINE_string("size", "tiny", "Size of all runs, see tools/train.py.")
_OUT_DIR = flags.DEFINE_string(
    "out_dir", None, "Folder of the runs and the table. Default: runs/sweeps/<name of the sweep>."
)
_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Folder of the record sets.")

TRAIN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "train.py")
NEEDED = ("TITLE", "RUNS", "SEEDS", "COLUMNS", "BASELINE")
KEYS = ("stage", "init", "overrides", "config")


def main():
    if not _SWEEP.value:
        raise UserError("say which sweep: --sweep=configs/sweeps/table5.py")
    sweep = load(_SWEEP.value)
    name = os.path.splitext(os.path.basename(_SWEEP.value))[0]
    out_dir = _OUT_DIR.value or os.path.join("runs", "sweeps", name)
    seeds = [_seed(text) for text in _SEEDS.value] if _SEEDS.value else list(sweep.SEEDS)
    total, done, began = len(seeds) * len(sweep.RUNS), 0, time.monotonic()
    results = {row: {} for row in sweep.RUNS}
    for seed in seeds:
        for row, run in sweep.RUNS.items():
            workdir = workdir_of(out_dir, row, seed)
            init = workdir_of(out_dir, run["init"], seed) if "init" in run else None
            spent = time.monotonic() - began
            left = f", about {spent / done * (total - done) / 60:.0f} min left" if done else ""
            print(f"[{done + 1}/{total}] {row}, seed {seed}{left}", flush=True)
            train(run, workdir, seed, init)
            results[row][seed] = recalls(workdir)
            done += 1
        write(out_dir, sweep, results)
    print(f"written to {os.path.join(out_dir, 'table.md')}")


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
    before = {}
    for row, run in sweep.RUNS.items():
        for key in run:
            pick(dict.fromkeys(KEYS), key, f"key (of the row {row!r})")
        if "stage" not in run:
            raise UserError(f"{path}: the row {row!r} names no stage")
        if "init" in run:
            pick(before, run["init"], f"row to start from (of the row {row!r}), before it")
        before[row] = run
    if sweep.BASELINE is not None:
        pick(sweep.RUNS, sweep.BASELINE, "baseline")
    return sweep


def _seed(text):
    if not text.isdecimal():
        raise UserError(f"--seeds: expected whole numbers, got {text!r}")
    return int(text)


def workdir_of(out_dir, row, seed):
    """Folder of a run: the row's name in letters that any file system takes."""
    return os.path.join(out_dir, f"{re.sub(r'[^a-z0-9]+', '-', row.lower()).strip('-')}-s{seed}")


def train(run, workdir, seed, init):
    """Trains one run in a process of its own, or finds it finished."""
    flags_ = {
        "stage": run["stage"],
        "size": _SIZE.value,
        "seed": seed,
        "workdir": workdir,
        "data_dir": _DATA_DIR.value,
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
                    pick(recall, code, f"language (of the column {column!r})")
            found[row][column] = [
                sum(recall[code] for code in languages) / len(languages)
                for recall in by_seed.values()
            ]
    return found


def write(out_dir, sweep, results):
    """Prints the table so far, and writes it with its numbers."""
    from tf_mural import checkpoints, reports

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
    note = f"Average recall in percent, mean over the seeds {', '.join(map(str, seeds))}"
    note += ", least to most in brackets." if len(seeds) > 1 else "."
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


if __name__ == "__main__":
    common.run(main)
