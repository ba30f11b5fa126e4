"""The objective of a stage: a weighted sum of loss terms on the embeddings of a batch."""

import dataclasses
from collections.abc import Mapping

from keras import ops

from tf_mural import losses
from tf_mural.errors import UserError, lookup


@dataclasses.dataclass(frozen=True)
class Term:
    """One loss between two fields of the batch.

    Attributes:
        name: name of the term in the logs, such as "image_caption".
        x, y: names of the two fields.
        weight: factor of the term in the total loss.
        loss: a key of `losses.LOSSES`.
        options: {name: value} of the options of the loss; omitted options get their defaults.
        scalars: {kind: name}, the name of one scalar of the model for each kind of learned scalar
            that the loss takes; the name for an omitted kind is "shared".
        mask_duplicates: whether candidates that duplicate the example are excluded from the
            negatives. A candidate is a duplicate if its id in one of `duplicate_fields` equals the
            example's id in that field. A candidate is also a duplicate if a text of the candidate
            and a text of the example, in two different fields, have the same id.
        sibling_fields: further fields in which `mask_duplicates` looks for duplicates. With the
            image as a sibling field, for example, two captions of one image are not negatives of
            each other.
    """

    name: str
    x: str
    y: str
    weight: float
    loss: str = "contrastive"
    options: Mapping = dataclasses.field(default_factory=dict)
    scalars: Mapping = dataclasses.field(default_factory=dict)
    mask_duplicates: bool = False
    sibling_fields: tuple = ()

    def __post_init__(self):
        """Checks the options and the scalars, and adds omitted options and scalars.

        Raises:
            UserError: the loss, an option or a kind of scalar is unknown, or an option has a wrong
                value.
        """
        loss = lookup(losses.LOSSES, self.loss, f"loss (of the term {self.name!r})")
        if loss.inputs != "rows":
            raise UserError(
                f"the loss {self.loss!r} of the term {self.name!r} takes {loss.inputs}, but the "
                "towers return one row per example"
            )
        for kind in self.scalars:
            lookup(dict.fromkeys(loss.scalars), kind, f"scalar of the loss {self.loss!r}:")
        scalars = {kind: self.scalars.get(kind, "shared") for kind in loss.scalars}
        object.__setattr__(self, "options", losses.complete_options(self.loss, self.options))
        object.__setattr__(self, "scalars", scalars)

    @property
    def duplicate_fields(self) -> tuple[str, ...]:
        """Sorted names of the fields whose ids identify duplicates; () if duplicates are kept."""
        fields = {self.x, self.y, *self.sibling_fields}
        return tuple(sorted(fields)) if self.mask_duplicates else ()


def objective(embeddings, batch, terms, scalars, gather, offset, num_languages):
    """Computes the loss of the local batch against the candidates of all replicas.

    The total loss of a replica is the sum over terms of weight * (sum of the local losses) / N, in
    which N is the size of the **global** batch. The totals of the replicas and their gradients must
    therefore be summed, not averaged: the sum is the mean over the global batch.

    Args:
        embeddings: dict from field to unit vectors, (n, d).
        batch: dict from field to the arrays of the field, a dict. "id" is int64 (n,), or (n, k) if
            each id is split into k smaller integers. "language" is int32 (n,), and exists only in
            text fields.
        terms: sequence of `Term`.
        scalars: {kind: {name: scalar}}, the learned scalars of the model.
        gather: callable that concatenates the arrays (n, ...) of all replicas to (N, ...).
            Gradients flow back through `gather`.
        offset: scalar int, the position of the first local example in the global batch.
        num_languages: number of languages, the length of the logs per language.

    Returns:
        The scalar loss, and logs, which must be summed over replicas. The summed "loss" is the
        weighted total, and the summed "loss/<term>" is the mean of the term's loss over the global
        batch, without the term's weight. "language_count" (num_languages,) is the number of texts
        in each language, and "language_loss" (num_languages,) is the sum of the losses of the
        examples to which these texts belong.
    """
    candidates = gather_candidates(embeddings, batch, terms, gather)
    return objective_for_rows(embeddings, batch, candidates, terms, scalars, offset, num_languages)


def gather_candidates(embeddings, batch, terms, gather):
    """Gathers the candidate embeddings and ids from all replicas, each field once.

    Args:
        embeddings, batch, terms, gather: see `objective`.

    Returns:
        A dict: "embeddings" is a dict from field to embeddings (N, d), and contains only the fields
        of terms whose losses need candidates. "ids" is a dict from field to ids (N,) or (N, k), see
        `objective`, and contains only the fields in the `duplicate_fields` of a term. If
        "embeddings" is empty, "ids" contains at least one field, because the length N of its ids is
        the size of the global batch.
    """
    gathered = [term for term in terms if losses.LOSSES[term.loss].needs_candidates]
    fields = sorted({field for term in gathered for field in (term.x, term.y)})
    id_fields = {field for term in terms for field in term.duplicate_fields}
    id_fields = sorted(id_fields if fields else id_fields | {terms[0].x})
    return {
        "embeddings": {field: gather(embeddings[field]) for field in fields},
        "ids": {field: gather(batch[field]["id"]) for field in id_fields},
    }


def objective_for_rows(embeddings, batch, candidates, terms, scalars, offset, num_languages):
    """Computes the loss and the logs of a part of the local batch.

    The losses and logs of all parts of the local batch sum to those of `objective`.

    Args:
        embeddings, batch: embeddings and batch of n examples, see `objective`.
        candidates: result of `gather_candidates`.
        terms, scalars, num_languages: see `objective`.
        offset: scalar int, the position of the first of the n examples among the candidates.

    Returns:
        See `objective`.
    """
    total, logs, masks = 0.0, {}, {(): None}
    gathered = [*candidates["embeddings"].values(), *candidates["ids"].values()]
    global_size = ops.shape(gathered[0])[0]
    dtype = embeddings[terms[0].x].dtype
    language_loss = language_count = ops.zeros((num_languages,), dtype)
    for term in terms:
        fields = term.duplicate_fields
        if fields not in masks:
            masks[fields] = _duplicate_mask(batch, candidates["ids"], fields)
        loss, pair = losses.LOSSES[term.loss], (term.x, term.y)
        example_losses = loss.function(
            tuple(embeddings[field] for field in pair),
            tuple(candidates["embeddings"][field] for field in pair)
            if loss.needs_candidates
            else None,
            offset,
            **{kind: scalars[kind][name] for kind, name in term.scalars.items()},
            **term.options,
            ignore=masks[fields],
        )  # (n,)
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
    """Returns a mask (n, N): mask[i, j] is true if candidate j duplicates example i.

    The class `Term` defines duplicates.
    """

    def same_id(field, other):
        local, others = batch[field]["id"], candidate_ids[other]
        equal = ops.equal(ops.expand_dims(local, 1), ops.expand_dims(others, 0))
        return ops.all(equal, axis=2) if len(equal.shape) == 3 else equal

    texts = [field for field in fields if "language" in batch[field]]
    pairs = [(field, field) for field in fields]
    # A text may occur in one text field of an example and in another text field of a candidate.
    # Without a mask, this text would be a negative of itself.
    pairs += [(field, other) for field in texts for other in texts if field != other]
    mask = same_id(*pairs[0])
    for field, other in pairs[1:]:
        mask = ops.logical_or(mask, same_id(field, other))
    return mask
