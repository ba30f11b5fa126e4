"""Repeats the runs of a table of README.md or docs/evidence.md, and compares the results:

    python tools/reproduce.py --list
    python tools/reproduce.py --table=miniature
    python tools/reproduce.py --table=readme

Each cell of the table is printed beside the written value and its band. The band is a 95 %
prediction interval, which the spread of the written seeds determines: the mean of the new runs lies
in the band with a probability of 95 %. The exit code is 1 if a cell is outside of its band.

A separate process trains each run in the folder runs/sweeps/<sweep>/<row>-s<seed>, as
tools/sweep.py does. Finished runs are not trained again; therefore, the same command continues
after a stop, and another --out_dir trains all runs again. The cells are also written to
reproduced-<table>.json in the folder of the sweep.

After a change of the code that changes results, --update writes the new values to the file of the
table in this repository, and prints the tables of the pages that contain them:

    python tools/reproduce.py --table=scenes --update --machine="two cores of an AMD EPYC"
"""

import datetime
import importlib.metadata
import os
import platform
import subprocess

from absl import flags

from tf_mural import file_io
from tf_mural.cli import app
from tf_mural.cli import sweep as sweep_command
from tf_mural.errors import UserError, lookup
from tf_mural.experiment import sweep as sweeps
from tf_mural.reports import measured

FLAGS = flags.FlagValues()
_TABLE = flags.DEFINE_string(
    "table",
    None,
    "Name of a table, which --list prints, or readme for all tables of README.md. Required.",
    flag_values=FLAGS,
)
_LIST = flags.DEFINE_bool(
    "list", False, "Prints the tables and where they were measured.", flag_values=FLAGS
)
_SEEDS = flags.DEFINE_list(
    "seeds",
    None,
    "Comma-separated seeds. Default: the seeds of the table. Fewer seeds have wider bands.",
    flag_values=FLAGS,
)
_OUT_DIR = flags.DEFINE_string(
    "out_dir", os.path.join("runs", "sweeps"), "Folder of the runs.", flag_values=FLAGS
)
_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Folder of the record sets.", flag_values=FLAGS)

_UPDATE = flags.DEFINE_bool(
    "update",
    False,
    "Replaces the written values of the table by those of the runs, and their date and commit.",
    flag_values=FLAGS,
)
_MACHINE = flags.DEFINE_string(
    "machine", None, "With --update: description of this machine. Required.", flag_values=FLAGS
)

ALL_OF_README = "readme"
_PACKAGES = ("tensorflow", "keras", "keras-hub", "numpy")


def main(argv=None):
    """Repeats runs and compares them. `argv` is a list of flags; None: the command line."""
    app.parse(FLAGS, argv, __doc__, argument="table")
    if _LIST.value:
        _print_list()
        return
    if not _TABLE.value:
        raise UserError("name a table: python tools/reproduce.py --table=miniature, or --list")
    if _UPDATE.value and (_TABLE.value == ALL_OF_README or not _MACHINE.value):
        raise UserError("--update needs the name of one table and --machine")
    selected = _select(_TABLE.value)
    for experiment, _ in selected:
        _check_records(experiment)
    seeds = sweep_command.parse_seeds(_SEEDS.value) if _SEEDS.value else None
    outside, num_cells = [], 0
    for experiment, cells in selected:
        compared = _reproduce(experiment, cells, seeds or list(experiment.seeds))
        outside += [cell for cell in compared if cell.is_outside]
        num_cells += len(compared)
    if outside:
        names = "; ".join(f"{cell.row}, {cell.column}" for cell in outside)
        print(f"outside of the band: {len(outside)} of {num_cells} cells: {names}")
        raise SystemExit(1)
    print(f"no cell of {num_cells} is outside of its band")


def _select(table):
    """Returns [(experiment, {row or difference: columns} in the table)]."""
    lookup(dict.fromkeys([*measured.names(), ALL_OF_README]), table, "table")
    if table != ALL_OF_README:
        experiment = measured.load(table)
        return [(experiment, {row: list(columns) for row, columns in experiment.rows.items()})]
    experiments = [measured.load(name) for name in measured.names()]
    selected = [(e, e.cells_on(measured.README)) for e in experiments]
    return [(experiment, cells) for experiment, cells in selected if cells]


def _check_records(experiment):
    folders = [os.path.join(_DATA_DIR.value, name) for name in experiment.records]
    for folder in folders:
        if not os.path.exists(os.path.join(folder, "manifest.json")):
            raise UserError(
                f"the table {experiment.name} needs the record set {folder}, which "
                f"`{experiment.prepare}` makes"
            )


def _reproduce(experiment, cells, seeds):
    """Trains the runs of some cells, and prints and returns the list of `Comparison`."""
    columns = dict.fromkeys(column for row in cells for column in cells[row])
    sweep = sweeps.select_rows(sweeps.load_sweep(experiment.sweep), list(cells), columns)
    name = os.path.splitext(os.path.basename(experiment.sweep))[0]
    out_dir = os.path.join(_OUT_DIR.value, name)
    print(f"{experiment.title}: {len(sweep.RUNS)} runs with {len(seeds)} seeds in {out_dir}")
    for finished in sweep_command.train_runs(sweep, out_dir, seeds, "tiny", _DATA_DIR.value):
        recalls = finished
    values = sweeps.column_values(sweep, recalls)
    for label, by_column in sweeps.difference_values(sweep, values).items():
        values[label] = {column: value["by_seed"] for column, value in by_column.items()}
    values = {row: {column: values[row][column] for column in cells[row]} for row in cells}
    compared = measured.compare(experiment, values)
    _print(experiment, compared, seeds)
    path = os.path.join(out_dir, f"reproduced-{experiment.name}.json")
    file_io.write_json(path, _content(experiment, values, compared, seeds))
    print(f"written to {path}\n", flush=True)
    if _UPDATE.value:
        _update(experiment, values, seeds)
    return compared


def _update(experiment, values, seeds):
    """Writes new values to the file of a table, and prints the tables of the pages."""
    folder = os.path.dirname(os.path.abspath(measured.__file__))
    command = ["git", "-C", folder, "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"--update works in a clone of the repository: {done.stderr.strip()}")
    provenance = {
        "command": f"python tools/reproduce.py --table={experiment.name}",
        "machine": _MACHINE.value,
        "date": datetime.date.today().isoformat(),
        "commit": done.stdout.strip(),
    }
    experiment = measured.with_values(experiment, values, seeds, provenance)
    measured.save(experiment)
    for table in experiment.tables:
        print(f"{table['page']}, {table['section']}, table {table['number']}:\n")
        print(measured.page_table(experiment, table), "\n")


def _print(experiment, compared, seeds):
    from tf_mural import reports

    rows = []
    for number, cell in enumerate(compared):
        if number and compared[number - 1].row != cell.row:
            rows.append(None)
        sign = "+" if cell.row in experiment.differences else ""
        low, high = cell.band or (None, None)
        rows.append(
            [
                cell.row,
                cell.column,
                f"{cell.written:{sign}.1f}",
                None if low is None else f"{low:{sign}.1f} to {high:{sign}.1f}",
                f"{cell.mean:{sign}.1f}",
                "no band" if cell.band is None else "outside" if cell.is_outside else "inside",
            ]
        )
    print(f"\n{experiment.title}, average recall in percent, seeds {', '.join(map(str, seeds))}")
    print(reports.table(rows, ["row", "column", "written", "band", "now", ""]))
    written = ", ".join(map(str, experiment.seeds))
    print(
        f"Written: mean over the seeds {written}, measured on {experiment.provenance['date']} with "
        f"commit {experiment.provenance['commit']} on {experiment.provenance['machine']}."
    )


def _content(experiment, values, compared, seeds):
    """Returns the content of the file that the command writes."""
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {
        "table": experiment.name,
        "seeds": seeds,
        "written": {"seeds": list(experiment.seeds), **experiment.provenance},
        "cells": [
            {
                "row": cell.row,
                "column": cell.column,
                "written": cell.written,
                "band": cell.band,
                "mean": cell.mean,
                "by_seed": values[cell.row][cell.column],
                "is_outside": cell.is_outside,
            }
            for cell in compared
        ],
        "python": platform.python_version(),
        "machine": _machine(),
        "packages": versions,
        "date": datetime.date.today().isoformat(),
    }


def _machine():
    """Returns the processor, its number of cores, and the instructions that change rounding."""
    info = {}
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            pairs = [line.partition(":")[::2] for line in file if ":" in line]
        info = {key.strip(): value.strip() for key, value in pairs}
    flags_of_cpu = info.get("flags", "").split()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "cores": cores,
        "instructions": [name for name in ("avx2", "avx512f") if name in flags_of_cpu],
    }


def _print_list():
    from tf_mural import reports

    rows = []
    for name in measured.names():
        experiment = measured.load(name)
        minutes = "-" if experiment.minutes is None else f"{experiment.minutes:g}"
        pages = dict.fromkeys(table["page"] for table in experiment.tables)
        provenance = [experiment.provenance[key] for key in ("date", "commit")]
        data = ", ".join(dict.fromkeys(name.split("/")[0] for name in experiment.records)) or None
        seeds = ",".join(map(str, experiment.seeds))
        rows.append([name, experiment.title, seeds, minutes, data, *provenance, ", ".join(pages)])
    header = ["table", "content", "seeds", "minutes", "records", "measured", "commit", "pages"]
    print(reports.table(rows, header))
    print(
        "minutes: of all runs with all seeds, on two CPU cores. records: folders in --data_dir "
        "that must exist; if they are missing, an error names the command that makes them."
    )
