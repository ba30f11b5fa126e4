"""Semantic textual similarity: correlation of cosines with human similarity scores.

Protocol sts/v1. The value of a track is 100 times Spearman's correlation between the cosines and
the human scores of its pairs. Cosines are rounded to 6 decimals before they are ranked, so that a
model that maps all inputs to one point scores 0 instead of the correlation of rounding noise. A
track is named by its two languages. English is the first language, as in the tables of the paper:
the track STS.es-en is named "en-es". If no language is English, the languages are in alphabetical
order.

values: {track: {"spearman"}}, and under "groups" the averages of the paper, {group: {"spearman"}}:
"monolingual" (Table 3 of the paper), "cross_lingual" (Table 4), and "meta_avg", the mean of
monolingual and cross_lingual (Table 11). A group is reported if all its tracks are scored.
intervals: 95 % confidence intervals, with the keys of values.
"""

import numpy as np

from tf_mural.errors import UserError, lookup
from tf_mural.evaluation import metrics
from tf_mural.evaluation.embedding_checks import embed_unique_texts
from tf_mural.evaluation.results import Result, average_groups, confidence_intervals

PROTOCOL = "sts/v1"

GROUPS = {
    "monolingual": ("en-en", "es-es", "ar-ar"),
    "cross_lingual": ("en-ar", "en-de", "en-tr", "en-es", "en-fr", "en-it", "en-nl"),
}
_DECIMALS = 6


def run(embedder, records, tracks=None, num_bootstrap=1000, seed=0):
    """Evaluates records that have two texts and a similarity score.

    Args:
        embedder: Object with `embed_texts(iterable of str)`, which returns unit rows in order,
            float32 (n, d).
        records: Iterable of Record, consumed once. Records without a score are ignored.
        tracks: Names of the tracks to score. The languages of a name may be in either order:
            "en-es" or "es-en". Default: all tracks.
        num_bootstrap, seed: Number and seed of the bootstrap resamples of the pairs.

    Returns:
        Result, see the docstring of the module. counts: "pairs" {track: number of pairs},
        "without_score" (number of ignored records), and "missing" {group: missing tracks} for
        incomplete groups.

    Raises:
        UserError: No record has a score, a record with a score does not have two texts, a track is
            unknown, a track has only one pair, all scores of a track are equal, or embeddings are
            not finite unit rows.
    """
    records_by_track, without_score = _group_by_track(records)
    if tracks is not None:
        names = dict.fromkeys(_track_name(*track.partition("-")[::2]) for track in tracks)
        records_by_track = {
            name: lookup(records_by_track, name, "track (of these records)") for name in names
        }
    scores = {name: _human_scores(name, track) for name, track in records_by_track.items()}
    all_records = [record for track in records_by_track.values() for record in track]
    texts = [text for record in all_records for _, text in record.texts]
    ids = [record.id for record in all_records for _ in (0, 1)]
    embeddings, text_rows = embed_unique_texts(embedder, texts, ids)
    values, resampled, num_pairs, start = {}, {}, {}, 0
    for number, (name, track) in enumerate(records_by_track.items()):
        first, second = text_rows[2 * start : 2 * (start + len(track))].reshape(-1, 2).T
        cosines = _cosines(embeddings[first], embeddings[second])
        correlations = metrics.bootstrap_spearman(
            cosines, scores[name], num_bootstrap, (seed, number)
        )
        values[name] = {"spearman": 100.0 * metrics.spearman(cosines, scores[name])}
        resampled[name] = {"spearman": 100.0 * correlations}
        num_pairs[name] = len(track)
        start += len(track)
    means, resampled_means, missing = average_groups(values, resampled, GROUPS)
    meta_means, resampled_meta_means, _ = average_groups(
        means, resampled_means, {"meta_avg": tuple(GROUPS)}
    )
    means.update(meta_means)
    resampled_means.update(resampled_meta_means)
    counts = {"pairs": num_pairs, "without_score": without_score, "missing": missing}
    result = Result("sts", PROTOCOL, values, counts, confidence_intervals(resampled))
    result.values["groups"] = means
    result.intervals["groups"] = confidence_intervals(resampled_means)
    return result


def _group_by_track(records):
    """Returns ({track: records}, sorted by track, and the number of records without a score)."""
    records_by_track, without_score, num_records = {}, 0, 0
    for record in records:
        num_records += 1
        if record.score is None:
            without_score += 1
            continue
        if len(record.texts) != 2:
            raise UserError(
                f"record {record.id!r} has a score and {len(record.texts)} texts: sts expects two"
            )
        name = _track_name(*(code for code, _ in record.texts))
        records_by_track.setdefault(name, []).append(record)
    if not records_by_track:
        problem = f"none of the {num_records} records has a score" if num_records else "no records"
        raise UserError(f"{problem}: sts needs records with two texts and a score, such as sts2017")
    return dict(sorted(records_by_track.items())), without_score


def _track_name(first, second):
    """Returns the name of a track: English comes first, otherwise the order is alphabetical."""
    return "-".join(sorted((first, second), key=lambda code: (code not in ("en", "eng"), code)))


def _human_scores(name, track):
    """Returns the scores of a track, and checks that they are finite and not all equal."""
    scores = np.array([record.score for record in track], np.float64)
    if not np.isfinite(scores).all():
        record = track[int(np.argmin(np.isfinite(scores)))]
        raise UserError(f"record {record.id!r}: expected a finite score, got {record.score}")
    if len(scores) < 2 or scores.min() == scores.max():
        raise UserError(
            f"track {name} has {len(scores)} pair(s), all of score {scores[0]}: a correlation "
            "needs different scores; leave the track out with `tracks`"
        )
    return scores


def _cosines(first, second):
    return np.einsum("nd,nd->n", first, second, dtype=np.float64).round(_DECIMALS)
