"""Cross-lingual consistency: is an image retrieved at the same rank in every language?

Protocol consistency/v1. The candidates are all images with a text in a scored language; every
language has the same candidates. The log rank of an image in a language is log2 of the rank (from
1) of the image for its text in that language. If the image has several texts in the language, their
log ranks are averaged. Images with texts in only one language are candidates, but are not scored.

"spread", the headline metric, is the absolute difference of the log ranks of an image in two
languages, averaged over the pairs of languages of an image and then over images. The unit of
"spread" is doublings of the rank: 1 means that the rank is twice as large in one language as in the
other. "range" is the difference between the best and the worst log rank of an image. "spread" is
the headline metric because "range" grows with the number of languages.

If images tie, a log rank is only known to lie between two bounds, and the largest difference that
the bounds allow is used as the difference of two log ranks. If a model maps all inputs to one
point, all images tie. The spread of such a model is therefore the largest possible spread, log2 of
the number of images.

"agreement" is the percentage of the pairs of languages of an image whose texts have the same first
result, right or wrong, averaged over images. The first text of an image in a language counts. If
several images tie for the first place, a text has no first result and agrees with no other text.
Both measures compare the results of one image in several languages, like the mean rank variance of
arXiv:2406.18254, but do not depend on how large bad ranks are.

values: {language: {"spread" and "agreement" (to the other languages of the image), "lag"}}, and
under "groups" {"all": {"spread", "range", "chance", "r1_any", "r1_all", "agreement"}}. "lag" is the
log rank of an image in a language minus the mean log rank in the other languages of the image, in
doublings of the rank. A positive lag means that the rank is worse in this language. "chance" is the
spread of independent random ranks. "r1_any" and "r1_all" are the percentages of images with rank 1
in at least one and in all of their languages. counts["worst"] has the five languages with the
largest lag, in descending order. intervals: the 95 % intervals of "spread" and "lag", by bootstrap
over images, with the same keys as values.
"""

import numpy as np

from tf_mural.errors import UserError
from tf_mural.evaluation import metrics
from tf_mural.evaluation.embedding_checks import embed_and_check, embed_unique_texts
from tf_mural.evaluation.results import Result
from tf_mural.evaluation.retrieval_inputs import RetrievalInputs

PROTOCOL = "consistency/v1"
_NUM_WORST = 5


def run(embedder, records, languages=None, num_bootstrap=1000, seed=0):
    """Evaluates records that have one image and texts in several languages.

    Args:
        embedder: Object with `embed_images(iterable of bytes)`, for the bytes of image files, and
            `embed_texts(iterable of str)`; both return unit rows in order, float32 (n, d).
        records: Iterable of Record, consumed once. Records without an image are ignored.
        languages: Codes or names of the languages to compare. Default: all languages, sorted.
        num_bootstrap, seed: Number and seed of the bootstrap resamples of the images.

    Returns:
        Result, see the docstring of the module. counts: "candidates" (number of images),
        "images" (number of scored images, which have texts in at least two languages),
        "languages" {language: number of scored images}, "texts" (number of texts), "worst"
        (list of languages), "merged_records" as for `retrieval.run`.

    Raises:
        UserError: There are no records or no images, a language has no texts, a record has several
            images, no image has texts in two languages, an image cannot be decoded, or embeddings
            are not finite unit rows.
    """
    inputs = RetrievalInputs("consistency", languages)
    images = embed_and_check(
        embedder.embed_images, inputs.stream_images(records), "images", inputs.ids
    )
    codes = inputs.scored_languages()
    low, high, first = _log_rank_bounds(embedder, images, inputs, codes)
    is_scored = np.sum(~np.isnan(low), axis=1) > 1
    if not is_scored.any():
        raise UserError(
            f"none of the {len(images)} images has texts in two of {', '.join(codes)}: consistency "
            "compares languages"
        )
    low, high, first = low[is_scored], high[is_scored], first[is_scored]
    spreads, lags = metrics.rank_spreads(low, high), metrics.rank_lags(high)
    agreement = 100.0 * metrics.agreement(first)
    counts = {
        "candidates": len(images),
        "images": len(low),
        "languages": dict(zip(codes, np.sum(~np.isnan(low), axis=0).tolist(), strict=True)),
        "texts": sum(len(texts) for texts, _ in inputs.texts.values()),
    }
    if inputs.merged:
        counts["merged_records"] = inputs.merged
    result = Result("consistency", PROTOCOL, {}, counts)
    for column, code in enumerate(codes):
        has_lag = ~np.isnan(lags[:, column])
        if has_lag.any():
            per_image = {"spread": spreads[has_lag, column], "lag": lags[has_lag, column]}
            result.values[code] = {key: float(values.mean()) for key, values in per_image.items()}
            result.intervals[code] = {
                key: metrics.mean_interval(values, num_bootstrap, (seed, 1 + column))
                for key, values in per_image.items()
            }
            result.values[code]["agreement"] = float(agreement[has_lag, column].mean())
    by_lag = sorted(result.values, key=lambda code: -result.values[code]["lag"])
    counts["worst"] = by_lag[:_NUM_WORST]
    image_spreads = np.nanmean(spreads, axis=1)
    overall = _overall(low, high, image_spreads, len(images))
    overall["agreement"] = float(np.nanmean(agreement, axis=1).mean())
    result.values["groups"] = {"all": overall}
    interval = metrics.mean_interval(image_spreads, num_bootstrap, (seed, 0))
    result.intervals["groups"] = {"all": {"spread": interval}}
    return result


def _overall(low, high, image_spreads, num_candidates):
    """Returns the metrics over all languages."""
    worst = np.nanmax(high, axis=1)
    return {
        "spread": float(image_spreads.mean()),
        "range": float(np.mean(worst - np.nanmin(low, axis=1))),
        "chance": metrics.chance_spread(num_candidates),
        "r1_any": 100.0 * float(np.mean(np.nanmin(high, axis=1) == 0)),
        "r1_all": 100.0 * float(np.mean(worst == 0)),
    }


def _log_rank_bounds(embedder, images, inputs, codes):
    """Returns bounds (low, high) of the log rank of each image, and the first results.

    The three arrays are float64 (n, L) for n images and L languages. A value is NaN if the image
    has no text in the language. For the first results, see `metrics.agreement`.
    """
    texts = [text for code in codes for text in inputs.texts[code][0]]
    text_images = np.concatenate([inputs.texts[code][1] for code in codes]).astype(np.int64)
    text_languages = np.repeat(np.arange(len(codes)), [len(inputs.texts[k][0]) for k in codes])
    embeddings, text_rows = embed_unique_texts(
        embedder, texts, [inputs.ids[image] for image in text_images]
    )
    bounds = np.zeros((2, len(images), len(codes)))
    num_texts = np.zeros(bounds.shape[1:])
    first = np.full(bounds.shape[1:], np.nan)
    np.add.at(num_texts, (text_images, text_languages), 1)
    for column in range(len(codes)):
        selected = text_languages == column
        rows = embeddings[text_rows[selected]]
        ranks = metrics.rank_bounds(images, rows, text_images[selected])
        # Of several texts of an image, the first one is assigned last.
        first[text_images[selected][::-1], column] = metrics.first_results(images, rows)[::-1]
        for bound, rank in zip(bounds, ranks, strict=True):
            np.add.at(bound[:, column], text_images[selected], np.log2(1 + rank))
    bounds = np.divide(bounds, num_texts, out=np.full_like(bounds, np.nan), where=num_texts > 0)
    return *bounds, first
