"""The result of a task, and means over groups of languages with intervals."""

import dataclasses

import numpy as np

from tf_mural.evaluation import metrics


@dataclasses.dataclass
class Result:
    """What a task measured.

    Attributes:
        task: name of the task ("retrieval").
        protocol: id of the exact protocol ("retrieval/v1"); it changes whenever values would.
        values: measures by name, in the units that the protocol states; dicts may nest.
        counts: how much was measured (images, texts, ...), by name.
        intervals: (low, high) by the name of a value, where the task computes them.
    """

    task: str
    protocol: str
    values: dict
    counts: dict
    intervals: dict = dataclasses.field(default_factory=dict)


def grouped(values, drawn, groups):
    """Means of each measure over the members of each group.

    Args:
        values: {language: {measure: number}}.
        drawn: {language: {measure: (draws,)}}, resamples of the same numbers, of each language
            independently of the others.
        groups: {name: languages}.

    Returns:
        ({group: {measure: mean}}, {group: {measure: (draws,) means}}, {group: missing languages}).
        The first two have the groups that are there as a whole, the last those in part.
    """
    means, resampled, missing = {}, {}, {}
    for name, members in groups.items():
        lacking = [language for language in members if language not in values]
        if not lacking:
            measures = values[members[0]]
            means[name] = {k: float(np.mean([values[m][k] for m in members])) for k in measures}
            resampled[name] = {k: np.mean([drawn[m][k] for m in members], 0) for k in measures}
        elif len(lacking) < len(members):
            missing[name] = lacking
    return means, resampled, missing


def intervals(drawn):
    """{language or group: {measure: (low, high)}} of resampled values, 95 %."""
    return {
        name: {measure: metrics.interval(values) for measure, values in measures.items()}
        for name, measures in drawn.items()
    }
