"""Recalls: how often a right candidate is among the first k, and what chance would give."""

import numpy as np

from tf_mural.errors import UserError
from tf_mural.evaluation.metrics.ranks import image_text_ranks

RECALLS = (1, 5, 10)


def recall_at(ranks, ks=RECALLS):
    """Share of the ranks below each k, in percent: float64 (len(ks),).

    Raises:
        UserError: there is no rank.
    """
    ranks = np.asarray(ranks)
    if ranks.size == 0:
        raise UserError("no queries to score: the recall of nothing is not defined")
    return np.array([100.0 * np.mean(ranks < k) for k in ks])


def recalls(image_ranks, text_ranks):
    """The six recalls in percent, `i2t_r1` to `t2i_r10`, and their mean, `average_recall`."""
    six = [*recall_at(image_ranks), *recall_at(text_ranks)]
    return {name: float(value) for name, value in named_recalls(six).items()}


def named_recalls(six):
    """{name: value} of (6, ...) recalls, images' before texts', and of their mean."""
    names = [f"{way}_r{k}" for way in ("i2t", "t2i") for k in RECALLS]
    return dict(zip(names, six, strict=True)) | {"average_recall": np.mean(six, axis=0)}


def retrieval(images, texts, text_images):
    """`recalls` of the `image_text_ranks`: the retrieval protocol on embeddings."""
    return recalls(*image_text_ranks(images, texts, text_images))


def chance_average_recall(images, texts_per_image=1):
    """Expected average recall, in percent, of candidates in random order.

    A text finds its image among n at k with probability k / n. An image with c of the m texts
    misses all of them at k with probability C(m - c, k) / C(m, k).

    Args:
        images: number of images.
        texts_per_image: a number, or one number for each image, 1 or more.
    """
    own = np.broadcast_to(np.asarray(texts_per_image, np.float64), (images,))
    texts = own.sum()
    values = []
    for k in RECALLS:
        miss = np.ones(images)
        for place in range(min(k, int(texts))):
            miss *= np.maximum(texts - own - place, 0) / (texts - place)
        values += [np.mean(1.0 - miss), min(1.0, k / images)]
    return float(100.0 * np.mean(values))


def group_means(values, groups):
    """Mean over the languages of each group.

    Args:
        values: {language: number}.
        groups: {name of a group: languages}.

    Returns:
        {name of a group: mean}.

    Raises:
        UserError: a group is empty, or holds a language without a value.
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
