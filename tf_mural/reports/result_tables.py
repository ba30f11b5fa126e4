"""Tables of results, and the numbers of a result by language and metric."""

import math

from tf_mural.errors import lookup
from tf_mural.evaluation import metrics
from tf_mural.reports.tables import table

_UNITS = {"consistency": "in doublings of rank, r1 in percent"}


def flatten_values(values):
    """Flattens nested values to {(key, metric): value}.

    {"en": {"accuracy": 1.0}, "groups": {"all": {"accuracy": 2.0}}} becomes
    {("en", "accuracy"): 1.0, ("groups/all", "accuracy"): 2.0}. Everything that is not a dict is a
    value.
    """
    flat = {}
    for name, value in values.items():
        if not isinstance(value, dict):
            flat["", name] = value
            continue
        for (key, metric), inner in flatten_values(value).items():
            flat[f"{name}/{key}" if key else name, metric] = inner
    return flat


def headline_values(result):
    """Returns {name: number} of the values that have a confidence interval.

    A name is "<key>/<metric>" if several metrics have intervals, otherwise only the key, which is a
    language or a group.
    """
    values = flatten_values(result.values)
    cells = [cell for cell in flatten_values(result.intervals) if cell in values]
    has_several = len({metric for _, metric in cells}) > 1
    names = {cell: cell if has_several else (cell[0] or cell[1],) for cell in cells}
    return {"/".join(filter(None, names[cell])): values[cell] for cell in cells}


def _has_recalls(result):
    """Returns whether the values are recalls, which other protocols of retrieval do not have."""
    return result.task == "retrieval" and all(
        "average_recall" in values for values in result.values.values()
    )


def task_unit(task):
    """Returns the unit of a task's values: "in percent" for most tasks."""
    return _UNITS.get(task, "in percent")


def result_table(result, markdown=False):
    """Returns a table with a row per language or group and a column per metric.

    Args:
        result: `Result` of any task.
        markdown: Whether to return a Markdown table.
    """
    if _has_recalls(result):
        return recall_table(result, markdown=markdown)
    values, intervals = flatten_values(result.values), flatten_values(result.intervals)
    names = list(dict.fromkeys(metric for _, metric in values))
    with_interval = [name for name in names if any(name == metric for _, metric in intervals)]
    rows = []
    for key in dict.fromkeys(key for key, _ in values):
        cells = []
        for name in names:
            cells.append(_as_cell(values.get((key, name))))
            if name in with_interval:
                cells.append(format_interval(intervals.get((key, name))))
        rows.append([key, *cells])
    columns = [[name, "95 %"] if name in with_interval else [name] for name in names]
    return table(rows, ["", *(name for pair in columns for name in pair)], markdown)


def sizes_table(result, markdown=False):
    """Returns the tables of a result with several sizes of the embeddings.

    Retrieval has one table of average recall, with a column per size. Any other task has one table
    per size.

    Args:
        result: `Result` with `sizes`.
        markdown: whether to return Markdown tables.
    """
    results = {size: result.of_size(size) for size in result.sizes}
    if _has_recalls(result):
        return retrieval_table(results, markdown=markdown)
    tables = [f"size {size}:\n{result_table(r, markdown)}" for size, r in results.items()]
    return "\n\n".join(tables)


def retrieval_table(results, groups=None, control=None, markdown=False):
    """Returns a table of average recall per language, one column per model.

    The mean of a group is computed over the languages for which every model has a value. A missing
    value is printed as "-".

    Args:
        results: dict from model to its `Result` of the retrieval task.
        groups: {name of a group: its languages}. Each group is printed as a section with a mean.
            Languages that are in no group are in the section "other". Default: one section.
        control: Model whose average recall is subtracted from the average recall of the other
            models; None: no differences are printed.
        markdown: Whether to return a Markdown table.
    """
    if control is not None:
        lookup(results, control, "control")
    values = {model: result.values for model, result in results.items()}
    languages = list(dict.fromkeys(code for by_code in values.values() for code in by_code))
    gaining = [model for model in values if control is not None and model != control]
    rows = []
    for group, members in group_languages(languages, groups).items():
        rows += [[f"{group}:"] + [""] * (1 + len(values) + len(gaining))] if group else []
        lines = {code: _retrieval_line(code, values, control, gaining) for code in members}
        rows += [[code, *line] for code, line in lines.items()]
        complete = {code: line for code, line in lines.items() if None not in line[1:]}
        if len(complete) > 1:
            means = [_column_mean(column) for column in zip(*complete.values(), strict=True)]
            rows.append([f"mean of {len(complete)}", *means])
        rows.append(None)
    num_unsigned = len(values) + 2
    rows = [
        row and row[:num_unsigned] + [_format_gain(cell) for cell in row[num_unsigned:]]
        for row in rows[:-1]
    ]
    columns = ["AR (%)", "chance", *values, *(f"{model} - {control}" for model in gaining)]
    return table(rows, columns, markdown)


def recall_table(result, groups=None, markdown=False):
    """Returns a table of one model's recalls in percent, with their average, interval and chance.

    Args:
        result: `Result` of the retrieval task.
        groups: {name of a group: its languages}, in the order of the rows.
        markdown: Whether to return a Markdown table.
    """
    names = [f"{direction}_r{k}" for direction in ("i2t", "t2i") for k in metrics.RECALL_KS]
    rows = []
    for members in group_languages(list(result.values), groups).values():
        for code in members:
            values = result.values[code]
            low, high = result.intervals.get(code, {}).get("average_recall", (math.nan, math.nan))
            interval = None if math.isnan(low) else f"{low:.1f} to {high:.1f}"
            cells = [values[name] for name in (*names, "average_recall")]
            rows.append([code, *cells, interval, values.get("chance")])
        rows.append(None)
    headings = [name.replace("_r", " R@") for name in names]
    return table(rows[:-1], ["%", *headings, "AR", "95 %", "chance"], markdown)


def group_languages(languages, groups):
    """Returns {group: members of the group that are in `languages`}.

    Languages that are in no group are in the group "other". If `groups` is None, all languages are
    in the group "". Empty groups are left out.
    """
    if not groups:
        return {"": list(languages)}
    grouped = {code for members in groups.values() for code in members}
    by_group = {name: [c for c in members if c in languages] for name, members in groups.items()}
    by_group["other"] = by_group.get("other", []) + [c for c in languages if c not in grouped]
    return {name: members for name, members in by_group.items() if members}


def format_interval(bounds, signed=False):
    """Returns an interval as text, for example "10.0 to 12.5"; None if there is no interval."""
    if bounds is None or any(math.isnan(bound) for bound in bounds):
        return None
    low, high = (f"{bound:+.1f}" if signed else f"{bound:.1f}" for bound in bounds)
    return f"{low} to {high}"


def _retrieval_line(code, values, control, gaining):
    """Returns chance, average recalls and gains of a language; None for missing values."""
    recalls = {
        model: by_code.get(code, {}).get("average_recall") for model, by_code in values.items()
    }
    chances = (
        by_code[code]["chance"] for by_code in values.values() if "chance" in by_code.get(code, {})
    )
    gains = [
        None if None in (recalls[model], recalls[control]) else recalls[model] - recalls[control]
        for model in gaining
    ]
    return [next(chances, None), *recalls.values(), *gains]


def _column_mean(column):
    return None if None in column else sum(column) / len(column)


def _format_gain(cell):
    return f"{cell:+.1f}" if isinstance(cell, float) else cell


def _as_cell(value):
    return value if value is None or isinstance(value, int | str) else float(value)
