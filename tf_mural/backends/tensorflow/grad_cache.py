"""Forward pass to embeddings, and backpropagation of the gradients at the embeddings.

`encode_full` and `encode_cached` both return the embeddings and a function that propagates their
gradients back, so that the objective does not depend on how the batch is encoded.
"""

import tensorflow as tf


def encode_full(encode, batch, variables):
    """Encodes the whole local batch; activations are kept for the backward pass.

    Args:
        encode: callable (batch, index of the micro-batch) -> {field: (n, d)} that draws the same
            dropout for the same index.
        batch: nested structure of tensors (n, ...).
        variables: `train_step.EncoderVariables`.

    Returns:
        Embeddings {field: (n, d)}, and a callable from their gradients {field: (n, d)} to a
        gradient per weight, which is None if the embeddings do not depend on the weight.
    """
    with tf.GradientTape() as tape:
        embeddings = encode(batch, 0)

    def backward(embedding_gradients):
        fields = list(embeddings)
        return tape.gradient(
            [embeddings[f] for f in fields],
            variables.weights,
            output_gradients=[embedding_gradients[f] for f in fields],
        )

    return embeddings, backward


def encode_cached(encode, batch, variables, specs):
    """Encodes micro-batches one after another, each of them twice (GradCache).

    Gao et al. 2021 (https://arxiv.org/abs/2101.06983). The first pass keeps no activations. The
    second pass draws the same dropout, keeps its activations and is followed by the backward pass
    of the micro-batch, so that only the activations of one micro-batch are in memory.

    Args:
        encode, batch, variables: see `encode_full`. Each micro-batch starts from the moving
            averages of before the step; they end as the mean of the micro-batches' results, which
            is what one pass with the micro-batches as groups gives.
        specs: {field: spec with shape (rows, d) and dtype} of the embeddings of a micro-batch. The
            number of rows divides n.

    Returns:
        See `encode_full`. Gradients are dense, and 0 if the embeddings do not depend on the weight.
    """
    rows = next(iter(specs.values())).shape[0]
    averages = variables.moving_averages
    parts, count = split_rows(batch, rows)
    averages_before = [tf.identity(v.value) for v in averages]

    def forward(i, state):
        arrays, sums = state
        _assign(averages, averages_before)
        embeddings = encode(slice_part(parts, i), i)
        arrays = {field: array.write(i, embeddings[field]) for field, array in arrays.items()}
        return arrays, [total + v.value for total, v in zip(sums, averages, strict=True)]

    arrays = {
        field: tf.TensorArray(spec.dtype, size=count, element_shape=spec.shape)
        for field, spec in specs.items()
    }
    zeros = [tf.zeros_like(value) for value in averages_before]
    arrays, sums = sequential_loop(count, forward, (arrays, zeros))
    embeddings = {field: concat_parts(array, count) for field, array in arrays.items()}

    def backward(embedding_gradients):
        upstream, _ = split_rows(embedding_gradients, rows)

        def add_microbatch(i, totals):
            part = slice_part(parts, i)
            _, backward_part = encode_full(lambda part, _: encode(part, i), part, variables)
            gradients = backward_part(slice_part(upstream, i))
            return [_add(total, g) for total, g in zip(totals, gradients, strict=True)]

        zeros = [tf.zeros(v.shape, v.dtype) for v in variables.weights]
        totals = sequential_loop(count, add_microbatch, zeros)
        _assign(averages, [total / count for total in sums])
        return totals

    return embeddings, backward


def sequential_loop(count, body, state):
    """Returns `state` after `state = body(i, state)` for i in range(count), one at a time."""
    # By default, TensorFlow starts up to ten iterations before the first has ended, and keeps the
    # activations of all of them.
    _, state = tf.while_loop(
        lambda i, state: i < count,
        lambda i, state: (i + 1, body(i, state)),
        (tf.constant(0), state),
        parallel_iterations=1,
        maximum_iterations=count,
    )
    return state


def split_rows(nest, rows):
    """Reshapes the tensors (n, ...) of a nested structure to (n / rows, rows, ...).

    Returns:
        The reshaped structure and the number of parts, n / rows.
    """
    count = tf.nest.flatten(nest)[0].shape[0] // rows
    return tf.nest.map_structure(lambda x: tf.reshape(x, (count, rows, *x.shape[1:])), nest), count


def slice_part(parts, i):
    """Part `i` of the result of `split_rows`."""
    return tf.nest.map_structure(lambda x: x[i], parts)


def concat_parts(array, count):
    """Concatenates the `count` parts (rows, d) of a `tf.TensorArray` to (n, d)."""
    parts = array.stack()
    rows, *dimensions = array.element_shape
    return tf.reshape(parts, (count * rows, *dimensions))


def _assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _add(total, gradient):
    """Dense sum of a total and a gradient, which may be None or sparse."""
    if gradient is None:
        return total
    if isinstance(gradient, tf.IndexedSlices):
        # A dense copy of the gradient would be as large as the embedding table of the vocabulary.
        return tf.tensor_scatter_nd_add(total, gradient.indices[:, tf.newaxis], gradient.values)
    return total + gradient
