"""How the data of a set are spread, as pictures: languages in rows, histograms of the rest."""

import math
import os

import numpy as np

from tf_mural.reports.charts import ACCENT, GRID, INK, MUTED

_MOST_ROWS = 36  # languages in one column of a picture


def inspection_charts(folder, name, summary):
    """Writes a PNG for each thing that a set has; charts of what it has not are left out.

    Args:
        folder: where they go; it exists.
        name: of the set, the beginning of each file's name.
        summary: dict of `collection.Statistics.summary`.

    Returns:
        Paths of the files.
    """
    languages, paths = summary["languages"], []
    title = f"{name}: "

    def draw(kind, chart, *arguments, **how):
        paths.append(os.path.join(folder, f"{name}-{kind}.png"))
        chart(paths[-1], *arguments, **how)

    texts = {code: values["texts"] for code, values in languages.items()}
    if texts:
        draw("languages", count_chart, texts, f"{title}texts per language")
    lengths = _spreads(languages, "characters")
    if lengths:
        draw("lengths", spread_chart, lengths, f"{title}characters of a text")
    tokens = _spreads(languages, "tokens")
    if tokens:
        most = summary["tokenizer"]["max_tokens"] - 2
        cut = {code: f"{languages[code]['cut_percent']:.1f} %" for code in tokens}
        how = {"limit": most, "notes": cut, "note": "cut"}
        draw("tokens", spread_chart, tokens, f"{title}tokens of a text", **how)
    if summary["image_sizes"] and summary["image_sizes"]["width"]:
        draw("images", image_chart, summary["image_sizes"], f"{title}images")
    if summary["labels"]:
        draw("labels", label_chart, summary["labels"]["counts"], f"{title}records per class")
    if summary["scores"]:
        draw("scores", score_chart, summary["scores"], f"{title}scores")
    return paths


def _spreads(languages, kind):
    found = {code: values.get(kind) for code, values in languages.items()}
    return {code: spread for code, spread in found.items() if spread}


def count_chart(path, counts, title):
    """Writes a PNG of bars with their numbers.

    Args:
        path: of the PNG.
        counts: {language: number}, drawn in this order.
        title: of the picture.
    """
    figure, axes = _columns(list(counts), title)
    most, least = max(counts.values()), min(counts.values()) / 2
    uneven = most > 20 * np.median(list(counts.values()))  # most bars would be slivers
    for axis, codes in axes:
        numbers = [counts[code] for code in codes]
        axis.barh(range(len(codes)), numbers, 0.7, color=ACCENT, zorder=2)
        for y, number in enumerate(numbers):
            axis.annotate(f"{number:,}", (number, y), (3, 0), **_small(), textcoords=_POINTS)
        # The numbers stand in the rest of the width.
        if uneven:
            axis.set_xscale("log")
            axis.set_xlim(least, least * (most / least) ** 1.35)
        else:
            axis.set_xlim(0, 1.35 * most)
        axis.set_xticks([])
        axis.set_xticks([], minor=True)
    if uneven:
        figure.supxlabel("lengths of the bars are logarithmic", fontsize=8, color=INK)
    _save(figure, path)


def spread_chart(path, spreads, title, limit=None, notes=None, note=""):
    """Writes a PNG with a row a language: 5 to 95 % as a line, the middle half thick, the median.

    Args:
        path: of the PNG.
        spreads: {language: dict with q05, q25, median, q75, q95}, drawn in this order.
        title: of the picture.
        limit: a value to mark, or None.
        notes: {language: a few letters at the right end}; the medians by default.
        note: what the notes are.
    """
    figure, axes = _columns(list(spreads), title)
    notes = notes or {code: f"{spread['median']:,}" for code, spread in spreads.items()}
    ends = [spread[q] for spread in spreads.values() for q in ("q05", "q95")]
    # A logarithmic axis has no 0, and is of no use within one power of ten.
    low = max(1, min(ends))
    scale = "log" if max(ends) > 20 * low else "linear"
    for axis, codes in axes:
        for y, code in enumerate(codes):
            spread = spreads[code]
            for q, width, colour in (("05", 1.2, MUTED[0]), ("25", 4, MUTED[1])):
                to = {"05": "95", "25": "75"}[q]
                span = [max(spread[f"q{q}"], low), max(spread[f"q{to}"], low)]
                axis.plot(span, [y, y], color=colour, lw=width, zorder=2, solid_capstyle="butt")
            axis.plot([max(spread["median"], low)], [y], "o", ms=4, color=ACCENT, zorder=3)
            place = {"xycoords": ("axes fraction", "data"), "ha": "right"}
            axis.annotate(notes[code], (1, y), **_small(), **place)
        axis.set_xscale(scale)
        span = (low * 0.8, max(ends) ** 1.25) if scale == "log" else (0, 1.25 * max(ends))
        axis.set_xlim(*span)
        axis.grid(axis="x", color=GRID, lw=0.8)
        if limit and span[0] < limit < span[1]:
            axis.axvline(limit, color=INK, lw=1, ls=(0, (3, 2)), zorder=1)
        axis.set_title(note or "median", fontsize=7, loc="right", color=INK)
        _plain_numbers(axis)
    drawn = limit and span[0] < limit < span[1]
    line = f"   dashed: {limit}, what fits" if drawn else ""
    text = f"line: 5 to 95 %   thick: 25 to 75 %   dot: median{line}"
    figure.supxlabel(text, fontsize=8, color=INK)
    _save(figure, path)


def image_chart(path, sizes, title):
    """Writes a PNG of four histograms: width, height, aspect ratio, bytes.

    Args:
        path: of the PNG.
        sizes: the "image_sizes" of a summary, with "histograms".
        title: of the picture.
    """
    figure = _figure(9, 2.9, title)
    axes = figure.subplots(1, 4)
    units = {
        "width": "width, px",
        "height": "height, px",
        "aspect": "width / height",
        "bytes": "kB",
    }
    for axis, (what, unit) in zip(axes, units.items(), strict=True):
        histogram = sizes["histograms"][what]
        scale = 1000 if what == "bytes" else 1
        edges = [edge / scale for edge in histogram["edges"]]
        axis.stairs(histogram["counts"], edges, fill=True, color=ACCENT, zorder=2)
        if len(histogram["counts"]) == 1:  # all alike: a narrow bar at the one value
            middle = (edges[0] + edges[-1]) / 2
            axis.set_xlim(middle - 5 * (edges[-1] - edges[0]), middle + 5 * (edges[-1] - edges[0]))
            axis.set_xticks([middle], [f"{middle:g}"])
        if histogram["beyond"]:
            unit += f"  ({histogram['beyond']:,} beyond)"
        axis.set_xlabel(unit, fontsize=9, color=INK)
        _dress(axis)
    axes[0].set_ylabel("images", fontsize=9, color=INK)
    _save(figure, path)


def label_chart(path, counts, title):
    """Writes a PNG of the sizes of the classes, largest first.

    Args:
        path: of the PNG.
        counts: {label: records}.
        title: of the picture.
    """
    figure = _figure(9, 3.2, title)
    axis = figure.subplots()
    ordered = sorted(counts.values(), reverse=True)
    axis.stairs(ordered, np.arange(len(ordered) + 1), fill=True, color=ACCENT, zorder=2)
    axis.set_xlim(0, len(ordered))
    axis.set_ylim(0, 1.08 * ordered[0])
    axis.set_xlabel(f"{len(ordered):,} classes, largest first", fontsize=9, color=INK)
    axis.set_ylabel("records", fontsize=9, color=INK)
    _dress(axis)
    _save(figure, path)


def score_chart(path, scores, title):
    """Writes a PNG of the histogram of scores: dict with "counts" and "edges"."""
    figure = _figure(9, 3.2, title)
    axis = figure.subplots()
    axis.stairs(scores["counts"], scores["edges"], fill=True, color=ACCENT, zorder=2)
    axis.set_xlabel("score", fontsize=9, color=INK)
    axis.set_ylabel("records", fontsize=9, color=INK)
    _dress(axis)
    _save(figure, path)


_POINTS = "offset points"


def _columns(codes, title):
    """A figure with a row a language, and its (axis, languages), one a column."""
    count = math.ceil(len(codes) / _MOST_ROWS)
    height = math.ceil(len(codes) / count)
    figure = _figure(9, 1.1 + 0.185 * max(height, 3), title)
    axes = figure.subplots(1, count, squeeze=False)[0]
    shares = [codes[i * height : (i + 1) * height] for i in range(count)]
    for axis, share in zip(axes, shares, strict=True):
        axis.set_yticks(range(len(share)), share, fontsize=7 if len(codes) > 12 else 9)
        axis.set_ylim(height - 0.4, -0.6)
        axis.tick_params(length=0, labelsize=8, labelcolor=INK)
        axis.set_axisbelow(True)
        axis.spines[["top", "right", "left", "bottom"]].set_visible(False)
    return figure, list(zip(axes, shares, strict=True))


def _figure(width, height, title):
    """matplotlib's Figure, which by itself draws without a display and leaves no state behind."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    figure.set_layout_engine("constrained", rect=(0.004, 0, 0.992, 1 - 0.35 / height), wspace=0.05)
    place = {"fontsize": 12, "fontweight": "bold", "color": INK, "va": "top"}
    figure.text(0.01, 1 - 0.1 / height, title, **place)
    return figure


def _dress(axis):
    axis.tick_params(length=0, labelsize=8, labelcolor=INK)
    axis.grid(axis="y", color=GRID, lw=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.spines["bottom"].set_color(GRID)


def _plain_numbers(axis):
    """10 and 100 instead of powers, and no labels between them that would overlap."""
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.tick_params(which="minor", length=0)


def _small():
    return {"fontsize": 7, "color": INK, "va": "center"}


def _save(figure, path):
    figure.savefig(path, dpi=150, format="png")
