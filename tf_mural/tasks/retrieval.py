"""Cross-modal retrieval, zero-shot: which image for a text, which text for an image, by cosine.

Protocol retrieval/v1. Per language: the images that have a text in it are the candidates, all its
texts are queries and candidates; recall at 1, 5 and 10 both ways; an image finds any of its texts;
ties count as misses. `average_recall` is the mean of the six, in percent.
"""

import dataclasses

import numpy as np

from tf_mural import metrics
from tf_mural.base import Result, UserError

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
        {"average_recall": (low, high)}}, 95 %, see `metrics.average_recall_interval`.

    Raises:
        UserError: no records, no images, a language without texts, a record with several images,
            an image that cannot be read.
    """
    gathered = _Gathered(languages, captions_per_image)
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
        values, interval = _score(images, embed.texts(texts), np.array(text_images))
        result.values[language] = values
        result.intervals[language] = {"average_recall": interval}
        result.counts["texts"][language] = len(texts)
        result.counts["candidates"][language] = len(set(text_images))
    return result


@dataclasses.dataclass
class _Gathered:
    """What a single reading of the records leaves behind: texts stay, images pass through."""

    wanted: list | None
    captions_per_image: int | None
    records: int = 0
    ids: list = dataclasses.field(default_factory=list)
    texts: dict = dataclasses.field(default_factory=dict)  # language: (texts, image of each)
    seen: set = dataclasses.field(default_factory=set)  # languages, wanted or not

    def images(self, records):
        """Yields the image of each record that has a wanted text, and notes the texts."""
        with_image = 0
        for record in records:
            self.records += 1
            if not record.images:
                continue
            if len(record.images) > 1:
                raise UserError(
                    f"record {record.id!r} has {len(record.images)} images: retrieval expects one"
                )
            with_image += 1
            if self._note(record):
                self.ids.append(record.id)
                yield record.images[0]
        if not with_image:
            what = (
                f"none of the {self.records} records has an image" if self.records else "no records"
            )
            raise UserError(f"{what}: retrieval needs records of an image and its texts")

    def _note(self, record):
        """Keeps the wanted texts of a record as those of the next image. Returns whether any."""
        counts = {}
        for language, text in record.texts:
            self.seen.add(language)
            if self.wanted is not None and language not in self.wanted:
                continue
            counts[language] = counts.get(language, 0) + 1
            if self.captions_per_image is None or counts[language] <= self.captions_per_image:
                texts, images = self.texts.setdefault(language, ([], []))
                texts.append(text)
                images.append(len(self.ids))
        return bool(counts)

    def languages(self):
        """The languages to score, each with texts."""
        languages = sorted(self.seen) if self.wanted is None else list(dict.fromkeys(self.wanted))
        missing = [language for language in languages if language not in self.texts]
        if missing or not languages:
            known = ", ".join(sorted(self.seen)) or "none at all"
            raise UserError(
                f"no image has a text in {', '.join(missing) or 'any language'}; "
                f"the records' languages: {known}"
            )
        return languages


def _score(images, texts, text_images):
    """Recalls with chance, and the interval, of one language: its own images are the candidates."""
    own, text_images, captions = np.unique(text_images, return_inverse=True, return_counts=True)
    image_ranks, text_ranks = metrics.image_text_ranks(images[own], texts, text_images)
    values = metrics.recalls(image_ranks, text_ranks)
    values["chance"] = metrics.chance_average_recall(len(own), captions)
    return values, metrics.average_recall_interval(image_ranks, text_ranks, text_images)
