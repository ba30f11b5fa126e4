"""Average recall per language as a picture."""

import math

from tf_mural.base import UserError, pick
from tf_mural.reports.tables import arrange

# Above this many languages bars become too thin to compare: dots, sorted by gain, take over.
_MOST_BARS = 30

# The last series is what the picture is about; those before it step back.
_ACCENT, _MUTED = "#1f5fbf", ("#8b95a1", "#c9d0d8", "#d9a05b", "#7fb09a")
_INK, _GRID, _RISE, _FALL = "#22272e", "#e3e7ec", "#2e8b57", "#c0503c"

AXIS = "Average Recall (%)"


def bar_chart(path, series, groups=None, chance=None, control=None, title="Zero-shot retrieval"):
    """Writes a PNG that compares models language by language, groups of languages apart.

    Up to 30 languages: bars in the given order. More: dots, sorted within each group by the gain of
    the last series over the control, with the gains below.

    Args:
        path: of the PNG.
        series: {model: {language: average recall in percent}}; a language that a model lacks is a gap.
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
    pick(series, control, "control")
    draw = _bars if len(languages) <= _MOST_BARS else _dots
    figure = _figure()(figsize=(9, 4.2), facecolor="white")
    draw(figure, series, panels, chance, control)
    handles, names = figure.axes[0].get_legend_handles_labels()
    place = {"loc": "upper right", "bbox_to_anchor": (0.99, 0.995), "ncols": len(names)}
    figure.legend(handles, names, frameon=False, fontsize=9, **place)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=_INK)
    figure.savefig(path, dpi=150, format="png")


def _figure():
    """matplotlib's Figure, which by itself draws without a display and leaves no state behind."""
    from matplotlib.figure import Figure

    return Figure


def _bars(figure, series, panels, chance, control):
    figure.set_layout_engine("constrained", rect=(0, 0, 1, 0.92))
    axes = _panels(figure, panels, rows=1)[0]
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
    axes[0].set_ylabel(AXIS, color=_INK)
    axes[0].set_ylim(0, _top(series))


def _dots(figure, series, panels, chance, control):
    last = list(series)[-1]
    count = sum(len(codes) for codes in panels.values())
    figure.set_size_inches(max(9, 2.5 + 0.155 * count), 6)
    figure.set_layout_engine("constrained", rect=(0, 0, 1, 0.945))

    def gain(code):
        return series[last].get(code, math.nan) - series[control].get(code, math.nan)

    # Languages without a gain (one of the two was not scored) go to the end.
    panels = {
        group: sorted(codes, key=lambda code: (math.isnan(gain(code)), -gain(code)))
        for group, codes in panels.items()
    }
    scores, gains = _panels(figure, panels, rows=2)
    for above, below, (group, codes) in zip(scores, gains, panels.items(), strict=True):
        for model, values in series.items():
            heights = [values.get(code, math.nan) for code in codes]
            colour = _colours(series)[model]
            above.plot(range(len(codes)), heights, "o", ms=4.5, color=colour, label=model, zorder=3)
        for x, code in enumerate(codes):
            ends = [values[code] for values in series.values() if code in values]
            above.plot([x, x], [min(ends), max(ends)], color=_GRID, lw=2, zorder=1)
        _chance(above, codes, chance)
        _dress(above, codes, group)
        above.tick_params(labelbottom=False)
        values = [gain(code) for code in codes]
        colours = [_RISE if value >= 0 else _FALL for value in values]
        below.bar(range(len(codes)), values, 0.75, color=colours, zorder=2)
        below.axhline(0, color=_INK, lw=0.6)
        _dress(below, codes, "")
    scores[0].set_ylabel(AXIS, color=_INK)
    scores[0].set_ylim(0, _top(series))
    gains[0].set_ylabel(f"{last}\n$-$ {control}", color=_INK)


def _panels(figure, panels, rows):
    """`rows` rows of axes, one column a group, as wide as its languages are many."""
    return figure.subplots(
        rows,
        len(panels),
        sharey="row",
        squeeze=False,
        gridspec_kw={
            "width_ratios": [len(codes) + 0.6 for codes in panels.values()],
            "height_ratios": [2, 1][:rows],
        },
    )


def _dress(axis, codes, group):
    axis.set_xlim(-0.7, len(codes) - 0.3)
    crowded = len(codes) > 20
    axis.set_xticks(range(len(codes)), codes, fontsize=7 if crowded else 10)
    axis.tick_params(axis="x", length=0, rotation=90 if crowded else 0, labelcolor=_INK)
    axis.tick_params(axis="y", length=0, labelsize=9, labelcolor=_INK)
    axis.set_title(group, fontsize=10, loc="left", color=_INK)
    axis.grid(axis="y", color=_GRID, lw=0.8, zorder=0)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.spines["bottom"].set_color(_GRID)


def _label_bars(axis, places, heights):
    for x, height in zip(places, heights, strict=True):
        if not math.isnan(height):
            axis.annotate(
                f"{height:.0f}", (x, height), (0, 2), textcoords="offset points", ha="center",
                fontsize=7, color=_ACCENT,
            )  # fmt: skip


def _chance(axis, codes, chance):
    if chance is None:
        return
    values = [chance.get(c, math.nan) if isinstance(chance, dict) else chance for c in codes]
    edges = [x + side for x in range(len(codes)) for side in (-0.5, 0.5)]
    steps = [value for value in values for _ in range(2)]
    axis.plot(edges, steps, color=_INK, lw=1, ls=(0, (3, 2)), label="chance", zorder=4)


def _colours(series):
    muted = {model: _MUTED[i % len(_MUTED)] for i, model in enumerate(series)}
    return muted | {list(series)[-1]: _ACCENT}


def _top(series):
    """The upper end of the axis: the next ten above the highest value, at most a little over 100."""
    highest = max((v for s in series.values() for v in s.values() if not math.isnan(v)), default=0)
    return min(102, max(10, 10 * math.ceil((highest + 3) / 10)))
