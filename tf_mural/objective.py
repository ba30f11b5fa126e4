"""From the embeddings of a batch to one loss: a stage is a tuple of terms."""

import dataclasses

from keras import ops

from tf_mural import losses


@dataclasses.dataclass(frozen=True)
class Term:
    """One loss between two fields of the batch.

    Attributes:
        name: how the term is called in logs, e.g. "image_caption".
        x, y: the two fields.
        weight: factor of the term in the total loss.
        loss: a name of `losses.LOSSES`.
        margin, label_smoothing: see `losses.contrastive`.
        temperature: which temperature of the model divides the logits of this term.
        mask_duplicates: whether columns that hold an image or a text of the row again are no
            negatives of it: those with a row's id in a field, or in the other field of texts.
        beside: further fields of the same examples, whose ids count in that too: two captions of
            one image are no negatives of each other.
    """

    name: str
    x: str
    y: str
    weight: float
    loss: str = "contrastive"
    margin: float = 0.0
    label_smoothing: float = 0.0
    temperature: str = "shared"
    mask_duplicates: bool = False
    beside: tuple = ()

    @property
    def compared(self):
        """Fields whose ids tell duplicates, sorted; () where the term masks none."""
        return tuple(sorted({self.x, self.y, *self.beside})) if self.mask_duplicates else ()


def objective(embeddings, batch, terms, temperatures, gather, first_row, num_languages):
    """Loss of this replica's rows against the rows of all replicas.

    The total is sum over terms of weight * (sum of own rows' losses) / N: the mean over the
    **global** batch, written out once. Replicas' totals, and their gradients, are therefore to be
    summed, not averaged.

    Args:
        embeddings: {field: (n, d)} unit rows.
        batch: {field: {"id": (n,) int64 or (n, k) parts of it, "language": (n,) int32 (texts only),
            ...}}.
        terms: sequence of `Term`.
        temperatures: {name: scalar}.
        gather: function (n, ...) -> (N, ...) over replicas, through which gradients flow.
        first_row: scalar int, position of this replica's first row in the gathered ones.
        num_languages: length of the language table, for the per-language sums.

    Returns:
        The scalar loss, and logs whose sums over replicas are: "loss" and "loss/<term>", means
        over the global batch (unweighted terms); "language_loss" and "language_rows", both
        (num_languages,), the summed row losses and the rows in which a language takes part.
    """
    columns = everyone(embeddings, batch, terms, gather)
    return objective_of_rows(
        embeddings, batch, columns, terms, temperatures, first_row, num_languages
    )


def everyone(embeddings, batch, terms, gather):
    """What the rows are compared with: each field that the terms use, gathered once.

    Args:
        embeddings, batch, terms, gather: see `objective`.

    Returns:
        {"rows": {field: (N, d)}, "ids": {field: (N,) int64}}, ids of the fields whose duplicates
        are masked alone.
    """
    used = sorted({field for term in terms for field in (term.x, term.y)})
    masked = sorted({field for term in terms for field in term.compared})
    return {
        "rows": {field: gather(embeddings[field]) for field in used},
        "ids": {field: gather(batch[field]["id"]) for field in masked},
    }


def objective_of_rows(embeddings, batch, columns, terms, temperatures, first_row, num_languages):
    """Loss and logs of some rows against all: sums over rows are those of `objective`.

    Args:
        embeddings, batch: of n rows, see `objective`.
        columns: what `everyone` returned.
        terms, temperatures, num_languages: see `objective`.
        first_row: scalar int, position of these rows' first one among the columns.

    Returns:
        As `objective`.
    """
    total, logs, masks = 0.0, {}, {(): None}
    dtype = embeddings[terms[0].x].dtype
    language_loss = language_rows = ops.zeros((num_languages,), dtype)
    for term in terms:
        if term.compared not in masks:
            masks[term.compared] = _duplicates(batch, columns["ids"], term.compared)
        row_losses = losses.LOSSES[term.loss](
            (embeddings[term.x], embeddings[term.y]),
            (columns["rows"][term.x], columns["rows"][term.y]),
            first_row,
            temperatures[term.temperature],
            margin=term.margin,
            label_smoothing=term.label_smoothing,
            ignore=masks[term.compared],
        )  # (n,)
        global_rows = ops.cast(ops.shape(columns["rows"][term.x])[0], row_losses.dtype)
        term_loss = ops.sum(row_losses) / global_rows
        total = total + term.weight * term_loss
        logs[f"loss/{term.name}"] = term_loss
        for field in (term.x, term.y):
            if "language" in batch[field]:
                one_hot = ops.one_hot(batch[field]["language"], num_languages, dtype=dtype)
                language_loss = language_loss + ops.matmul(row_losses, one_hot)
                language_rows = language_rows + ops.sum(one_hot, axis=0)
    logs.update({"loss": total, "language_loss": language_loss, "language_rows": language_rows})
    return total, logs


def _duplicates(batch, all_ids, fields):
    """(n, N) mask of the columns that hold an image or a text of the row again."""

    def same(own, other):
        found = ops.equal(ops.expand_dims(batch[own]["id"], 1), ops.expand_dims(all_ids[other], 0))
        return ops.all(found, axis=2) if len(found.shape) == 3 else found

    texts = [field for field in fields if "language" in batch[field]]
    pairs = [(field, field) for field in fields]
    # A text may come back in the other field of texts, where it would be a negative of itself.
    pairs += [(own, other) for own in texts for other in texts if own != other]
    mask = same(*pairs[0])
    for own, other in pairs[1:]:
        mask = ops.logical_or(mask, same(own, other))
    return mask
