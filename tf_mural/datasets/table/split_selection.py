"""Selects the rows of a split of a table and groups them to records."""

import array

import numpy as np

from tf_mural.datasets.table import columns
from tf_mural.errors import UserError


def resolve_split_column(table, file, option, used):
    """Returns the column of the splits, or None if there is none or the file name gives the split.

    Args:
        table: `rows.Table`.
        file: the option `file`, or None.
        option: the option `split_column`, or None.
        used: names of the columns that other options use.
    """
    is_default = option is None and "{split}" not in (file or "") and "split" not in used
    return "split" if is_default and _has_split_column(table) else option or None


def _has_split_column(table):
    if not table.json:
        return "split" in table.columns
    parsed = (table.row(data, line) for line, _, data in table.spans() if b'"split"' in data)
    return any(isinstance(row, dict) and "split" in row for row in parsed)


def list_splits(table, split_column):
    """Returns the splits that occur in a column, in order. Raises UserError for an empty column."""
    names = {}
    for line, _, data in table.spans():
        row = table.row(data, line)
        if not isinstance(row, str) and (name := columns.first_value(row, split_column)):
            names[name] = None
    if not names:
        listed = ", ".join(table.columns)
        raise UserError(
            f"{table.path} names no split in {split_column!r}; columns: {listed}; set "
            f'split_column to another one, or to "" if all rows are in one split'
        )
    return tuple(names)


def find_records(table, resolved, split_column, split):
    """Finds the rows of a split and the records that they form.

    Args:
        table: `rows.Table`.
        resolved: `columns.Columns`.
        split_column: column of the splits, or None for all rows.
        split: name of the split.

    Returns:
        (starts, ends, lines, cuts), int64 arrays: the first byte, the end and the line of each row,
        sorted by record, and the boundaries between records.

    Raises:
        UserError: no row is in the split.
    """
    starts, ends, lines, groups = (array.array("q") for _ in range(4))
    group_by_key, count, other_splits, in_split = {}, 0, {}, 0
    needs_row = split_column is not None or resolved.layout == "long"
    for line, start, data in table.spans():
        row = table.row(data, line) if needs_row else ""
        key = None
        if not isinstance(row, str):
            name = columns.first_value(row, split_column)
            if name != split and name is not None:
                other_splits[name] = None
                continue
            # A row without a split forms a record of its own, which is skipped.
            has_split = split_column is None or name is not None
            key = resolved.key(row) if resolved.layout == "long" and has_split else None
            in_split += has_split
        group = count if key is None else group_by_key.setdefault(key, count)
        count = max(count, group + 1)
        starts.append(start)
        ends.append(start + len(data))
        lines.append(line)
        groups.append(group)
    if not in_split and other_splits:
        listed = ", ".join(other_splits)
        raise UserError(
            f"{table.path} has no rows of the split {split!r} in {split_column!r}; it has: {listed}"
        )
    arrays = [np.array(values, np.int64) for values in (starts, ends, lines, groups)]
    order = np.argsort(arrays[3], kind="stable")
    starts, ends, lines, groups = (values[order] for values in arrays)
    cuts = np.searchsorted(groups, np.arange(count + 1))
    return starts, ends, lines, cuts
