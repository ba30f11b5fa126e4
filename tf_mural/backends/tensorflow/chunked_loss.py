"""Move 2 of the step: the loss and its gradient at the embeddings, all rows at once or in chunks.

A chunk holds `rows` x N logits at a time instead of n x N, forward and backward.
"""

import tensorflow as tf

from tf_mural.backends.tensorflow.grad_cache import joined, loop, part_of, split_rows
from tf_mural.objective import everyone, objective_of_rows


def in_chunks(embeddings, batch, terms, temperatures, gather, first_row, num_languages, rows):
    """What `objective.objective` says, and its gradient, taken `rows` own rows at a time.

    Args:
        embeddings, batch, terms, temperatures, gather, first_row, num_languages: see
            `objective.objective`.
        rows: of a chunk; divides n.

    Returns:
        The logs, and the gradients of the loss at `embeddings` and at `temperatures`.
    """
    fields = sorted({f for term in terms for f in (term.x, term.y)})
    with tf.GradientTape() as gathering:
        gathering.watch(embeddings)
        columns = everyone(embeddings, batch, terms, gather)
    own = {field: embeddings[field] for field in fields}
    known = {field: _without_inputs(batch[field]) for field in batch}
    parts, count = split_rows((own, known), rows)

    def one(i, state):
        arrays, at_columns, at_temperatures, sums = state
        chunk, about = part_of(parts, i)
        with tf.GradientTape() as tape:
            watched = (chunk, columns["rows"], temperatures)
            tape.watch(watched)
            loss, logs = objective_of_rows(
                chunk, about, columns, terms, temperatures, first_row + i * rows, num_languages
            )
        found = tape.gradient(loss, watched, unconnected_gradients="zero")
        arrays = {field: array.write(i, found[0][field]) for field, array in arrays.items()}
        totals = tf.nest.map_structure(
            tf.add, (at_columns, at_temperatures, sums), (*found[1:], logs)
        )
        return (arrays, *totals)

    dtype = own[fields[0]].dtype
    arrays = {
        field: tf.TensorArray(dtype, size=count, element_shape=(rows, *own[field].shape[1:]))
        for field in fields
    }
    zeros = tf.nest.map_structure(tf.zeros_like, (columns["rows"], temperatures))
    logs = {f"loss/{term.name}": tf.zeros((), dtype) for term in terms}
    logs |= {"loss": tf.zeros((), dtype)}
    logs |= {f"language_{what}": tf.zeros((num_languages,), dtype) for what in ("loss", "rows")}
    arrays, at_columns, at_temperatures, logs = loop(count, one, (arrays, *zeros, logs))
    # What the columns are owed by all replicas' rows goes back to the replicas they came from.
    at_embeddings = gathering.gradient(columns["rows"], own, output_gradients=at_columns)
    at_embeddings = {field: at_embeddings[field] + joined(arrays[field], count) for field in fields}
    return logs, at_embeddings, at_temperatures


def _without_inputs(field):
    return {key: value for key, value in field.items() if key in ("id", "language")}
