"""The loss and its gradients at the embeddings, for all local examples at once or in chunks.

With chunks of c examples, only c x N logits are in memory at a time, in the forward and in the
backward pass. Without chunks, n x N logits are in memory.
"""

import tensorflow as tf

from tf_mural.backends.tensorflow.grad_cache import (
    concat_parts,
    sequential_loop,
    slice_part,
    split_rows,
)
from tf_mural.objective import embedding_keys, gather_candidates


def objective_and_gradients(
    embeddings, batch, terms, scalars, gather, offset, compute_objective, chunk=None
):
    """Computes the logs of the local batch, and the gradients of its loss.

    Args:
        embeddings, batch, terms, scalars, gather, offset: see `objective.objective`.
        compute_objective: callable (embeddings, batch, candidates, scalars, offset) that returns
            the loss and the logs of a part of the local batch, see `objective.objective_for_rows`.
        chunk: number of local examples whose logits are computed at a time; must divide n. None:
            all examples.

    Returns:
        The logs, and the gradients of the loss with respect to `embeddings` and `scalars`.
    """
    # The state of a loop may contain tensors, but no variables.
    scalars = tf.nest.map_structure(tf.convert_to_tensor, scalars)
    if chunk not in (None, next(iter(batch.values()))["id"].shape[0]):
        return _in_chunks(
            embeddings, batch, terms, scalars, gather, offset, compute_objective, chunk
        )
    with tf.GradientTape() as tape:
        tape.watch((embeddings, scalars))
        candidates = gather_candidates(embeddings, batch, terms, gather)
        loss, logs = compute_objective(embeddings, batch, candidates, scalars, offset)
    # Scalars that no term uses get zero gradients, as in `_in_chunks`.
    zero = tf.UnconnectedGradients.ZERO
    return logs, *tape.gradient(loss, (embeddings, scalars), unconnected_gradients=zero)


def _in_chunks(embeddings, batch, terms, scalars, gather, offset, compute_objective, chunk):
    fields = embedding_keys(terms)
    with tf.GradientTape() as gather_tape:
        gather_tape.watch(embeddings)
        candidates = gather_candidates(embeddings, batch, terms, gather)
    local = {field: embeddings[field] for field in fields}
    labels = {field: _without_inputs(batch[field]) for field in batch}
    parts, count = split_rows((local, labels), chunk)

    def add_chunk(i, state):
        arrays, candidate_gradients, scalar_gradients, log_sums = state
        local, labels = slice_part(parts, i)
        with tf.GradientTape() as tape:
            watched = (local, candidates["embeddings"], scalars)
            tape.watch(watched)
            loss, logs = compute_objective(local, labels, candidates, scalars, offset + i * chunk)
        local_gradients, *gradients = tape.gradient(loss, watched, unconnected_gradients="zero")
        arrays = {field: array.write(i, local_gradients[field]) for field, array in arrays.items()}
        totals = (candidate_gradients, scalar_gradients, log_sums)
        return (arrays, *tf.nest.map_structure(tf.add, totals, (*gradients, logs)))

    dtype = local[fields[0]].dtype
    arrays = {
        field: tf.TensorArray(dtype, size=count, element_shape=(chunk, *local[field].shape[1:]))
        for field in fields
    }
    zeros = tf.nest.map_structure(tf.zeros_like, (candidates["embeddings"], scalars))
    logs = _zero_logs(compute_objective, parts, candidates, scalars, offset)
    arrays, candidate_gradients, scalar_gradients, logs = sequential_loop(
        count, add_chunk, (arrays, *zeros, logs)
    )
    # The gradients at the candidates are sent back to the replicas that encoded the candidates.
    embedding_gradients = gather_tape.gradient(
        candidates["embeddings"],
        local,
        output_gradients=candidate_gradients,
        unconnected_gradients="zero",
    )
    embedding_gradients = {
        field: embedding_gradients[field] + concat_parts(arrays[field], count) for field in fields
    }
    return logs, embedding_gradients, scalar_gradients


def _zero_logs(compute_objective, parts, candidates, scalars, offset):
    """Returns zeros with the names, shapes and dtypes of the logs of a chunk."""

    def logs_of_a_chunk():
        local, labels = slice_part(parts, 0)
        return compute_objective(local, labels, candidates, scalars, offset)[1]

    specs = tf.function(logs_of_a_chunk, autograph=False).get_concrete_function()
    return tf.nest.map_structure(
        lambda spec: tf.zeros(spec.shape, spec.dtype), specs.structured_outputs
    )


def _without_inputs(field):
    return {key: value for key, value in field.items() if key in ("id", "language")}
