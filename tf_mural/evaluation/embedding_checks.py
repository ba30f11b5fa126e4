"""Embeddings of texts for tasks: each text once, checked, and a bad one named by its record."""

import numpy as np

from tf_mural.errors import UserError
from tf_mural.evaluation import metrics

# Lengths may be off by as much as half precision makes them.
_UNIT = 2e-3


def text_rows(embed, texts, ids):
    """Embeds texts, equal ones once.

    Args:
        embed: has `texts(iterable of str)`, to float32 (n, d) unit rows in order.
        texts: list of m strings.
        ids: the id of each text's record, for messages.

    Returns:
        (float32 (n, d) embeddings of the different texts, int64 (m,) the row of each text).

    Raises:
        UserError: as `checked`.
    """
    rows = {}
    of_text = np.array([rows.setdefault(text, len(rows)) for text in texts], np.int64)
    _, first = np.unique(of_text, return_index=True)
    owners = [ids[position] for position in first]
    return checked(embed.texts, list(rows), "texts", owners), of_text


def checked(embed, items, kind, ids):
    """What `embed` gives for items, once it is known to be unit rows, one an item.

    Args:
        embed: from an iterable of items to (n, d).
        items: iterable of items.
        kind: what they are, for messages.
        ids: the id of each item's record; a list that may still grow while `items` is read.

    Raises:
        UserError: an embedding is not finite or not of length 1, named by its record; or `embed`
            refuses an item and says at which `position`.
    """
    try:
        found = np.asarray(embed(items), np.float32)
    except UserError as error:
        position = getattr(error, "position", None)
        if position is None:
            raise
        raise UserError(f"record {ids[position]!r}: {error}") from error
    if found.ndim != 2 or len(found) != len(ids):
        raise UserError(
            f"the embeddings of {len(ids)} {kind} have shape {found.shape}: expected one row each"
        )
    lengths = np.linalg.norm(found, axis=1)
    bad = np.flatnonzero(~(np.abs(lengths - 1) <= _UNIT))  # NaN compares as bad
    if bad.size:
        raise UserError(
            f"record {ids[bad[0]]!r}: its embedding has length {lengths[bad[0]]}: expected finite "
            f"rows of length 1, which {bad.size} of {len(found)} {kind} have not"
        )
    return metrics.checked_rows(found, f"embeddings of {kind}")
