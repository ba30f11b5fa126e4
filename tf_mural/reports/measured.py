"""Measured results: the values of the tables in README.md and docs/evidence.md, with their bands.

Each file of numbers/measured/ has the results of one experiment: the average recalls of the rows
of a sweep, one value per seed, and how they were measured. tests/test_measured.py compares the
tables of the pages with these files, and tools/reproduce.py compares new runs with them.
"""

import dataclasses
import glob
import json
import os

import numpy as np

from tf_mural import file_io
from tf_mural.errors import UserError, lookup
from tf_mural.evaluation.metrics import seeds_interval
from tf_mural.reports.tables import table as reports_table

FOLDER = os.path.join(os.path.dirname(__file__), "numbers", "measured")
PROVENANCE = ("command", "machine", "date", "commit")
_REQUIRED = ("title", "sweep", "seeds", "values", "tables")
README = "README.md"
# Half of the width of a band, in points, below which differences have no meaning: on processors
# with other instructions, results of the same seed differ by rounding.
MIN_HALF_WIDTH = 0.5


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table: a mean over seeds.

    Attributes:
        by_seed: tuple of the values of the seeds; () if only the mean is known.
        mean: mean as written, which is rounded to one decimal in the pages.
    """

    by_seed: tuple
    mean: float

    def band(self, count):
        """Returns the band in which a mean over new seeds should lie, or None.

        The band is the 95 % prediction interval of Student's t-distribution: if the new values and
        the written ones have the same normal distribution, 95 % of the new means lie in the band.
        It is at least `MIN_HALF_WIDTH` wide on each side.

        Args:
            count: number of new seeds.

        Returns:
            (low, high); None if fewer than two values are known, which show no spread.
        """
        if len(self.by_seed) < 2:
            return None
        low, high = seeds_interval(self.by_seed)
        # The interval of the mean has the factor sqrt(1 / n), the prediction interval has
        # sqrt(1 / n + 1 / count).
        half = (high - low) / 2 * np.sqrt(1 + len(self.by_seed) / count)
        half = max(half, MIN_HALF_WIDTH)
        return float(self.mean - half), float(self.mean + half)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Results of one experiment.

    Attributes:
        name: name of the file without its extension.
        title: title of the table.
        sweep: path of the sweep, which contains the rows.
        seeds: tuple of the seeds.
        values: {row of the sweep: {column: `Cell`}}, average recalls in percent. A column is a
            column of the sweep or a language.
        differences: {label of a difference of the sweep: {column: `Cell`}}, in points.
        tables: list of dicts, the tables of the pages that contain the values: "page", "section"
            (heading), "number" (position of the table in the section, from 0), "style" (see
            `format_cell`), "rows" ({label on the page: name of a row or difference, or None for
            other values}), "columns" ({label on the page: name of a column, None for other values,
            or ["gain", column, row that is subtracted]}), "transposed" (whether the page has the
            rows as columns).
        provenance: dict with the keys `PROVENANCE`.
        records: tuple of the record sets that must be in the data folder before the first run.
        prepare: command that makes these record sets.
        minutes: minutes of processor time of all runs with all seeds, on two cores.
    """

    name: str
    title: str
    sweep: str
    seeds: tuple
    values: dict
    differences: dict
    tables: list
    provenance: dict
    records: tuple = ()
    prepare: str = ""
    minutes: float | None = None

    def cell(self, name, column):
        """Returns the `Cell` of a row or of a difference; raises UserError if it is unknown."""
        columns = lookup(self.rows, name, "row")
        return lookup(columns, column, f"column (of the row {name!r})")

    @property
    def rows(self):
        """The rows and the differences: {name: {column: `Cell`}}."""
        return {**self.values, **self.differences}

    def cells_on(self, page):
        """Returns {row or difference: list of columns}, the cells in the tables of a page."""
        cells = {}
        for table in self.tables:
            if table["page"] == page:
                columns = [c for c in table["columns"].values() if isinstance(c, str)]
                for row in filter(None, table["rows"].values()):
                    cells.setdefault(row, []).extend(columns)
        return cells


def names():
    """Returns the names of all experiments, sorted."""
    paths = glob.glob(os.path.join(FOLDER, "*.json"))
    return sorted(os.path.basename(path).removesuffix(".json") for path in paths)


def load(name):
    """Returns the `Experiment` with a name.

    Raises:
        UserError: the name is unknown, or the file lacks a value.
    """
    lookup(dict.fromkeys(names()), name, "table")
    path = os.path.join(FOLDER, f"{name}.json")
    with open(path, encoding="utf-8") as file:
        content = json.load(file)
    if missing := [key for key in PROVENANCE if not content.get("provenance", {}).get(key)]:
        raise UserError(f"{path}: provenance lacks {missing[0]!r}")
    if missing := [key for key in _REQUIRED if key not in content]:
        raise UserError(f"{path} lacks {missing[0]!r}")
    for part in ("values", "differences"):
        content[part] = {
            row: {column: _cell(value) for column, value in columns.items()}
            for row, columns in content.get(part, {}).items()
        }
    for key in ("seeds", "records"):
        content[key] = tuple(content.get(key, ()))
    return Experiment(name=name, **content)


def with_values(experiment, values, seeds, provenance):
    """Returns an `Experiment` with the values of new runs.

    Args:
        experiment: `Experiment` with the same rows and columns.
        values: {row or difference: {column: list of values, one per seed}}.
        seeds: list of the seeds.
        provenance: see `Experiment`.
    """
    cells = {row: {c: _cell(v) for c, v in columns.items()} for row, columns in values.items()}
    return dataclasses.replace(
        experiment,
        seeds=tuple(seeds),
        values={row: cells[row] for row in experiment.values},
        differences={label: cells[label] for label in experiment.differences},
        provenance=provenance,
    )


def save(experiment):
    """Writes the file of an experiment, with one line per cell."""
    parts = []
    for field in dataclasses.fields(experiment):
        value = getattr(experiment, field.name)
        if field.name == "name" or value in ((), "", None):
            continue
        if field.name in ("values", "differences"):
            rows = {row: _lines(columns, 3) for row, columns in value.items()}
            text = _join((f"{json.dumps(row)}: {text}" for row, text in rows.items()), 2, "{}")
        elif field.name == "tables":
            text = _join((json.dumps(table, ensure_ascii=False) for table in value), 2, "[]")
        else:
            text = json.dumps(value, ensure_ascii=False)
        parts.append(f"{json.dumps(field.name)}: {text}")
    path = os.path.join(FOLDER, f"{experiment.name}.json")
    with file_io.atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(_join(parts, 1, "{}") + "\n")


def _lines(columns, indent):
    """Returns the JSON of {column: `Cell`}; values have three decimals."""
    texts = []
    for column, cell in columns.items():
        value = [round(number, 3) for number in cell.by_seed]
        if not value or abs(np.mean(cell.by_seed) - cell.mean) > 1e-6:
            value = {"mean": cell.mean, "by_seed": value}
        texts.append(f"{json.dumps(column)}: {json.dumps(value)}")
    return _join(texts, indent, "{}")


def _join(texts, indent, brackets):
    separator = "\n" + " " * indent
    inner = f",{separator}".join(texts)
    return f"{brackets[0]}{separator}{inner}\n{' ' * (indent - 1)}{brackets[1]}"


def page_table(experiment, table):
    """Returns a table of a page as Markdown, with "-" for cells that the file does not contain.

    Args:
        experiment: `Experiment`.
        table: value of `experiment.tables`.
    """
    rows, columns = list(table["rows"]), list(table["columns"])
    texts = {(r, c): page_cell(experiment, table, r, c) for r in rows for c in columns}
    if table.get("transposed"):
        lines = [[column, *(texts[row, column] for row in rows)] for column in columns]
        return reports_table(lines, ["", *rows], markdown=True)
    lines = [[row, *(texts[row, column] for column in columns)] for row in rows]
    return reports_table(lines, ["", *columns], markdown=True)


def page_cell(experiment, table, row, column):
    """Returns the text of a cell of a page, or None if the file does not contain the cell.

    Args:
        experiment: `Experiment`.
        table: value of `experiment.tables`.
        row, column: labels of the table. If the table is transposed, the page has the rows as
            columns.
    """
    name, target = table["rows"][row], table["columns"][column]
    if name is None or target is None:
        return None
    if isinstance(target, list):
        _, target, baseline = target
        return "" if name == baseline else f"{_gain(experiment, name, target, baseline):+.1f}"
    cell = experiment.cell(name, target)
    if table["style"] != "gain":
        return format_cell(cell, table["style"], name in experiment.differences)
    if name == table["baseline"]:
        return format_cell(cell, "mean")
    return f"{cell.mean:.1f} ({_gain(experiment, name, target, table['baseline']):+.1f})"


def _gain(experiment, name, column, baseline):
    """Returns the mean difference over the seeds that both rows have, which are the first ones."""
    pairs = zip(*(experiment.cell(row, column).by_seed for row in (name, baseline)), strict=False)
    return float(np.mean([a - b for a, b in pairs]))


def _cell(value):
    """Returns a `Cell` of a list of values by seed, or of {"mean", "by_seed"}."""
    if isinstance(value, dict):
        return Cell(tuple(value.get("by_seed", ())), value["mean"])
    return Cell(tuple(value), float(np.mean(value)))


def format_cell(cell, style, signed=False):
    """Returns the text of a cell in a page.

    Args:
        cell: `Cell`.
        style: "mean"; "range": the lowest and the highest value in parentheses; "seeds": all values
            in parentheses; "interval": the 95 % interval of the mean in parentheses. A cell with a
            single value has no parentheses.
        signed: whether positive numbers have a sign, as in differences.
    """
    number = ("{:+.1f}" if signed else "{:.1f}").format
    text = number(cell.mean)
    if style == "mean" or len(cell.by_seed) < 2:
        return text
    if style == "seeds":
        return f"{text} ({', '.join(map(number, cell.by_seed))})"
    if style == "range":
        low, high = min(cell.by_seed), max(cell.by_seed)
    else:
        lookup({"interval": None}, style, "style")
        low, high = seeds_interval(cell.by_seed)
    return f"{text} ({number(low)} to {number(high)})"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A cell of new runs beside the written one.

    Attributes:
        row, column: names of the row or difference, and of the column.
        written: written mean.
        band: (low, high), see `Cell.band`, or None.
        mean: mean over the new seeds.
    """

    row: str
    column: str
    written: float
    band: tuple | None
    mean: float

    @property
    def is_outside(self):
        """Whether the new mean is outside of the band; False if there is no band."""
        return self.band is not None and not self.band[0] <= self.mean <= self.band[1]


def compare(experiment, values):
    """Compares the values of new runs with the written ones.

    Args:
        experiment: `Experiment`.
        values: {row or difference: {column: list of the new values, one per seed}}.

    Returns:
        List of `Comparison`, in the order of `values`.

    Raises:
        UserError: the experiment has no such cell.
    """
    compared = []
    for row, columns in values.items():
        for column, by_seed in columns.items():
            cell = experiment.cell(row, column)
            band, mean = cell.band(len(by_seed)), float(np.mean(by_seed))
            compared.append(Comparison(row, column, cell.mean, band, mean))
    return compared
