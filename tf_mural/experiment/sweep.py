"""Sweeps: lists of runs that are trained one after another and compared in one table."""

import os
import re
import subprocess
import types

from tf_mural import file_io
from tf_mural.errors import UserError, lookup
from tf_mural.evaluation.metrics import seeds_interval
from tf_mural.experiment import sweep_spread
from tf_mural.experiment.config_loading import find_file, import_file

REQUIRED = ("TITLE", "RUNS", "SEEDS", "COLUMNS", "BASELINE")
RUN_KEYS = ("stage", "init", "overrides", "config", "vectors")
_VECTORS_KEYS = ("records", "name", "of")  # flags that `vectors` of a row must contain
# A value of `overrides` of a row with `vectors` may contain this name of their folder.
VECTORS = "{vectors}"


def load_sweep(path):
    """Loads a sweep file as a module, see `configs/sweeps/__init__.py`.

    Raises:
        UserError: the file is missing or is not a sweep.
    """
    if not os.path.isfile(path := find_file(path)):
        raise UserError(f"no sweep {path!r}; configs/sweeps/ contains examples")
    sweep = import_file(path, "sweep", "a file as configs/sweeps/__init__.py describes it")
    missing = [name for name in REQUIRED if not hasattr(sweep, name)]
    if missing:
        raise UserError(
            f"{path} lacks {', '.join(missing)}; configs/sweeps/__init__.py describes a sweep"
        )
    for name in ("RUNS", "SEEDS", "COLUMNS"):
        value = getattr(sweep, name)
        if not isinstance(value, dict | tuple | list) or not value:
            raise UserError(f"{path}: {name} is {value!r}, expected at least one entry")
    if empty := [column for column, languages in sweep.COLUMNS.items() if not languages]:
        raise UserError(f"{path}: the column {empty[0]!r} names no language")
    _check_runs(path, sweep)
    for label, rows in differences(sweep).items():
        if not isinstance(rows, tuple | list) or len(rows) != 2:
            raise UserError(f"{path}: the difference {label!r} is {rows!r}, expected two rows")
        for row in rows:
            lookup(sweep.RUNS, row, f"row (of the difference {label!r})")
    if chart := getattr(sweep, "CHART", None):
        if missing := [name for name in ("rows", "groups") if not chart.get(name)]:
            raise UserError(f"{path}: CHART lacks {missing[0]!r}")
        for row in chart["rows"]:
            lookup(sweep.RUNS, row, "row (of the chart)")
    return sweep


def select_rows(sweep, rows, columns):
    """Returns a sweep with some of the rows, the rows from whose weights they start, and columns.

    Args:
        sweep: see `load_sweep`.
        rows: names of rows and labels of differences, whose two rows are selected.
        columns: names of columns of the sweep, or codes of languages.

    Raises:
        UserError: a row is unknown.
    """
    compared = {label: pair for label, pair in differences(sweep).items() if label in rows}
    missing = [row for row in rows if row not in compared]
    missing += [row for pair in compared.values() for row in pair]
    needed = set()
    while missing:
        row = missing.pop()
        run = lookup(sweep.RUNS, row, "row")
        needed.add(row)
        missing += [run["init"]] if "init" in run else []
    return types.SimpleNamespace(
        TITLE=sweep.TITLE,
        RUNS={row: run for row, run in sweep.RUNS.items() if row in needed},
        SEEDS=sweep.SEEDS,
        COLUMNS={column: sweep.COLUMNS.get(column, (column,)) for column in columns},
        BASELINE=None,
        DIFFERENCES=compared,
    )


def differences(sweep):
    """Returns {label: (row, row that is subtracted)} of the differences of a sweep."""
    return dict(getattr(sweep, "DIFFERENCES", {}))


def _check_runs(path, sweep):
    earlier_rows, folders = {}, {}
    for row, run in sweep.RUNS.items():
        folder = run_workdir("", row, 0)
        if folder in folders:
            raise UserError(
                f"{path}: the rows {folders[folder]!r} and {row!r} would share the folder "
                f"{folder}; rename one of them (only letters a to z and digits count)"
            )
        folders[folder] = row
        for key in run:
            lookup(dict.fromkeys(RUN_KEYS), key, f"key (of the row {row!r})")
        if "stage" not in run:
            raise UserError(f"{path}: the row {row!r} names no stage")
        if "init" in run:
            lookup(earlier_rows, run["init"], f"initial row (of the row {row!r}, above it)")
        _check_vectors(path, row, run)
        earlier_rows[row] = run
    _check_protocols(path, sweep)
    if sweep.BASELINE is not None:
        lookup(sweep.RUNS, sweep.BASELINE, "baseline")


def _check_protocols(path, sweep):
    """Raises a UserError if rows would be evaluated by different protocols of retrieval."""
    names = [f"evaluation.retrieval.{name}" for name in ("protocol", "captions_per_image")]
    rows = list(sweep.RUNS)
    for name in names:
        values = [sweep.RUNS[row].get("overrides", {}).get(name) for row in rows]
        for row, value in zip(rows, values, strict=True):
            if value != values[0]:
                raise UserError(
                    f"{path}: the row {row!r} sets {name} to {value!r}, and {rows[0]!r} to "
                    f"{values[0]!r}: numbers of different protocols are not comparable"
                )


def _check_vectors(path, row, run):
    if "vectors" not in run:
        if any(VECTORS in _format(value) for value in run.get("overrides", {}).values()):
            raise UserError(f"{path}: the row {row!r} uses {VECTORS}, but has no vectors")
        return
    if "init" not in run:
        raise UserError(f"{path}: the row {row!r} has vectors, but no init that computes them")
    if missing := [name for name in _VECTORS_KEYS if not run["vectors"].get(name)]:
        raise UserError(f"{path}: the vectors of the row {row!r} lack {missing[0]!r}")


def run_workdir(out_dir, row, seed):
    """Returns the folder of a run, named by the row (lower case, no punctuation) and the seed."""
    return os.path.join(out_dir, f"{re.sub(r'[^a-z0-9]+', '-', row.lower()).strip('-')}-s{seed}")


def extract_vectors(command, run, init, data_dir):
    """Adds the vectors of a row to record sets, in a separate process.

    The process does nothing if a previous call has added the same vectors.

    Args:
        command: list of strings, the command that extracts vectors, without its flags.
        run: a value of the dict RUNS of the sweep. The dict `vectors` of this value contains flags
            of tools/extract.py; its `records` are relative to `data_dir`.
        init: workdir of the run that computes the vectors.
        data_dir: folder of the record sets.

    Returns:
        The folder of the new record sets, in `init`.

    Raises:
        UserError: the process failed, such as for a folder with vectors of other options.
    """
    flags = dict(run["vectors"])
    folder = os.path.join(init, "vectors", flags["name"])
    sets = [os.path.join(data_dir, name) for name in flags.pop("records")]
    flags |= {"model": init, "records": sets, "out_dir": folder}
    _run([*command, *(f"--{name}={_format(value)}" for name, value in flags.items())], folder)
    return folder


def _run(command, folder):
    if code := subprocess.run(command).returncode:
        raise UserError(
            f"the run in {folder} ended with exit code {code}; after you have fixed the cause, "
            "the same command continues the sweep"
        )


def train_run(command, run, workdir, seed, init, size, data_dir, vectors=None):
    """Trains one run in a separate process. A finished run is not trained again.

    Args:
        command: list of strings, the command that trains, without its flags.
        run: a value of the dict RUNS of the sweep.
        workdir: folder of the run.
        seed: seed of the run, an int.
        init: workdir of the run with the initial weights, or None.
        size: size of the model and its recipe, such as "tiny".
        data_dir: folder of the record sets.
        vectors: result of `extract_vectors`, which replaces "{vectors}" in the overrides.

    Raises:
        UserError: the process failed.
    """
    values = {
        "stage": run["stage"],
        "size": size,
        "seed": seed,
        "workdir": workdir,
        "data_dir": data_dir,
        "init": init,
        "config": run.get("config"),
    }
    values = {name: value for name, value in values.items() if value is not None}
    # The runs compare no stages, because the sweep prints a table of all runs.
    overrides = {"report.compare_with": (), "report.control": None}
    overrides |= run.get("overrides", {})
    values |= {f"config.{name}": value for name, value in overrides.items()}
    flags = [f"--{name}={_format(value)}" for name, value in values.items()]
    if vectors is not None:
        flags = [flag.replace(VECTORS, vectors) for flag in flags]
    _run([*command, *flags], workdir)


def _format(value):
    if value is None:
        return "none"
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def average_recalls(workdir):
    """Returns {language: average recall in percent} of a finished run."""
    evaluation = file_io.read_json(os.path.join(workdir, "results.json"))["evaluation"]
    if "retrieval" not in evaluation:
        raise UserError(
            f"{workdir} has no evaluation by retrieval, but a sweep compares average recalls"
        )
    values = evaluation["retrieval"]["values"]
    return {language: value["average_recall"] for language, value in values.items()}


def column_values(sweep, recalls):
    """Averages the recalls of the languages of each column.

    Args:
        sweep: see `load_sweep`.
        recalls: {row: {seed: {language: average recall}}}.

    Returns:
        Nested dict `values`: `values[row][column]` is the list of the mean recalls, one per seed.

    Raises:
        UserError: a column names a language that was not evaluated.
    """
    values = {}
    for row, by_seed in recalls.items():
        values[row] = {}
        for column, languages in sweep.COLUMNS.items():
            for recall in by_seed.values():
                for code in languages:
                    lookup(recall, code, f"language (of the column {column!r})")
            values[row][column] = [
                sum(recall[code] for code in languages) / len(languages)
                for recall in by_seed.values()
            ]
    return values


def write_table(out_dir, sweep, recalls):
    """Prints the table of the finished runs, and writes table.md, sweep.json and a chart.

    Args:
        out_dir: folder to write to.
        sweep: see `load_sweep`.
        recalls: see `column_values`.
    """
    from tf_mural import reports

    values = column_values(sweep, recalls)
    baseline = values.get(sweep.BASELINE)
    rows = []
    for row, columns in values.items():
        cells = [row]
        for column, by_seed in columns.items():
            cells.append(_mean_and_range(by_seed))
            if baseline is not None:
                gains = [a - b for a, b in zip(by_seed, baseline[column], strict=True)]
                cells.append("" if row == sweep.BASELINE else f"{_mean(gains):+.1f}")
        rows.append(cells)
    header = ["run"]
    for column in sweep.COLUMNS:
        header += [column] + (["gain"] if baseline is not None else [])
    half_widths = {
        row: {s: sweep_spread.recall_half_widths(run_workdir(out_dir, row, s)) for s in by_seed}
        for row, by_seed in recalls.items()
    }
    spread = sweep_spread.spreads(sweep, values, half_widths)
    note = _note(sweep, recalls, baseline is not None) + sweep_spread.note(spread)
    compared = difference_values(sweep, values)
    tables = [(rows, header, note)]
    if compared:
        header = ["difference in points", *sweep.COLUMNS]
        tables.append((_difference_rows(compared), header, _differences_note(recalls)))
    text, markdown = (
        "\n\n".join(
            part
            for rows, header, note in tables
            for part in (reports.table(rows, header, markdown=is_markdown), note)
        )
        for is_markdown in (False, True)
    )
    print(f"\n{sweep.TITLE}\n{text}\n", flush=True)
    with open(os.path.join(out_dir, "table.md"), "w", encoding="utf-8") as file:
        file.write(f"{sweep.TITLE}\n\n{markdown}\n")
    runs = {row: {"run": sweep.RUNS[row], "recall": recalls[row]} for row in recalls}
    content = {"title": sweep.TITLE, "baseline": sweep.BASELINE, "runs": runs, "columns": values}
    if compared:
        content["differences"] = compared
    if spread:
        content["spread"] = spread
    file_io.write_json(os.path.join(out_dir, "sweep.json"), content)
    if chart := getattr(sweep, "CHART", None):
        _draw_chart(os.path.join(out_dir, "average_recall.png"), chart, recalls)


def _draw_chart(path, chart, recalls):
    """Draws the means over the seeds of some rows, per language."""
    from tf_mural import reports

    series = {
        row: {
            code: _mean([lookup(r, code, "language (of the chart)") for r in recalls[row].values()])
            for codes in chart["groups"].values()
            for code in codes
        }
        for row in chart["rows"]
    }
    reports.recall_chart(path, series, chart["groups"])


def difference_values(sweep, values):
    """Returns the differences of a sweep with their paired 95 % intervals.

    Args:
        sweep: see `load_sweep`.
        values: see `column_values`.

    Returns:
        {label: {column: {"by_seed": one difference per seed, "mean", "interval"}}}. "interval" is
        (low, high), see `metrics.seeds_interval`; None for a single seed.
    """
    compared = {}
    for label, (row, subtracted) in differences(sweep).items():
        compared[label] = {}
        for column, by_seed in values[row].items():
            pairs = zip(by_seed, values[subtracted][column], strict=True)
            points = [a - b for a, b in pairs]
            interval = seeds_interval(points) if len(points) > 1 else None
            compared[label][column] = {
                "by_seed": points,
                "mean": _mean(points),
                "interval": interval,
            }
    return compared


def _difference_rows(compared):
    rows = []
    for label, columns in compared.items():
        cells = [label]
        for value in columns.values():
            low, high = value["interval"] or (None, None)
            cells.append(
                f"{value['mean']:+.1f}" + ("" if low is None else f" ({low:+.1f} to {high:+.1f})")
            )
        rows.append(cells)
    return rows


def _note(sweep, recalls, has_baseline):
    seeds = sorted({seed for by_seed in recalls.values() for seed in by_seed})
    note = "Average recall in percent, "
    if len(seeds) > 1:
        note += f"mean over the seeds {', '.join(map(str, seeds))}, with minimum and maximum."
    else:
        note += f"seed {seeds[0]}."
    return note + (f" Gains over {sweep.BASELINE}." if has_baseline else "")


def _differences_note(recalls):
    if len(next(iter(recalls.values()))) == 1:
        return "Difference in points, of a single seed."
    return (
        "Difference of the means over the seeds in points, with the 95 % interval of the paired "
        "differences between the seeds (Student's t-test)."
    )


def _mean(values):
    return sum(values) / len(values)


def _mean_and_range(values):
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{_mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"
