"""Charts of comparisons: values and gains per language, with intervals."""

import math

from tf_mural.errors import UserError
from tf_mural.reports.charts import ACCENT, GRID, INK, MUTED
from tf_mural.reports.comparison import difference

_BETTER, _WORSE = "#2e8b57", "#c0503c"
_MARKERS = "Ds^v"
_MAX_ROWS = 34  # maximum number of rows in a column of the figure
_ROW_HEIGHT = 0.21  # inches


def value_chart(path, columns, groups, axis, title):
    """Writes a PNG of values with intervals, with a row per language and a section per group.

    Args:
        path: Path of the PNG.
        columns: List of `comparison.Column`; the last column is highlighted. Values in
            `Column.doubtful` are left out.
        groups: {name of a group: its languages}.
        axis: Label of the axis: the metric with its unit.
        title: Title of the chart.

    Raises:
        UserError: There are no values.
    """
    rows = _rows(path, groups, lambda key: any(c.reliable(key) is not None for c in columns))
    muted = range(len(columns) - 1)
    colors = [MUTED[i % len(MUTED)] for i in muted] + [ACCENT]
    # If there are more columns than colors, the colors are repeated with another marker.
    markers = [_MARKERS[i // len(MUTED) % len(_MARKERS)] for i in muted] + ["o"]

    def draw(panel, y, key):
        offsets = [(i - (len(columns) - 1) / 2) * 0.5 / len(columns) for i in range(len(columns))]
        for column, color, marker, offset in zip(columns, colors, markers, offsets, strict=True):
            if (value := column.reliable(key)) is None:
                continue
            if bounds := column.intervals.get(key):
                panel.plot(bounds, [y + offset] * 2, color=color, lw=1.4, zorder=2)
            panel.plot(value, y + offset, marker, ms=4.5, color=color, zorder=3)

    figure = _draw_figure(rows, draw, axis, title, legend_rows=math.ceil(len(columns) / 3))
    handles = [
        figure.axes[0].plot([], [], marker, ms=5, color=color, label=column.name)[0]
        for column, color, marker in zip(columns, colors, markers, strict=True)
    ]
    figure.legend(
        handles=handles,
        labelcolor=INK,
        loc="upper left",
        bbox_to_anchor=(0, 1 - 0.3 / figure.get_figheight()),
        ncols=min(3, len(columns)),
        frameon=False,
        fontsize=8,
    )
    figure.savefig(path, dpi=150, format="png")


def gain_chart(path, subject, control, groups, axis, title, lower_is_better=False):
    """Writes a PNG of `subject` minus `control`, sorted, with intervals and a section per group.

    Args:
        path, groups, axis, title: See `value_chart`.
        subject, control: `comparison.Column`.
        lower_is_better: Whether a lower value is better.

    Raises:
        UserError: There is no language for which `Column.reliable` returns a value in both columns.
    """
    gains = {key: difference(subject, control, key) for keys in groups.values() for key in keys}
    ordered = {
        group: sorted(keys, key=lambda key: -gains[key][0] if gains[key][0] is not None else 0)
        for group, keys in groups.items()
    }
    rows = _rows(path, ordered, lambda key: gains[key][0] is not None)

    def draw(panel, y, key):
        gain, bounds = gains[key]
        panel.barh(
            y, gain, 0.66, color=_BETTER if (gain >= 0) != lower_is_better else _WORSE, zorder=2
        )
        if bounds:
            panel.plot(bounds, [y, y], color=INK, lw=1, zorder=3)
        end = max(gain, 0, *(bounds or (0,)))
        style = {"textcoords": "offset points", "va": "center", "fontsize": 7, "color": INK}
        panel.annotate(f"{gain:+.1f}", (end, y), (3, 0), **style)

    figure = _draw_figure(rows, draw, axis, title, legend_rows=0)
    ends = [0.0]
    for gain, bounds in gains.values():
        ends += [] if gain is None else [gain, *(bounds or ())]
    margin = 0.16 * (max(ends) - min(ends) or 1)  # space for the printed gains
    for panel in figure.axes:
        panel.axvline(0, color=INK, lw=0.8, zorder=1)
        panel.set_xlim(min(ends) - (0.04 * margin if min(ends) < 0 else 0), max(ends) + margin)
    figure.savefig(path, dpi=150, format="png")


def _rows(path, groups, has_value):
    """Returns the rows of a chart: strings are headings of groups, (key,) is a key with a value."""
    rows = []
    for group, keys in groups.items():
        keys = [key for key in keys if has_value(key)]
        rows += [group, *((key,) for key in keys)] if keys else []
    if not rows:
        raise UserError(f"{path}: no language has values to draw")
    return rows


def _draw_figure(rows, draw, axis, title, legend_rows):
    """Returns a figure of rows, in several columns if there are many rows."""
    from matplotlib.figure import Figure

    num_columns = math.ceil(len(rows) / _MAX_ROWS)
    num_rows = math.ceil(len(rows) / num_columns)
    head = 0.42 + 0.2 * legend_rows
    inches = head + 0.55 + _ROW_HEIGHT * num_rows
    figure = Figure(figsize=(8 if num_columns == 1 else 10, inches), facecolor="white")
    figure.set_layout_engine("constrained", rect=(0, 0, 1, 1 - head / inches))
    panels = figure.subplots(1, num_columns, sharex=True, squeeze=False)[0]
    for panel, first in zip(panels, range(0, len(rows), num_rows), strict=True):
        panel_rows = rows[first : first + num_rows]
        for y, row in enumerate(panel_rows):
            if isinstance(row, str):
                style = {"fontsize": 9, "fontweight": "bold", "color": INK, "va": "center"}
                style["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 2}  # hides lines
                panel.annotate(row, (0, y), xycoords=("axes fraction", "data"), **style)
            else:
                draw(panel, y, row[0])
        _style_panel(panel, panel_rows, num_rows)
    figure.supxlabel(axis, fontsize=9, color=INK)
    style = {"fontsize": 11, "fontweight": "bold", "color": INK, "va": "top"}
    figure.text(0.01, 1 - 0.08 / inches, title, **style)
    return figure


def _style_panel(panel, rows, num_rows):
    labels = [(y, row[0]) for y, row in enumerate(rows) if not isinstance(row, str)]
    panel.set_yticks([y for y, _ in labels], [name for _, name in labels], fontsize=8)
    panel.set_ylim(num_rows - 0.4, -0.6)
    panel.tick_params(length=0, labelsize=8, labelcolor=INK)
    panel.grid(axis="x", color=GRID, lw=0.8)
    panel.grid(axis="y", color=GRID, lw=0.4)
    panel.set_axisbelow(True)
    panel.spines[["top", "right", "left", "bottom"]].set_visible(False)
