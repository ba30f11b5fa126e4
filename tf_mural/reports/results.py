"""Results of any task as rows: nested values laid flat, a table, and the numbers that count."""

import math

from tf_mural.reports.tables import recall_table, table

_UNITS = {"consistency": "in doublings of rank, r1 in percent"}


def flat(values):
    """Nested values as {(key, measure): value}.

    {"en": {"accuracy": 1.0}, "groups": {"all": {"accuracy": 2.0}}} has the places
    ("en", "accuracy") and ("groups/all", "accuracy"). What is no dict is a value.
    """
    found = {}
    for name, value in values.items():
        if not isinstance(value, dict):
            found["", name] = value
            continue
        for (key, measure), inner in flat(value).items():
            found[f"{name}/{key}" if key else name, measure] = inner
    return found


def headline(result):
    """{name: number} of the numbers that have an interval: those that a task is run for.

    A name is the key, a language or group, and with it the measure where there are several.
    """
    values = flat(result.values)
    places = [place for place in flat(result.intervals) if place in values]
    several = len({measure for _, measure in places}) > 1
    names = {place: place if several else (place[0] or place[1],) for place in places}
    return {"/".join(filter(None, names[place])): values[place] for place in places}


def unit(task):
    """What the numbers of a task are in: "in percent" of almost all."""
    return _UNITS.get(task, "in percent")


def result_table(result, markdown=False):
    """A table of what a task measured: a row a language or group, a column a measure.

    Args:
        result: `Result` of any task.
        markdown: whether to write a Markdown table.
    """
    if result.task == "retrieval":
        return recall_table(result, markdown=markdown)
    values, intervals = flat(result.values), flat(result.intervals)
    measures = list(dict.fromkeys(measure for _, measure in values))
    with_interval = [m for m in measures if any(measure == m for _, measure in intervals)]
    rows = []
    for key in dict.fromkeys(key for key, _ in values):
        cells = []
        for measure in measures:
            cells.append(_number(values.get((key, measure))))
            if measure in with_interval:
                cells.append(interval(intervals.get((key, measure))))
        rows.append([key, *cells])
    columns = [[m, "95 %"] if m in with_interval else [m] for m in measures]
    return table(rows, ["", *(name for pair in columns for name in pair)], markdown)


def interval(bounds, signed=False):
    """ "10.0 to 12.5", or None where there is none."""
    if bounds is None or any(math.isnan(bound) for bound in bounds):
        return None
    low, high = (f"{bound:+.1f}" if signed else f"{bound:.1f}" for bound in bounds)
    return f"{low} to {high}"


def _number(value):
    return value if value is None or isinstance(value, int | str) else float(value)
