"""Semantic textual similarity: do cosines order pairs of sentences as people do?

Protocol sts/v1. Per track, 100 x Spearman's correlation of the cosine with the score of each pair;
cosines are rounded to 6 decimals first, so that a model that maps everything to one point is not
scored by the noise in its last digits: it gets 0. A track goes by its two languages, English first
("en-es" for STS.es-en too, as in the paper's tables), else in the order of the alphabet.

values: {track: {"spearman"}}, and under "groups" the averages of the paper, {group: {"spearman"}}:
"monolingual" (its Table 3), "cross_lingual" (Table 4), "meta_avg", the mean of these two (Table
11). A group is there if all its tracks are. intervals have the same keys.
"""

import numpy as np

from tf_mural.errors import UserError, lookup
from tf_mural.evaluation import metrics
from tf_mural.evaluation.embedding_checks import text_rows
from tf_mural.evaluation.results import Result, grouped, intervals

PROTOCOL = "sts/v1"

GROUPS = {
    "monolingual": ("en-en", "es-es", "ar-ar"),
    "cross_lingual": ("en-ar", "en-de", "en-tr", "en-es", "en-fr", "en-it", "en-nl"),
}
_DECIMALS = 6


def run(embed, records, tracks=None, draws=1000, seed=0):
    """Scores records of two texts and a score.

    Args:
        embed: has `texts(iterable of str)`, to float32 (n, d) unit rows in order.
        records: iterable of Record, read once; those without a score are passed over.
        tracks: such as "en-es", in either order; all that occur by default.
        draws, seed: resamples of the pairs, for the intervals.

    Returns:
        Result, see above. counts: "pairs" {track: n}, "without_score" (records passed over), and
        "missing" {group: tracks} of groups that are there in part.

    Raises:
        UserError: no record with a score, one that has not two texts, an unknown track, a track of
            one pair or of one score throughout, embeddings that are not finite unit rows.
    """
    found, without_score = _gather(records)
    if tracks is not None:
        names = dict.fromkeys(_name(*track.partition("-")[::2]) for track in tracks)
        found = {name: lookup(found, name, "track (of these records)") for name in names}
    gold = {name: _gold(name, track) for name, track in found.items()}
    scored = [record for track in found.values() for record in track]
    texts = [text for record in scored for _, text in record.texts]
    rows, of_text = text_rows(embed, texts, [record.id for record in scored for _ in (0, 1)])
    values, drawn, pairs, start = {}, {}, {}, 0
    for number, (name, track) in enumerate(found.items()):
        first, second = of_text[2 * start : 2 * (start + len(track))].reshape(-1, 2).T
        cosines = _cosines(rows[first], rows[second])
        again = metrics.resampled_spearman(cosines, gold[name], draws, (seed, number))
        values[name] = {"spearman": 100.0 * metrics.spearman(cosines, gold[name])}
        drawn[name] = {"spearman": 100.0 * again}
        pairs[name] = len(track)
        start += len(track)
    averages, resampled, missing = grouped(values, drawn, GROUPS)
    both = {"meta_avg": tuple(GROUPS)}
    for means, more in zip((averages, resampled), grouped(averages, resampled, both), strict=False):
        means.update(more)
    counts = {"pairs": pairs, "without_score": without_score, "missing": missing}
    result = Result("sts", PROTOCOL, values, counts, intervals(drawn))
    result.values["groups"], result.intervals["groups"] = averages, intervals(resampled)
    return result


def _gather(records):
    """({track: its records}, sorted, and the number of records without a score)."""
    found, without_score, count = {}, 0, 0
    for record in records:
        count += 1
        if record.score is None:
            without_score += 1
            continue
        if len(record.texts) != 2:
            raise UserError(
                f"record {record.id!r} has a score and {len(record.texts)} texts: sts expects two"
            )
        found.setdefault(_name(*(code for code, _ in record.texts)), []).append(record)
    if not found:
        what = f"none of the {count} records has a score" if count else "no records"
        raise UserError(f"{what}: sts needs records of two texts and a score, such as sts2017's")
    return dict(sorted(found.items())), without_score


def _name(one, other):
    """A track's name: English first, else alphabetical."""
    return "-".join(sorted((one, other), key=lambda code: (code not in ("en", "eng"), code)))


def _gold(name, track):
    """The scores of a track, once they are known to order something."""
    gold = np.array([record.score for record in track], np.float64)
    if not np.isfinite(gold).all():
        record = track[int(np.argmin(np.isfinite(gold)))]
        raise UserError(f"record {record.id!r}: expected a finite score, got {record.score}")
    if len(gold) < 2 or gold.min() == gold.max():
        raise UserError(
            f"track {name} has {len(gold)} pair(s), all of score {gold[0]}: there is no order to "
            "compare with; leave it out by `tracks`"
        )
    return gold


def _cosines(first, second):
    return np.einsum("nd,nd->n", first, second, dtype=np.float64).round(_DECIMALS)
