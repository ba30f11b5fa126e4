"""Bitext: is the nearest sentence of the other language the translation?

Protocol bitext/v1. A language's candidates are its own pairs. Per language, in percent of its
pairs: "forward", its text finds the English one by cosine; "backward", the English text finds its
own; "accuracy", the mean of both (100 less the error rate that LASER's authors print). Ties count
as misses, those with an equal text of another pair too. A pair goes by the language that is not
English (that of Tatoeba's file name); without English by both, "de-fr", in the order of the
alphabet, and "forward" is then from the first to the second.

values: {language: {"forward", "backward", "accuracy"}}, and under "groups" the means over the
languages of each group, {group: {the same three}}. Default groups are those of the paper's Table 12
on Tatoeba, whose per-language numbers are in its Tables 15 and 16: "langs14" (of m-USE), "langs36"
(of XTREME), "langs83" (of LASER; the table says 82), "all112". A group is there if all its
languages are. intervals have the same keys.
"""

import numpy as np

from tf_mural.errors import UserError, lookup
from tf_mural.evaluation import metrics
from tf_mural.evaluation.embedding_checks import text_rows
from tf_mural.evaluation.results import Result, grouped, intervals

PROTOCOL = "bitext/v1"

_14 = "ara cmn deu fra ita jpn kor nld pol por rus spa tha tur"
_36 = (
    "afr ara ben bul cmn deu ell est eus fin fra heb hin hun ind ita jav jpn kat kaz kor mal mar "
    "nld pes por rus spa swh tam tel tgl tha tur urd vie"
)
_83 = (
    "afr amh ara aze bel ben ber bos bre bul cat cbk ces cmn cor dan deu dtp ell epo est eus fin "
    "fra gle glg heb hin hrv hun hye ido ile ina ind isl ita jpn kab kat kaz khm kor kur kzj lat "
    "lfn lit lvs mal mar mhr mkd nds nld nob oci pes pol por ron rus slk slv spa sqi srp swe swh "
    "tam tat tel tgl tha tur uig ukr urd uzb vie wuu yue zsm"
)
_REST = (
    "ang arq arz ast awa ceb cha csb cym dsb fao fry gla gsw hsb jav max mon nno nov orv pam pms "
    "swg tuk tzl war xho yid"
)
GROUPS = {
    "langs14": tuple(_14.split()),
    "langs36": tuple(_36.split()),
    "langs83": tuple(_83.split()),
    "all112": tuple(sorted([*_83.split(), *_REST.split()])),
}
_ENGLISH = ("eng", "en")


def run(embed, records, groups=None, languages=None, draws=1000, seed=0):
    """Scores records of two texts that say the same.

    Args:
        embed: has `texts(iterable of str)`, to float32 (n, d) unit rows in order.
        records: iterable of Record, read once.
        groups: names out of `GROUPS`, or {name: languages}; then each has to be there as a whole.
            By default those of `GROUPS` that are.
        languages: names of pairs to score, see above; all that occur by default.
        draws, seed: resamples of the pairs, for the intervals.

    Returns:
        Result, see above. counts: "pairs" {language: n}, "missing" {group: languages} of default
        groups that are there in part.

    Raises:
        UserError: no records, one that has not two texts, a language or a group that is not there,
            embeddings that are not finite unit rows.
    """
    wanted = _groups(groups)
    found = _gather(records)
    if languages is not None:
        found = {
            k: lookup(found, k, "language (of these records)") for k in dict.fromkeys(languages)
        }
    for name, members in (wanted if groups is not None else {}).items():
        if lacking := [language for language in members if language not in found]:
            raise UserError(f"group {name!r}: there are no pairs of {', '.join(lacking)}")
    ids = [id for pairs in found.values() for id, *_ in pairs for _ in (0, 1)]
    texts = [text for pairs in found.values() for _, *both in pairs for text in both]
    rows, of_text = text_rows(embed, texts, ids)
    values, drawn, start = {}, {}, 0
    for number, (name, pairs) in enumerate(found.items()):
        sides = of_text[2 * start : 2 * (start + len(pairs))].reshape(-1, 2).T
        hits = _hits(*(rows[side] for side in sides))
        values[name] = {measure: 100.0 * float(np.mean(hit)) for measure, hit in hits.items()}
        drawn[name] = {
            measure: 100.0 * metrics.resampled_means(hit, draws, (seed, number))
            for measure, hit in hits.items()
        }
        start += len(pairs)
    means, resampled, missing = grouped(values, drawn, wanted)
    counts = {"pairs": {k: len(pairs) for k, pairs in found.items()}, "missing": missing}
    result = Result("bitext", PROTOCOL, values, counts, intervals(drawn))
    result.values["groups"], result.intervals["groups"] = means, intervals(resampled)
    return result


def _groups(groups):
    if groups is None:
        return GROUPS
    if not isinstance(groups, dict):
        groups = {name: lookup(GROUPS, name, "group") for name in groups}
    for name, members in groups.items():
        if not members:
            raise UserError(f"group {name!r} is empty: expected some languages")
    return groups


def _gather(records):
    """{language: [(id, its text, the English text)]}, sorted."""
    found = {}
    for record in records:
        if len(record.texts) != 2:
            raise UserError(
                f"record {record.id!r} has {len(record.texts)} texts: bitext expects two that say "
                "the same"
            )
        (one, _), (other, _) = first, second = record.texts
        # English is the second side; where none or both are, the alphabet decides.
        if ((one in _ENGLISH), one) > ((other in _ENGLISH), other):
            first, second = second, first
        name = first[0] if second[0] in _ENGLISH else f"{first[0]}-{second[0]}"
        found.setdefault(name, []).append((record.id, first[1], second[1]))
    if not found:
        raise UserError("no records: bitext needs records of two texts, such as tatoeba's")
    return dict(sorted(found.items()))


def _hits(first, second):
    """{measure: (n,) share of the hits of each pair}."""
    backward, forward = metrics.image_text_ranks(second, first, np.arange(len(first)))
    forward, backward = forward == 0, backward == 0
    return {"forward": forward, "backward": backward, "accuracy": (0.0 + forward + backward) / 2}
