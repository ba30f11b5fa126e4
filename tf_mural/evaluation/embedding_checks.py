"""Embeds the items of records, and validates that the embeddings are finite unit vectors."""

import numpy as np

from tf_mural.errors import UserError
from tf_mural.evaluation import metrics

# Tolerance of the length of an embedding: the rounding error of half precision.
_LENGTH_TOLERANCE = 2e-3


def embed_unique_texts(embedder, texts, ids):
    """Embeds texts; equal texts are embedded once.

    Args:
        embedder: Object with `embed_texts(iterable of str)`, which returns unit rows in order,
            float32 (n, d).
        texts: List of m strings.
        ids: Record id of each text, for error messages.

    Returns:
        Tuple (embeddings of the unique texts, float32 (n, d); row of each text, int64 (m,)).

    Raises:
        UserError: See `embed_and_check`.
    """
    row_of_text = {}
    text_rows = np.array(
        [row_of_text.setdefault(text, len(row_of_text)) for text in texts], np.int64
    )
    _, first = np.unique(text_rows, return_index=True)
    unique_ids = [ids[position] for position in first]
    embeddings = embed_and_check(embedder.embed_texts, list(row_of_text), "texts", unique_ids)
    return embeddings, text_rows


def embed_and_check(embed, items, kind, ids):
    """Embeds items and checks that the result has one finite unit row per item.

    Args:
        embed: Function from an iterable of n items to an array (n, d).
        items: Iterable of items.
        kind: Plural name of the items, for error messages.
        ids: Record id of each item. The list may grow while `items` is consumed.

    Returns:
        float32 (n, d).

    Raises:
        UserError: An embedding is not finite or does not have length 1, or `embed` raises a
            UserError with a `position`. The message names the record.
    """
    try:
        embeddings = np.asarray(embed(items), np.float32)
    except UserError as error:
        position = getattr(error, "position", None)
        if position is None:
            raise
        raise UserError(f"record {ids[position]!r}: {error}") from error
    if embeddings.ndim != 2 or len(embeddings) != len(ids):
        raise UserError(
            f"the embeddings of {len(ids)} {kind} have shape {embeddings.shape}: expected one row "
            "each"
        )
    lengths = np.linalg.norm(embeddings, axis=1)
    bad = np.flatnonzero(~(np.abs(lengths - 1) <= _LENGTH_TOLERANCE))  # includes NaN
    if bad.size:
        raise UserError(
            f"record {ids[bad[0]]!r}: its embedding has length {lengths[bad[0]]}: expected finite "
            f"rows of length 1; {bad.size} of {len(embeddings)} {kind} do not have such rows"
        )
    return metrics.check_embeddings(embeddings, f"embeddings of {kind}")
