"""The chart of average recall per language."""

import math
import os

import pytest
from PIL import Image

from tf_mural import reports
from tf_mural.errors import UserError
from tf_mural.reports import charts

SERIES = {
    "mural": {"en": 60.0, "de": 10.0, "ko": 8.0},
    "control": {"en": 62.0, "de": 11.0, "ko": 9.0, "it": 3.0},
    "etcl": {"en": 57.0, "de": 51.0, "ko": 19.0},
}
GROUPS = {"trained": ["en", "de", "fr"], "unseen": ["ko"]}


@pytest.fixture
def figures(monkeypatch):
    """List of the figures that the test draws."""
    from matplotlib.figure import Figure

    drawn = []

    class CollectedFigure(Figure):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            drawn.append(self)

    monkeypatch.setattr(charts, "_figure_class", lambda: CollectedFigure)
    return drawn


def legend_texts(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_bars_show_the_values_of_each_group_in_its_panel(tmp_path, figures):
    reports.recall_chart(tmp_path / "bars.png", SERIES, GROUPS, chance=0.5, control="control")
    axes = figures[0].axes
    assert [axis.get_title(loc="left") for axis in axes] == ["trained", "unseen", "other"]
    labels = [[label.get_text() for label in axis.get_xticklabels()] for axis in axes]
    assert labels == [["en", "de"], ["ko"], ["it"]]
    heights = [[patch.get_height() for patch in bars] for bars in axes[0].containers]
    assert heights == [[60.0, 10.0], [62.0, 11.0], [57.0, 51.0]]
    not_scored = axes[2].containers[0][0]
    assert math.isnan(not_scored.get_height())
    assert legend_texts(figures[0]) == ["mural", "control", "etcl", "chance"]
    assert axes[0].get_ylabel() == "Average Recall (%)"
    assert Image.open(tmp_path / "bars.png").format == "PNG"


def test_many_languages_become_dots_sorted_by_gain(tmp_path, figures):
    codes = [f"x{chr(97 + i // 9)}{chr(97 + i % 9)}" for i in range(80)]
    gains = {code: float((7 * i) % 80) - 10 for i, code in enumerate(codes)}
    series = {
        "control": dict.fromkeys(codes, 20.0),
        "etcl": {code: 20.0 + gain for code, gain in gains.items()},
    }
    groups = {"trained": codes[:5], "unseen": codes[5:]}
    reports.recall_chart(tmp_path / "dots.png", series, groups, chance=dict.fromkeys(codes, 1.0))
    axes = figures[0].axes
    order = [label.get_text() for axis in axes for label in axis.get_yticklabels()]
    assert order[:5] == sorted(codes[:5], key=gains.get, reverse=True)
    assert order[5:] == sorted(codes[5:], key=gains.get, reverse=True)
    texts = [text.get_text() for axis in axes for text in axis.texts]
    assert [text for text in texts if text in groups] == ["trained", "unseen"]
    numbers = [text for text in texts if text not in groups]
    assert numbers == [f"{gains[code]:+.1f}" for code in order]
    assert "-10.0" in numbers and "+69.0" in numbers
    assert legend_texts(figures[0]) == ["control", "etcl", "chance"]
    assert Image.open(tmp_path / "dots.png").format == "PNG"


def test_dots_are_at_their_values(tmp_path, figures):
    values = {f"l{i}": 1.5 * i for i in range(31)}
    reports.recall_chart(tmp_path / "dots.png", {"mural": values})
    (axis,) = figures[0].axes
    labels = [label.get_text() for label in axis.get_yticklabels()]
    rows = dict(zip(axis.get_yticks(), labels, strict=True))
    dots = [line for line in axis.lines if line.get_marker() == "o"]
    drawn = {rows[line.get_ydata()[0]]: line.get_xdata()[0] for line in dots}
    assert drawn == values
    # A single series has no gains: the only text is the empty heading of the group.
    assert [text.get_text() for text in axis.texts] == [""]


def test_charts_without_values_or_with_an_unknown_control_are_rejected(tmp_path):
    with pytest.raises(UserError, match="no language to draw"):
        reports.recall_chart(tmp_path / "none.png", {"mural": {}})
    with pytest.raises(UserError, match="unknown control 'x'"):
        reports.recall_chart(tmp_path / "none.png", {"mural": {"en": 1.0}}, control="x")
    assert os.listdir(tmp_path) == []
