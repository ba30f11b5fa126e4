"""Means over groups of languages, with intervals, for tasks that score languages one by one."""

import numpy as np

from tf_mural import metrics


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
