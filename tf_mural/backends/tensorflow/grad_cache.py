"""Forward pass to embeddings, and backpropagation of the gradients at the embeddings.

`encode_full` and `encode_cached` both return the embeddings, and a function that propagates the
gradients at the embeddings back to the weights. The computation of the loss therefore does not
depend on whether the batch is encoded in micro-batches.
"""

import tensorflow as tf


def encode_full(encode, batch, variables):
    """Encodes the whole local batch; activations are kept for the backward pass.

    Args:
        encode: callable (batch, index of the micro-batch) -> {field: (n, d)}. Calls of `encode`
            with the same index draw the same dropout masks.
        batch: nested structure of tensors (n, ...).
        variables: `backend_functions.EncoderVariables`.

    Returns:
        Embeddings {field: (n, d)}, and a callable that maps the gradients at the embeddings
        {field: (n, d)} to a list with a gradient per weight. A gradient is None if the embeddings
        do not depend on the weight.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        # Layers below the first trained layer are not recorded. By default, the tape would record
        # them, because TensorFlow does not know which variables Keras froze.
        tape.watch([weight._value for weight in variables.weights])
        embeddings = encode(batch, 0)

    def backward(embedding_gradients):
        fields = list(embeddings)
        return tape.gradient(
            [embeddings[f] for f in fields],
            variables.weights,
            output_gradients=[embedding_gradients[f] for f in fields],
        )

    return embeddings, backward


def encode_frozen(encode, batch, variables, specs):
    """Encodes fields whose towers are not trained; keeps no activations.

    Args:
        encode, batch, variables: see `encode_full`.
        specs: see `encode_cached`; the local batch may be a single micro-batch.

    Returns:
        Embeddings {field: (n, d)}.
    """
    rows = next(iter(specs.values())).shape[0]
    parts, count = split_rows(batch, rows)
    if count == 1:
        return encode(batch, 0)

    def forward(i, arrays):
        embeddings = encode(slice_part(parts, i), i)
        return {field: array.write(i, embeddings[field]) for field, array in arrays.items()}

    arrays = sequential_loop(count, forward, _arrays(specs, count))
    return {field: concat_parts(array, count) for field, array in arrays.items()}


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
        See `encode_full`. All gradients are dense. A gradient is 0 if the embeddings do not depend
        on the weight.
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

    zeros = [tf.zeros_like(value) for value in averages_before]
    arrays, sums = sequential_loop(count, forward, (_arrays(specs, count), zeros))
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


def _arrays(specs, count):
    return {
        field: tf.TensorArray(spec.dtype, size=count, element_shape=spec.shape)
        for field, spec in specs.items()
    }


def sequential_loop(count, body, state):
    """Returns the last `state` of `for i in range(count): state = body(i, state)`.

    An iteration starts only when the previous one has ended.
    """
    # By default, TensorFlow runs up to ten iterations of a loop in parallel, and the activations of
    # all these iterations would be in memory.
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
    """Returns part `i` of a nested structure that `split_rows` returned."""
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
    """Returns the dense sum of a dense total and a gradient, which may be None or sparse."""
    if gradient is None:
        return total
    if isinstance(gradient, tf.IndexedSlices):
        # The gradient stays sparse, because a dense gradient would be as large as the token
        # embeddings.
        return tf.tensor_scatter_nd_add(total, gradient.indices[:, tf.newaxis], gradient.values)
    return total + gradient
