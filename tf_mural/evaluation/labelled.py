"""Embeds records of one image and its label; what classification and neighbours share."""

import dataclasses
import itertools

import numpy as np

from tf_mural.errors import UserError
from tf_mural.evaluation.embedding_checks import checked


@dataclasses.dataclass
class Labelled:
    """Some records, embedded.

    Attributes:
        rows: float32 (n, d), unit rows.
        labels: int64 (n,).
        ids: list of n.
    """

    rows: np.ndarray
    labels: np.ndarray
    ids: list


def embed_labelled(embed, records, task, size=None, what="records"):
    """Yields `Labelled` of at most `size` records each, in order; of all at once by default.

    Args:
        embed: see `retrieval.run`.
        records: iterable of Record, read once.
        task: the name of the task, for messages.
        size: records to hold at once.
        what: what the records are, for messages.

    Raises:
        UserError: no records, one without an image, with several, or without a label; an image that
            cannot be read, an embedding that is not finite or not of length 1.
    """
    records, empty = iter(records), True
    for first in records:
        empty, labels, ids = False, [], []
        rest = itertools.islice(records, None if size is None else size - 1)
        images = _images(itertools.chain([first], rest), task, labels, ids)
        rows = checked(embed.images, images, "images", ids)
        yield Labelled(rows, np.array(labels, np.int64), ids)
    if empty:
        raise UserError(f"no {what}: {task} needs records of an image and its label")


def _images(records, task, labels, ids):
    """Yields the images, and notes labels and ids."""
    for record in records:
        if len(record.images) != 1:
            raise UserError(
                f"record {record.id!r} has {len(record.images)} images: {task} expects one"
            )
        if record.label is None:
            raise UserError(
                f"record {record.id!r} has no label: {task} needs records of an image and its "
                "label, such as those of cifar100, food101, sun397 and imagenet"
            )
        ids.append(record.id)
        labels.append(record.label)
        yield record.images[0]
