"""Embeds records with one image and a label; shared by zero_shot and knn."""

import dataclasses
import itertools

import numpy as np

from tf_mural.errors import UserError
from tf_mural.evaluation.embedding_checks import embed_and_check


@dataclasses.dataclass
class LabelledEmbeddings:
    """Embeddings of labelled images.

    Attributes:
        embeddings: float32 (n, d), unit rows.
        labels: int64 (n,).
        ids: List of the n record ids.
    """

    embeddings: np.ndarray
    labels: np.ndarray
    ids: list


def embed_labelled(embedder, records, task, chunk_size=None, description="records"):
    """Yields `LabelledEmbeddings` of at most `chunk_size` records, in order.

    Args:
        embedder: See `retrieval.run`.
        records: Iterable of Record, consumed once.
        task: Name of the task, for error messages.
        chunk_size: Maximum number of records per yielded item. Default: all records in one item.
        description: Name of the records, for error messages.

    Raises:
        UserError: There are no records, a record has no label or not exactly one image, an image
            cannot be decoded, or an embedding is not finite or does not have length 1.
    """
    records, is_empty = iter(records), True
    for first in records:
        is_empty, labels, ids = False, [], []
        others = itertools.islice(records, None if chunk_size is None else chunk_size - 1)
        images = _stream_images(itertools.chain([first], others), task, labels, ids)
        embeddings = embed_and_check(embedder.embed_images, images, "images", ids)
        yield LabelledEmbeddings(embeddings, np.array(labels, np.int64), ids)
    if is_empty:
        raise UserError(f"no {description}: {task} needs records with an image and its label")


def _stream_images(records, task, labels, ids):
    """Yields the image of each record; appends its label and its id to the lists."""
    for record in records:
        if len(record.images) != 1:
            raise UserError(
                f"record {record.id!r} has {len(record.images)} images: {task} expects one"
            )
        if record.label is None:
            raise UserError(
                f"record {record.id!r} has no label: {task} needs records with an image and its "
                "label, such as those of cifar100, food101, sun397 and imagenet"
            )
        ids.append(record.id)
        labels.append(record.label)
        yield record.images[0]
