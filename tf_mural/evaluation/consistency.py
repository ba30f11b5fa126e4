"""Cross-lingual consistency: does an image come up at the same place in whichever language?

Protocol consistency/v1. All images with a wanted text are candidates, for every language alike.
The place of an image in a language is log2 of its rank (from 1) for its text in that language, the
mean over its texts if there are several. Images with one language alone are candidates, but are
not scored.

"spread", the headline: how far apart the places of an image in two languages are, the mean over its
pairs of languages, then over images. It is in doublings of rank: 1 says that in one language the
image stands twice as far down. The mean over pairs, because the distance of the first place to the
last grows with the number of languages, and images and data sets have different numbers; it is
told as "range". A tie leaves a place open between two bounds, and the distance is the largest that
they allow: a model that maps everything to one point ranks alike everywhere, and gets the worst
spread that there is, log2 of the number of images.

values: {language: {"spread" (to the image's other languages), "lag"}}, and under "groups" {"all":
{"spread", "range", "chance" (the spread of independent random ranks), "r1_any", "r1_all" (percent
of images found at 1 in some, and in all of their languages)}}. "lag" is the place less the mean
place in the image's other languages, in doublings: above 0, images come up later in this language.
The five languages of the largest lag are named in counts["worst"], the worst first. intervals: of
"spread" and "lag", over images, by the same keys.
"""

import numpy as np

from tf_mural.errors import UserError
from tf_mural.evaluation import metrics
from tf_mural.evaluation.embedding_checks import checked, text_rows
from tf_mural.evaluation.results import Result
from tf_mural.evaluation.retrieval_inputs import Gathered

PROTOCOL = "consistency/v1"
_WORST = 5


def run(embed, records, languages=None, draws=1000, seed=0):
    """Scores records of one image and its texts in several languages.

    Args:
        embed: has `images(iterable of encoded bytes)` and `texts(iterable of str)`, both to float32
            (n, d) unit rows in order.
        records: iterable of Record, read once; those without an image are passed over.
        languages: codes to compare; all that occur, sorted, by default.
        draws, seed: resamples of the images, for the intervals.

    Returns:
        Result, see above. counts: "candidates", "images" (scored: with two languages or more),
        "languages" {language: images scored in it}, "texts", "worst" [languages].

    Raises:
        UserError: no records, no images, a language without texts, a record with several images, no
            image with two languages, an image that cannot be read, embeddings that are not finite
            unit rows.
    """
    gathered = Gathered("consistency", languages)
    images = checked(embed.images, gathered.images(records), "images", gathered.ids)
    names = gathered.languages()
    low, high = _places(embed, images, gathered, names)
    several = np.sum(~np.isnan(low), axis=1) > 1
    if not several.any():
        raise UserError(
            f"none of the {len(images)} images has texts in two of {', '.join(names)}: consistency "
            "compares languages"
        )
    low, high = low[several], high[several]
    spreads, lags = metrics.pair_spreads(low, high), metrics.lags(high)
    counts = {
        "candidates": len(images),
        "images": len(low),
        "languages": dict(zip(names, np.sum(~np.isnan(low), axis=0).tolist(), strict=True)),
        "texts": sum(len(texts) for texts, _ in gathered.texts.values()),
    }
    result = Result("consistency", PROTOCOL, {}, counts)
    for at, name in enumerate(names):
        there = ~np.isnan(lags[:, at])
        if there.any():
            columns = {"spread": spreads[there, at], "lag": lags[there, at]}
            result.values[name] = {key: float(column.mean()) for key, column in columns.items()}
            result.intervals[name] = {
                key: metrics.mean_interval(column, draws, (seed, 1 + at))
                for key, column in columns.items()
            }
    behind = sorted(result.values, key=lambda name: -result.values[name]["lag"])
    counts["worst"] = behind[:_WORST]
    of_image = np.nanmean(spreads, axis=1)
    result.values["groups"] = {"all": _overall(low, high, of_image, len(images))}
    spread = metrics.mean_interval(of_image, draws, (seed, 0))
    result.intervals["groups"] = {"all": {"spread": spread}}
    return result


def _overall(low, high, spread_of_image, candidates):
    """What is told of all languages together."""
    last = np.nanmax(high, axis=1)
    return {
        "spread": float(spread_of_image.mean()),
        "range": float(np.mean(last - np.nanmin(low, axis=1))),
        "chance": metrics.chance_spread(candidates),
        "r1_any": 100.0 * float(np.mean(np.nanmin(high, axis=1) == 0)),
        "r1_all": 100.0 * float(np.mean(last == 0)),
    }


def _places(embed, images, gathered, names):
    """Lower and upper bound of the place of each image in each language, (n, L); nan for none."""
    texts = [text for name in names for text in gathered.texts[name][0]]
    of_image = np.concatenate([gathered.texts[name][1] for name in names]).astype(np.int64)
    of_language = np.repeat(np.arange(len(names)), [len(gathered.texts[k][0]) for k in names])
    rows, of_text = text_rows(embed, texts, [gathered.ids[image] for image in of_image])
    bounds = np.zeros((2, len(images), len(names)))
    number = np.zeros(bounds.shape[1:])
    np.add.at(number, (of_image, of_language), 1)
    for at in range(len(names)):
        own = of_language == at
        ranks = metrics.rank_bounds(images, rows[of_text[own]], of_image[own])
        for bound, rank in zip(bounds, ranks, strict=True):
            np.add.at(bound[:, at], of_image[own], np.log2(1 + rank))
    return np.divide(bounds, number, out=np.full_like(bounds, np.nan), where=number > 0)
