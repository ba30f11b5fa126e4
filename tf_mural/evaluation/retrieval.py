"""Cross-modal retrieval, zero-shot: which image for a text, which text for an image, by cosine.

Protocol retrieval/v1. Per language: the images that have a text in it are the candidates, all its
texts are queries and candidates; recall at 1, 5 and 10 both ways; an image finds any of its texts;
ties count as misses. `average_recall` is the mean of the six, in percent.
"""

import numpy as np

from tf_mural.errors import UserError
from tf_mural.evaluation import metrics
from tf_mural.evaluation.results import Result
from tf_mural.evaluation.retrieval_inputs import Gathered

PROTOCOL = "retrieval/v1"


def run(embed, records, languages=None, captions_per_image=None):
    """Scores retrieval on any records of one image and some texts.

    Args:
        embed: has `images(iterable of encoded bytes)` and `texts(iterable of str)`, both to float32
            (n, d) unit rows in order.
        records: iterable of Record, read once; those without an image are passed over.
        languages: codes to score; all that occur, sorted, by default.
        captions_per_image: how many of an image's texts in a language to use, the first ones; all
            by default. Part of the protocol's id when it is set.

    Returns:
        Result. values: {language: {"i2t_r1" .. "t2i_r10", "average_recall", "chance"}} in percent,
        where "chance" is the average recall to expect of a random order. counts: "images" embedded,
        "candidates" {language: images}, "texts" {language: texts}. intervals: {language:
        {measure: (low, high)}}, 95 %, of all but chance, see `metrics.recall_intervals`.

    Raises:
        UserError: no records, no images, a language without texts, a record with several images,
            an image that cannot be read.
    """
    gathered = Gathered("retrieval", languages, captions_per_image)
    try:
        images = embed.images(gathered.images(records))
    except UserError as error:
        position = getattr(error, "position", None)
        if position is None:
            raise
        raise UserError(f"record {gathered.ids[position]!r}: {error}") from error
    protocol = PROTOCOL
    if captions_per_image is not None:
        protocol += f";captions_per_image={captions_per_image}"
    result = Result(
        "retrieval", protocol, {}, {"images": len(images), "candidates": {}, "texts": {}}
    )
    for language in gathered.languages():
        texts, text_images = gathered.texts[language]
        result.values[language], result.intervals[language] = _score(
            images, embed.texts(texts), np.array(text_images)
        )
        result.counts["texts"][language] = len(texts)
        result.counts["candidates"][language] = len(set(text_images))
    return result


def _score(images, texts, text_images):
    """Recalls with chance, and intervals, of one language: its own images are the candidates."""
    own, text_images, captions = np.unique(text_images, return_inverse=True, return_counts=True)
    image_ranks, text_ranks = metrics.image_text_ranks(images[own], texts, text_images)
    values = metrics.recalls(image_ranks, text_ranks)
    values["chance"] = metrics.chance_average_recall(len(own), captions)
    return values, metrics.recall_intervals(image_ranks, text_ranks, text_images)
