"""Compares results with each other and with published results of the same benchmark.

    python tools/compare.py runs/paper/mural-s0/evals/retrieval/coco.json \\
        runs/paper/etcl-s0/evals/retrieval/coco.json paper
    python tools/compare.py MURAL=a.json ETCL=b.json paper --out_dir=comparison
    python tools/compare.py paper --benchmark=retrieval/flickr30k

Each argument is a file that tools/evaluate.py wrote, or NAME=FILE to name the column. The word
"paper" as an argument adds the results of the paper and of other publications. A second table shows
the differences between the column of the last file and each other column. The command prints the
tables, and writes them to comparison.md, with the charts values.png and gains.png. The command
refuses to compare results of different protocols or records.
"""

import json
import math
import os
import zipfile
import zlib

import numpy as np
from absl import flags

from tf_mural.cli import app
from tf_mural.configs.base import TRIPLE_LANGUAGES
from tf_mural.errors import UserError, lookup
from tf_mural.evaluation.benchmarks import BENCHMARKS, metric_for
from tf_mural.evaluation.metrics import RECALL_KS, join_items
from tf_mural.reports import comparison, published
from tf_mural.reports.result_tables import flatten_values

PAPER = "paper"

FLAGS = flags.FlagValues()
_BENCHMARK = flags.DEFINE_string(
    "benchmark",
    None,
    "Benchmark of the results, if the files do not name it.",
    flag_values=FLAGS,
)
_METRIC = flags.DEFINE_string(
    "measure",
    None,
    "Metric, such as t2i_r1. Default: the headline metric of the benchmark.",
    flag_values=FLAGS,
)
_SETTING = flags.DEFINE_enum(
    "setting",
    "zero-shot",
    published.SETTINGS,
    "Setting in which the published results were obtained.",
    flag_values=FLAGS,
)
_ROWS = flags.DEFINE_list(
    "rows",
    None,
    "Comma-separated names of published models to compare with, or all. Default: the two main "
    "models of the paper, and all models of other publications.",
    flag_values=FLAGS,
)
_CONTROL = flags.DEFINE_string(
    "control",
    None,
    "Name of the column that gains.png subtracts from the last column. Default: the first column.",
    flag_values=FLAGS,
)
_TRAINED = flags.DEFINE_list(
    "trained",
    list(TRIPLE_LANGUAGES),
    "Comma-separated languages with training images; tables and charts list them separately.",
    flag_values=FLAGS,
)
_OUT_DIR = flags.DEFINE_string(
    "out_dir",
    None,
    "Folder for tables and charts. Default: the folder comparison next to the last file.",
    flag_values=FLAGS,
)

# {language of TRIPLE_LANGUAGES: code of this language in Tatoeba}.
_LONG_CODES = {"en": "eng", "de": "deu", "fr": "fra", "cs": "ces", "zh": "cmn", "ja": "jpn"}
# {metric: (label, unit)}. Metrics that are not listed are percentages.
_LABELS = {
    "average_recall": ("Average Recall", "%"),
    "t2i_r10": ("text-to-image R@10", "%"),
    "t2i_ndcg10": ("text-to-image nDCG@10", "%"),
    "i2t_ndcg10": ("image-to-text nDCG@10", "%"),
    "top1": ("accuracy", "%"),
    "r1": ("R@1 of the nearest neighbor", "%"),
    "spearman": ("Spearman's correlation", "x 100"),
    "spread": ("spread of ranks", "doublings"),
    "lag": ("lag in rank", "doublings"),
}
_ITEMS_TOLERANCE = 1e-2  # rounding error of sums in float32, in percent
_LOWER_IS_BETTER = ("spread", "range", "lag")


def main(argv=None):
    """Compares results. `argv` is a list of arguments and flags; None: the command line."""
    arguments = app.parse(FLAGS, argv, __doc__, allow_arguments=True)
    files = [argument for argument in arguments if argument != PAPER]
    with_paper = PAPER in arguments
    results = [_read_result(argument) for argument in files]
    name = _benchmark_name(results, with_paper)
    benchmark = BENCHMARKS.get(name)
    title = name or results[0][1]["task"]
    metric = _METRIC.value or metric_for(title)
    columns = [_column(column_name, result, metric) for column_name, result in results]
    if with_paper:
        columns = [*_published_columns(name, metric), *columns]
    comparison.check_comparable(columns)
    means, sums = (benchmark.means, benchmark.sums) if benchmark else ({}, {})
    for column in columns:
        comparison.add_aggregates(column, means, sums)
    trained = {*_TRAINED.value, *(_LONG_CODES.get(code, code) for code in _TRAINED.value)}
    keys = comparison.ordered_keys(columns)
    groups = comparison.group_keys(keys, trained, (*means, *sums))
    control = columns[0].name if _CONTROL.value is None else _CONTROL.value
    control = lookup({column.name: column for column in columns}, control, "control")
    notes = [f"{metric}, {columns[0].protocol}", *_subset_notes(results, benchmark)]
    folder = _out_dir(files)
    os.makedirs(folder, exist_ok=True)
    _draw_charts(title, metric, columns, control, groups, folder)
    _write_report(title, notes, columns, groups, folder)


def _read_result(argument):
    """Returns (name of the column, content of the file) of an argument FILE or NAME=FILE."""
    name, _, path = argument.rpartition("=")
    if not os.path.isfile(path):
        raise UserError(
            f"no file {path!r}: arguments are results of tools/evaluate.py, as FILE or NAME=FILE, "
            f"or the word {PAPER}; flags are written --name=value"
        )
    try:
        with open(path, encoding="utf-8") as file:
            result = json.load(file)
    except ValueError as error:
        raise UserError(
            f"{path} is not JSON ({error}): evaluate again with tools/evaluate.py"
        ) from None
    if problem := validate_result(result):
        raise UserError(f"{path} is not a result of tools/evaluate.py: {problem}")
    return name or os.path.basename(os.path.normpath(result["model"])), {**result, "path": path}


def validate_result(content):
    """Returns a reason why `content` is not a result of tools/evaluate.py, or None if it is."""
    types = {"task": str, "protocol": str, "values": dict, "data": object, "model": str}
    content = content if isinstance(content, dict) else {}
    if missing := sorted(set(types) - set(content)):
        return f"it has no {', '.join(missing)}"
    for key, value_type in {**types, "intervals": dict}.items():
        if not isinstance(content.get(key, {}), value_type):
            return f"its {key} is {content[key]!r:.60}"
    for (name, metric), value in flatten_values(content["values"]).items():
        if not isinstance(value, int | float | None):
            return f"its value {metric} of {name or 'all'} is {value!r:.60}, expected a number"
    return None


def _benchmark_name(results, with_paper):
    """Returns the benchmark of all results; None if neither the files nor --benchmark name it."""
    names = [_BENCHMARK.value] if _BENCHMARK.value else []
    names += [result["benchmark"] for _, result in results if result.get("benchmark")]
    for name in names:
        lookup(BENCHMARKS, name, "benchmark")
        if name != names[0]:
            raise UserError(
                f"the results are of {names[0]} and {name}: compare results of one benchmark"
            )
    if not names and (with_paper or not results):
        raise UserError(
            "no benchmark is named: evaluate with --task=<benchmark>, or name the benchmark of the "
            f"results with --benchmark; known: {', '.join(BENCHMARKS)}"
        )
    return names[0] if names else None


def _column(name, result, metric):
    """Returns the `comparison.Column` of a result."""
    values = flatten_values(result["values"])
    intervals = flatten_values(result.get("intervals", {}))
    lookup(dict.fromkeys(m for _, m in values), metric, f"metric (of {result['path']})")
    by_key = {key: value for (key, m), value in values.items() if m == metric}
    return comparison.Column(
        name,
        result["protocol"],
        by_key,
        {key: tuple(value) for (key, m), value in intervals.items() if m == metric},
        data=result["data"],
        source=f"{result['path']}, of {result['model']}",
        items=_read_items(result["path"], metric, by_key),
    )


def _read_items(path, metric, values):
    """Returns {key: items of the metric} of the file next to a result; {} if there is none.

    Raises:
        UserError: the file is damaged, or does not give the values of the result.
    """
    path = f"{path.removesuffix('.json')}.items.npz"
    if not os.path.isfile(path):
        return {}
    try:
        with np.load(path, allow_pickle=False) as file:
            items = {}
            for name in file.files:
                key, _, item_metric = name.rpartition("/")
                items.setdefault(key, {})[item_metric] = file[name]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error):
        raise UserError(f"{path} is damaged: evaluate again, or delete it") from None
    recalls = [f"{direction}_r{k}" for direction in ("i2t", "t2i") for k in RECALL_KS]
    parts = recalls if metric == "average_recall" else [metric]
    joined = {
        key: join_items([by_metric[part] for part in parts])
        for key, by_metric in items.items()
        if all(part in by_metric for part in parts)
    }
    for key, array in joined.items():
        sums, counts = np.split(array.sum(axis=0, dtype=np.float64), 2)
        value = float((sums / counts).mean())
        if abs(value - values.get(key, math.inf)) > _ITEMS_TOLERANCE:
            raise UserError(
                f"{path} gives {metric} {value:.3f} for {key}, the result {values.get(key)}: the "
                "file is of another evaluation; evaluate again, or delete it"
            )
    return joined


def _published_columns(name, metric):
    """Returns a `comparison.Column` for each selected published model with values of the metric."""
    rows = published.published_results(name, _SETTING.value)
    models = list(rows) if _ROWS.value == ["all"] else _ROWS.value
    if models is None:
        main_models = published.MAIN_MODELS
        models = [model for model in rows if not rows[model].is_paper or model in main_models]
    columns = []
    for model in dict.fromkeys(models):
        row = lookup(rows, model, f"row (published on {name})")
        column = comparison.Column(
            model,
            row.protocol,
            {key: value for (key, m), value in row.values.items() if m == metric},
            doubtful={key: why for (key, m), why in row.doubtful.items() if m == metric},
            source=row.source,
        )
        columns += [column] if column.values else []
    if not columns:
        print(
            f"there are no published {_SETTING.value} results of {name} with the metric {metric}\n"
        )
    return columns


def _subset_notes(results, benchmark):
    """Yields a note for each result whose number of records differs from the benchmark's."""
    for name, result in results:
        if benchmark and result.get("records") != benchmark.size:
            yield (
                f"Note: {name} was evaluated on {result.get('records')} records, but the benchmark "
                f"has {benchmark.size:,}. Published results refer to all records of a benchmark."
            )


def _out_dir(files):
    parent = os.path.dirname(files[-1].rpartition("=")[2]) if files else ""
    return _OUT_DIR.value or os.path.join(parent, "comparison")


def _write_report(title, notes, columns, groups, folder):
    """Writes the tables to comparison.md, and prints them."""
    keys = [key for members in groups.values() for key in members]
    footnotes = comparison.footnotes(columns, keys)
    footnotes += comparison.paired_lines(columns[-1], columns[:-1], groups)
    tables = {
        markdown: [
            comparison.value_table(columns, groups, markdown),
            comparison.difference_table(columns[-1], columns[:-1], groups, markdown),
        ]
        for markdown in (False, True)
    }
    path = os.path.join(folder, "comparison.md")
    charts = [f"![{chart}]({chart})" for chart in _chart_names(columns)]
    bullets = "\n".join(f"- {line}" for line in footnotes)
    with open(path, "w", encoding="utf-8") as file:
        parts = [f"# {title}", *notes, *tables[True], *charts, bullets]
        file.write("\n\n".join(filter(None, parts)) + "\n")
    print("\n\n".join(filter(None, [title, *notes, *tables[False], "\n".join(footnotes)])))
    print("\nwritten:", path, *(os.path.join(folder, name) for name in _chart_names(columns)))


def _chart_names(columns):
    """Returns the file names of the charts; gains.png needs at least two columns."""
    return ["values.png", "gains.png"][: len(columns)]


def _draw_charts(title, metric, columns, control, groups, folder):
    """Draws a chart of all values, and a chart of the gains of the last column over the control."""
    from tf_mural.reports.comparison_charts import gain_chart, value_chart

    languages = {group: keys for group, keys in groups.items() if group != "means"} or groups
    label, unit = _LABELS.get(metric, (metric.replace("_", " "), "%"))
    values_path, *gain_paths = (os.path.join(folder, name) for name in _chart_names(columns))
    value_chart(values_path, columns, languages, f"{label} ({unit})", title)
    for path in gain_paths:
        gain_title = f"{title}: {columns[-1].name} compared with {control.name}"
        axis = f"difference in {label} ({'points' if unit == '%' else unit})"
        lower_is_better = metric in _LOWER_IS_BETTER
        gain_chart(path, columns[-1], control, languages, axis, gain_title, lower_is_better)
