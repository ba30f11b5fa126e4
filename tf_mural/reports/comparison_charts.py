"""Comparisons as pictures: values and gains language by language, with intervals."""

import math

from tf_mural.errors import UserError
from tf_mural.reports.charts import ACCENT, GRID, INK, MUTED
from tf_mural.reports.comparison import difference

_BETTER, _WORSE = "#2e8b57", "#c0503c"
_MARKERS = "Ds^v"
_MOST_ROWS = 34  # in one column
_ROW = 0.21  # inches a language


def value_chart(path, columns, groups, axis, title):
    """Writes a PNG of values by language, a row each, with intervals; groups apart.

    Args:
        path: of the PNG.
        columns: `comparison.Column`s; the last one is what the picture is about. Values that do
            not count are left out.
        groups: {group: languages}.
        axis: name of the measure, with its unit.
        title: of the picture.

    Raises:
        UserError: nothing to draw.
    """
    rows = _rows(path, groups, lambda key: any(c.counted(key) is not None for c in columns))
    before = range(len(columns) - 1)
    colours = [MUTED[i % len(MUTED)] for i in before] + [ACCENT]
    # The same colour comes again with another shape.
    markers = [_MARKERS[i // len(MUTED) % len(_MARKERS)] for i in before] + ["o"]

    def draw(panel, y, key):
        offsets = [(i - (len(columns) - 1) / 2) * 0.5 / len(columns) for i in range(len(columns))]
        for column, colour, marker, offset in zip(columns, colours, markers, offsets, strict=True):
            if (value := column.counted(key)) is None:
                continue
            if bounds := column.intervals.get(key):
                panel.plot(bounds, [y + offset] * 2, color=colour, lw=1.4, zorder=2)
            panel.plot(value, y + offset, marker, ms=4.5, color=colour, zorder=3)

    figure = _panels(rows, draw, axis, title, legend_rows=math.ceil(len(columns) / 3))
    handles = [
        figure.axes[0].plot([], [], marker, ms=5, color=colour, label=column.name)[0]
        for column, colour, marker in zip(columns, colours, markers, strict=True)
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
    """Writes a PNG of how much `subject` is above `control`, sorted, with intervals; groups apart.

    Args: as `value_chart`, and the two `comparison.Column`s, and whether a lower value is the
        better one.

    Raises:
        UserError: no language has a value of both that counts.
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
        place = {"textcoords": "offset points", "va": "center", "fontsize": 7, "color": INK}
        panel.annotate(f"{gain:+.1f}", (end, y), (3, 0), **place)

    figure = _panels(rows, draw, axis, title, legend_rows=0)
    ends = [0.0]
    for gain, bounds in gains.values():
        ends += [] if gain is None else [gain, *(bounds or ())]
    room = 0.16 * (max(ends) - min(ends) or 1)  # for the numbers
    for panel in figure.axes:
        panel.axvline(0, color=INK, lw=0.8, zorder=1)
        panel.set_xlim(min(ends) - (0.04 * room if min(ends) < 0 else 0), max(ends) + room)
    figure.savefig(path, dpi=150, format="png")


def _rows(path, groups, drawn):
    """Names of groups, and (key,) of each that there is something to draw of."""
    rows = []
    for group, keys in groups.items():
        keys = [key for key in keys if drawn(key)]
        rows += [group, *((key,) for key in keys)] if keys else []
    if not rows:
        raise UserError(f"{path}: no language has values to draw")
    return rows


def _panels(rows, draw, axis, title, legend_rows):
    """A figure of rows, broken into columns where there are many."""
    from matplotlib.figure import Figure

    columns = math.ceil(len(rows) / _MOST_ROWS)
    height = math.ceil(len(rows) / columns)
    head = 0.42 + 0.2 * legend_rows
    inches = head + 0.55 + _ROW * height
    figure = Figure(figsize=(8 if columns == 1 else 10, inches), facecolor="white")
    figure.set_layout_engine("constrained", rect=(0, 0, 1, 1 - head / inches))
    panels = figure.subplots(1, columns, sharex=True, squeeze=False)[0]
    for panel, first in zip(panels, range(0, len(rows), height), strict=True):
        some = rows[first : first + height]
        for y, row in enumerate(some):
            if isinstance(row, str):
                style = {"fontsize": 9, "fontweight": "bold", "color": INK, "va": "center"}
                style["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 2}  # over lines
                panel.annotate(row, (0, y), xycoords=("axes fraction", "data"), **style)
            else:
                draw(panel, y, row[0])
        _dress(panel, some, height)
    figure.supxlabel(axis, fontsize=9, color=INK)
    style = {"fontsize": 11, "fontweight": "bold", "color": INK, "va": "top"}
    figure.text(0.01, 1 - 0.08 / inches, title, **style)
    return figure


def _dress(panel, rows, height):
    named = [(y, row[0]) for y, row in enumerate(rows) if not isinstance(row, str)]
    panel.set_yticks([y for y, _ in named], [name for _, name in named], fontsize=8)
    panel.set_ylim(height - 0.4, -0.6)
    panel.tick_params(length=0, labelsize=8, labelcolor=INK)
    panel.grid(axis="x", color=GRID, lw=0.8)
    panel.grid(axis="y", color=GRID, lw=0.4)
    panel.set_axisbelow(True)
    panel.spines[["top", "right", "left", "bottom"]].set_visible(False)
