"""The objective of a stage: a weighted sum of loss terms on the embeddings of a batch."""

import dataclasses
from collections.abc import Mapping

from keras import ops

from tf_mural import losses
from tf_mural.errors import UserError, lookup
from tf_mural.truncation import truncate


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
        negatives: name of a field, or a tuple of names. The rows of these fields, of all replicas,
            are further candidates of `x` that match no example (hard negatives). With
            `mask_duplicates`, a row is excluded if its id equals the example's id in one of
            `duplicate_fields` of the same kind (texts, or other fields).
        dims: sizes of the prefixes of the embeddings for which the loss is computed (Matryoshka
            representation learning, Kusupati et al. 2022). The loss of the term is the mean of the
            losses of all prefixes; prefixes of unit rows are normalized again. (): only the whole
            embeddings.
        dim_weights: weight of each prefix in this mean; (): equal weights.
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
    negatives: str | tuple = ()
    dims: tuple = ()
    dim_weights: tuple = ()

    def __post_init__(self):
        """Checks the options and the scalars, and adds omitted options and scalars.

        Raises:
            UserError: the loss, an option or a kind of scalar is unknown, an option has a wrong
                value, or the loss takes no negatives.
        """
        loss = lookup(losses.LOSSES, self.loss, f"loss (of the term {self.name!r})")
        for kind in self.scalars:
            lookup(dict.fromkeys(loss.scalars), kind, f"scalar of the loss {self.loss!r}:")
        scalars = {kind: self.scalars.get(kind, "shared") for kind in loss.scalars}
        object.__setattr__(self, "options", losses.complete_options(self.loss, self.options))
        object.__setattr__(self, "scalars", scalars)
        negatives = (self.negatives,) if isinstance(self.negatives, str) else self.negatives
        object.__setattr__(self, "negatives", tuple(negatives))
        object.__setattr__(self, "dims", tuple(self.dims))
        object.__setattr__(self, "dim_weights", tuple(self.dim_weights))
        inputs = loss.property_of("inputs", self.options)
        if inputs not in ("rows", "unnormalized rows"):
            raise UserError(
                f"the loss {self.loss!r} of the term {self.name!r} takes {inputs}, but the "
                "towers return one row per example"
            )
        if self.negatives and not loss.property_of("takes_negatives", self.options):
            raise UserError(
                f"the loss {self.loss!r} of the term {self.name!r} takes no negatives: use a "
                "contrastive loss, or remove `negatives`"
            )
        self._check_dims()

    def _check_dims(self):
        if not all(isinstance(dim, int) and dim > 0 for dim in self.dims):
            raise UserError(f"dims of the term {self.name!r} is {self.dims}, expected sizes from 1")
        if self.dim_weights and len(self.dim_weights) != len(self.dims):
            raise UserError(
                f"dim_weights of the term {self.name!r} has {len(self.dim_weights)} values, but "
                f"dims has {len(self.dims)}"
            )
        if not all(weight >= 0 for weight in self.dim_weights) or (
            self.dim_weights and not sum(self.dim_weights) > 0
        ):
            raise UserError(
                f"dim_weights of the term {self.name!r} is {self.dim_weights}, expected numbers "
                "from 0 with a sum above 0"
            )

    @property
    def normalized(self) -> bool:
        """Whether the loss takes unit rows, and not the rows before the normalization."""
        return losses.LOSSES[self.loss].property_of("inputs", self.options) == "rows"

    @property
    def needs_candidates(self) -> bool:
        """Whether the loss takes the embeddings of all replicas."""
        return losses.LOSSES[self.loss].property_of("needs_candidates", self.options)

    @property
    def pair(self) -> tuple[str, str]:
        """The two keys of the term's rows in the embeddings, see `TrainStep.encode`."""
        return (self.x, self.y) if self.normalized else (unnormalized(self.x), unnormalized(self.y))

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of all rows that the term takes from the embeddings."""
        return (*self.pair, *self.negatives)

    @property
    def duplicate_fields(self) -> tuple[str, ...]:
        """Sorted names of the fields whose ids identify duplicates; () if duplicates are kept."""
        fields = {self.x, self.y, *self.sibling_fields}
        return tuple(sorted(fields)) if self.mask_duplicates else ()


def check_terms(terms, sources, widths, scalars):
    """Checks that the fields, sizes and scalars of terms exist.

    Args:
        terms: sequence of `Term`.
        sources: {name of a source: its fields}.
        widths: {field: width of its embeddings}.
        scalars: {kind: {name: value}}, the learned scalars of the model.

    Raises:
        UserError: a name is unknown, `dims` has a size larger than the embeddings, or the two
            fields of a term are in different sources.
    """
    for term in terms:
        of_term = f"(of the term {term.name!r})"
        for field in (term.x, term.y, *term.negatives):
            lookup(widths, field, f"field {of_term}")
        if not any({term.x, term.y} <= set(fields) for fields in sources.values()):
            raise UserError(
                f"the term {term.name!r} compares {term.x} and {term.y}, but no source has both "
                "fields, and rows of different sources do not belong together"
            )
        width = min(widths[field] for field in (term.x, term.y, *term.negatives))
        if term.dims and max(term.dims) > width:
            raise UserError(
                f"dims of the term {term.name!r} contains {max(term.dims)}, but the embeddings "
                f"have {width} columns"
            )
        for kind, name in term.scalars.items():
            lookup(scalars.get(kind, {}), name, f"{kind} {of_term}")


def unnormalized(field: str) -> str:
    """Returns the key of a field's rows before the normalization in the embeddings."""
    return f"{field}:unnormalized"


def embedding_keys(terms):
    """Returns the sorted keys of the embeddings that the terms take."""
    return sorted({key for term in terms for key in term.keys})


def objective(embeddings, batch, terms, scalars, gather, offset, num_languages):
    """Computes the loss of the local batch against the candidates of all replicas.

    The total loss of a replica is the sum over terms of weight * (sum of the local losses) / N, in
    which N is the size of the **global** batch. The totals of the replicas and their gradients must
    therefore be summed, not averaged: the sum is the mean over the global batch.

    Args:
        embeddings: dict from field to unit vectors, (n, d). For the fields of a term whose loss
            takes rows before the normalization, also from `unnormalized(field)` to these rows.
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
        the size of the global batch. If duplicates are masked, "ids" contains the negatives too.
    """
    fields = embedding_keys([term for term in terms if term.needs_candidates])
    id_fields = {field for term in terms for field in term.duplicate_fields}
    id_fields |= {field for term in terms if term.mask_duplicates for field in term.negatives}
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
    total, logs, masks = 0.0, {}, {((), ()): None}
    gathered = [*candidates["embeddings"].values(), *candidates["ids"].values()]
    global_size = ops.shape(gathered[0])[0]
    dtype = embeddings[terms[0].pair[0]].dtype
    language_loss = language_count = ops.zeros((num_languages,), dtype)
    for term in terms:
        fields = (term.duplicate_fields, term.negatives if term.mask_duplicates else ())
        if fields not in masks:
            masks[fields] = _duplicate_mask(batch, candidates["ids"], *fields)
        example_losses = _example_losses(
            term, embeddings, candidates["embeddings"], scalars, offset, masks[fields]
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


def _example_losses(term, embeddings, candidates, scalars, offset, ignore):
    """Returns the losses (n,) of a term, the weighted mean over the sizes in `term.dims`."""
    arrays = {
        "local": tuple(embeddings[key] for key in term.pair),
        "candidates": tuple(candidates[key] for key in term.pair)
        if term.needs_candidates
        else None,
    }
    options = {kind: scalars[kind][name] for kind, name in term.scalars.items()} | term.options
    if term.negatives:
        rows = [candidates[field] for field in term.negatives]
        arrays["negatives"] = ops.concatenate(rows, axis=0) if len(rows) > 1 else rows[0]
    function = losses.LOSSES[term.loss].function
    if not term.dims:
        return function(**arrays, offset=offset, **options, ignore=ignore)
    weights = term.dim_weights or (1.0,) * len(term.dims)
    total = 0.0
    for dim, weight in zip(term.dims, weights, strict=True):
        prefixes = _prefixes(arrays, dim, term)
        loss = function(**prefixes, offset=offset, **options, ignore=ignore)
        total = total + weight / sum(weights) * loss
    return total


def _prefixes(arrays, dim, term):
    """Returns the first `dim` columns of arrays in nested tuples and dicts."""
    if arrays is None:
        return None
    if isinstance(arrays, dict):
        return {key: _prefixes(value, dim, term) for key, value in arrays.items()}
    if isinstance(arrays, tuple):
        return tuple(_prefixes(value, dim, term) for value in arrays)
    if dim > arrays.shape[-1]:
        raise UserError(
            f"dims of the term {term.name!r} contains {dim}, but the embeddings have "
            f"{arrays.shape[-1]} columns"
        )
    return truncate(arrays, dim) if term.normalized else arrays[:, :dim]


def _duplicate_mask(batch, candidate_ids, fields, negatives=()):
    """Returns a mask (n, N + M): mask[i, j] is true if candidate j duplicates example i.

    The class `Term` defines duplicates. The last M columns belong to the rows of `negatives`.
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
    masks = [_any(same_id(*pair) for pair in pairs)]
    for negative in negatives:
        is_text = "language" in batch[negative]
        alike = [field for field in fields if ("language" in batch[field]) == is_text]
        if alike:
            masks.append(_any(same_id(field, negative) for field in alike))
        else:
            rows = ops.shape(candidate_ids[negative])[0]
            masks.append(ops.zeros((ops.shape(masks[0])[0], rows), "bool"))
    return ops.concatenate(masks, axis=1) if negatives else masks[0]


def _any(masks):
    mask, *others = masks
    for other in others:
        mask = ops.logical_or(mask, other)
    return mask
