"""Chart of average recall per language."""

import math

from tf_mural.errors import UserError, lookup
from tf_mural.reports.result_tables import group_languages

# Maximum number of languages that are drawn as bars. More bars would be too thin to compare;
# therefore more languages are drawn as dots, sorted by gain.
_MAX_BARS = 30
_MAX_ROWS = 36  # maximum number of rows of dots in a column of the figure

# The last series is drawn in the accent color, all other series in muted colors.
ACCENT, MUTED = "#1f5fbf", ("#8b95a1", "#c9d0d8", "#d9a05b", "#7fb09a")
INK, GRID, _RISE, _FALL = "#22272e", "#e3e7ec", "#2e8b57", "#c0503c"

_TITLE_STYLE = {"fontsize": 12, "color": INK, "va": "top"}
_AXIS_LABEL = "Average Recall (%)"


def recall_chart(path, series, groups=None, chance=None, control=None, title="Zero-shot retrieval"):
    """Writes a PNG that compares models per language, with a panel per group of languages.

    Up to 30 languages are drawn as bars in the given order. More than 30 languages are drawn as
    dots, sorted within each group by the gain of the last series over the control; the gains are
    printed as numbers.

    Args:
        path: Path of the PNG.
        series: {model: {language: average recall in percent}}; missing values are gaps.
        groups: {name of a group: its languages}, drawn as one panel per group. Default: one panel.
        chance: Average recall of candidates in random order, a number or {language: number}; drawn
            as a line.
        control: Name of the series that is subtracted to compute gains. Default: the first series.
        title: Title of the chart.

    Raises:
        UserError: There are no values, or the control is unknown.
    """
    languages = list(dict.fromkeys(code for values in series.values() for code in values))
    panels = group_languages(languages, groups)
    if not languages:
        raise UserError(f"{path}: no language to draw; the results contain no values")
    control = next(iter(series)) if control is None else control
    lookup(series, control, "control")
    draw = _draw_bars if len(languages) <= _MAX_BARS else _draw_dots
    figure = _figure_class()(figsize=(9, 4.2), facecolor="white")
    draw(figure, series, panels, chance, control)
    figure.text(0.01, 1 - 0.1 / figure.get_figheight(), title, fontweight="bold", **_TITLE_STYLE)
    _draw_legend(figure)
    figure.savefig(path, dpi=150, format="png")


def _draw_legend(figure):
    handles, names = figure.axes[0].get_legend_handles_labels()
    labelled = dict(zip(names, handles, strict=True))
    labelled["chance"] = labelled.pop("chance", None)  # moves "chance" to the end
    labelled = {name: handle for name, handle in labelled.items() if handle is not None}
    layout = {"loc": "upper right", "bbox_to_anchor": (1, 1), "ncols": len(labelled)}
    figure.legend(labelled.values(), labelled.keys(), frameon=False, fontsize=9, **layout)


def _figure_class():
    """Returns matplotlib's Figure, which needs no display and has no global state."""
    from matplotlib.figure import Figure

    return Figure


def _draw_bars(figure, series, panels, chance, control):
    figure.set_layout_engine("constrained", rect=(0, 0, 1, 0.91))
    panel_widths = [len(codes) + 0.6 for codes in panels.values()]
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False, width_ratios=panel_widths)[0]
    width = 0.8 / len(series)
    for axis, (group, codes) in zip(axes, panels.items(), strict=True):
        for i, (model, values) in enumerate(series.items()):
            centers = [x + (i - (len(series) - 1) / 2) * width for x in range(len(codes))]
            heights = [values.get(code, math.nan) for code in codes]
            color = _series_colors(series)[model]
            axis.bar(centers, heights, width * 0.92, color=color, label=model, zorder=2)
            if model == list(series)[-1] and len(series) > 1:
                _label_bars(axis, centers, heights)
        _draw_chance(axis, codes, chance)
        _style_bars(axis, codes, group)
    axes[0].set_ylabel(_AXIS_LABEL, color=INK)
    axes[0].set_ylim(0, _axis_limit(series))


def _draw_dots(figure, series, panels, chance, control):
    gains = {code: _gain(code, series, control) for codes in panels.values() for code in codes}
    rows = []  # a string is the heading of a group, (language,) is a row of dots
    for group, codes in panels.items():
        # A language has no gain if one of the two models has no value. Such languages are last.
        codes = sorted(codes, key=lambda code: (math.isnan(gains[code]), -gains[code]))
        rows += [group, *((code,) for code in codes)]
    num_columns = math.ceil(len(rows) / _MAX_ROWS)
    num_rows = math.ceil(len(rows) / num_columns)
    inches = 1.1 + 0.185 * num_rows
    figure.set_size_inches(9, inches)
    figure.set_layout_engine("constrained", rect=(0, 0, 1, 1 - 0.35 / inches))
    axes = figure.subplots(1, num_columns, sharex=True, squeeze=False)[0]
    for axis, first in zip(axes, range(0, len(rows), num_rows), strict=True):
        for y, row in enumerate(rows[first : first + num_rows]):
            if isinstance(row, str):
                style = {"fontsize": 9, "fontweight": "bold", "color": INK, "va": "center"}
                axis.annotate(row, (0, y), xycoords=("axes fraction", "data"), **style)
            else:
                _draw_dot_row(axis, y, row[0], gains[row[0]], series, chance)
        _style_dots(axis, rows[first : first + num_rows], num_rows)
        if control != list(series)[-1]:
            axis.set_title(f"{list(series)[-1]} $-$ {control}", fontsize=7, loc="right", color=INK)
    axes[0].set_xlim(0, 1.15 * _axis_limit(series))  # the gains are printed in the margin
    figure.supxlabel(_AXIS_LABEL, fontsize=10, color=INK)


def _draw_dot_row(axis, y, code, gain, series, chance):
    """Draws a language: its values on a line, and the gain as a number on the right."""
    colors = _series_colors(series)
    ends = [values[code] for values in series.values() if code in values]
    axis.plot([min(ends), max(ends)], [y, y], color=GRID, lw=2, zorder=1)
    for model, values in series.items():
        value = values.get(code, math.nan)
        axis.plot(
            [value],
            [y],
            "o",
            ms=4.5,
            color=colors[model],
            label=_label_once(axis, model),
            zorder=3,
        )
    if chance is not None:
        value = _chance_value(code, chance)
        axis.plot([value], [y], "|", ms=6, color=INK, label=_label_once(axis, "chance"), zorder=2)
    if not math.isnan(gain):
        color = _RISE if gain >= 0 else _FALL
        style = {"fontsize": 7, "color": color, "va": "center", "ha": "right"}
        axis.annotate(f"{gain:+.1f}", (1, y), xycoords=("axes fraction", "data"), **style)


def _style_dots(axis, rows, num_rows):
    labels = [(y, row[0]) for y, row in enumerate(rows) if not isinstance(row, str)]
    axis.set_yticks(*zip(*labels, strict=True), fontsize=7)
    axis.set_ylim(num_rows - 0.4, -0.6)
    axis.tick_params(length=0, labelsize=8, labelcolor=INK)
    axis.grid(axis="x", color=GRID, lw=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left", "bottom"]].set_visible(False)


def _label_once(axis, label):
    """Returns the label at its first use and None later, so that the legend shows it only once."""
    return label if label not in axis.get_legend_handles_labels()[1] else None


def _gain(code, series, control):
    """Returns the last series minus the control for a language; NaN if a value is missing."""
    last = list(series)[-1]
    if control == last:
        return math.nan
    return series[last].get(code, math.nan) - series[control].get(code, math.nan)


def _style_bars(axis, codes, group):
    axis.set_xlim(-0.7, len(codes) - 0.3)
    axis.set_xticks(range(len(codes)), codes)
    axis.tick_params(axis="x", length=0, labelsize=10, labelcolor=INK)
    axis.tick_params(axis="y", length=0, labelsize=9, labelcolor=INK)
    axis.set_title(group, fontsize=10, loc="left", color=INK)
    axis.grid(axis="y", color=GRID, lw=0.8, zorder=0)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.spines["bottom"].set_color(GRID)


def _label_bars(axis, centers, heights):
    for x, height in zip(centers, heights, strict=True):
        if not math.isnan(height):
            axis.annotate(
                f"{height:.0f}", (x, height), (0, 2), textcoords="offset points", ha="center",
                fontsize=7, color=ACCENT,
            )  # fmt: skip


def _draw_chance(axis, codes, chance):
    if chance is None:
        return
    values = [_chance_value(code, chance) for code in codes]
    edges = [x + side for x in range(len(codes)) for side in (-0.5, 0.5)]
    steps = [value for value in values for _ in range(2)]
    axis.plot(edges, steps, color=INK, lw=1, ls=(0, (3, 2)), label="chance", zorder=4)


def _chance_value(code, chance):
    return chance.get(code, math.nan) if isinstance(chance, dict) else chance


def _series_colors(series):
    muted = {model: MUTED[i % len(MUTED)] for i, model in enumerate(series)}
    return muted | {list(series)[-1]: ACCENT}


def _axis_limit(series):
    """Returns the upper end of the axis in percent.

    The end is a multiple of ten above the highest value, but at most 102: the axis ends a little
    above 100, the largest possible value.
    """
    highest = max((v for s in series.values() for v in s.values() if not math.isnan(v)), default=0)
    return min(102, max(10, 10 * math.ceil((highest + 3) / 10)))
