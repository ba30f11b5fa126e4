"""Tables of text, aligned whatever the script, for the terminal and as Markdown."""

import math
import re
import unicodedata

from tf_mural.errors import lookup
from tf_mural.evaluation import metrics

_NUMBER = re.compile(r"[+-]?\d[\d,.]*( ± [\d.]+)?( to [\d.]+)?%?|-|")


def display_width(text):
    """Columns that a terminal gives a text: two for a wide character, none for a combining mark."""
    width = 0
    for character in text:
        if (
            unicodedata.category(character) in ("Mn", "Me", "Cf")
            or "\u1160" <= character <= "\u11ff"
        ):
            continue  # the range is Hangul's vowels and finals, which join the syllable before
        width += 2 if unicodedata.east_asian_width(character) in "WF" else 1
    return width


def table(rows, columns, markdown=False):
    """Lays out rows under their headings.

    Args:
        rows: lists of cells, one a column: strings, whole numbers, floats (shown with one decimal),
            or None ("-"). A row that is None is a rule (left out of Markdown).
        columns: headings. A column of numbers alone is set to the right.
        markdown: whether to write a Markdown table.
    """
    body = [None if row is None else [_cell(cell) for cell in row] for row in rows]
    full = [row for row in body if row is not None]
    for row in full:
        if len(row) != len(columns):
            raise ValueError(f"a row of {len(row)} cells under {len(columns)} columns: {row}")
    if markdown:
        columns = [heading.replace("|", "\\|") for heading in columns]
        body = full = [[cell.replace("|", "\\|") for cell in row] for row in full]
    right = [all(_NUMBER.fullmatch(row[i]) for row in full) for i in range(len(columns))]
    widths = [max(map(display_width, column)) for column in zip(columns, *full, strict=True)]
    if markdown:
        widths = [max(3, width) for width in widths]
        marks = ["-" * (w - 1) + (":" if r else "-") for w, r in zip(widths, right, strict=True)]
        lines = [columns, marks, *full]
        return "\n".join(f"| {' | '.join(_aligned(line, widths, right))} |" for line in lines)
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines = [columns, None, *body]
    return "\n".join(
        rule if line is None else "  ".join(_aligned(line, widths, right)).rstrip()
        for line in lines
    )


def retrieval_table(results, groups=None, control=None, markdown=False):
    """Average recall per language: models side by side, beside chance, with gains over a control.

    Args:
        results: {model: Result of the retrieval task}.
        groups: {name: languages}, shown apart with their means; a language of no group comes under
            "other". One group by default.
        control: the model whose average recall is taken off the others', or None for no gains.
        markdown: whether to write a Markdown table.

    A language that some model was not scored in has a "-" there, and no part in a mean.
    """
    if control is not None:
        lookup(results, control, "control")
    values = {model: result.values for model, result in results.items()}
    languages = list(dict.fromkeys(code for scores in values.values() for code in scores))
    gaining = [model for model in values if control is not None and model != control]
    rows = []
    for group, members in arrange(languages, groups).items():
        rows += [[f"{group}:"] + [""] * (1 + len(values) + len(gaining))] if group else []
        lines = {code: _line(code, values, control, gaining) for code in members}
        rows += [[code, *line] for code, line in lines.items()]
        whole = {code: line for code, line in lines.items() if None not in line[1:]}
        if len(whole) > 1:
            means = [_mean(column) for column in zip(*whole.values(), strict=True)]
            rows.append([f"mean of {len(whole)}", *means])
        rows.append(None)
    signed = len(values) + 2
    rows = [row and row[:signed] + [_signed(cell) for cell in row[signed:]] for row in rows[:-1]]
    columns = ["AR (%)", "chance", *values, *(f"{model} - {control}" for model in gaining)]
    return table(rows, columns, markdown)


def recall_table(result, groups=None, markdown=False):
    """The six recalls of one model, in percent, with the average recall, its interval and chance.

    Args:
        result: Result of the retrieval task.
        groups: {name: languages} for the order of the rows.
        markdown: whether to write a Markdown table.
    """
    names = [f"{way}_r{k}" for way in ("i2t", "t2i") for k in metrics.RECALLS]
    rows = []
    for members in arrange(list(result.values), groups).values():
        for code in members:
            values = result.values[code]
            low, high = result.intervals.get(code, {}).get("average_recall", (math.nan, math.nan))
            interval = None if math.isnan(low) else f"{low:.1f} to {high:.1f}"
            cells = [values[name] for name in (*names, "average_recall")]
            rows.append([code, *cells, interval, values.get("chance")])
        rows.append(None)
    headings = [name.replace("_r", " R@") for name in names]
    return table(rows[:-1], ["%", *headings, "AR", "95 %", "chance"], markdown)


def arrange(languages, groups):
    """{group: its languages among `languages`}; those of no group come last, under "other".

    Without groups all are under "". Groups that would be empty are left out.
    """
    if not groups:
        return {"": list(languages)}
    named = {code for members in groups.values() for code in members}
    sorted_in = {name: [c for c in members if c in languages] for name, members in groups.items()}
    sorted_in["other"] = sorted_in.get("other", []) + [c for c in languages if c not in named]
    return {name: members for name, members in sorted_in.items() if members}


def eta(seconds):
    """A duration in its two largest units: "45 s", "3 min 20 s", "2 h 05 min", "3 d 04 h"."""
    if not math.isfinite(seconds) or seconds < 0:
        return "?"
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24:02} h"


def _line(code, values, control, gaining):
    """Chance, average recalls and gains of a language; None where there is no value."""
    scores = {model: table.get(code, {}).get("average_recall") for model, table in values.items()}
    chance = next((t[code]["chance"] for t in values.values() if "chance" in t.get(code, {})), None)
    gains = [
        None if None in (scores[model], scores[control]) else scores[model] - scores[control]
        for model in gaining
    ]
    return [chance, *scores.values(), *gains]


def _mean(column):
    return None if None in column else sum(column) / len(column)


def _signed(cell):
    return f"{cell:+.1f}" if isinstance(cell, float) else cell


def _cell(cell):
    if cell is None or isinstance(cell, float) and math.isnan(cell):
        return "-"
    return f"{cell:.1f}" if isinstance(cell, float) else str(cell)


def _aligned(cells, widths, right):
    for cell, width, to_right in zip(cells, widths, right, strict=True):
        space = " " * (width - display_width(cell))
        yield space + cell if to_right else cell + space
