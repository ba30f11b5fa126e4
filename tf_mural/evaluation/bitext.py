"""Bitext retrieval: is the translation the nearest sentence of the other language?

Protocol bitext/v1. Each text is compared with the translations in all pairs of the same language,
by cosine similarity. The metrics of a language are percentages of its pairs:

    "forward"   the text retrieves its English translation
    "backward"  the English text retrieves its translation
    "accuracy"  mean of forward and backward; 100 minus the error rate that the authors of LASER
                report

Ties count as misses, even if the tie is with an equal text of another pair. The name of a pair is
the code of its language that is not English, as in the file names of Tatoeba. A pair without
English is named by both languages in alphabetical order, for example "de-fr"; "forward" is then the
direction from the first language to the second.

values: {language: {"forward", "backward", "accuracy"}}, and under "groups" the means over the
languages of each group, {group: {"forward", "backward", "accuracy"}}. The default groups are the
groups of Table 12 of the paper, for Tatoeba: "langs14" (the languages of m-USE), "langs36" (the
languages of XTREME), "langs83" (the languages of LASER; the table says 82 languages) and "all112"
(all languages). Tables 15 and 16 of the paper have the numbers of each language. A group is
reported if all its languages are scored. intervals: 95 % confidence intervals, with the keys of
values.
"""

import numpy as np

from tf_mural.errors import UserError, lookup
from tf_mural.evaluation import metrics
from tf_mural.evaluation.embedding_checks import embed_unique_texts
from tf_mural.evaluation.results import Result, average_groups, confidence_intervals
from tf_mural.languages import choose

PROTOCOL = "bitext/v1"

_LANGS14 = "ara cmn deu fra ita jpn kor nld pol por rus spa tha tur"
_LANGS36 = (
    "afr ara ben bul cmn deu ell est eus fin fra heb hin hun ind ita jav jpn kat kaz kor mal mar "
    "nld pes por rus spa swh tam tel tgl tha tur urd vie"
)
_LANGS83 = (
    "afr amh ara aze bel ben ber bos bre bul cat cbk ces cmn cor dan deu dtp ell epo est eus fin "
    "fra gle glg heb hin hrv hun hye ido ile ina ind isl ita jpn kab kat kaz khm kor kur kzj lat "
    "lfn lit lvs mal mar mhr mkd nds nld nob oci pes pol por ron rus slk slv spa sqi srp swe swh "
    "tam tat tel tgl tha tur uig ukr urd uzb vie wuu yue zsm"
)
_TATOEBA_ONLY = (
    "ang arq arz ast awa ceb cha csb cym dsb fao fry gla gsw hsb jav max mon nno nov orv pam pms "
    "swg tuk tzl war xho yid"
)
GROUPS = {
    "langs14": tuple(_LANGS14.split()),
    "langs36": tuple(_LANGS36.split()),
    "langs83": tuple(_LANGS83.split()),
    "all112": tuple(sorted([*_LANGS83.split(), *_TATOEBA_ONLY.split()])),
}
_ENGLISH = ("eng", "en")


def run(embedder, records, groups=None, languages=None, num_bootstrap=1000, seed=0):
    """Evaluates records of two texts that are translations of each other.

    Args:
        embedder: Object with `embed_texts(iterable of str)`, which returns unit rows in order,
            float32 (n, d).
        records: Iterable of Record, consumed once.
        groups: Names in `GROUPS`, or {name of a group: languages}. The records must have pairs of
            all languages of the groups. Default: the groups of `GROUPS` whose languages are all
            scored.
        languages: Names of the pairs to score, for example "deu" or "de-fr"; "de" and "German" also
            choose "deu". Default: all pairs.
        num_bootstrap, seed: Number and seed of the bootstrap resamples of the pairs.

    Returns:
        Result, see the docstring of the module. counts: "pairs" {language: number of pairs},
        "missing" {group: missing languages} for incomplete default groups.

    Raises:
        UserError: There are no records, a record does not have two texts, a language or a group
            is missing, or embeddings are not finite unit rows.
    """
    requested_groups = _requested_groups(groups)
    pairs_by_language = _group_by_language(records)
    if languages is not None:
        pairs_by_language = {
            name: pairs_by_language[name]
            for name in choose(languages, pairs_by_language, "language (of these records)")
        }
    for name, members in (requested_groups if groups is not None else {}).items():
        if missing := [language for language in members if language not in pairs_by_language]:
            raise UserError(f"group {name!r}: there are no pairs of {', '.join(missing)}")
    all_pairs = [pair for pairs in pairs_by_language.values() for pair in pairs]
    ids = [id for id, *_ in all_pairs for _ in (0, 1)]
    texts = [text for _, *both in all_pairs for text in both]
    embeddings, text_rows = embed_unique_texts(embedder, texts, ids)
    values, resampled, start = {}, {}, 0
    for number, (name, pairs) in enumerate(pairs_by_language.items()):
        sides = text_rows[2 * start : 2 * (start + len(pairs))].reshape(-1, 2).T
        hits = _hits(*(embeddings[side] for side in sides))
        values[name] = {metric: 100.0 * float(np.mean(hit)) for metric, hit in hits.items()}
        resampled[name] = {
            metric: 100.0 * metrics.bootstrap_means(hit, num_bootstrap, (seed, number))
            for metric, hit in hits.items()
        }
        start += len(pairs)
    means, resampled_means, missing = average_groups(values, resampled, requested_groups)
    num_pairs = {name: len(pairs) for name, pairs in pairs_by_language.items()}
    counts = {"pairs": num_pairs, "missing": missing}
    result = Result("bitext", PROTOCOL, values, counts, confidence_intervals(resampled))
    result.values["groups"] = means
    result.intervals["groups"] = confidence_intervals(resampled_means)
    return result


def _requested_groups(groups):
    if groups is None:
        return GROUPS
    if not isinstance(groups, dict):
        groups = {name: lookup(GROUPS, name, "group") for name in groups}
    for name, members in groups.items():
        if not members:
            raise UserError(f"group {name!r} is empty: expected at least one language")
    return groups


def _group_by_language(records):
    """Returns {language: [(id, text in this language, English text)]}, sorted by language."""
    pairs = {}
    for record in records:
        if len(record.texts) != 2:
            raise UserError(
                f"record {record.id!r} has {len(record.texts)} texts: bitext expects two that are "
                "translations of each other"
            )
        first, second = record.texts
        first_code, second_code = first[0], second[0]
        # The English text is the second text of a pair. If both texts or none of them are English,
        # the language codes are in alphabetical order.
        if (first_code in _ENGLISH, first_code) > (second_code in _ENGLISH, second_code):
            first, second = second, first
        name = first[0] if second[0] in _ENGLISH else f"{first[0]}-{second[0]}"
        pairs.setdefault(name, []).append((record.id, first[1], second[1]))
    if not pairs:
        raise UserError("no records: bitext needs records with two texts, such as tatoeba")
    return dict(sorted(pairs.items()))


def _hits(first, second):
    """Returns {metric: (n,) value of each pair}.

    "forward" and "backward" are 1 for a hit and 0 for a miss; "accuracy" is the mean of the two.
    """
    backward, forward = metrics.image_text_ranks(second, first, np.arange(len(first)))
    forward, backward = forward == 0, backward == 0
    return {"forward": forward, "backward": backward, "accuracy": (0.0 + forward + backward) / 2}
