"""The objective of a stage: from the embeddings of a batch to one loss, a weighted sum of terms."""

import dataclasses

from keras import ops

from tf_mural import losses


@dataclasses.dataclass(frozen=True)
class Term:
    """One loss between two fields of the batch.

    Attributes:
        name: name of the term in the logs, such as "image_caption".
        x, y: names of the two fields.
        weight: factor of the term in the total loss.
        loss: a key of `losses.LOSSES`.
        margin, label_smoothing: see `losses.contrastive`.
        temperature: name of the model's temperature that divides the logits of this term.
        mask_duplicates: whether candidates that repeat an image or a text of the example are not
            counted as negatives. A candidate is a repetition if it has the same id in one of
            `duplicate_fields`, or if its text is the example's text in another text field.
        sibling_fields: further fields of the same examples whose ids are also compared: two
            captions of one image are not negatives of each other.
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
    sibling_fields: tuple = ()

    @property
    def duplicate_fields(self):
        """Sorted fields whose ids identify duplicates; () if the term masks none."""
        fields = {self.x, self.y, *self.sibling_fields}
        return tuple(sorted(fields)) if self.mask_duplicates else ()


def objective(embeddings, batch, terms, temperatures, gather, offset, num_languages):
    """Computes the loss of the local batch against the candidates of all replicas.

    The total is the sum over terms of weight * (sum of the local losses) / N, so that the sum over
    replicas is the mean over the **global** batch. The totals of the replicas and their gradients
    must therefore be summed, not averaged.

    Args:
        embeddings: {field: (n, d)}, unit vectors.
        batch: {field: {"id": (n,) int64 or (n, k) parts of it, "language": (n,) int32 (texts
            only), ...}}.
        terms: sequence of `Term`.
        temperatures: {name: scalar}.
        gather: callable that concatenates an array (n, ...) of all replicas to (N, ...) and
            propagates gradients.
        offset: scalar int, the position of the first local example in the global batch.
        num_languages: number of languages, for the sums per language.

    Returns:
        The scalar loss, and logs. The sums of the logs over replicas are: "loss" and
        "loss/<term>", means over the global batch (the terms are not weighted); "language_loss"
        and "language_count", both (num_languages,), the sum of the losses of the examples in which
        a language takes part and the number of its texts.
    """
    candidates = gather_candidates(embeddings, batch, terms, gather)
    return objective_for_rows(
        embeddings, batch, candidates, terms, temperatures, offset, num_languages
    )


def gather_candidates(embeddings, batch, terms, gather):
    """Gathers the candidate embeddings and ids from all replicas, each field once.

    Args:
        embeddings, batch, terms, gather: see `objective`.

    Returns:
        {"embeddings": {field: (N, d)}, "ids": {field: (N,) int64}}. Ids are gathered only for the
        fields that a term masks duplicates by.
    """
    fields = sorted({field for term in terms for field in (term.x, term.y)})
    id_fields = sorted({field for term in terms for field in term.duplicate_fields})
    return {
        "embeddings": {field: gather(embeddings[field]) for field in fields},
        "ids": {field: gather(batch[field]["id"]) for field in id_fields},
    }


def objective_for_rows(embeddings, batch, candidates, terms, temperatures, offset, num_languages):
    """Computes loss and logs of some examples; summed over examples, they equal `objective`'s.

    Args:
        embeddings, batch: of n examples, see `objective`.
        candidates: result of `gather_candidates`.
        terms, temperatures, num_languages: see `objective`.
        offset: scalar int, the position of the first of these examples among the candidates.

    Returns:
        See `objective`.
    """
    total, logs, masks = 0.0, {}, {(): None}
    dtype = embeddings[terms[0].x].dtype
    language_loss = language_count = ops.zeros((num_languages,), dtype)
    for term in terms:
        fields = term.duplicate_fields
        if fields not in masks:
            masks[fields] = _duplicate_mask(batch, candidates["ids"], fields)
        example_losses = losses.LOSSES[term.loss](
            (embeddings[term.x], embeddings[term.y]),
            (candidates["embeddings"][term.x], candidates["embeddings"][term.y]),
            offset,
            temperatures[term.temperature],
            margin=term.margin,
            label_smoothing=term.label_smoothing,
            ignore=masks[fields],
        )  # (n,)
        global_size = ops.shape(candidates["embeddings"][term.x])[0]
        term_loss = ops.sum(example_losses) / ops.cast(global_size, example_losses.dtype)
        total = total + term.weight * term_loss
        logs[f"loss/{term.name}"] = term_loss
        for field in (term.x, term.y):
            if "language" in batch[field]:
                one_hot = ops.one_hot(batch[field]["language"], num_languages, dtype=dtype)
                language_loss = language_loss + ops.matmul(example_losses, one_hot)
                language_count = language_count + ops.sum(one_hot, axis=0)
    logs.update({"loss": total, "language_loss": language_loss, "language_count": language_count})
    return total, logs


def _duplicate_mask(batch, candidate_ids, fields):
    """Mask (n, N) of the candidates that repeat an image or a text of the example."""

    def same_id(field, other):
        local, others = batch[field]["id"], candidate_ids[other]
        equal = ops.equal(ops.expand_dims(local, 1), ops.expand_dims(others, 0))
        return ops.all(equal, axis=2) if len(equal.shape) == 3 else equal

    texts = [field for field in fields if "language" in batch[field]]
    pairs = [(field, field) for field in fields]
    # A text may also occur in the other text field, where it would be a negative of itself.
    pairs += [(field, other) for field in texts for other in texts if field != other]
    mask = same_id(*pairs[0])
    for field, other in pairs[1:]:
        mask = ops.logical_or(mask, same_id(field, other))
    return mask
