"""Moves 1 and 3 of the step: a batch to its embeddings, and their gradients back to the weights.

Both ways of doing it return the embeddings and a function that takes their gradients back, so that
the objective between them does not learn how much of the batch was encoded at a time.
"""

import tensorflow as tf


def at_once(encode, batch, variables):
    """The whole share in one pass, whose activations stay until the way back.

    Args:
        encode: function of (batch, number of the micro-batch) to {field: (n, d)}, which draws the
            same dropout whenever it is called with the same number.
        batch: nest of tensors (n, ...).
        variables: those to differentiate by.

    Returns:
        {field: (n, d)}, and a function of {field: gradient (n, d)} to a gradient a variable, which
        is None where the embeddings do not depend on it.
    """
    with tf.GradientTape() as tape:
        embeddings = encode(batch, 0)

    def back(at_embeddings):
        fields = list(embeddings)
        return tape.gradient(
            [embeddings[f] for f in fields],
            variables,
            output_gradients=[at_embeddings[f] for f in fields],
        )

    return embeddings, back


def in_microbatches(encode, batch, variables, averages, specs):
    """Micro-batches one after another, each encoded twice: GradCache.

    Gao et al. 2021 (https://arxiv.org/abs/2101.06983): the first time without activations, the
    second time with them and with the same dropout, and straight back. Activations of one
    micro-batch are all that is ever held.

    Args:
        encode, batch, variables: see `at_once`.
        averages: moving averages that `encode` updates. They end where one pass over all
            micro-batches as groups would have left them: each micro-batch starts from the same
            values, and the results are averaged.
        specs: {field: `tf.TensorSpec` (rows, d)} of the embeddings of a micro-batch; its rows
            divide the batch.

    Returns:
        As `at_once`; the gradients are dense, and 0 where there are none.
    """
    rows = next(iter(specs.values())).shape[0]
    parts, count = split_rows(batch, rows)
    before = [tf.identity(v.value) for v in averages]

    def forward(i, state):
        arrays, sums = state
        assign(averages, before)
        embeddings = encode(part_of(parts, i), i)
        arrays = {field: array.write(i, embeddings[field]) for field, array in arrays.items()}
        return arrays, [total + v.value for total, v in zip(sums, averages, strict=True)]

    arrays = {
        field: tf.TensorArray(spec.dtype, size=count, element_shape=spec.shape)
        for field, spec in specs.items()
    }
    arrays, sums = loop(count, forward, (arrays, [tf.zeros_like(value) for value in before]))
    embeddings = {field: joined(array, count) for field, array in arrays.items()}

    def back(at_embeddings):
        upstream, _ = split_rows(at_embeddings, rows)

        def one(i, totals):
            _, back_one = at_once(lambda part, _: encode(part, i), part_of(parts, i), variables)
            return [
                added(total, gradient)
                for total, gradient in zip(totals, back_one(part_of(upstream, i)), strict=True)
            ]

        totals = loop(count, one, [tf.zeros(v.shape, v.dtype) for v in variables])
        assign(averages, [total / count for total in sums])
        return totals

    return embeddings, back


def loop(count, body, state):
    """`state` after `state = body(i, state)` for i in range(count), strictly one by one."""
    # TensorFlow would start up to ten iterations before the first has ended, and hold them all.
    _, state = tf.while_loop(
        lambda i, state: i < count,
        lambda i, state: (i + 1, body(i, state)),
        (tf.constant(0), state),
        parallel_iterations=1,
        maximum_iterations=count,
    )
    return state


def split_rows(nest, rows):
    """Tensors (n, ...) of a nest as (n / rows, rows, ...), and n / rows."""
    count = tf.nest.flatten(nest)[0].shape[0] // rows
    return tf.nest.map_structure(lambda x: tf.reshape(x, (count, rows, *x.shape[1:])), nest), count


def part_of(parts, i):
    """Part i of what `split_rows` made."""
    return tf.nest.map_structure(lambda x: x[i], parts)


def joined(array, count):
    """The `count` parts of a `tf.TensorArray`, each (rows, d), one after another: (n, d)."""
    parts = array.stack()
    rows, *rest = array.element_shape
    return tf.reshape(parts, (count * rows, *rest))


def assign(variables, values):
    """Sets each variable to its value."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def added(total, gradient):
    """The dense sum of a total and a gradient, which may be None or sparse."""
    if gradient is None:
        return total
    if isinstance(gradient, tf.IndexedSlices):
        # Never dense by itself: the table of a large vocabulary would be written again and again.
        return tf.tensor_scatter_nd_add(total, gradient.indices[:, tf.newaxis], gradient.values)
    return total + gradient
