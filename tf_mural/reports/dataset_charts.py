"""Charts of the statistics of a record set: quantiles per language, and histograms."""

import math
import os

import numpy as np

from tf_mural.reports.charts import ACCENT, GRID, INK, MUTED

_MAX_ROWS = 36  # maximum number of languages in a column of the figure


def write_stats_charts(folder, name, summary):
    """Writes PNGs of the languages, text lengths, tokens, images, labels and scores of a set.

    No chart is written for data that the set does not have.

    Args:
        folder: Existing folder to which the files are written.
        name: Name of the set, the prefix of the file names.
        summary: Result of `dataset_stats.DatasetStats.summary`.

    Returns:
        List of the paths of the files.
    """
    languages, paths = summary["languages"], []
    title = f"{name}: "

    def write(kind, chart, *arguments, **options):
        paths.append(os.path.join(folder, f"{name}-{kind}.png"))
        chart(paths[-1], *arguments, **options)

    texts = {code: values["texts"] for code, values in languages.items()}
    if texts:
        write("languages", count_chart, texts, f"{title}texts per language")
    lengths = _quantiles_by_language(languages, "characters")
    if lengths:
        write("lengths", quantile_chart, lengths, f"{title}characters per text")
    tokens = _quantiles_by_language(languages, "tokens")
    if tokens:
        max_tokens = summary["tokenizer"]["max_tokens"] - 2  # [CLS] and [SEP] are not counted
        cut = {code: f"{languages[code]['cut_percent']:.1f} %" for code in tokens}
        options = {"limit": max_tokens, "notes": cut, "notes_title": "cut"}
        write("tokens", quantile_chart, tokens, f"{title}tokens per text", **options)
    if summary["image_sizes"] and summary["image_sizes"]["width"]:
        write("images", image_chart, summary["image_sizes"], f"{title}images")
    if summary["labels"]:
        write("labels", label_chart, summary["labels"]["counts"], f"{title}records per class")
    if summary["scores"]:
        write("scores", score_chart, summary["scores"], f"{title}scores")
    return paths


def _quantiles_by_language(languages, kind):
    by_language = {code: values.get(kind) for code, values in languages.items()}
    return {code: quantiles for code, quantiles in by_language.items() if quantiles}


def count_chart(path, counts, title):
    """Writes a PNG with a bar per language; each bar is labelled with the number it shows.

    Args:
        path: Path of the PNG.
        counts: {language: number}, drawn in this order.
        title: Title of the chart.
    """
    figure, axes = _columns(list(counts), title)
    largest, lower = max(counts.values()), min(counts.values()) / 2
    # A logarithmic scale is used if most bars would be too short on a linear scale.
    use_log = largest > 20 * np.median(list(counts.values()))
    for axis, codes in axes:
        numbers = [counts[code] for code in codes]
        axis.barh(range(len(codes)), numbers, 0.7, color=ACCENT, zorder=2)
        for y, number in enumerate(numbers):
            axis.annotate(
                f"{number:,}", (number, y), (3, 0), **_note_style(), textcoords="offset points"
            )
        # The limits of the axis leave a margin on the right for the numbers.
        if use_log:
            axis.set_xscale("log")
            axis.set_xlim(lower, lower * (largest / lower) ** 1.35)
        else:
            axis.set_xlim(0, 1.35 * largest)
        axis.set_xticks([])
        axis.set_xticks([], minor=True)
    if use_log:
        figure.supxlabel("the bars have a logarithmic scale", fontsize=8, color=INK)
    _save(figure, path)


def quantile_chart(path, quantiles, title, limit=None, notes=None, notes_title=""):
    """Writes a PNG with a row per language that shows five quantiles.

    A row has a thin line from the 5 % to the 95 % quantile, a thick line from the 25 % to the 75 %
    quantile, and a dot at the median.

    Args:
        path: Path of the PNG.
        quantiles: {language: dict with q05, q25, median, q75, q95}, drawn in this order.
        title: Title of the chart.
        limit: Value that is marked by a dashed line, or None.
        notes: {language: short text at the right end of the row}. Default: the medians.
        notes_title: Heading of the notes.
    """
    figure, axes = _columns(list(quantiles), title)
    notes = notes or {code: f"{values['median']:,}" for code, values in quantiles.items()}
    ends = [values[q] for values in quantiles.values() for q in ("q05", "q95")]
    # The lower end is at least 1, because a logarithmic axis cannot show 0. The axis is logarithmic
    # only if its upper end is more than 20 times the lower end.
    low = max(1, min(ends))
    scale = "log" if max(ends) > 20 * low else "linear"
    for axis, codes in axes:
        for y, code in enumerate(codes):
            values = quantiles[code]
            for q, width, color in (("05", 1.2, MUTED[0]), ("25", 4, MUTED[1])):
                upper = {"05": "95", "25": "75"}[q]
                span = [max(values[f"q{q}"], low), max(values[f"q{upper}"], low)]
                axis.plot(span, [y, y], color=color, lw=width, zorder=2, solid_capstyle="butt")
            axis.plot([max(values["median"], low)], [y], "o", ms=4, color=ACCENT, zorder=3)
            style = {"xycoords": ("axes fraction", "data"), "ha": "right"}
            axis.annotate(notes[code], (1, y), **_note_style(), **style)
        axis.set_xscale(scale)
        span = (low * 0.8, max(ends) ** 1.25) if scale == "log" else (0, 1.25 * max(ends))
        axis.set_xlim(*span)
        axis.grid(axis="x", color=GRID, lw=0.8)
        if limit and span[0] < limit < span[1]:
            axis.axvline(limit, color=INK, lw=1, ls=(0, (3, 2)), zorder=1)
        axis.set_title(notes_title or "median", fontsize=7, loc="right", color=INK)
        _use_plain_numbers(axis)
    has_limit = limit and span[0] < limit < span[1]
    limit_text = f"   dashed: limit of {limit}" if has_limit else ""
    text = f"line: 5 to 95 %   thick: 25 to 75 %   dot: median{limit_text}"
    figure.supxlabel(text, fontsize=8, color=INK)
    _save(figure, path)


def image_chart(path, sizes, title):
    """Writes a PNG of four histograms: width, height, aspect ratio, bytes.

    Args:
        path: Path of the PNG.
        sizes: The value "image_sizes" of `DatasetStats.summary`.
        title: Title of the chart.
    """
    figure = _figure(9, 2.9, title)
    axes = figure.subplots(1, 4)
    labels = {
        "width": "width, px",
        "height": "height, px",
        "aspect": "width / height",
        "bytes": "kB",
    }
    for axis, (size, label) in zip(axes, labels.items(), strict=True):
        histogram = sizes["histograms"][size]
        scale = 1000 if size == "bytes" else 1
        edges = [edge / scale for edge in histogram["edges"]]
        axis.stairs(histogram["counts"], edges, fill=True, color=ACCENT, zorder=2)
        if len(histogram["counts"]) == 1:  # all values are equal, so the bar is narrow
            center = (edges[0] + edges[-1]) / 2
            axis.set_xlim(center - 5 * (edges[-1] - edges[0]), center + 5 * (edges[-1] - edges[0]))
            axis.set_xticks([center], [f"{center:g}"])
        if histogram["beyond"]:
            label += f"  ({histogram['beyond']:,} beyond)"
        axis.set_xlabel(label, fontsize=9, color=INK)
        _style_histogram(axis)
    axes[0].set_ylabel("images", fontsize=9, color=INK)
    _save(figure, path)


def label_chart(path, counts, title):
    """Writes a PNG of the sizes of the classes, largest first.

    Args:
        path: Path of the PNG.
        counts: {label: number of records}.
        title: Title of the chart.
    """
    figure = _figure(9, 3.2, title)
    axis = figure.subplots()
    ordered = sorted(counts.values(), reverse=True)
    axis.stairs(ordered, np.arange(len(ordered) + 1), fill=True, color=ACCENT, zorder=2)
    axis.set_xlim(0, len(ordered))
    axis.set_ylim(0, 1.08 * ordered[0])
    axis.set_xlabel(f"{len(ordered):,} classes, largest first", fontsize=9, color=INK)
    axis.set_ylabel("records", fontsize=9, color=INK)
    _style_histogram(axis)
    _save(figure, path)


def score_chart(path, scores, title):
    """Writes a PNG of a histogram; `scores` is a dict with "counts" and "edges"."""
    figure = _figure(9, 3.2, title)
    axis = figure.subplots()
    axis.stairs(scores["counts"], scores["edges"], fill=True, color=ACCENT, zorder=2)
    axis.set_xlabel("score", fontsize=9, color=INK)
    axis.set_ylabel("records", fontsize=9, color=INK)
    _style_histogram(axis)
    _save(figure, path)


def _columns(codes, title):
    """Returns a figure with a row per language, and [(axis, languages)] of its columns."""
    num_columns = math.ceil(len(codes) / _MAX_ROWS)
    num_rows = math.ceil(len(codes) / num_columns)
    figure = _figure(9, 1.1 + 0.185 * max(num_rows, 3), title)
    axes = figure.subplots(1, num_columns, squeeze=False)[0]
    parts = [codes[i * num_rows : (i + 1) * num_rows] for i in range(num_columns)]
    for axis, part in zip(axes, parts, strict=True):
        axis.set_yticks(range(len(part)), part, fontsize=7 if len(codes) > 12 else 9)
        axis.set_ylim(num_rows - 0.4, -0.6)
        axis.tick_params(length=0, labelsize=8, labelcolor=INK)
        axis.set_axisbelow(True)
        axis.spines[["top", "right", "left", "bottom"]].set_visible(False)
    return figure, list(zip(axes, parts, strict=True))


def _figure(width, height, title):
    """Returns matplotlib's Figure, which needs no display and has no global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    figure.set_layout_engine("constrained", rect=(0.004, 0, 0.992, 1 - 0.35 / height), wspace=0.05)
    style = {"fontsize": 12, "fontweight": "bold", "color": INK, "va": "top"}
    figure.text(0.01, 1 - 0.1 / height, title, **style)
    return figure


def _style_histogram(axis):
    axis.tick_params(length=0, labelsize=8, labelcolor=INK)
    axis.grid(axis="y", color=GRID, lw=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.spines["bottom"].set_color(GRID)


def _use_plain_numbers(axis):
    """Labels an axis with numbers instead of powers of 10, and removes the minor labels."""
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.tick_params(which="minor", length=0)


def _note_style():
    return {"fontsize": 7, "color": INK, "va": "center"}


def _save(figure, path):
    figure.savefig(path, dpi=150, format="png")
