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
        mask_duplicates: whether columns with the id of the row, in either field, are no negatives.
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


def objective(embeddings, batch, terms, temperatures, gather, first_row, num_languages):
    """Loss of this replica's rows against the rows of all replicas.

    The total is sum over terms of weight * (sum of own rows' losses) / N: the mean over the
    **global** batch, written out once. Replicas' totals, and their gradients, are therefore to be
    summed, not averaged.

    Args:
        embeddings: {field: (n, d)} unit rows.
        batch: {field: {"id": (n,) int64, "language": (n,) int32 (texts only), ...}}.
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
    used = sorted({field for term in terms for field in (term.x, term.y)})
    gathered = {field: gather(embeddings[field]) for field in used}
    masked = sorted({f for term in terms if term.mask_duplicates for f in (term.x, term.y)})
    ids = {field: gather(batch[field]["id"]) for field in masked}

    total, logs = 0.0, {}
    language_loss = language_rows = 0.0
    for term in terms:
        row_losses = losses.LOSSES[term.loss](
            (embeddings[term.x], embeddings[term.y]),
            (gathered[term.x], gathered[term.y]),
            first_row,
            temperatures[term.temperature],
            margin=term.margin,
            label_smoothing=term.label_smoothing,
            ignore=_same_ids(batch, ids, term) if term.mask_duplicates else None,
        )  # (n,)
        global_rows = ops.cast(ops.shape(gathered[term.x])[0], row_losses.dtype)
        term_loss = ops.sum(row_losses) / global_rows
        total = total + term.weight * term_loss
        logs[f"loss/{term.name}"] = term_loss
        for field in (term.x, term.y):
            if "language" in batch[field]:
                one_hot = ops.one_hot(batch[field]["language"], num_languages)  # (n, languages)
                language_loss = language_loss + ops.matmul(row_losses, one_hot)
                language_rows = language_rows + ops.sum(one_hot, axis=0)
    logs.update({"loss": total, "language_loss": language_loss, "language_rows": language_rows})
    return total, logs


def _same_ids(batch, all_ids, term):
    """(n, N) mask of the columns that hold the row's own image or text again."""

    def same(field):
        own = ops.expand_dims(batch[field]["id"], 1)
        return ops.equal(own, ops.expand_dims(all_ids[field], 0))

    return ops.logical_or(same(term.x), same(term.y))
