"""Sets results side by side, and beside what is published of the same benchmark.

    python tools/compare.py runs/paper/mural-s0/evals/retrieval/coco.json \\
        runs/paper/etcl-s0/evals/retrieval/coco.json paper
    python tools/compare.py MURAL=a.json ETCL=b.json paper --out_dir=comparison
    python tools/compare.py paper --benchmark=retrieval/flickr30k

Arguments are files that tools/evaluate.py wrote, each with a name of yours before it if you like,
and the word paper for the paper's numbers and published ones of other models. The last file is what
differences are of. Prints the tables, and writes them as comparison.md with values.png and
gains.png. Results of different protocols or on different records are refused.
"""

import json
import os
import sys

import common
from absl import flags

from configs.base import TRIPLE_LANGUAGES
from tf_mural.errors import UserError, lookup
from tf_mural.evaluation.benchmarks import BENCHMARKS, measure_of
from tf_mural.reports import comparison, published
from tf_mural.reports.results import flat

PAPER = "paper"
_BENCHMARK = flags.DEFINE_string(
    "benchmark", None, "Which benchmark the results are of, where their files do not say it."
)
_MEASURE = flags.DEFINE_string(
    "measure", None, "Which measure, such as t2i_r1. Default: what the benchmark is known by."
)
_SETTING = flags.DEFINE_enum("setting", "zero-shot", published.SETTINGS, "Of published numbers.")
_ROWS = flags.DEFINE_list(
    "rows",
    None,
    "Models of the published rows, parted by commas, or all. Default: the paper's two models, and "
    "other people's.",
)
_CONTROL = flags.DEFINE_string(
    "control", None, "Name of the column that gains.png starts from. Default: the first."
)
_TRAINED = flags.DEFINE_list(
    "trained", list(TRIPLE_LANGUAGES), "Languages that were seen in training, drawn apart."
)
_OUT_DIR = flags.DEFINE_string(
    "out_dir", None, "Folder to write to. Default: comparison, beside the last file."
)
# Tatoeba's codes of the languages above.
_LONG_CODES = {"en": "eng", "de": "deu", "fr": "fra", "cs": "ces", "zh": "cmn", "ja": "jpn"}
# What a measure is called, and its unit; others are percentages.
_LABELS = {
    "average_recall": ("Average Recall", "%"),
    "t2i_r10": ("text-to-image R@10", "%"),
    "top1": ("accuracy", "%"),
    "r1": ("R@1 of the nearest neighbour", "%"),
    "spearman": ("Spearman's correlation", "x 100"),
    "spread": ("spread of ranks", "doublings"),
    "lag": ("lag in rank", "doublings"),
}
_LOWER_IS_BETTER = ("spread", "range", "lag")


def main():
    files = [argument for argument in ARGUMENTS if argument != PAPER]
    measured = [read(argument) for argument in files]
    name = benchmark_of(measured)
    benchmark = BENCHMARKS.get(name)
    measure = _MEASURE.value or measure_of(name or measured[0][1]["task"])
    columns = [column_of(*one, measure) for one in measured]
    if PAPER in ARGUMENTS:
        columns = [*published_columns(name, measure), *columns]
    comparison.check(columns)
    means, sums = (benchmark.means, benchmark.sums) if benchmark else ({}, {})
    for column in columns:
        comparison.add_aggregates(column, means, sums)
    trained = {*_TRAINED.value, *(_LONG_CODES.get(code, code) for code in _TRAINED.value)}
    groups = comparison.split(comparison.keys_of(columns), trained, (*means, *sums))
    control = columns[0].name if _CONTROL.value is None else _CONTROL.value
    control = lookup({column.name: column for column in columns}, control, "control")
    lines = [f"{measure}, {columns[0].protocol}", *too_few(measured, benchmark)]
    name = name or measured[0][1]["task"]
    folder = out_dir(files)
    os.makedirs(folder, exist_ok=True)
    draw(name, measure, columns, control, groups, folder)
    report(name, lines, columns, groups, folder)


def read(argument):
    """(name, content) of FILE or NAME=FILE, as tools/evaluate.py wrote it."""
    name, _, path = argument.rpartition("=")
    if not os.path.isfile(path):
        raise UserError(
            f"no file {path!r}: arguments are results of tools/evaluate.py, NAME=FILE, or {PAPER}; "
            "flags are written --name=value"
        )
    try:
        with open(path, encoding="utf-8") as file:
            result = json.load(file)
    except ValueError as error:
        raise UserError(
            f"{path} is no JSON ({error}): score again with tools/evaluate.py"
        ) from None
    if wrong := unlike_a_result(result):
        raise UserError(f"{path} is no result of tools/evaluate.py: {wrong}")
    return name or os.path.basename(os.path.normpath(result["model"])), {**result, "path": path}


def unlike_a_result(content):
    """What makes the content of a file no result, or None."""
    kinds = {"task": str, "protocol": str, "values": dict, "data": object, "model": str}
    content = content if isinstance(content, dict) else {}
    if missing := sorted(set(kinds) - set(content)):
        return f"it has no {', '.join(missing)}"
    for key, kind in {**kinds, "intervals": dict}.items():
        if not isinstance(content.get(key, {}), kind):
            return f"its {key} is {content[key]!r:.60}"
    for (name, measure), value in flat(content["values"]).items():
        if not isinstance(value, int | float | None):
            return f"its value {measure} of {name or 'all'} is {value!r:.60}, expected a number"
    return None


def benchmark_of(measured):
    """Name of the benchmark that all results are of, or None where none is named."""
    named = [_BENCHMARK.value] if _BENCHMARK.value else []
    named += [result["benchmark"] for _, result in measured if result.get("benchmark")]
    for name in named:
        lookup(BENCHMARKS, name, "benchmark")
        if name != named[0]:
            raise UserError(f"the results are of {named[0]} and {name}: compare one at a time")
    if not named and (PAPER in ARGUMENTS or not measured):
        raise UserError(
            "no benchmark is named: score with --task=retrieval/coco or another one, or say with "
            f"--benchmark which one it is; known: {', '.join(BENCHMARKS)}"
        )
    return named[0] if named else None


def column_of(name, result, measure):
    """The `comparison.Column` of a file."""
    values, intervals = flat(result["values"]), flat(result.get("intervals", {}))
    known = dict.fromkeys(measure for _, measure in values)
    lookup(known, measure, f"measure (of {result['path']})")
    return comparison.Column(
        name,
        result["protocol"],
        {key: value for (key, other), value in values.items() if other == measure},
        {key: tuple(value) for (key, other), value in intervals.items() if other == measure},
        data=result["data"],
        source=f"{result['path']}, of {result['model']}",
    )


def published_columns(name, measure):
    """Columns of what is published: others first, and last the paper's models."""
    rows = published.published(name, _SETTING.value)
    chosen = list(rows) if _ROWS.value == ["all"] else _ROWS.value
    if chosen is None:
        chosen = [model for model in rows if not rows[model].of_paper or model in published.MAIN]
    chosen = {model: lookup(rows, model, f"row (published on {name})") for model in chosen}
    found = [
        comparison.Column(
            model,
            row.protocol,
            {key: value for (key, other), value in row.values.items() if other == measure},
            doubtful={key: why for (key, other), why in row.doubtful.items() if other == measure},
            source=row.source,
        )
        for model, row in chosen.items()
    ]
    found = [column for column in found if column.values]
    if not found:
        print(f"nothing is published of {name}, {measure}, {_SETTING.value}\n")
    return found


def too_few(measured, benchmark):
    """Notes on results of a part of the benchmark's records."""
    for name, result in measured:
        if benchmark and result.get("records") != benchmark.size:
            yield (
                f"Beware: {name} is of {result.get('records')} records, the benchmark has "
                f"{benchmark.size:,}. Published numbers are of all."
            )


def out_dir(files):
    """Where to write."""
    beside = os.path.dirname(files[-1].rpartition("=")[2]) if files else ""
    return _OUT_DIR.value or os.path.join(beside, "comparison")


def report(name, lines, columns, groups, folder):
    """Writes the tables, and prints them."""
    keys = [key for members in groups.values() for key in members]
    below = comparison.notes(columns, keys)
    tables = {
        markdown: [
            comparison.value_table(columns, groups, markdown),
            comparison.difference_table(columns[-1], columns[:-1], groups, markdown),
        ]
        for markdown in (False, True)
    }
    path = os.path.join(folder, "comparison.md")
    pictures = [f"![{picture}]({picture})" for picture in pictures_of(columns)]
    bullets = "\n".join(f"- {line}" for line in below)
    with open(path, "w", encoding="utf-8") as file:
        whole = [f"# {name}", *lines, *tables[True], *pictures, bullets]
        file.write("\n\n".join(filter(None, whole)) + "\n")
    print("\n\n".join(filter(None, [name, *lines, *tables[False], "\n".join(below)])))
    print("\nwritten:", path, *(os.path.join(folder, p) for p in pictures_of(columns)))


def pictures_of(columns):
    """Names of the pictures: gains take two."""
    return ["values.png", "gains.png"][: len(columns)]


def draw(name, measure, columns, control, groups, folder):
    """Draws the values, and the last column's gains over the control."""
    from tf_mural.reports.comparison_charts import gain_chart, value_chart

    languages = {group: keys for group, keys in groups.items() if group != "means"} or groups
    label, unit = _LABELS.get(measure, (measure.replace("_", " "), "%"))
    values, *gains = (os.path.join(folder, picture) for picture in pictures_of(columns))
    value_chart(values, columns, languages, f"{label} ({unit})", name)
    for path in gains:
        title = f"{name}: {columns[-1].name} compared with {control.name}"
        axis = f"difference in {label} ({'points' if unit == '%' else unit})"
        lower = measure in _LOWER_IS_BETTER
        gain_chart(path, columns[-1], control, languages, axis, title, lower)


if __name__ == "__main__":
    ARGUMENTS = [a for a in sys.argv[1:] if not a.startswith("-")]
    sys.argv[1:] = [a for a in sys.argv[1:] if a not in ARGUMENTS]
    common.run(main)
