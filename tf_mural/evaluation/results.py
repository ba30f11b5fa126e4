"""The result of a task, and averages over groups of languages with confidence intervals."""

import dataclasses

import numpy as np

from tf_mural.errors import lookup
from tf_mural.evaluation import metrics


@dataclasses.dataclass
class Result:
    """Result of a task.

    Attributes:
        task: Name of the task, for example "retrieval".
        protocol: Id of the exact protocol, for example "retrieval/v1". If a change of the protocol
            changes values, the id also changes.
        values: Metrics by name, in the units of the protocol; dicts may be nested.
        counts: Numbers of evaluated images, texts and so on, by name.
        intervals: 95 % confidence intervals (low, high), with the keys of `values`.
        sizes: {size: {"values", "intervals"}} of truncated embeddings, with the size as a string,
            as in JSON. {}: only the whole embeddings were evaluated.
        items: {key: {metric: float32 (n, 2)}}, sum and count of the metric per image, for paired
            comparisons of two models; see `metrics.paired_bootstrap`. {}: the task has none.
    """

    task: str
    protocol: str
    values: dict
    counts: dict
    intervals: dict = dataclasses.field(default_factory=dict)
    sizes: dict = dataclasses.field(default_factory=dict)
    items: dict = dataclasses.field(default_factory=dict, repr=False, compare=False)

    def as_dict(self):
        """Returns the attributes as plain data, without `items`, and `sizes` if it is empty."""
        content = dataclasses.asdict(dataclasses.replace(self, items={}))
        del content["items"]
        return content if self.sizes else {k: v for k, v in content.items() if k != "sizes"}

    def of_size(self, dim):
        """Returns the `Result` of truncated embeddings; `dim` is a size in `sizes`.

        Raises:
            UserError: this size was not evaluated.
        """
        return dataclasses.replace(self, sizes={}, items={}, **lookup(self.sizes, str(dim), "size"))


def average_groups(values, resampled, groups):
    """Averages each metric over the members of each group.

    Args:
        values: {language: {metric: number}}.
        resampled: {language: {metric: (num_bootstrap,)}}, bootstrap values of the numbers in
            `values`, independent between languages.
        groups: {name of a group: languages}.

    Returns:
        Tuple ({group: {metric: mean}}, {group: {metric: (num_bootstrap,) means}}, {group: missing
        languages}). The first and the second dict have the complete groups, the third has the
        incomplete groups. Groups without any member in `values` are in none of the dicts.
    """
    means, resampled_means, missing = {}, {}, {}
    for name, members in groups.items():
        absent = [language for language in members if language not in values]
        if not absent:
            names = values[members[0]]
            means[name] = {k: float(np.mean([values[m][k] for m in members])) for k in names}
            resampled_means[name] = {
                k: np.mean([resampled[m][k] for m in members], 0) for k in names
            }
        elif len(absent) < len(members):
            missing[name] = absent
    return means, resampled_means, missing


def confidence_intervals(resampled):
    """Returns {language or group: {metric: (low, high)}}, the 95 % intervals of `resampled`."""
    return {
        name: {metric: metrics.percentile_interval(values) for metric, values in columns.items()}
        for name, columns in resampled.items()
    }
