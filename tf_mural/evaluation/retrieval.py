"""Zero-shot cross-modal retrieval: images by texts and texts by images, by cosine similarity.

Protocol retrieval/v1. For each language, the texts in that language and the images with such a
text are both queries and candidates. The metrics are recall at 1, 5 and 10 in both directions.
Every text of an image is a correct candidate for the image. Records whose images have the same
bytes are merged into one candidate with all their texts. Ties count as misses. `average_recall` is
the mean of the six recalls, in percent.

The protocols retrieval/mteb and retrieval/mteb-unique follow the rules of mteb: nDCG at 10 and hit
rates, ties ordered by id, and no merged records; see `ranked_retrieval`.
"""

import numpy as np

from tf_mural.errors import UserError
from tf_mural.evaluation import metrics, protocols, ranked_retrieval
from tf_mural.evaluation.results import Result
from tf_mural.evaluation.retrieval_inputs import RetrievalInputs

PROTOCOL = "retrieval/v1"


def run(embedder, records, languages=None, captions_per_image=None, protocol=None):
    """Evaluates retrieval on records that have one image and texts.

    Args:
        embedder: Object with `embed_images(iterable of bytes)`, for the bytes of image files, and
            `embed_texts(iterable of str)`; both return unit rows in order, float32 (n, d).
        records: Iterable of Record, consumed once. Records without an image are ignored.
        languages: Codes or names of the languages to score. Default: all languages, sorted.
        captions_per_image: Number of texts per image and language; the first texts are used.
            Default: all texts. If a number is given, it becomes part of the protocol id.
        protocol: "v1", "mteb" or "mteb-unique". Default: "v1".

    Returns:
        Result. values: {language: {"i2t_r1" .. "t2i_r10", "average_recall", "chance"}} in percent;
        "chance" is the expected average recall of candidates in random order. counts: "images"
        (number of embedded images), "candidates" {language: number of images}, "texts" {language:
        number of texts}, "merged_records" (number of records with the same image as an earlier
        record; omitted if it is 0). intervals: {language: {metric: (low, high)}}, 95 % intervals of
        all metrics except "chance"; see `metrics.recall_intervals`. The metrics of the protocols
        of mteb are "i2t_ndcg10", "i2t_hit1" .. "i2t_hit10", and the same with "t2i".

    Raises:
        UserError: The protocol is unknown, there are no records or no images, a language has no
            texts, a record has several images, or an image cannot be decoded.
    """
    id = protocols.protocol_id("retrieval", protocol, captions_per_image=captions_per_image)
    is_ranked = not id.startswith(PROTOCOL)
    inputs = RetrievalInputs("retrieval", languages, captions_per_image, merge=not is_ranked)
    try:
        images = embedder.embed_images(inputs.stream_images(records))
    except UserError as error:
        position = getattr(error, "position", None)
        if position is None:
            raise
        raise UserError(f"record {inputs.ids[position]!r}: {error}") from error
    counts = {"images": len(images), "candidates": {}, "texts": {}}
    result = Result("retrieval", id, {}, counts)
    if inputs.merged:
        result.counts["merged_records"] = inputs.merged
    for language in inputs.scored_languages():
        texts, text_images = inputs.texts[language]
        if is_ranked:
            scored = ranked_retrieval.score_language(
                *(images, inputs.ids, texts, np.array(text_images), embedder.embed_texts),
                unique=protocol == "mteb-unique",
            )
            result.values[language], result.intervals[language], *sizes = scored[:4]
            result.items[language] = scored[4]
            counts["candidates"][language], counts["texts"][language] = sizes
            continue
        result.values[language], result.intervals[language], result.items[language] = _score(
            images, embedder.embed_texts(texts), np.array(text_images)
        )
        result.counts["texts"][language] = len(texts)
        result.counts["candidates"][language] = len(set(text_images))
    return result


def _score(images, texts, text_images):
    """Scores the images that have a text in a language; returns (values, intervals, items)."""
    candidates, text_images, num_captions = np.unique(
        text_images, return_inverse=True, return_counts=True
    )
    image_ranks, text_ranks = metrics.image_text_ranks(images[candidates], texts, text_images)
    values = metrics.recalls(image_ranks, text_ranks)
    values["chance"] = metrics.chance_average_recall(len(candidates), num_captions)
    items = {}
    for direction, ranks, groups in (
        ("i2t", image_ranks, np.arange(len(candidates))),
        ("t2i", text_ranks, text_images),
    ):
        for k in metrics.RECALL_KS:
            hits = 100.0 * (ranks < k)
            items[f"{direction}_r{k}"] = metrics.group_items(hits, groups, len(candidates))
    return values, metrics.recall_intervals(image_ranks, text_ranks, text_images), items
