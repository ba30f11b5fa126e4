"""Move 2 of the step: the loss and its gradient at the embeddings, at once or in chunks."""

import jax
import jax.numpy as jnp

from tf_mural.backends import jax as distribute
from tf_mural.backends.jax.grad_cache import split_rows
from tf_mural.objective import everyone, objective_of_rows


def objective_and_gradients(embeddings, temperatures, batch, terms, num_languages, rows):
    """What `objective.objective` says of this replica's share, and its gradient.

    Args:
        embeddings, temperatures, batch, terms, num_languages: see `objective.objective`.
        rows: own rows whose logits (rows x N) are held at a time, forward and backward; they
            divide n.

    Returns:
        The logs, and the gradients of the loss at `embeddings` and at `temperatures`.
    """
    known = {
        field: {key: of[key] for key in ("id", "language") if key in of}
        for field, of in batch.items()
    }
    total = next(iter(batch.values()))["id"].shape[0]
    first = distribute.first_row(total)

    # By themselves TPUs multiply float32 in bfloat16, and GPUs in TF32.
    @jax.default_matmul_precision("float32")
    def loss_of(embeddings, temperatures):
        columns = everyone(embeddings, batch, terms, distribute.gather)

        def of_rows(columns, temperatures, part, first):
            own, about = part
            return objective_of_rows(own, about, columns, terms, temperatures, first, num_languages)

        if rows == total:
            return of_rows(columns, temperatures, (embeddings, known), first)
        # Of a chunk its rows alone are kept for the way back, and its logits made again.
        of_chunk = jax.checkpoint(of_rows)

        def add(totals, numbered):
            number, part = numbered
            found = of_chunk(columns, temperatures, part, first + number * rows)
            return jax.tree.map(jnp.add, totals, found), None

        parts = split_rows((embeddings, known), rows)
        one = jax.tree.map(lambda x: x[0], parts)
        shapes = jax.eval_shape(of_rows, columns, temperatures, one, first)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.scan(add, zeros, (jnp.arange(total // rows), parts))[0]

    found, logs = jax.grad(loss_of, argnums=(0, 1), has_aux=True)(embeddings, temperatures)
    return logs, *found
