"""Recall at k, and its expected value for candidates in random order."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from tf_mural.errors import UserError
from tf_mural.evaluation.metrics.ranks import image_text_ranks

RECALL_KS = (1, 5, 10)


def recall_at(ranks: ArrayLike, ks: Sequence[int] = RECALL_KS) -> np.ndarray:
    """Returns the percentage of the ranks that are below each k: float64 (len(ks),).

    Raises:
        UserError: There are no ranks.
    """
    ranks = np.asarray(ranks)
    if ranks.size == 0:
        raise UserError("no queries to score: recall is not defined without queries")
    return np.array([100.0 * np.mean(ranks < k) for k in ks])


def recalls(image_ranks: ArrayLike, text_ranks: ArrayLike) -> dict[str, float]:
    """Returns the six recalls in percent, `i2t_r1` to `t2i_r10`, and their `average_recall`."""
    values = [*recall_at(image_ranks), *recall_at(text_ranks)]
    return {name: float(value) for name, value in named_recalls(values).items()}


def named_recalls(values):
    """Returns {name: value} of six recalls (6, ...), image-to-text first, and of their mean."""
    names = [f"{direction}_r{k}" for direction in ("i2t", "t2i") for k in RECALL_KS]
    return dict(zip(names, values, strict=True)) | {"average_recall": np.mean(values, axis=0)}


def retrieval_recalls(
    images: ArrayLike, texts: ArrayLike, text_images: ArrayLike
) -> dict[str, float]:
    """Returns the `recalls` of embeddings; see `image_text_ranks` for the arguments."""
    return recalls(*image_text_ranks(images, texts, text_images))


def chance_average_recall(images: int, texts_per_image: ArrayLike = 1) -> float:
    """Returns the expected average recall, in percent, of candidates in random order.

    With n images and m texts, a text retrieves its image at k with probability k / n. An image
    with c texts misses all c texts at k with probability C(m - c, k) / C(m, k).

    Args:
        images: Number of images.
        texts_per_image: Number of texts per image, at least 1, or a sequence of one such number
            per image.
    """
    own = np.broadcast_to(np.asarray(texts_per_image, np.float64), (images,))
    texts = own.sum()
    values = []
    for k in RECALL_KS:
        miss = np.ones(images)
        for rank in range(min(k, int(texts))):
            miss *= np.maximum(texts - own - rank, 0) / (texts - rank)
        values += [np.mean(1.0 - miss), min(1.0, k / images)]
    return float(100.0 * np.mean(values))


def group_means(
    values: Mapping[str, float], groups: Mapping[str, Collection[str]]
) -> dict[str, float]:
    """Returns the mean over the languages of each group.

    Args:
        values: {language: number}.
        groups: {group: languages}.

    Returns:
        {group: mean}.

    Raises:
        UserError: A group is empty, or contains a language without a value.
    """
    means = {}
    for name, languages in groups.items():
        missing = [language for language in languages if language not in values]
        if missing or not languages:
            raise UserError(
                f"group {name!r}: " + (f"no value for {', '.join(missing)}" if missing else "empty")
            )
        means[name] = float(np.mean([values[language] for language in languages]))
    return means
