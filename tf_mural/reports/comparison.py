"""Results side by side: what may be compared, means, differences with intervals, tables."""

import dataclasses
import math

from tf_mural.errors import UserError
from tf_mural.reports.results import interval
from tf_mural.reports.tables import table

DOUBTFUL = "†"  # beside a published number that contradicts another one


@dataclasses.dataclass
class Column:
    """What one model reached: measured here, or published.

    Attributes:
        name: of the model, as the heading.
        protocol: id of the protocol, see `base.Result`.
        values: {key: number} of one measure; a key is a language or a group.
        intervals: {key: (low, high)}, of those that have one.
        doubtful: {key: why} of published values that contradict others.
        data: {record set: digest}; empty of what was published.
        source: where it is from.
    """

    name: str
    protocol: str
    values: dict
    intervals: dict = dataclasses.field(default_factory=dict)
    doubtful: dict = dataclasses.field(default_factory=dict)
    data: dict = dataclasses.field(default_factory=dict)
    source: str = ""

    def counted(self, key):
        """The value of a key, or None where there is none that counts."""
        return None if key in self.doubtful else self.values.get(key)


def check(columns):
    """Refuses columns that answer different questions.

    Raises:
        UserError: nothing to compare, two columns of one name, protocols or data that differ.
    """
    if not columns:
        raise UserError("nothing to compare: name results, or the paper's rows")
    names = [column.name for column in columns]
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise UserError(f"two of the results are called {double!r}: tell them apart by NAME=FILE")
    first = columns[0]
    for other in columns[1:]:
        if other.protocol != first.protocol:
            raise UserError(
                f"{first.name} was measured by {first.protocol}, {other.name} by {other.protocol}: "
                "numbers of different protocols do not compare; score both by the same one"
            )
    measured = [column for column in columns if column.data]
    for other in measured[1:]:
        if sorted(other.data.values()) != sorted(measured[0].data.values()):
            raise UserError(
                f"{measured[0].name} was measured on {_data(measured[0])}, {other.name} on "
                f"{_data(other)}: the records differ; score both on the same ones"
            )
    if not any(column.values for column in columns):
        raise UserError("none of the results has a value of this measure")


def _data(column):
    return ", ".join(f"{folder} ({digest})" for folder, digest in column.data.items())


def add_aggregates(column, means, sums):
    """Adds means and sums over languages to a column's values, where it has all of them.

    Args:
        column: a `Column`; a value that it has already stays, and doubtful ones are never counted.
        means, sums: {name: languages}.
    """
    for name, languages in {**means, **sums}.items():
        values = [column.counted(language) for language in languages]
        if name not in column.values and None not in values:
            total = math.fsum(values)
            column.values[name] = total / len(values) if name in means else total


def difference(subject, other, key):
    """How much `subject` is above `other` at a key.

    Returns:
        (difference, (low, high)): the interval follows from those of the two values, as if they
        were independent; a published value counts as exact. Since both models answer the same
        questions, it is rather too wide. Without an interval of any value it is None; without a
        value that counts on both sides, (None, None).
    """
    ours, theirs = subject.counted(key), other.counted(key)
    if ours is None or theirs is None:
        return None, None
    gain = ours - theirs
    low, high = subject.intervals.get(key), other.intervals.get(key)
    if low is None and high is None:
        return gain, None
    (ours_low, ours_high), (theirs_low, theirs_high) = low or (ours, ours), high or (theirs, theirs)
    down = math.hypot(ours - ours_low, theirs_high - theirs)
    up = math.hypot(ours_high - ours, theirs - theirs_low)
    return gain, (gain - down, gain + up)


def keys_of(columns):
    """All keys in order: those of the columns that were measured, if any was, else of all."""
    measured = [column for column in columns if column.data] or columns
    return list(dict.fromkeys(key for column in measured for key in column.values))


def split(keys, trained, apart=()):
    """{group: keys}: languages seen in training, unseen ones, and groups and means under "means".

    Args:
        keys: languages, groups ("groups/all") and pairs of languages ("en-de"), which are trained
            if both halves are.
        trained: languages, in any of the codes that keys have.
        apart: further keys that are no languages.
    """
    means = [key for key in keys if "/" in key or key in (*apart, "mean")]
    languages = [key for key in keys if key not in means]
    seen = [key for key in languages if all(half in trained for half in key.split("-"))]
    unseen = [key for key in languages if key not in seen]
    return {
        group: members
        for group, members in (("trained", seen), ("unseen", unseen), ("means", means))
        if members
    }


def value_table(columns, groups, markdown=False):
    """Values side by side, with their intervals, by groups of keys, and a mean a group.

    Args:
        columns: `Column`s.
        groups: {group: keys}, see `split`.
        markdown: whether to write a Markdown table.

    A mean is over the keys that every column has a value of that counts.
    """
    rows = []
    for group, keys in groups.items():
        rows.append([f"{group}:", *[""] * len(columns)])
        rows += [[key, *(_shown(column, key) for column in columns)] for key in keys]
        whole = [key for key in keys if all(c.counted(key) is not None for c in columns)]
        if len(whole) > 1 and group != "means":
            means = [math.fsum(c.values[key] for key in whole) / len(whole) for c in columns]
            rows.append([f"mean of {len(whole)}", *means])
        rows.append(None)
    return table(rows[:-1], ["", *(column.name for column in columns)], markdown)


def difference_table(subject, others, groups, markdown=False):
    """How much `subject` is above each of the others, with intervals; "" where there are none."""
    rows = []
    for keys in groups.values():
        for key in keys:
            found = [difference(subject, other, key) for other in others]
            if any(gain is not None for gain, _ in found):
                rows.append([key, *(_gain(gain, bounds) for gain, bounds in found)])
        rows.append(None)
    if not any(rows):
        return ""
    headings = [f"{subject.name} - {other.name}" for other in others]
    return table(rows[:-1], ["", *headings], markdown)


def notes(columns, keys):
    """Lines to put under a table: what the sign of a doubtful number means, and all sources."""
    lines = []
    reasons = {}  # one line for all cells of the same reason
    for column in columns:
        for key in [key for key in keys if key in column.doubtful and key in column.values]:
            reasons.setdefault((column.name, column.doubtful[key]), []).append(key)
    for (name, why), places in reasons.items():
        lines.append(f"{DOUBTFUL} {name}, {', '.join(places)}: {why} Not counted.")
    sources = {}
    for column in columns:
        sources.setdefault(column.source, []).append(column.name)
    return lines + [f"{', '.join(names)}: {place}" for place, names in sources.items() if place]


def _shown(column, key):
    value = column.values.get(key)
    if value is None:
        return None
    if key in column.doubtful:
        return f"{value:.1f} {DOUBTFUL}"
    bounds = interval(column.intervals.get(key))
    return f"{value:.1f} ({bounds})" if bounds else f"{value:.1f}"


def _gain(gain, bounds):
    if gain is None:
        return None
    bounds = interval(bounds, signed=True)
    return f"{gain:+.1f} ({bounds})" if bounds else f"{gain:+.1f}"
