"""Moves 1 and 3 of the step: a batch to its embeddings, and their gradients back to the weights.

What both return is what `training.passes` has, and the moving averages that the passes leave.
"""

import jax
import jax.numpy as jnp


def at_once(encode, values, batch):
    """The whole share in one pass, whose activations stay until the way back.

    Args:
        encode: pure function of (values, batch, number of the micro-batch) to {field: (n, d)} and
            moving averages, which draws the same dropout for the same number.
        values: list of the arrays to differentiate by.
        batch: nest of arrays (n, ...).

    Returns:
        {field: (n, d)}, a function of {field: gradient (n, d)} to a gradient a value, and the
        moving averages.
    """
    embeddings, back, averages = jax.vjp(lambda v: encode(v, batch, 0), values, has_aux=True)
    return embeddings, lambda at_embeddings: back(at_embeddings)[0], averages


def in_microbatches(encode, values, batch, rows):
    """Micro-batches one after another, each encoded twice: GradCache.

    Gao et al. 2021 (https://arxiv.org/abs/2101.06983): the first time without activations, the
    second time with them and with the same dropout, and straight back.

    Args:
        encode, values, batch: see `at_once`. The moving averages end as the mean of what each
            micro-batch makes of the values before the step.
        rows: of a micro-batch; they divide the batch.

    Returns:
        As `at_once`.
    """
    parts = split_rows(batch, rows)
    count = jax.tree.leaves(parts)[0].shape[0]

    def forward(_, numbered):
        number, part = numbered
        return None, encode(values, part, number)

    numbers = jnp.arange(count)
    _, (embeddings, averages) = jax.lax.scan(forward, None, (numbers, parts))
    averages = [jnp.mean(value, axis=0) for value in averages]

    def back(at_embeddings):
        def one(totals, numbered):
            number, part, upstream = numbered
            _, back_one = jax.vjp(lambda v: encode(v, part, number)[0], values)
            return jax.tree.map(jnp.add, totals, back_one(upstream)[0]), None

        zeros = [jnp.zeros_like(value) for value in values]
        totals, _ = jax.lax.scan(one, zeros, (numbers, parts, split_rows(at_embeddings, rows)))
        return totals

    return {field: joined(value) for field, value in embeddings.items()}, back, averages


def split_rows(nest, rows):
    """Arrays (n, ...) of a nest as (n / rows, rows, ...)."""
    return jax.tree.map(lambda x: jnp.reshape(x, (-1, rows, *x.shape[1:])), nest)


def joined(parts):
    """(count, rows, ...) as (count * rows, ...)."""
    return jnp.reshape(parts, (-1, *parts.shape[2:]))
