"""Losses between two fields: functions of arrays, and a table of their options and scalars."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from keras import ops

from tf_mural.errors import UserError, lookup

_MASKED_LOGIT = -1e30


def contrastive(
    local: tuple[Any, Any],
    candidates: tuple[Any, Any],
    offset: Any,
    temperature: Any,
    margin: float = 0.0,
    label_smoothing: float = 0.0,
    ignore: Any = None,
    negatives: Any = None,
) -> Any:
    """Computes the bidirectional softmax cross-entropy of matching pairs, per example.

    For unit vectors x_i, y_i of N pairs, temperature sigma, margin m and smoothing eps
    (ALIGN, Jia et al. 2021, with the additive margin of Yang et al. 2019):

        logits[i, j] = (x_i . y_j - m [i == j]) / sigma
        target[i, j] = (1 - eps) [i == j] + eps / N
        loss[i]      = - sum_j target[i, j] log softmax_j(logits[i, :])

    The result is the sum of loss[i] over both directions (x against all y, y against all x). The
    mean of the result over the N examples of the global batch is the L_xy of the ETCL paper.

    Args:
        local: pair `(x, y)` of the embeddings of the local batch, each (n, d).
        candidates: pair `(X, Y)` of the embeddings of the global batch, each (N, d).
        offset: scalar int, the position of the first local example in the global batch: example
            i of `x` matches example `offset + i` of `Y`.
        temperature: positive scalar sigma, by which the similarities are divided.
        margin: scalar m that is subtracted from the similarity of the matching pair.
        label_smoothing: eps in [0, 1).
        ignore: optional boolean (n, N). If `ignore[i, j]` is true, candidate j is not a negative of
            example i: the softmax and the smoothed target of example i are computed without
            candidate j. The matching candidate is never excluded. With `negatives`, the mask is
            (n, N + M), and its last M columns belong to the negatives.
        negatives: optional embeddings (M, d), further candidates of each `x` that match no example.
            They are the columns N to N + M - 1 of the logits of the first direction.

    Returns:
        Losses (n,), the sum of both directions, in the dtype of the embeddings.
    """
    x, y = local
    all_x, all_y = candidates
    options = (offset, temperature, margin, label_smoothing)
    if negatives is None:
        forward = backward = ignore
    else:
        all_y, forward = ops.concatenate([all_y, negatives], axis=0), ignore  # (N + M, d)
        backward = None if ignore is None else ignore[:, : ops.shape(all_x)[0]]
    return _one_direction(x, all_y, *options, forward) + _one_direction(
        y, all_x, *options, backward
    )


def _one_direction(local, candidates, offset, temperature, margin, label_smoothing, ignore):
    match = _matches(ops.shape(local)[0], ops.shape(candidates)[0], offset, local.dtype)  # (n, N)
    similarity = ops.matmul(local, ops.transpose(candidates))  # (n, N)
    # The margin makes the task harder: the similarity of the matching pair must exceed the
    # similarities of all other pairs by m.
    logits = (similarity - margin * match) / temperature
    positive = ops.sum(logits * match, axis=1)  # (n,)
    if ignore is None:
        log_normalizer = ops.logsumexp(logits, axis=1)
        mean_logit = ops.mean(logits, axis=1)
    else:
        valid = ops.maximum(1.0 - ops.cast(ignore, local.dtype), match)
        log_normalizer = ops.logsumexp(ops.where(valid > 0, logits, _MASKED_LOGIT), axis=1)
        mean_logit = ops.sum(logits * valid, axis=1) / ops.sum(valid, axis=1)
    return log_normalizer - (1.0 - label_smoothing) * positive - label_smoothing * mean_logit


def sigmoid(
    local: tuple[Any, Any],
    candidates: tuple[Any, Any],
    offset: Any,
    temperature: Any,
    bias: Any,
    ignore: Any = None,
    negatives: Any = None,
) -> Any:
    """Computes the sigmoid loss of SigLIP (Zhai et al. 2023), per example.

    The loss treats each of the N x N pairs (i, j) as a binary classification: x_i and y_j match, or
    they do not match.

        logits[i, j] = x_i . y_j / sigma + b
        loss[i]      = - sum_j log sigmoid(z[i, j] logits[i, j]),  z[i, j] = 1 if i == j, else -1

    The mean of the result over the N examples of the global batch is the loss of the paper. The
    paper writes the factor 1 / sigma of the similarities as t.

    Args:
        local, candidates, offset, temperature: see `contrastive`.
        bias: scalar b.
        ignore: optional boolean (n, N). If `ignore[i, j]` is true, pair (i, j) does not contribute
            to the loss. The matching pair is never excluded. With `negatives`, the mask is
            (n, N + M), as in `contrastive`.
        negatives: optional embeddings (M, d). Each x_i forms M further pairs that do not match.

    Returns:
        Losses (n,) in the dtype of the embeddings.
    """
    x, all_y = local[0], candidates[1]
    if negatives is not None:
        all_y = ops.concatenate([all_y, negatives], axis=0)  # (N + M, d)
    match = _matches(ops.shape(x)[0], ops.shape(all_y)[0], offset, x.dtype)  # (n, N)
    logits = ops.matmul(x, ops.transpose(all_y)) / temperature + bias
    decisions = ops.softplus((1.0 - 2.0 * match) * logits)  # -log sigmoid(a) = softplus(-a)
    if ignore is not None:
        decisions = decisions * ops.maximum(1.0 - ops.cast(ignore, x.dtype), match)
    return ops.sum(decisions, axis=1)


def distil(
    local: tuple[Any, Any],
    candidates: tuple[Any, Any] | None,
    offset: Any,
    temperature: Any,
    form: str = "cosine",
    ignore: Any = None,
    negatives: Any = None,
) -> Any:
    """Computes the distance of a student's rows from the rows of a teacher, per example.

    For a student's row x_i, the teacher's row y_i of the same example, and width d:

        cosine:      loss[i] = 1 - x_i . y_i, for unit rows
        mse:         loss[i] = |x_i - y_i|^2 / d, for rows before the normalization
        contrastive: loss[i] = `contrastive` without margin and smoothing, for unit rows

    "mse" makes a text encoder multilingual in Reimers and Gurevych 2020
    (https://arxiv.org/abs/2004.09813) and in M-CLIP (Carlsson et al. 2022). On unit rows, "mse"
    would equal "cosine" up to the factor 2 / d. No gradient flows to the teacher.

    Args:
        local: pair `(x, y)` of the rows of student and teacher, each (n, d).
        candidates: pair `(X, Y)` of the rows of the global batch, each (N, d). Only "contrastive"
            reads the candidates.
        offset, temperature, ignore, negatives: see `contrastive`. The other forms ignore them.
        form: "cosine", "contrastive" or "mse".

    Returns:
        Losses (n,) in the dtype of the rows.
    """
    x, y = local[0], ops.stop_gradient(local[1])
    if form == "mse":
        return ops.mean(ops.square(x - y), axis=1)
    if form == "cosine":
        return 1.0 - ops.sum(x * y, axis=1)
    teacher = (candidates[0], ops.stop_gradient(candidates[1]))
    return contrastive((x, y), teacher, offset, temperature, ignore=ignore, negatives=negatives)


def _matches(n, total, offset, dtype):
    """Returns an array (n, N): 1 at [i, j] if local example i matches candidate j, else 0."""
    positions = ops.arange(n, dtype="int32") + ops.cast(offset, "int32")
    match = ops.equal(ops.expand_dims(positions, 1), ops.arange(total, dtype="int32"))
    return ops.cast(match, dtype)


@dataclasses.dataclass(frozen=True)
class Option:
    """An option of a loss, such as a margin. A term of a config can set the option.

    Attributes:
        type: type of the value; an int is accepted as a float.
        default: value of the option in a term that does not set the option.
        minimum: smallest accepted value; None: no limit.
        below: the value must be smaller than this number; None: no limit.
        choices: the accepted values; (): all values of the type.
    """

    type: type
    default: object
    minimum: float | None = None
    below: float | None = None
    choices: tuple = ()


@dataclasses.dataclass(frozen=True)
class Scalar:
    """A kind of learned scalar, such as a temperature. Weight decay does not apply to scalars.

    Attributes:
        minimum, maximum: bounds to which every step clips the value; None: no bound.
    """

    minimum: float | None = None
    maximum: float | None = None


@dataclasses.dataclass(frozen=True)
class Loss:
    """A loss function, and a description of its arguments.

    Attributes:
        function: callable (local, candidates, offset, **scalars, **options, ignore) that returns a
            loss (n,) per local example, see `contrastive`.
        options: {name: `Option`}.
        scalars: keys of `SCALARS`; the function takes one learned scalar of each of these kinds.
        needs_candidates: whether the function needs the embeddings of all replicas. If False,
            `candidates` is None, and no embeddings are gathered. A callable computes the value from
            the options {name: value} of a term.
        inputs: "rows" if the embedding of an example is one unit vector, "unnormalized rows" if it
            is the vector before the normalization, "tokens" if the embedding of an example is a
            sequence of vectors. A callable computes the value from the options of a term.
        takes_negatives: whether the function has the argument `negatives`, see `contrastive`. A
            callable computes the value from the options of a term.
    """

    function: Callable
    options: dict = dataclasses.field(default_factory=dict)
    scalars: tuple = ()
    needs_candidates: bool | Callable = True
    inputs: str | Callable = "rows"
    takes_negatives: bool | Callable = False

    def property_of(self, name: str, options: Mapping[str, Any]) -> Any:
        """Returns `needs_candidates`, `inputs` or `takes_negatives` for the options of a term.

        Args:
            name: name of the attribute.
            options: {name: value} of all options, see `complete_options`.
        """
        value = getattr(self, name)
        return value(options) if callable(value) else value


SCALARS = {
    "temperature": Scalar(minimum=0.005, maximum=2.0),
    "bias": Scalar(),
}


def _is_contrastive(options):
    return options["form"] == "contrastive"


LOSSES = {
    "contrastive": Loss(
        contrastive,
        options={
            "margin": Option(float, 0.0),
            "label_smoothing": Option(float, 0.0, minimum=0.0, below=1.0),
        },
        scalars=("temperature",),
        takes_negatives=True,
    ),
    "sigmoid": Loss(sigmoid, scalars=("temperature", "bias"), takes_negatives=True),
    "distil": Loss(
        distil,
        options={"form": Option(str, "cosine", choices=("cosine", "contrastive", "mse"))},
        scalars=("temperature",),
        needs_candidates=_is_contrastive,
        inputs=lambda options: "unnormalized rows" if options["form"] == "mse" else "rows",
        takes_negatives=_is_contrastive,
    ),
}


def register(name: str, loss: Loss) -> Loss:
    """Adds a loss to `LOSSES`, so that terms and configs can use the loss by its name.

    Args:
        name: name of the loss. A name can be registered again for a function of the same name in
            the same module, for example when a cell of a notebook runs again.
        loss: function and description of the loss.

    Returns:
        `loss`.

    Raises:
        UserError: the name belongs to another loss, or the loss takes an unknown kind of scalar.
    """
    known = LOSSES.get(name)
    if known and _origin(known.function) != _origin(loss.function):
        raise UserError(
            f"the name {name!r} belongs to the loss {'.'.join(_origin(known.function))}: choose "
            "another name"
        )
    for kind in loss.scalars:
        lookup(SCALARS, kind, f"kind of learned scalar (of the loss {name!r})")
    LOSSES[name] = loss
    return loss


def _origin(function):
    return function.__module__, function.__qualname__


def complete_options(loss: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns {name: value} of all options of a loss; omitted options get their defaults.

    Args:
        loss: a key of `LOSSES`.
        options: {name: value}.

    Raises:
        UserError: the loss or an option is unknown, or a value has the wrong type or is out of
            range.
    """
    known = lookup(LOSSES, loss, "loss").options
    for name, value in options.items():
        option = lookup(known, name, f"option of the loss {loss!r}:")
        accepted = (int, float) if option.type is float else option.type
        if not isinstance(value, accepted) or isinstance(value, bool) and option.type is not bool:
            raise UserError(
                f"{name} is {value!r}, but this option of the loss {loss!r} is of type "
                f"{option.type.__name__}"
            )
        if option.choices and value not in option.choices:
            raise UserError(
                f"{name} is {value!r}, but this option of the loss {loss!r} is one of "
                f"{', '.join(option.choices)}"
            )
        too_small = option.minimum is not None and not value >= option.minimum
        if too_small or option.below is not None and not value < option.below:
            bounds = [] if option.minimum is None else [f"from {option.minimum:g}"]
            bounds += [] if option.below is None else [f"to below {option.below:g}"]
            raise UserError(f"{name} is {value}, expected a number {' '.join(bounds)}")
    return {name: options.get(name, option.default) for name, option in known.items()}
