"""Which rows of a table are of a split, and which of them make up one record."""

import array

import numpy as np

from tf_mural.datasets.table import columns
from tf_mural.errors import UserError


def split_column(table, file, given, taken):
    """The column of the splits; None where the file's name says it, or nothing does."""
    guess = given is None and "{split}" not in (file or "") and "split" not in taken
    return "split" if guess and _has_split(table) else given or None


def _has_split(table):
    if not table.json:
        return "split" in table.columns
    found = (table.row(data, line) for line, _, data in table.spans() if b'"split"' in data)
    return any(isinstance(row, dict) and "split" in row for row in found)


def find_records(table, meaning, split_column, split):
    """(starts, ends, lines) of the rows of a split, records together, and `cuts` between them."""
    starts, ends, lines, groups = (array.array("q") for _ in range(4))
    group_of, count, other_splits, kept = {}, 0, {}, 0
    needs_row = split_column is not None or meaning.layout == "long"
    for line, start, data in table.spans():
        row = table.row(data, line) if needs_row else ""
        key = None
        if not isinstance(row, str):
            found = columns.first(row, split_column)
            if found != split and found is not None:
                other_splits[found] = None
                continue
            named = split_column is None or found is not None  # else it is dropped by itself
            key = meaning.key(row) if meaning.layout == "long" and named else None
            kept += named
        group = count if key is None else group_of.setdefault(key, count)
        count = max(count, group + 1)
        starts.append(start)
        ends.append(start + len(data))
        lines.append(line)
        groups.append(group)
    if not kept and other_splits:
        known = ", ".join(other_splits)
        raise UserError(
            f"{table.path} has no rows of the split {split!r} in {split_column!r}; it has: {known}"
        )
    columns_of_rows = [np.array(a, np.int64) for a in (starts, ends, lines, groups)]
    order = np.argsort(columns_of_rows[3], kind="stable")
    starts, ends, lines, groups = (column[order] for column in columns_of_rows)
    cuts = np.searchsorted(groups, np.arange(count + 1))
    return starts, ends, lines, cuts
