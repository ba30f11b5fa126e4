"""Average recall per language as a picture."""

import math

from tf_mural.errors import UserError, lookup
from tf_mural.reports.tables import arrange

# Above this many languages bars become too thin to compare: dots, sorted by gain, take over.
_MOST_BARS = 30
_MOST_ROWS = 36  # of dots in one column

# The last series is what the picture is about; those before it step back.
ACCENT, MUTED = "#1f5fbf", ("#8b95a1", "#c9d0d8", "#d9a05b", "#7fb09a")
INK, GRID, _RISE, _FALL = "#22272e", "#e3e7ec", "#2e8b57", "#c0503c"

_AT_TOP = {"fontsize": 12, "color": INK, "va": "top"}
AXIS = "Average Recall (%)"


def bar_chart(path, series, groups=None, chance=None, control=None, title="Zero-shot retrieval"):
    """Writes a PNG that compares models language by language, groups of languages apart.

    Up to 30 languages: bars in the given order. More: dots, sorted within each group by the gain of
    the last series over the control, with the gains as numbers.

    Args:
        path: of the PNG.
        series: {model: {language: average recall in percent}}; what a model lacks is a gap.
        groups: {name: languages}, one panel each; one panel by default.
        chance: average recall of a random order, a number or {language: number}; drawn as a line.
        control: name of the series that gains are counted from; the first by default.
        title: of the picture.

    Raises:
        UserError: nothing to draw, an unknown control.
    """
    languages = list(dict.fromkeys(code for values in series.values() for code in values))
    panels = arrange(languages, groups)
    if not languages:
        raise UserError(f"{path}: no language to draw; the results hold no values")
    control = next(iter(series)) if control is None else control
    lookup(series, control, "control")
    draw = _bars if len(languages) <= _MOST_BARS else _dots
    figure = _figure()(figsize=(9, 4.2), facecolor="white")
    draw(figure, series, panels, chance, control)
    figure.text(0.01, 1 - 0.1 / figure.get_figheight(), title, fontweight="bold", **_AT_TOP)
    _legend(figure)
    figure.savefig(path, dpi=150, format="png")


def _legend(figure):
    handles, names = figure.axes[0].get_legend_handles_labels()
    labelled = dict(zip(names, handles, strict=True))
    labelled["chance"] = labelled.pop("chance", None)  # to the end
    labelled = {name: handle for name, handle in labelled.items() if handle is not None}
    place = {"loc": "upper right", "bbox_to_anchor": (1, 1), "ncols": len(labelled)}
    figure.legend(labelled.values(), labelled.keys(), frameon=False, fontsize=9, **place)


def _figure():
    """matplotlib's Figure, which by itself draws without a display and leaves no state behind."""
    from matplotlib.figure import Figure

    return Figure


def _bars(figure, series, panels, chance, control):
    figure.set_layout_engine("constrained", rect=(0, 0, 1, 0.91))
    widths = [len(codes) + 0.6 for codes in panels.values()]
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False, width_ratios=widths)[0]
    width = 0.8 / len(series)
    for axis, (group, codes) in zip(axes, panels.items(), strict=True):
        for i, (model, values) in enumerate(series.items()):
            places = [x + (i - (len(series) - 1) / 2) * width for x in range(len(codes))]
            heights = [values.get(code, math.nan) for code in codes]
            colour = _colours(series)[model]
            axis.bar(places, heights, width * 0.92, color=colour, label=model, zorder=2)
            if model == list(series)[-1] and len(series) > 1:
                _label_bars(axis, places, heights)
        _chance(axis, codes, chance)
        _dress(axis, codes, group)
    axes[0].set_ylabel(AXIS, color=INK)
    axes[0].set_ylim(0, _top(series))


def _dots(figure, series, panels, chance, control):
    gains = {code: _gain(code, series, control) for codes in panels.values() for code in codes}
    rows = []  # names of groups, and (language,)
    for group, codes in panels.items():
        # Languages without a gain (one of the two was not scored) go to the end.
        codes = sorted(codes, key=lambda code: (math.isnan(gains[code]), -gains[code]))
        rows += [group, *((code,) for code in codes)]
    columns = math.ceil(len(rows) / _MOST_ROWS)
    height = math.ceil(len(rows) / columns)
    inches = 1.1 + 0.185 * height
    figure.set_size_inches(9, inches)
    figure.set_layout_engine("constrained", rect=(0, 0, 1, 1 - 0.35 / inches))
    axes = figure.subplots(1, columns, sharex=True, squeeze=False)[0]
    for axis, first in zip(axes, range(0, len(rows), height), strict=True):
        for y, row in enumerate(rows[first : first + height]):
            if isinstance(row, str):
                style = {"fontsize": 9, "fontweight": "bold", "color": INK, "va": "center"}
                axis.annotate(row, (0, y), xycoords=("axes fraction", "data"), **style)
            else:
                _dot_row(axis, y, row[0], gains[row[0]], series, chance)
        _dress_rows(axis, rows[first : first + height], height)
        if control != list(series)[-1]:
            axis.set_title(f"{list(series)[-1]} $-$ {control}", fontsize=7, loc="right", color=INK)
    axes[0].set_xlim(0, 1.15 * _top(series))  # the gains stand in the rest
    figure.supxlabel(AXIS, fontsize=10, color=INK)


def _dot_row(axis, y, code, gain, series, chance):
    """One language: its values on a line, the gain as a number to the right of the panel."""
    colours = _colours(series)
    ends = [values[code] for values in series.values() if code in values]
    axis.plot([min(ends), max(ends)], [y, y], color=GRID, lw=2, zorder=1)
    for model, values in series.items():
        value = values.get(code, math.nan)
        axis.plot(
            [value], [y], "o", ms=4.5, color=colours[model], label=_once(axis, model), zorder=3
        )
    if chance is not None:
        value = _chance_of(code, chance)
        axis.plot([value], [y], "|", ms=6, color=INK, label=_once(axis, "chance"), zorder=2)
    if not math.isnan(gain):
        colour = _RISE if gain >= 0 else _FALL
        style = {"fontsize": 7, "color": colour, "va": "center", "ha": "right"}
        axis.annotate(f"{gain:+.1f}", (1, y), xycoords=("axes fraction", "data"), **style)


def _dress_rows(axis, rows, height):
    named = [(y, row[0]) for y, row in enumerate(rows) if not isinstance(row, str)]
    axis.set_yticks(*zip(*named, strict=True), fontsize=7)
    axis.set_ylim(height - 0.4, -0.6)
    axis.tick_params(length=0, labelsize=8, labelcolor=INK)
    axis.grid(axis="x", color=GRID, lw=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left", "bottom"]].set_visible(False)


def _once(axis, label):
    """The label for the first of many, so that the legend has it once."""
    return label if label not in axis.get_legend_handles_labels()[1] else None


def _gain(code, series, control):
    """How much the last series is above the control; not a number where one of them is missing."""
    last = list(series)[-1]
    if control == last:
        return math.nan
    return series[last].get(code, math.nan) - series[control].get(code, math.nan)


def _dress(axis, codes, group):
    axis.set_xlim(-0.7, len(codes) - 0.3)
    axis.set_xticks(range(len(codes)), codes)
    axis.tick_params(axis="x", length=0, labelsize=10, labelcolor=INK)
    axis.tick_params(axis="y", length=0, labelsize=9, labelcolor=INK)
    axis.set_title(group, fontsize=10, loc="left", color=INK)
    axis.grid(axis="y", color=GRID, lw=0.8, zorder=0)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.spines["bottom"].set_color(GRID)


def _label_bars(axis, places, heights):
    for x, height in zip(places, heights, strict=True):
        if not math.isnan(height):
            axis.annotate(
                f"{height:.0f}", (x, height), (0, 2), textcoords="offset points", ha="center",
                fontsize=7, color=ACCENT,
            )  # fmt: skip


def _chance(axis, codes, chance):
    if chance is None:
        return
    values = [_chance_of(code, chance) for code in codes]
    edges = [x + side for x in range(len(codes)) for side in (-0.5, 0.5)]
    steps = [value for value in values for _ in range(2)]
    axis.plot(edges, steps, color=INK, lw=1, ls=(0, (3, 2)), label="chance", zorder=4)


def _chance_of(code, chance):
    return chance.get(code, math.nan) if isinstance(chance, dict) else chance


def _colours(series):
    muted = {model: MUTED[i % len(MUTED)] for i, model in enumerate(series)}
    return muted | {list(series)[-1]: ACCENT}


def _top(series):
    """The upper end of the axis: the next ten above the highest value, 102 at most."""
    highest = max((v for s in series.values() for v in s.values() if not math.isnan(v)), default=0)
    return min(102, max(10, 10 * math.ceil((highest + 3) / 10)))
