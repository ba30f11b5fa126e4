"""Comparison of results: checks, means, differences with intervals, and tables."""

import dataclasses
import math

from tf_mural.errors import UserError
from tf_mural.evaluation import metrics
from tf_mural.reports.result_tables import format_interval
from tf_mural.reports.tables import table

_LEVEL = 0.05  # of corrected p-values
DOUBTFUL_MARK = "†"  # printed after a published number that contradicts another number


@dataclasses.dataclass
class Column:
    """Values of one model, measured or published.

    Attributes:
        name: Name of the model, the heading of the column.
        protocol: Id of the protocol, see `evaluation.results.Result`.
        values: {key: number} of one metric; a key is a language or a group.
        intervals: {key: (low, high)} of the values that have an interval.
        doubtful: {key: reason} of published values that contradict other published values.
        data: {folder of a record set: digest of the record set}; empty for published values.
        source: File or publication of the values.
        items: {key: items of the metric}, see `metrics.paired_bootstrap`; empty if unknown.
    """

    name: str
    protocol: str
    values: dict
    intervals: dict = dataclasses.field(default_factory=dict)
    doubtful: dict = dataclasses.field(default_factory=dict)
    data: dict = dataclasses.field(default_factory=dict)
    source: str = ""
    items: dict = dataclasses.field(default_factory=dict, repr=False)
    _paired: dict = dataclasses.field(default_factory=dict, repr=False)

    def reliable(self, key):
        """Returns the value of a key, or None if the value is missing or in `doubtful`."""
        return None if key in self.doubtful else self.values.get(key)


def check_comparable(columns):
    """Raises an error if columns cannot be compared.

    Raises:
        UserError: There are no columns or no values, two columns have the same name, or protocols
            or data differ.
    """
    if not columns:
        raise UserError("nothing to compare: name results, or the paper's rows")
    names = [column.name for column in columns]
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if duplicate is not None:
        raise UserError(f"two of the results are called {duplicate!r}: name them with NAME=FILE")
    first = columns[0]
    for other in columns[1:]:
        if other.protocol != first.protocol:
            raise UserError(
                f"{first.name} was measured by {first.protocol}, {other.name} by {other.protocol}: "
                "numbers of different protocols are not comparable; use the same protocol for both"
            )
    measured = [column for column in columns if column.data]
    for other in measured[1:]:
        if sorted(other.data.values()) != sorted(measured[0].data.values()):
            raise UserError(
                f"{measured[0].name} was measured on {_describe_data(measured[0])}, "
                f"{other.name} on {_describe_data(other)}: the records differ; "
                "use the same records for both"
            )
    if not any(column.values for column in columns):
        raise UserError("none of the results has a value of this metric")


def _describe_data(column):
    return ", ".join(f"{folder} ({digest})" for folder, digest in column.data.items())


def add_aggregates(column, means, sums):
    """Adds means and sums over languages to the values of a column.

    A mean or sum is added only if `Column.reliable` returns a value for each language of the mean
    or sum. If the column already has a value with the name of a mean or sum, this value is kept.

    Args:
        column: A `Column`.
        means, sums: {name of a mean or sum: languages over which it is computed, or the number of
            languages, which are then all languages of the column}.
    """
    for name, languages in {**means, **sums}.items():
        if isinstance(languages, int):
            keys = [k for k in column.values if "/" not in k and k not in (*means, *sums)]
            languages = keys if len(keys) == languages else [""]
        values = [column.reliable(language) for language in languages]
        if name not in column.values and None not in values:
            total = math.fsum(values)
            column.values[name] = total / len(values) if name in means else total


def difference(subject, baseline, key):
    """Returns the value of `subject` for a key minus the value of `baseline`.

    If both columns have items, the interval is that of the paired bootstrap over images. Otherwise,
    it is derived from the intervals of the two values as if the values were independent; a value
    without an interval counts as exact. If both models are evaluated on the same items, the true
    interval is usually narrower.

    Returns:
        Tuple (difference, (low, high)). The interval is None if neither value has an interval.
        Difference and interval are None if `Column.reliable` returns None for one of the columns.
    """
    value, base = subject.reliable(key), baseline.reliable(key)
    if value is None or base is None:
        return None, None
    gain = value - base
    if paired := paired_comparison(subject, baseline, key):
        return gain, paired[1]
    interval, base_interval = subject.intervals.get(key), baseline.intervals.get(key)
    if interval is None and base_interval is None:
        return gain, None
    low, high = interval or (value, value)
    base_low, base_high = base_interval or (base, base)
    down = math.hypot(value - low, base_high - base)
    up = math.hypot(high - value, base - base_low)
    return gain, (gain - down, gain + up)


def paired_comparison(subject, baseline, key):
    """Returns the result of `metrics.paired_bootstrap` for a key, or None without items.

    Raises:
        UserError: The items are those of different images.
    """
    if key not in subject.items or key not in baseline.items or subject is baseline:
        return None
    memo = baseline.name, key
    if memo not in subject._paired:
        subject._paired[memo] = metrics.paired_bootstrap(subject.items[key], baseline.items[key])
    return subject._paired[memo]


def paired_lines(subject, baselines, groups):
    """Returns a line per baseline: where the models differ, and what the images could show.

    Args:
        subject: A `Column`.
        baselines: Columns that are subtracted from `subject`.
        groups: {group: keys}, see `group_keys`.
    """
    lines = []
    for baseline in baselines:
        pairs = {
            key: pair
            for keys in groups.values()
            for key in keys
            if (pair := paired_comparison(subject, baseline, key))
        }
        if not pairs:
            continue
        corrected = metrics.holm([pair[2] for pair in pairs.values()])
        by_key = dict(zip(pairs, corrected, strict=True))
        higher = [key for key in pairs if by_key[key] < _LEVEL and pairs[key][0] > 0]
        lower = [key for key in pairs if by_key[key] < _LEVEL and pairs[key][0] < 0]
        errors = sorted(pair[3] for pair in pairs.values())
        smallest = metrics.smallest_detectable_difference(errors[len(errors) // 2])
        lines.append(
            f"{subject.name} - {baseline.name}: intervals by paired bootstrap over the images. "
            f"After Holm's correction over {len(pairs)} languages, higher in "
            f"{', '.join(higher) or 'none'}; lower in {', '.join(lower) or 'none'}. A true "
            f"difference of {smallest:.1f} is detected in 80 % of the cases (median language, "
            "without the correction)."
        )
    return lines


def ordered_keys(columns):
    """Returns the keys of the measured columns, or of all columns if no column is measured."""
    measured = [column for column in columns if column.data] or columns
    return list(dict.fromkeys(key for column in measured for key in column.values))


def group_keys(keys, trained, aggregates=()):
    """Sorts keys into "trained" languages, "unseen" languages and "means"; returns {group: keys}.

    Args:
        keys: Languages, groups ("groups/all") and pairs of languages ("en-de"). A pair counts as
            trained if both its languages are trained.
        trained: Codes of the trained languages, in all forms that the keys use, such as "de" and
            "deu".
        aggregates: Further keys that belong to "means", because they are not languages.
    """
    means = [key for key in keys if "/" in key or key in (*aggregates, "mean")]
    languages = [key for key in keys if key not in means]
    seen = [key for key in languages if all(half in trained for half in key.split("-"))]
    unseen = [key for key in languages if key not in seen]
    return {
        group: members
        for group, members in (("trained", seen), ("unseen", unseen), ("means", means))
        if members
    }


def value_table(columns, groups, markdown=False):
    """Returns a table of values with their intervals, by groups of keys, with a mean per group.

    The mean of a group is computed over the keys for which `Column.reliable` returns a value in
    every column.

    Args:
        columns: List of `Column`.
        groups: {group: keys}, see `group_keys`.
        markdown: Whether to return a Markdown table.
    """
    rows = []
    for group, keys in groups.items():
        rows.append([f"{group}:", *[""] * len(columns)])
        rows += [[key, *(_format_value(column, key) for column in columns)] for key in keys]
        complete = [key for key in keys if all(c.reliable(key) is not None for c in columns)]
        if len(complete) > 1 and group != "means":
            means = [math.fsum(c.values[key] for key in complete) / len(complete) for c in columns]
            rows.append([f"mean of {len(complete)}", *means])
        rows.append(None)
    return table(rows[:-1], ["", *(column.name for column in columns)], markdown)


def difference_table(subject, baselines, groups, markdown=False):
    """Returns a table of `subject` minus each baseline, with intervals.

    The result is "" if no key has a difference.
    """
    rows = []
    for keys in groups.values():
        for key in keys:
            differences = [difference(subject, baseline, key) for baseline in baselines]
            if any(gain is not None for gain, _ in differences):
                rows.append([key, *(_format_gain(gain, bounds) for gain, bounds in differences)])
        rows.append(None)
    if not any(rows):
        return ""
    headings = [f"{subject.name} - {baseline.name}" for baseline in baselines]
    return table(rows[:-1], ["", *headings], markdown)


def footnotes(columns, keys):
    """Returns the lines below a table: why numbers are doubtful, and the sources of the columns."""
    lines = []
    keys_by_reason = {}  # one line for all cells with the same reason
    for column in columns:
        for key in [key for key in keys if key in column.doubtful and key in column.values]:
            keys_by_reason.setdefault((column.name, column.doubtful[key]), []).append(key)
    for (name, reason), doubtful in keys_by_reason.items():
        lines.append(f"{DOUBTFUL_MARK} {name}, {', '.join(doubtful)}: {reason} Not counted.")
    names_by_source = {}
    for column in columns:
        names_by_source.setdefault(column.source, []).append(column.name)
    return lines + [
        f"{', '.join(names)}: {source}" for source, names in names_by_source.items() if source
    ]


def _format_value(column, key):
    value = column.values.get(key)
    if value is None:
        return None
    if key in column.doubtful:
        return f"{value:.1f} {DOUBTFUL_MARK}"
    bounds = format_interval(column.intervals.get(key))
    return f"{value:.1f} ({bounds})" if bounds else f"{value:.1f}"


def _format_gain(gain, bounds):
    if gain is None:
        return None
    bounds = format_interval(bounds, signed=True)
    return f"{gain:+.1f} ({bounds})" if bounds else f"{gain:+.1f}"
