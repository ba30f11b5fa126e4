"""Forward pass to embeddings, and backpropagation of the gradients at the embeddings.

`encode_full` and `encode_cached` both return the embeddings, and a function that propagates the
gradients at the embeddings back to the weights. The computation of the loss therefore does not
depend on whether the batch is encoded in micro-batches.
"""

import jax
import jax.numpy as jnp
import keras
from keras import ops


def encode_full(encode, batch, variables):
    """Encodes the whole local batch; activations are kept for the backward pass.

    Args:
        encode: callable (batch, index of the micro-batch) -> {field: (n, d)}. Calls of `encode`
            with the same index draw the same dropout masks.
        batch: nested structure of arrays (n, ...).
        variables: `backend_functions.EncoderVariables`; `encode_full` updates the moving averages.

    Returns:
        Embeddings {field: (n, d)}, and a callable that maps the gradients at the embeddings
        {field: (n, d)} to a list with a gradient per weight.
    """
    values, encode = _as_pure_function(encode, variables)
    embeddings, backward, averages = jax.vjp(lambda v: encode(v, batch, 0), values, has_aux=True)
    _assign(variables.moving_averages, averages)
    return embeddings, lambda embedding_gradients: backward(embedding_gradients)[0]


def encode_frozen(encode, batch, variables, specs):
    """Encodes fields whose towers are not trained; keeps no activations.

    Args:
        encode, batch, variables: see `encode_full`.
        specs: see `encode_cached`; the local batch may be a single micro-batch.

    Returns:
        Embeddings {field: (n, d)}.
    """
    values, encode = _as_pure_function(encode, variables)
    parts, count = split_rows(batch, next(iter(specs.values())).shape[0])
    if count == 1:
        return encode(values, batch, 0)[0]
    embeddings = jax.lax.map(
        lambda indexed: encode(values, *indexed)[0], (parts, jnp.arange(count))
    )
    return {field: concat_parts(value) for field, value in embeddings.items()}


def encode_cached(encode, batch, variables, specs):
    """Encodes the local batch in micro-batches, each of them twice (GradCache).

    See Gao et al. 2021 (https://arxiv.org/abs/2101.06983). The first pass over a micro-batch keeps
    no activations. The second pass draws the same dropout masks, keeps its activations, and is
    followed by the backward pass of this micro-batch. Memory therefore never holds the activations
    of more than one micro-batch.

    Every micro-batch updates the moving averages from their values before the step. At the end, the
    moving averages are set to the mean of these updates over the micro-batches. A single pass with
    the micro-batches as virtual batches of batch norm gives the same moving averages.

    Args:
        encode, batch, variables: see `encode_full`.
        specs: {field: spec of the embeddings of a micro-batch, with shape (rows, d) and a dtype}.
            The number of rows per micro-batch must divide n.

    Returns:
        See `encode_full`.
    """
    values, encode = _as_pure_function(encode, variables)
    rows = next(iter(specs.values())).shape[0]
    parts, count = split_rows(batch, rows)
    indices = jnp.arange(count)

    def forward(_, indexed):
        index, part = indexed
        return None, encode(values, part, index)

    _, (embeddings, averages) = jax.lax.scan(forward, None, (indices, parts))
    _assign(variables.moving_averages, [jnp.mean(value, axis=0) for value in averages])

    def backward(embedding_gradients):
        def add_microbatch(totals, indexed):
            index, part, upstream = indexed
            _, backward_part = jax.vjp(lambda v: encode(v, part, index)[0], values)
            return jax.tree.map(jnp.add, totals, backward_part(upstream)[0]), None

        upstream, _ = split_rows(embedding_gradients, rows)
        zeros = [jnp.zeros_like(value) for value in values]
        totals, _ = jax.lax.scan(add_microbatch, zeros, (indices, parts, upstream))
        return totals

    return {field: concat_parts(value) for field, value in embeddings.items()}, backward


def _as_pure_function(encode, variables):
    """Returns the values of the weights, and `encode` as a pure function of these values.

    Returns:
        List of the values of `variables.weights`, and a callable (values, batch, index) ->
        (embeddings, list with the new values of the moving averages).
    """
    others = (*variables.moving_averages, *variables.frozen)
    constants = [(v, ops.convert_to_tensor(v)) for v in others]

    def pure_encode(values, batch, index):
        mapping = [*zip(variables.weights, values, strict=True), *constants]
        with keras.StatelessScope(mapping) as scope:
            embeddings = encode(batch, index)
            return embeddings, [scope.get_current_value(v) for v in variables.moving_averages]

    return [ops.convert_to_tensor(v) for v in variables.weights], pure_encode


def split_rows(nest, rows):
    """Reshapes the arrays (n, ...) of a nested structure to (n / rows, rows, ...).

    Returns:
        The reshaped structure and the number of parts, n / rows.
    """
    parts = jax.tree.map(lambda x: jnp.reshape(x, (-1, rows, *x.shape[1:])), nest)
    return parts, jax.tree.leaves(parts)[0].shape[0]


def concat_parts(parts):
    """Reshapes an array (count, rows, ...) of parts to (count * rows, ...)."""
    return jnp.reshape(parts, (-1, *parts.shape[2:]))


def _assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
